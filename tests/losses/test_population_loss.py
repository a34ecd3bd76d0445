"""Losses made ready once: the same numbers whatever the batch, the order in memory and the company."""

from __future__ import annotations

import math

import pytest
import torch
from random_losses import random_trees
from torch import Tensor

from lossmith.errors import LossError
from lossmith.losses import Loss, Tree, loss
from lossmith.losses.autograd_road import mixed_by_autograd, value_and_delta_by_autograd
from lossmith.losses.delta import population_value_and_delta, value_and_delta
from lossmith.losses.parser import parse
from lossmith.losses.population_loss import PopulationLoss
from lossmith.losses.primitive_sets import EVOMAL, GLO

TEXTS = (
    "-t*log(p)", "tanh(r)*exp(p) + sqrt(p)", "-t*log(p) - (1 - t)*log(1 - p)", "z*t + z*p^2", "t/p - log(p)",
    "aq(p, t) + protected_log(p)*abs(r)", "w*r^2", "p*n - tau", "1",
)  # fmt: skip


def tree(text: str, **settings: object) -> Loss:
    return Loss(Tree(parse(text)), **settings)  # type: ignore[arg-type]


def batch(count: int, rows: int, classes: int, dtype: torch.dtype = torch.float32, seed: int = 0) -> tuple[Tensor, ...]:
    """Outputs [P, N, C], labels [N] and weights [N], one of them 0."""
    generator = torch.Generator().manual_seed(seed)
    z = 2 * torch.randn(count, rows, classes, generator=generator, dtype=dtype)
    labels = torch.randint(0, classes, (rows,), generator=generator)
    weight = 0.5 + torch.rand(rows, generator=generator, dtype=dtype)
    weight[rows // 2] = 0 if rows > 1 else 1
    return z, labels, weight


@pytest.mark.parametrize("head", ["softmax", "sigmoid", "identity"])
def test_every_batch_gives_what_autograd_gives(head: str) -> None:
    losses = [tree(text, head=head) for text in TEXTS]
    ready = PopulationLoss(losses)
    for rows, classes, dtype in ((1, 2, torch.float32), (16, 3, torch.float64), (37, 10, torch.float32),
                                 (3, 1000, torch.float32), (130, 2, torch.float64)):  # fmt: skip
        z, labels, weight = batch(len(losses), rows, classes, dtype)
        target = torch.nn.functional.one_hot(labels, classes).to(dtype) if head != "softmax" else labels
        for w in (None, weight):
            values, deltas = ready(z, target, w, 0.3)
            for own, value, delta, criterion in zip(z, values, deltas, losses, strict=True):
                expected, slope = value_and_delta_by_autograd(criterion, own, target, w, 0.3)
                for one, exact in ((value, expected), (delta, slope)):
                    scale = max(1.0, float(expected.abs()), float(slope.abs().max()))
                    tolerance = (3e-6 if dtype == torch.float32 else 1e-13) * scale
                    assert (one - exact).abs().max() <= tolerance, (str(criterion), rows, classes)


def test_the_order_in_memory_changes_no_bit_and_is_that_of_the_derivatives() -> None:
    losses = [Loss(kernel) for kernel in random_trees(EVOMAL, 5, seed=3)]
    ready = PopulationLoss(losses)
    z, labels, weight = batch(5, 37, 10)
    values, deltas = ready(z, labels, weight)
    wide = torch.zeros(5, 37, 20)
    wide[..., ::2] = z
    for same in (
        z.transpose(1, 2).contiguous().transpose(1, 2),
        z.permute(1, 0, 2).contiguous().permute(1, 0, 2),
        z.permute(2, 1, 0).contiguous().permute(2, 1, 0),
        wide[..., ::2],
    ):
        found = ready(same, labels, weight)
        assert population_value_and_delta(losses, same, labels, weight)[1].is_contiguous()
        assert torch.equal(found[0], values)
        assert torch.equal(found[1], deltas)
        if same.stride() != wide[..., ::2].stride():
            assert found[1].stride() == same.stride()
    shared = ready(z[0], labels)
    assert torch.equal(shared[1], ready(z[:1].expand(5, -1, -1), labels)[1])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=["float32", "float64"])
def test_the_company_changes_no_bit(dtype: torch.dtype) -> None:
    kernels = [*random_trees(EVOMAL, 8, seed=5), *random_trees(GLO, 6, seed=6, weighted=True)]
    losses = [Loss(kernel) for kernel in kernels] + [tree(text) for text in TEXTS]
    z, labels, weight = batch(len(losses), 37, 10, dtype)
    ready = PopulationLoss(losses)
    values, deltas = ready(z, labels, weight, 0.3)
    backwards = PopulationLoss(losses[::-1])(z.flip(0), labels, weight, 0.3)
    kept = ready.keep([3, 10, 16])(z[[3, 10, 16]], labels, weight, 0.3)
    for i, criterion in enumerate(losses):
        for alone in (value_and_delta(criterion, z[i], labels, weight, 0.3), [x[-1 - i] for x in backwards]):
            torch.testing.assert_close(alone[0], values[i], rtol=0, atol=0, equal_nan=True)
            torch.testing.assert_close(alone[1], deltas[i], rtol=0, atol=0, equal_nan=True)
    for place, i in enumerate((3, 10, 16)):
        torch.testing.assert_close(kept[1][place], deltas[i], rtol=0, atol=0, equal_nan=True)
    assert len(ready.keep(torch.tensor([1, 2]))) == 2


