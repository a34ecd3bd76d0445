"""Our differentiable step against `torch.optim.SGD` and torch's own clipping, for stacked candidates."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from lossmith.tasks import SGD
from lossmith.training.functional_sgd import Descent

SETTINGS = [
    SGD(0.1),
    SGD(0.1, weight_decay=0.3),
    SGD(0.1, momentum=0.9),
    SGD(0.1, momentum=0.7, nesterov=True, weight_decay=0.2),
]
SHAPES = {"matrix": (3, 2), "vector": (4,), "scalar": (), "unused": (2,)}
P, STEPS = 3, 4


def drawn(seed: int) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {name: torch.randn(P, *shape, generator=generator, dtype=torch.float64) for name, shape in SHAPES.items()}


def by_torch(sgd: SGD, clip: float | None, gradients: list[dict[str, Tensor]], candidate: int) -> list[Tensor]:
    parameters = {name: part[candidate].clone().requires_grad_() for name, part in drawn(0).items()}
    optimizer = sgd(list(parameters.values()), 0.1)
    for step in gradients:
        for name, parameter in parameters.items():
            parameter.grad = None if name == "unused" else step[name][candidate].clone()
        if clip is not None:
            torch.nn.utils.clip_grad_norm_(parameters.values(), clip)
        optimizer.step()
    return [p.detach() for p in parameters.values()]


@pytest.mark.parametrize("clip", [None, 1.0, 3.5])
@pytest.mark.parametrize("sgd", SETTINGS, ids=str)
def test_it_steps_as_torchs_sgd_does(sgd: SGD, clip: float | None) -> None:
    gradients = [drawn(seed) for seed in range(1, STEPS + 1)]
    start = drawn(0)
    parameters, momentum = dict(start), {}
    for step in gradients:
        present = {name: None if name == "unused" else part for name, part in step.items()}
        parameters, momentum = Descent(sgd, 0.1, clip).step(parameters, present, momentum)
    for candidate in range(P):
        theirs = by_torch(sgd, clip, gradients, candidate)
        for name, expected in zip(start, theirs, strict=True):
            moved = expected - start[name][candidate]
            assert (moved.abs().max() > 0.01) == (name != "unused")
            assert torch.allclose(parameters[name][candidate] - start[name][candidate], moved, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("clip", [None, 1.0])
@pytest.mark.parametrize("sgd", SETTINGS, ids=str)
def test_the_first_step_is_the_first_step(sgd: SGD, clip: float | None) -> None:
    descent, gradients = Descent(sgd, 0.1, clip), {**drawn(1), "unused": None}
    step, _ = descent.step(drawn(0), gradients, {})
    first = descent.first_step(drawn(0), gradients)
    assert all(torch.allclose(first[name], step[name], rtol=1e-12, atol=1e-14) for name in SHAPES)


def test_a_gradient_of_zero_is_clipped_to_zero_and_not_to_nan() -> None:
    zeros = {name: part * 0 for name, part in drawn(1).items()}
    descent = Descent(SGD(0.1), 0.1, 1.0)
    turned = descent.clipped_direction(zeros, drawn(2))
    assert all(torch.equal(turned[name], part) for name, part in drawn(2).items())
    moved, _ = descent.step(drawn(0), zeros, {})
    assert all(torch.equal(moved[name], part) for name, part in drawn(0).items())
