"""Meta-gradients by three independent roads in float64: ours, SGD unrolled by hand, finite differences."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from unrolled_by_hand import KERNELS, NAMES, STEPS, ByHand, Step, double_task, how, losses, relative_error

from lossmith.records import Tuning
from lossmith.training import tune
from lossmith.training.closed_form import closed_form
from lossmith.training.functional_sgd import Descent
from lossmith.training.meta_gradient import Road, draw
from lossmith.training.tunable import Tunable
from lossmith.training.unrolled import unrolled

STACKED = Road("stacked", 3)
STACKED = Road("stacked", 3)
WAYS = [
    *((closed_form, 1, road) for road in (STACKED, Road("layers", 3), Road("alone"), Road("forward"))),
    *((closed_form, 1, Road("recorded", chunk)) for chunk in (1, 3)),
    *((unrolled, length, road) for length in (1, 2, 5) for road in (STACKED, Road("alone"))),
]
WAY_NAMES = [f"{by.__name__}-{length}-{road.kind}-{road.chunk}" for by, length, road in WAYS]
all_ways = pytest.mark.parametrize(("by", "length", "road"), WAYS, ids=WAY_NAMES)


def found_by(by: Any, length: int, step: Step, road: Road = STACKED) -> tuple[Any, list[torch.Tensor]]:
    """What was drawn, and the meta-gradient of every kernel in one population."""
    task = double_task(step)
    drawn = draw(task, 3, 0, length)
    candidates = [Tunable.of(one, task) for one in losses(*NAMES)]
    found = by(how(task, step, length, len(candidates), road), drawn, candidates, [c.phi for c in candidates])
    return drawn, [torch.as_tensor(found[i].gradient) for i in range(len(candidates))]


@all_ways
@pytest.mark.parametrize("step", STEPS.values(), ids=STEPS)
def test_it_is_the_gradient_of_sgd_unrolled_by_hand(by: Any, length: int, road: Road, step: Step) -> None:
    if road.kind == "layers" and step.clip is not None:
        pytest.skip("this road does not clip, and is not taken where the recipe does")
    drawn, gradients = found_by(by, length, step, road)
    for name, gradient in zip(NAMES, gradients, strict=True):
        kernel, formula = KERNELS[name]
        assert relative_error(gradient, ByHand(formula, step).meta_gradient(drawn, kernel.phi)) < 1e-9


@pytest.mark.parametrize("step", STEPS.values(), ids=STEPS)
@pytest.mark.parametrize(("by", "length"), [(closed_form, 1), (unrolled, 1), (unrolled, 2), (unrolled, 5)])
def test_it_agrees_with_finite_differences(by: Any, length: int, step: Step) -> None:
    drawn, gradients = found_by(by, length, step)
    for name, gradient in zip(NAMES, gradients, strict=True):
        kernel, formula = KERNELS[name]
        assert relative_error(gradient, ByHand(formula, step).finite_differences(drawn, kernel.phi)) < 1e-6


@pytest.mark.parametrize(("by", "length", "name"), [(closed_form, 1, "nesterov"), (unrolled, 2, "momentum")])
def test_the_comparison_notices_a_forgotten_momentum(by: Any, length: int, name: str) -> None:
    drawn, gradients = found_by(by, length, STEPS[name])
    kernel, formula = KERNELS["squared"]
    wrong = ByHand(formula, STEPS[name], forget_momentum=True)
    assert relative_error(gradients[0], wrong.meta_gradient(drawn, kernel.phi)) > 1e-2


def test_the_comparison_notices_a_road_that_forgets_momentum(monkeypatch: pytest.MonkeyPatch) -> None:
    step = STEPS["momentum"]
    honest = Descent.step
    monkeypatch.setattr(Descent, "step", lambda self, theta, gradients, momentum: honest(self, theta, gradients, {}))
    drawn, gradients = found_by(unrolled, 2, step)
    kernel, formula = KERNELS["squared"]
    assert relative_error(gradients[0], ByHand(formula, step).meta_gradient(drawn, kernel.phi)) > 1e-2


@pytest.mark.parametrize("length", [1, 2])
def test_clipping_bites_in_these_tests(length: int) -> None:
    clipped, free = STEPS["clipped"], replace(STEPS["clipped"], clip=None)
    by = closed_form if length == 1 else unrolled
    _, gradients = found_by(by, length, clipped)
    _, others = found_by(by, length, free)
    assert all(relative_error(a, b) > 1e-2 for a, b in zip(gradients, others, strict=True))


@pytest.mark.parametrize("length", [1, 2])
@pytest.mark.parametrize("step", [STEPS["plain"], STEPS["nesterov"]], ids=["plain", "nesterov"])
def test_a_whole_tuning_moves_phi_as_torchs_adam_on_the_gradients_by_hand(step: Step, length: int) -> None:
    task, tuning = double_task(step), Tuning(meta_steps=6, unroll_length=length, meta_lr=0.05)
    tuned = tune(task, losses(*NAMES), tuning, seed=11)
    for name, result in zip(NAMES, tuned, strict=True):
        kernel, formula = KERNELS[name]
        phi = torch.tensor(kernel.phi, dtype=torch.float64, requires_grad=True)
        adam = torch.optim.Adam([phi], lr=0.05)
        by_hand = ByHand(formula, step)
        values = []
        for meta_step in range(6):
            drawn = draw(task, 11, meta_step, length)
            phi.grad = by_hand.meta_gradient(drawn, phi.tolist())
            theta = [p.detach().clone().requires_grad_() for p in drawn.model.parameters()]
            values.append(by_hand.task_loss(theta, drawn.train, drawn.fitness, phi).item())
            adam.step()
        start = torch.tensor(kernel.phi, dtype=torch.float64)
        moved = torch.tensor(result.loss.kernel.phi, dtype=torch.float64) - start
        assert relative_error(moved, phi.detach() - start) < 1e-7
        assert np.allclose([value for _, value in result.history], values, rtol=1e-10)
        assert [at for at, _ in result.history] == [1, 2, 3, 4, 5, 6]
