"""Truncation: what φ did before the last steps is left out of the gradient, and nothing else changes."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from unrolled_by_hand import KERNELS, NAMES, STEPS, ByHand, Step, double_task, how, losses, relative_error

from lossmith.errors import SpecError
from lossmith.records import Tuning
from lossmith.training.meta_gradient import MetaGradient, Road, draw
from lossmith.training.tunable import Tunable
from lossmith.training.unrolled import unrolled

ROADS = pytest.mark.parametrize("road", [Road(), Road("stacked", 3)], ids=["alone", "stacked"])


def found_by(step: Step, road: Road, length: int, truncation: int) -> tuple[Any, list[MetaGradient]]:
    task = double_task(step)
    drawn, candidates = draw(task, 3, 0, length), [Tunable.of(one, task) for one in losses(*NAMES)]
    unroll = replace(how(task, step, length, len(candidates), road), truncation=truncation)
    found = unrolled(unroll, drawn, candidates, [one.phi for one in candidates])
    return drawn, [found[i] for i in range(len(candidates))]


@ROADS
@pytest.mark.parametrize("truncation", [1, 2, 4])
@pytest.mark.parametrize("step", [STEPS["plain"], STEPS["nesterov"], STEPS["clipped"]], ids=str)
def test_it_is_the_gradient_of_the_last_steps_by_hand(step: Step, truncation: int, road: Road) -> None:
    drawn, found = found_by(step, road, 4, truncation)
    for name, one in zip(NAMES, found, strict=True):
        kernel, formula = KERNELS[name]
        expected = ByHand(formula, step).meta_gradient(drawn, kernel.phi, truncation=truncation)
        assert relative_error(one.gradient, expected) < 1e-9


@ROADS
def test_values_stay_and_gradients_do_not(road: Road) -> None:
    _, whole = found_by(STEPS["momentum"], road, 3, 0)
    _, all_of_it = found_by(STEPS["momentum"], road, 3, 3)
    _, cut = found_by(STEPS["momentum"], road, 3, 1)
    for one, same, other in zip(whole, all_of_it, cut, strict=True):
        assert np.array_equal(one.gradient, same.gradient)
        assert one.value == pytest.approx(other.value, rel=1e-12)
        assert one.inner == pytest.approx(other.inner, rel=1e-12)
        assert relative_error(other.gradient, torch.as_tensor(one.gradient)) > 1e-2


def test_it_agrees_with_finite_differences_of_the_last_steps() -> None:
    step, length, truncation = STEPS["momentum"], 4, 2
    drawn, found = found_by(step, Road(), length, truncation)
    for name, one in zip(NAMES, found, strict=True):
        kernel, formula = KERNELS[name]
        by_hand, at = ByHand(formula, step), torch.tensor(kernel.phi, dtype=torch.float64)
        theta, velocity = by_hand.trained(list(drawn.model.parameters()), drawn.train[:2], at)
        theta = [part.detach().requires_grad_() for part in theta]
        velocity = [part.detach() for part in velocity or []]
        slopes = []
        for k in range(len(at)):
            up, down = (at + sign * 1e-5 * torch.eye(len(at), dtype=torch.float64)[k] for sign in (1, -1))
            ends = [by_hand.trained(theta, drawn.train[2:], phi, velocity)[0] for phi in (up, down)]
            high, low = (by_hand.judged(end, drawn.fitness).item() for end in ends)
            slopes.append((high - low) / 2e-5)
        assert relative_error(one.gradient, torch.tensor(slopes, dtype=torch.float64)) < 1e-6


def test_more_than_all_steps_cannot_be_the_last_ones() -> None:
    with pytest.raises(SpecError, match="at most unroll_length = 2 steps can be differentiated through"):
        Tuning(unroll_length=2, truncation=3)