def test_a_population_is_not_changed_by_what_it_returned() -> None:
    ready = PopulationLoss([tree("-t*log(p)")])
    z, labels, _ = batch(1, 20, 4)
    first = ready(z, labels)
    kept = [x.clone() for x in first]
    ready(z + 1, labels)
    for one, other in zip(first, kept, strict=True):
        assert torch.equal(one, other)


def test_a_loss_that_is_changed_is_made_ready_anew() -> None:
    z, labels, _ = batch(1, 12, 4, torch.float64)
    criterion, other = tree("-t*log(p)"), tree("r^2")
    for change in (
        lambda: setattr(criterion, "smoothing", 0.2),
        lambda: setattr(criterion, "kernel", Tree(parse("t*r"))),
        lambda: setattr(criterion, "reduction", "sum"),
        lambda: criterion.register_forward_hook(lambda module, given, result: 3 * result),
    ):
        ready = PopulationLoss([criterion, other])
        before = population_value_and_delta([criterion, other], z[0], labels)
        assert ready.still_of([criterion, other])
        change()
        assert not ready.still_of([criterion, other])
        values, deltas = population_value_and_delta([criterion, other], z[0], labels)
        expected = value_and_delta_by_autograd(criterion, z[0], labels)
        torch.testing.assert_close((values[0], deltas[0]), expected)
        torch.testing.assert_close(value_and_delta(criterion, z[0], labels), expected)
        assert not torch.equal(deltas[0], before[1][0])
        assert torch.equal(deltas[1], before[1][1])


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf, 3e38, -3e38])
def test_what_is_not_finite_shows_in_single_precision(bad: float) -> None:
    z, labels, _ = batch(1, 20, 4)
    z[0, 7, 2] = bad
    for text in ("-t*log(p)", "tanh(p)*t", "r^2", "t/p", "exp(p)*t", "-log(1 - p)", "z*t"):
        criterion = tree(text)
        value, delta = value_and_delta(criterion, z[0], labels)
        expected, slope = value_and_delta_by_autograd(criterion, z[0], labels)
        assert value.isfinite() == expected.isfinite(), text
        torch.testing.assert_close(value, expected, equal_nan=True, rtol=1e-5, atol=1e-6)
        others = torch.arange(20) != 7
        torch.testing.assert_close(delta[others], slope[others], rtol=1e-5, atol=1e-6)
        assert not (math.isnan(bad) and delta[7].isfinite().all())


def test_predictions_too_small_for_a_normal_number() -> None:
    z = torch.tensor([[0.0, -88.0, -95.0, -103.0], [0.0, -104.5, -200.0, 0.0]])
    for text in ("-log(p)", "p*1e38", "p*1e38*t - log(1 - p)"):
        found = value_and_delta(tree(text), z, torch.tensor([1, 2]))
        expected = value_and_delta_by_autograd(tree(text), z, torch.tensor([1, 2]))
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)


def test_derivatives_by_parameters() -> None:
    kernels = [*random_trees(GLO, 6, seed=7, height=4, weighted=True)]
    losses = [Loss(kernel) for kernel in kernels] + [tree("-t*log(p)")]
    z, labels, weight = batch(len(losses), 37, 10, torch.float64)
    ready = PopulationLoss(losses, tunable=True)
    phi = [torch.tensor(c.kernel.phi, dtype=torch.float64) * 1.01 for c in losses]
    direction = z.transpose(1, 2).contiguous().transpose(1, 2)
    for order in (z, direction):
        found = ready.mixed(z[0], labels, order, weight, 0.3, phi=phi)
        for criterion, own, u, gradient in zip(losses, phi, z, found, strict=True):
            expected = mixed_by_autograd(criterion, z[0], labels, u, weight, 0.3, own)
            scale = max(1.0, float(expected.abs().max())) if expected.numel() else 1.0
            assert gradient.shape == expected.shape
            assert ((gradient - expected).abs() <= 1e-9 * scale).all()
    alone = ready.keep([2]).mixed(z[0], labels, z[2:3], weight, 0.3, phi=phi[2:3])
    assert torch.equal(alone[0], ready.mixed(z[0], labels, z, weight, 0.3, phi=phi)[2])
    with pytest.raises(LossError, match="tunable=True"):
        PopulationLoss(losses).mixed(z[0], labels, z)


def test_misuse() -> None:
    with pytest.raises(LossError, match="has no single gradient"):
        PopulationLoss([tree("r^2", reduction="none")])
    with pytest.raises(LossError, match=r"expected \(N, C\) or \(2, N, C\)"):
        PopulationLoss([loss("mse"), loss("mae")])(torch.zeros(3, 4, 2), torch.zeros(4, dtype=torch.int64))
    nobody = PopulationLoss([])(torch.zeros(4, 2), torch.zeros(4, dtype=torch.int64))
    assert (nobody[0].shape, nobody[1].shape) == ((0,), (0, 4, 2))
