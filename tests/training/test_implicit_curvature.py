"""Products with second derivatives: against finite differences, and against the closed form's machinery."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from unrolled_by_hand import NAMES, PLAIN, double_task, how, losses

from lossmith.losses import Loss, LossSet, Tree
from lossmith.losses.parser import parse
from lossmith.rng import torch_global_scope
from lossmith.tasks import Task, Terms
from lossmith.training.base_models import BaseModels
from lossmith.training.curvature import Curvature
from lossmith.training.functional_network import Network
from lossmith.training.inner_gradients import InnerGradients
from lossmith.training.inner_step import inner_gradients, phi_of
from lossmith.training.meta_gradient import Road, draw
from lossmith.training.tunable import Tunable


class Around:
    """The training losses of candidates around θ of their own."""

    def __init__(self, task: Task, candidates: list[Tunable], kind: str = "stacked") -> None:
        self.task, self.candidates, self.phis = task, candidates, [one.phi for one in candidates]
        self.drawn = draw(task, 4, 0, 1)
        self.how = how(task, PLAIN, 1, len(candidates), Road(kind, 8))  # type: ignore[arg-type]
        self.network = Network(self.drawn.model, task.forward, stacked=kind == "stacked")
        generator = torch.Generator().manual_seed(6)
        fresh = BaseModels.fresh(self.network, len(candidates))
        moved = {k: p + 0.3 * torch.randn(p.shape, generator=generator).double() for k, p in fresh.parameters.items()}
        self.base = replace(fresh, parameters=moved).leaves()

    def gradient(self, shift: dict[str, Tensor]) -> dict[str, Tensor]:
        base = replace(self.base, parameters={k: p + shift[k] for k, p in self.base.parameters.items()}).leaves()
        phi = phi_of(self.candidates, self.phis, self.task.device, graph=False)
        _, found, _ = inner_gradients(self.how, self.drawn, self.network, self.candidates, phi, base, 0, graph=False)
        return {k: torch.zeros_like(base.parameters[k]) if g is None else g for k, g in found.items()}

    def curvature(self, decay: float = 0.0) -> Curvature:
        phi = phi_of(self.candidates, self.phis, self.task.device, graph=True)
        _, found, _ = inner_gradients(
            self.how, self.drawn, self.network, self.candidates, phi, self.base, 0, graph=True
        )
        return Curvature(self.base.parameters, found, phi, decay=decay)

    def direction(self, seed: int) -> dict[str, Tensor]:
        generator = torch.Generator().manual_seed(seed)
        return {k: torch.randn(p.shape, generator=generator).double() for k, p in self.base.parameters.items()}


def kernels(task: Task) -> list[Tunable]:
    return [Tunable.of(one, task) for one in losses(*NAMES)]


@pytest.mark.parametrize("decay", [0.0, 0.3])
def test_products_with_the_hessian_agree_with_finite_differences(decay: float) -> None:
    task = double_task(PLAIN)
    around = Around(task, kernels(task))
    curvature, direction, h = around.curvature(decay), around.direction(1), 1e-5
    up, down = (around.gradient({k: sign * h * d for k, d in direction.items()}) for sign in (1, -1))
    expected = curvature.vector({k: (up[k] - down[k]) / (2 * h) + decay * direction[k] for k in direction})
    found = curvature.product(curvature.vector(direction))
    assert (expected.norm(dim=1) > 0.1).all()
    assert ((found - expected).norm(dim=1) < 1e-7 * expected.norm(dim=1)).all()
    other = curvature.vector(around.direction(2))
    assert torch.allclose((other * found).sum(1), (curvature.product(other) * curvature.vector(direction)).sum(1))


def test_stacked_and_one_at_a_time_agree() -> None:
    task = double_task(PLAIN)
    every = kernels(task)
    around = Around(task, every)
    curvature, direction = around.curvature(), around.direction(1)
    found, mixed = curvature.product(curvature.vector(direction)), curvature.mixed(curvature.vector(direction))
    for row, one in enumerate(every):
        alone = Around(task, [one], "alone")
        rows = slice(row, row + 1)
        alone.base = replace(around.base, parameters={k: p[rows] for k, p in around.base.parameters.items()}).leaves()
        own = alone.curvature()
        vector = own.vector({k: d[rows] for k, d in direction.items()})
        assert torch.allclose(own.product(vector)[0], found[row], rtol=1e-10, atol=1e-14)
        assert np.allclose(own.mixed(vector)[0], mixed[row], rtol=1e-10, atol=1e-14)


def two_heads(model: nn.Module, batch: tuple[Tensor, Tensor]) -> tuple[Terms, Terms]:
    x, y = batch
    z = model(x)
    return Terms(z, y), Terms(z.tanh() * 2, 2 - y)


@pytest.mark.parametrize("sets", [False, True], ids=["one loss", "a set"])
def test_mixed_is_the_closed_forms_of_the_pushed_direction(sets: bool) -> None:
    task = double_task(PLAIN, forward=two_heads) if sets else double_task(PLAIN)
    every = losses(*NAMES)
    given = [LossSet([a, b]) for a, b in zip(every, reversed(every), strict=True)] if sets else every
    for one in (Tunable.of(loss, task) for loss in given):
        around = Around(task, [one], "alone")
        direction = around.direction(3)
        curvature = around.curvature()
        # J·q by the network's own product with its Jacobian at θ0, moved to where the candidate is.
        for name, p in around.drawn.model.named_parameters():
            p.data = around.base.parameters[f"model.{name}"][0].detach().clone()
        with torch_global_scope(0, "nothing"):
            start = Network(around.drawn.model, task.forward).start(
                around.drawn.train[0], lambda: torch_global_scope(0, "nothing")
            )
        pushed = start.push({k: d[:1] for k, d in direction.items()})
        (expected,) = InnerGradients([one], [one.phi], start.terms, 0.0).mixed(pushed)
        (found,) = curvature.mixed(curvature.vector(direction))
        assert np.abs(expected).max() > 1e-3
        assert np.allclose(found, expected, rtol=1e-10, atol=1e-13)


@pytest.mark.parametrize("graph", [True, False])
def test_an_output_made_from_another_counts_once(graph: bool) -> None:
    task = double_task(PLAIN, forward=two_heads)
    candidates = [Tunable.of(LossSet(losses("squared", "tanh")), task)]
    stacked, alone = (Around(task, candidates, kind) for kind in ("stacked", "alone"))
    for around in (stacked, alone):
        phi = phi_of(candidates, around.phis, task.device, graph=graph)
        way = (around.how, around.drawn, around.network, candidates, phi, around.base, 0)
        around.found = inner_gradients(*way, graph=graph)[1]  # type: ignore[attr-defined]
    for name, gradient in stacked.found.items():  # type: ignore[attr-defined]
        assert gradient.abs().max() > 1e-3
        assert torch.allclose(gradient, alone.found[name], rtol=1e-10)  # type: ignore[attr-defined]


def test_nothing_is_curved_where_model_and_loss_are_linear() -> None:
    task = double_task(PLAIN, head="identity", model=lambda seed: nn.Linear(6, 1).double(), **regression())
    linear = Loss(Tree(parse("p - t"), weights=(0.7, 1.0)), head="identity")
    curvature = (around := Around(task, [Tunable.of(linear, task)])).curvature()
    vector = curvature.vector(around.direction(1))
    assert torch.equal(curvature.product(vector), torch.zeros_like(vector))
    (x, _), (mixed,) = around.drawn.train[0], curvature.mixed(vector)
    # ∂M/∂θ is w·(mean x, 1), and so ∂²M/∂θ∂w is (mean x, 1): by hand.
    bias, weight = (around.direction(1)[f"model.{name}"][0] for name in ("bias", "weight"))
    assert np.allclose(mixed, [(weight @ x.mean(0)).item() + bias.item(), 0.0])


def test_a_parameter_that_nothing_depends_on_is_left_out() -> None:
    class Idle(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.used, self.idle = nn.Linear(6, 3).double(), nn.Linear(2, 2).double()

        def forward(self, x: Tensor) -> Tensor:
            return self.used(x)

    task = double_task(PLAIN, model=lambda seed: Idle())
    curvature = (around := Around(task, kernels(task))).curvature()
    vector = curvature.vector(around.direction(1))
    assert vector.shape == (len(NAMES), 21)
    assert curvature.product(vector).shape == vector.shape


def regression() -> dict[str, tuple[Tensor, Tensor]]:
    generator = torch.Generator().manual_seed(8)
    x = torch.randn(84, 6, generator=generator, dtype=torch.float64)
    y = x[:, :1] - 0.5 * x[:, 1:2] + 0.3 * torch.randn(84, 1, generator=generator, dtype=torch.float64)
    return {"train": (x[:40], y[:40]), "valid": (x[40:64], y[40:64]), "selection": (x[64:], y[64:])}
