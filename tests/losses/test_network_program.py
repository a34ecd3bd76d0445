"""Network losses compiled: the same numbers as autograd and as finite differences, each candidate for itself."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from lossmith.errors import LossError
from lossmith.losses import Loss, Network, Tree
from lossmith.losses import network_kernel as machine
from lossmith.losses.autograd_road import (
    mixed_by_autograd,
    rows_by_autograd,
    value_and_delta_by_autograd,
    with_parameters,
)
from lossmith.losses.delta import mixed_with_direction, population_value_and_delta, value_and_delta
from lossmith.losses.network_program import NetworkPopulation
from lossmith.losses.parser import parse
from lossmith.losses.population_loss import PopulationLoss, interpreted

HEADS = [("softmax", 0.0), ("softmax", 0.1), ("sigmoid", 0.0), ("sigmoid", 0.2), ("identity", 0.0)]
N, C = 37, 5


def kernels(count: int, hidden: tuple[int, int], output: str, seed: int = 0) -> list[Network]:
    generator = np.random.default_rng(seed)
    return [Network.drawn(generator, hidden, output) for _ in range(count)]  # type: ignore[arg-type]


def batch(head: str, count: int, dtype: torch.dtype, seed: int = 1, soft: bool = False) -> tuple[Tensor, ...]:
    """Outputs [P, N, C], targets, weights [N], one of them 0, and directions [P, N, C]."""
    generator = torch.Generator().manual_seed(seed)
    z, u = 2 * torch.randn(2, count, N, C, generator=generator, dtype=dtype)
    weight = 0.5 + torch.rand(N, generator=generator, dtype=dtype)
    weight[3] = 0
    target = torch.randint(0, C, (N,), generator=generator)
    if head == "identity" or soft:
        target = torch.randn(N, C, generator=generator, dtype=dtype)
        target = target.softmax(-1) if soft else torch.where(target.abs() < 0.3, 0.0, target)
    elif head == "sigmoid":
        target = torch.randint(0, 2, (N, C), generator=generator).to(dtype)
    return z, target, weight, u


def assert_near(found: Tensor, exact: Tensor, accuracy: float) -> None:
    assert (found - exact).abs().max() <= accuracy * max(1.0, float(exact.abs().max()))


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=["float64", "float32"])
@pytest.mark.parametrize(("head", "smoothing"), HEADS)
@pytest.mark.parametrize(("hidden", "output"), [((50, 50), "softplus"), ((40, 40), "smooth_leaky_relu")])
def test_values_and_derivatives_are_those_of_autograd(
    hidden: tuple[int, int], output: str, head: str, smoothing: float, dtype: torch.dtype
) -> None:
    accuracy = 1e-12 if dtype == torch.float64 else 1e-5
    losses = [
        Loss(kernel, head=head, smoothing=smoothing, outputs=outputs, reduction=reduction)  # type: ignore[arg-type]
        for kernel, outputs, reduction in zip(
            kernels(4, hidden, output), ("sum", "mean", "sum", "sum"), ("mean", "mean", "sum", "mean"), strict=True
        )
    ]
    assert all(interpreted(loss, tunable=tunable) for loss in losses for tunable in (False, True))
    z, target, weight, u = batch(head, len(losses), dtype)
    for outputs in (z, z[0]):
        for w in (None, weight):
            values, deltas = population_value_and_delta(losses, outputs, target, w)
            rows, _ = population_value_and_delta(losses, outputs, target, w, per_row=True)
            for i, loss in enumerate(losses):
                own = outputs[i] if outputs.dim() == 3 else outputs
                value, delta = value_and_delta_by_autograd(loss, own, target, w)
                assert_near(values[i], value, accuracy)
                assert_near(deltas[i], delta, accuracy)
                assert_near(rows[i], rows_by_autograd(loss, own, target, w), accuracy)
                assert_near(value_and_delta(loss, own, target, w)[1], delta, accuracy)
    for found, loss, along in zip(mixed_with_direction(losses, z[0], target, u, weight), losses, u, strict=True):
        assert found.dtype == dtype
        assert_near(found, mixed_by_autograd(loss, z[0], target, along, weight), 10 * accuracy)


@pytest.mark.parametrize("head", ["softmax", "sigmoid"])
def test_soft_targets(head: str) -> None:
    losses = [Loss(kernel, head=head) for kernel in kernels(2, (7, 4), "softplus")]
    z, target, weight, u = batch(head, 2, torch.float64, soft=True)
    values, deltas = population_value_and_delta(losses, z[0], target, weight)
    gradients = mixed_with_direction(losses, z[0], target, u, weight)
    for i, loss in enumerate(losses):
        value, delta = value_and_delta_by_autograd(loss, z[0], target, weight)
        assert_near(values[i], value, 1e-12)
        assert_near(deltas[i], delta, 1e-12)
        assert_near(gradients[i], mixed_by_autograd(loss, z[0], target, u[i], weight), 1e-12)


@pytest.mark.parametrize(("head", "smoothing"), HEADS)
def test_derivatives_are_finite_differences(head: str, smoothing: float) -> None:
    loss = Loss(kernels(1, (6, 5), "smooth_leaky_relu", seed=4)[0], head=head, smoothing=smoothing)
    z, target, weight, u = (x[0] if x.dim() == 3 else x for x in batch(head, 1, torch.float64))
    phi, h = torch.tensor(loss.kernel.phi, dtype=torch.float64), 1e-6

    def slope(at: Tensor) -> float:  # ⟨u, ∂M/∂z⟩ with other weights
        ready = PopulationLoss([loss], tunable=True)
        return float((ready(z, target, weight, phi=[at])[1][0] * u).sum())

    def value(outputs: Tensor) -> float:
        return float(with_parameters(loss, phi, outputs)(outputs, target, weight=weight))

    _, delta = value_and_delta(loss, z, target, weight)
    assert (value(z + h * u) - value(z - h * u)) / (2 * h) == pytest.approx(float((delta * u).sum()), rel=1e-6)
    (mixed,) = mixed_with_direction([loss], z, target, u[None], weight)
    for k in range(len(phi)):
        step = torch.zeros_like(phi)
        step[k] = h
        difference = (slope(phi + step) - slope(phi - step)) / (2 * h)
        assert difference == pytest.approx(float(mixed[k]), rel=1e-6, abs=1e-7)


def test_other_weights_given_as_tensors_are_used_in_the_place_of_the_losses_own() -> None:
    own, other = kernels(3, (8, 6), "softplus", seed=5), kernels(3, (8, 6), "softplus", seed=6)
    phi = [torch.tensor(kernel.phi, dtype=torch.float64) for kernel in other]
    z, target, weight, u = batch("softmax", 3, torch.float64)
    ready, known = PopulationLoss([Loss(k) for k in own], tunable=True), PopulationLoss([Loss(k) for k in other])
    for found, exact in zip(ready(z, target, weight, phi=phi), known(z, target, weight), strict=True):
        assert torch.equal(found, exact)
    known = PopulationLoss([Loss(k) for k in other], tunable=True)
    for a, b in zip(ready.mixed(z[0], target, u, weight, phi=phi), known.mixed(z[0], target, u, weight), strict=True):
        assert torch.equal(a, b)
    with pytest.raises(LossError, match="weights in all"):
        ready(z, target, weight, phi=[part[:-1] for part in phi])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=["float32", "float64"])
def test_the_company_and_the_order_in_memory_change_no_bit(dtype: torch.dtype) -> None:
    mixed_company = [
        *[Loss(k) for k in kernels(3, (8, 6), "softplus")],
        Loss(Tree(parse("-t*log(p)"))),
        *[Loss(k) for k in kernels(2, (8, 6), "smooth_leaky_relu")],
        Loss(kernels(1, (5, 9), "softplus")[0]),
        Loss(Network.drawn(np.random.default_rng(3), (4,))),
    ]
    z, target, weight, u = batch("softmax", len(mixed_company), dtype)
    values, deltas = PopulationLoss(mixed_company)(z, target, weight)
    gradients = mixed_with_direction(mixed_company, z[0], target, u, weight)
    turned = PopulationLoss(mixed_company)(z.transpose(1, 2).contiguous().transpose(1, 2), target, weight)
    assert torch.equal(turned[0], values)
    assert torch.equal(turned[1], deltas)
    for i, loss in enumerate(mixed_company):
        value, delta = value_and_delta(loss, z[i], target, weight)
        assert torch.equal(value, values[i])
        assert torch.equal(delta, deltas[i])
        assert torch.equal(mixed_with_direction([loss], z[0], target, u[i : i + 1], weight)[0], gradients[i])


@pytest.mark.parametrize("broken", [math.nan, math.inf, 1e300])
def test_a_candidate_that_is_not_finite_touches_no_other(broken: float) -> None:
    losses = [Loss(kernel) for kernel in kernels(3, (8, 6), "softplus")]
    z, target, weight, u = batch("softmax", 3, torch.float32)
    phi = [torch.tensor(loss.kernel.phi, dtype=torch.float64) for loss in losses]
    ready = PopulationLoss(losses, tunable=True)
    before, along = ready(z, target, weight, phi=phi), ready.mixed(z[0], target, u, weight, phi=phi)
    phi[1] = torch.full_like(phi[1], broken)
    after, beside = ready(z, target, weight, phi=phi), ready.mixed(z[0], target, u, weight, phi=phi)
    for i in (0, 2):
        assert torch.equal(before[0][i], after[0][i])
        assert torch.equal(before[1][i], after[1][i])
        assert torch.equal(along[i], beside[i])
    assert not torch.isfinite(after[0][1])
    assert not torch.isfinite(beside[1]).all()
    z[1, 2, 2] = broken if broken != 1e300 else math.nan  # outputs that are not finite likewise
    phi[1] = phi[0]
    after = ready(z, target, weight, phi=phi)
    for i in (0, 2):
        assert torch.equal(before[1][i], after[1][i])
    assert not torch.isfinite(after[0][1])


@pytest.mark.parametrize("where", ["p", "t"])
def test_numbers_that_are_not_finite_come_through_under_the_identity_head(where: str) -> None:
    loss = Loss(kernels(1, (8, 6), "softplus")[0], head="identity")
    for broken in (math.nan, math.inf, -math.inf):
        z, target = torch.zeros(4, 1), torch.ones(4, 1)
        (z if where == "p" else target)[2] = broken
        value, delta = value_and_delta(loss, z, target)
        assert not torch.isfinite(value)
        assert torch.isfinite(delta[[0, 1, 3]]).all()


def test_units_that_are_never_active_and_rays_on_the_axes() -> None:
    first = [[0, 0], [1, 0], [-1, 0], [0, 1], [0, -1], [1, 1], [1, -1], [-1, 1], [-1, -1], [0, 0]]
    generator = np.random.default_rng(0)
    weights = [*np.array(first, float).ravel().tolist(), *generator.normal(size=50), *generator.normal(size=5)]
    for head in ("softmax", "sigmoid", "identity"):
        loss = Loss(Network(tuple(weights), (10, 5)), head=head)
        z, target, weight, u = batch(head, 1, torch.float64)
        target = target if head != "identity" else target - 0.123  # off the rays themselves, where autograd may differ
        value, delta = value_and_delta_by_autograd(loss, z[0], target, weight)
        found = value_and_delta(loss, z[0], target, weight)
        assert_near(found[0], value, 1e-12)
        assert_near(found[1], delta, 1e-12)
        (mixed,) = mixed_with_direction([loss], z[0], target, u, weight)
        assert_near(mixed, mixed_by_autograd(loss, z[0], target, u[0], weight), 1e-12)


def test_at_the_origin_no_unit_is_active() -> None:
    loss = Loss(kernels(1, (8, 6), "smooth_leaky_relu")[0], head="identity")
    z, target, u = torch.zeros(3, 1), torch.zeros(3, 1), torch.ones(1, 3, 1)
    value, delta = value_and_delta(loss, z, target)
    assert value.item() == pytest.approx(0.99 * math.log(2) / 10, rel=1e-6)
    assert not delta.any()
    assert not mixed_with_direction([loss], z, target, u)[0].any()
    assert not value_and_delta_by_autograd(loss, z, target)[1].any()


def test_angles_grow_counter_clockwise() -> None:
    turns = np.linspace(0, 2 * np.pi, 400, endpoint=False)
    angles = [machine.angle(np.cos(a), np.sin(a)) for a in turns]
    assert angles[0] == 0.0
    assert np.diff(angles).min() > 0
    assert max(angles) < 4.0
    axes = [machine.angle(p, t) for p, t in ((1.0, 0.0), (0.0, 1.0), (-1.0, 0.0), (0.0, -1.0))]
    assert axes == [0.0, 1.0, 2.0, 3.0]


def test_no_rows() -> None:
    loss = Loss(kernels(1, (8, 6), "softplus")[0])
    value, delta = value_and_delta(loss, torch.zeros(0, 3), torch.zeros(0, dtype=torch.int64))
    assert value.item() == 0.0
    assert delta.shape == (0, 3)


def test_one_call_serves_one_architecture() -> None:
    with pytest.raises(LossError, match="one architecture"):
        NetworkPopulation.of([kernels(1, (8, 6), "softplus")[0], kernels(1, (8, 5), "softplus")[0]])
    with pytest.raises(LossError, match="two hidden layers"):
        NetworkPopulation.of([Network.drawn(np.random.default_rng(0), (4,))])
    assert not interpreted(Loss(Network.drawn(np.random.default_rng(0), (4, 3, 2))), tunable=True)
