"""Meta-gradients of ML3's and AdaLFL's networks, at full size, by three roads in float64."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from unrolled_by_hand import STEPS, ByHand, Step, double_task, how, leaves, perceptron, relative_error

from lossmith.losses import Loss, Network
from lossmith.records import Tuning
from lossmith.training import tune
from lossmith.training.closed_form import closed_form
from lossmith.training.meta_gradient import Road, draw
from lossmith.training.tunable import Tunable
from lossmith.training.unrolled import unrolled

STREAM = np.random.PCG64
NETWORKS = {
    "ml3": Network.ml3(np.random.Generator(STREAM(1))),
    "ml3 xavier": Network.ml3(np.random.Generator(STREAM(2)), initialisation="xavier"),
    "adalfl": Network.adalfl(np.random.Generator(STREAM(3))),
}
WAYS = [
    *((closed_form, 1, road) for road in (Road("layers", 3), Road("recorded", 3), Road("stacked", 3), Road("forward"))),
    *((unrolled, length, road) for length in (1, 2, 5) for road in (Road("stacked", 3), Road())),
]


def formula(name: str) -> Any:
    """ℓ written out, softplus(s) or smooth leaky ReLU γs + (1 − γ) log(1 + e^{βs})/β (ALGORITHMS §5)."""
    hidden = NETWORKS[name].hidden

    def of(p: torch.Tensor, log_p: torch.Tensor, t: torch.Tensor, w: torch.Tensor) -> torch.Tensor:
        if name != "adalfl":
            return perceptron(p, t, w, hidden)
        # perceptron() ends in a softplus: with β times the last weights that is log(1 + e^{βs}), and s by inversion
        scaled = torch.cat([w[: -hidden[-1]], 10.0 * w[-hidden[-1] :]])
        soft = perceptron(p, t, scaled, hidden)
        return 0.01 * (soft + torch.log(-torch.expm1(-soft))) / 10 + 0.99 * soft / 10

    return of


def found_by(by: Any, length: int, road: Road, step: Step) -> tuple[Any, list[Any]]:
    task = double_task(step)
    drawn, candidates = draw(task, 3, 0, length), [Tunable.of(Loss(one), task) for one in NETWORKS.values()]
    found = by(how(task, step, length, 3, road), drawn, candidates, [one.phi for one in candidates])
    return drawn, [found[i].gradient for i in range(3)]


@pytest.mark.parametrize("step", [STEPS["plain"], STEPS["nesterov"]], ids=["plain", "nesterov"])
@pytest.mark.parametrize(("by", "length", "road"), WAYS, ids=lambda way: getattr(way, "__name__", str(way)))
def test_it_is_the_gradient_of_sgd_unrolled_by_hand(by: Any, length: int, road: Road, step: Step) -> None:
    drawn, gradients = found_by(by, length, road, step)
    for name, gradient in zip(NETWORKS, gradients, strict=True):
        assert relative_error(gradient, ByHand(formula(name), step).meta_gradient(drawn, NETWORKS[name].phi)) < 1e-9


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("step", [STEPS["plain"], STEPS["momentum"]], ids=["plain", "momentum"])
@pytest.mark.parametrize(("by", "length"), [(closed_form, 1), (unrolled, 2), (unrolled, 5)])
def test_it_agrees_with_finite_differences_along_directions(by: Any, length: int, step: Step, name: str) -> None:
    drawn, gradients = found_by(by, length, Road("stacked", 3), step)
    gradient = gradients[list(NETWORKS).index(name)]
    by_hand, at = ByHand(formula(name), step), torch.tensor(NETWORKS[name].phi, dtype=torch.float64)
    generator, h = np.random.Generator(STREAM(9)), 1e-6
    expected, slopes = [], []
    for _ in range(4):
        # half along the gradient, so that the slope is none of the small ones
        direction = generator.standard_normal(len(gradient))
        direction = gradient / np.linalg.norm(gradient) + direction / np.linalg.norm(direction)
        ends = [at + sign * h * torch.from_numpy(direction) for sign in (1, -1)]
        up, down = (by_hand.task_loss(leaves(drawn), drawn.train, drawn.fitness, end).item() for end in ends)
        expected.append(float(gradient @ direction))
        slopes.append((up - down) / (2 * h))
    assert relative_error(expected, torch.tensor(slopes, dtype=torch.float64)) < 1e-6


def test_a_whole_tuning_moves_it_as_torchs_adam_on_the_gradients_by_hand() -> None:
    step, name = STEPS["nesterov"], "ml3"
    (tuned,) = tune(double_task(step), [Loss(NETWORKS[name])], Tuning(5, meta_lr=0.01), seed=2)
    number = torch.tensor(NETWORKS[name].phi, dtype=torch.float64, requires_grad=True)
    adam = torch.optim.Adam([number], lr=0.01)
    for meta_step in range(5):
        number.grad = ByHand(formula(name), step).meta_gradient(
            draw(double_task(step), 2, meta_step, 1), number.tolist()
        )
        adam.step()
    start = torch.tensor(NETWORKS[name].phi, dtype=torch.float64)
    # Adam divides by the size of a gradient, and some of these are nearly none.
    assert relative_error(torch.tensor(tuned.loss.kernel.phi) - start, number.detach() - start) < 1e-5
