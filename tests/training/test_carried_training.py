"""θ carried over several meta-steps, against a plain loop with create_graph that keeps its own θ and momentum."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from small_tasks import dropout_network
from torch import Tensor, nn
from unrolled_by_hand import KERNELS, NAMES, STEPS, ByHand, Step, double_task, leaves, losses, phi, relative_error, tree

from lossmith.losses import Loss
from lossmith.records import Tuning
from lossmith.training import roads, task_tuning, tune
from lossmith.training.meta_gradient import draw

META_STEPS = 7


def by_hand(step: Step, name: str, fresh: int, length: int, truncation: int, seed: int) -> tuple[Tensor, list[float]]:
    """φ after `META_STEPS` of torch's Adam, and the task losses."""
    task, (kernel, formula) = double_task(step), KERNELS[name]
    number = torch.tensor(kernel.phi, dtype=torch.float64, requires_grad=True)
    adam, trainer, values = torch.optim.Adam([number], lr=0.05), ByHand(formula, step), []
    theta: list[Tensor] = []
    velocity: list[Tensor] | None = None
    for meta_step in range(META_STEPS):
        drawn = draw(task, seed, meta_step, length)
        if meta_step % fresh == 0:
            theta, velocity = leaves(drawn), None
        theta, velocity = trainer.trained(theta, drawn.train, number, velocity, truncation)
        value = trainer.judged(theta, drawn.fitness)
        (number.grad,) = torch.autograd.grad(value, number)
        values.append(value.item())
        adam.step()
        theta = [part.detach().requires_grad_() for part in theta]
        velocity = None if velocity is None else [part.detach() for part in velocity]
    return number.detach(), values


@pytest.mark.parametrize(("length", "truncation"), [(1, 0), (2, 0), (3, 1)])
@pytest.mark.parametrize("step", [STEPS["plain"], STEPS["nesterov"]], ids=["plain", "nesterov"])
def test_it_is_a_training_that_goes_on(step: Step, length: int, truncation: int) -> None:
    tuning = Tuning(META_STEPS, length, 0.05, truncation=truncation, reinitialise=3)
    tuned = tune(double_task(step), losses(*NAMES), tuning, seed=11)
    for name, one in zip(NAMES, tuned, strict=True):
        expected, values = by_hand(step, name, 3, length, truncation, 11)
        start = torch.tensor(KERNELS[name][0].phi, dtype=torch.float64)
        assert relative_error(torch.tensor(one.loss.kernel.phi, dtype=torch.float64) - start, expected - start) < 1e-7
        assert np.allclose([value for _, value in one.history], values, rtol=1e-9)
        anew, _ = by_hand(step, name, 1, length, truncation, 11)
        assert relative_error(anew - start, expected - start) > 1e-3  # carrying makes a difference


class Ageing(nn.Module):
    """Its outputs shrink with every pass in training, by way of a buffer."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(6, 3)
        self.register_buffer("seen", torch.zeros(()))

    def forward(self, x: Tensor) -> Tensor:
        self.seen.add_(1)
        return self.linear(x) / self.seen


@pytest.mark.parametrize("road", ["stacked", "one at a time"])
def test_buffers_are_carried_and_the_fitness_pass_leaves_none(road: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if road != "stacked":
        monkeypatch.setattr(roads, "LARGE", 0)
    task = double_task(STEPS["plain"], model=lambda seed: Ageing().double())
    tuned = tune(task, losses("tanh", "taylor"), Tuning(4, 2, 0.05, reinitialise=2), seed=1)
    assert road in tuned[0].road
    for name, one in zip(("tanh", "taylor"), tuned, strict=True):
        number = torch.tensor(KERNELS[name][0].phi, dtype=torch.float64, requires_grad=True)
        adam, values, seen = torch.optim.Adam([number], lr=0.05), [], 0
        weight = bias = torch.zeros(())
        for meta_step in range(4):
            drawn = draw(task, 1, meta_step, 2)
            if meta_step % 2 == 0:
                (weight, bias), seen = leaves(drawn), 0
            for x, y in drawn.train:
                seen += 1
                log_p = ((x @ weight.T + bias) / seen).log_softmax(1)
                inner = KERNELS[name][1](log_p.exp(), log_p, torch.eye(3).double()[y], number).sum(1).mean()
                slopes = torch.autograd.grad(inner, (weight, bias), create_graph=True)
                weight, bias = (part - 0.3 * slope for part, slope in zip((weight, bias), slopes, strict=True))
            x, y = drawn.fitness
            value = nn.functional.cross_entropy((x @ weight.T + bias) / (seen + 1), y)
            (number.grad,) = torch.autograd.grad(value, number)
            values.append(value.item())
            adam.step()
            weight, bias = (part.detach().requires_grad_() for part in (weight, bias))
        assert np.allclose([value for _, value in one.history], values, rtol=1e-9)
        assert np.abs(phi(one) - number.detach().numpy()).max() < 1e-8


def test_progress_goes_on_with_the_steps_that_are_carried() -> None:
    """A loss that is switched off after the first steps of a training of 50 has no effect later in a carried one."""
    late = Loss(tree("max(0.05 - tau, 0)*square(t - p)", *[1.0] * 9))
    task = double_task(STEPS["plain"])
    moved = {}
    for fresh in (9, 1):
        how = Tuning(3, meta_lr=0.05, meta_optimizer="sgd", reinitialise=fresh)
        early, late_on = (tune(task, [late], replace(how, meta_steps=count), seed=0)[0] for count in (3, 9))
        assert np.abs(phi(early) - late.kernel.phi).max() > 1e-6
        moved[fresh] = float(np.abs(phi(late_on) - phi(early)).max())
    assert moved[9] == 0 < 1e-6 < moved[1]


def test_candidates_that_diverge_leave_the_others_their_own_training() -> None:
    wild, calm = (Loss(tree("exp(t)*square(p)", 1.0, size, 1.0, 1.0)) for size in (1000.0, 1.0))
    task, tuning = (
        double_task(STEPS["momentum"], model=lambda seed: dropout_network(seed).double()),
        Tuning(6, 2, 0.01, reinitialise=3),
    )
    with_wild, with_calm = (tune(task, [*losses("squared"), one], tuning, seed=0) for one in (wild, calm))
    assert with_wild[1].status.kind == "diverged"
    assert with_wild[0].loss.kernel == with_calm[0].loss.kernel


def test_the_state_of_one_tuning_does_not_reach_the_next() -> None:
    task, tuning = double_task(STEPS["momentum"]), Tuning(4, 1, 0.05, reinitialise=4)
    first, again = (tune(task, losses("tanh"), tuning, seed=0)[0] for _ in range(2))
    assert first.loss.kernel == again.loss.kernel


def test_what_is_carried_is_not_drawn_again(monkeypatch: pytest.MonkeyPatch) -> None:
    drawn: list[Any] = []
    honest = task_tuning.draw

    def spied(*args: Any) -> Any:
        drawn.append(args[2])
        return honest(*args)

    monkeypatch.setattr(task_tuning, "draw", spied)
    tune(double_task(STEPS["plain"]), losses("tanh"), Tuning(4, reinitialise=2), seed=0)
    assert drawn[-4:] == [0, 1, 2, 3]  # batches are new at every meta-step
