"""Meta-gradients at the end of training: against the ridge solution, long unrolls and the one-step unroll."""

from __future__ import annotations

import functools
import weakref
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from unrolled_by_hand import KERNELS, NAMES, STEPS, Step, double_task, how, losses, tree

from lossmith.losses import Loss, LossSet, loss
from lossmith.records import Implicit, Tuning
from lossmith.tasks import Recipe, Task, Terms
from lossmith.training import tune
from lossmith.training.closed_form import closed_form
from lossmith.training.implicit import BATCHES, batches_looked_at, implicit
from lossmith.training.meta_gradient import MetaGradient, Road, Unroll, draw
from lossmith.training.tunable import Tunable
from lossmith.training.unrolled import unrolled

CG, STACKED = Implicit("cg", terms=60, damping=1e-9), Road("stacked", 8)


@dataclass(frozen=True)
class Whole(Step):
    """Every batch holds all 90 training rows."""

    @property
    def recipe(self) -> Recipe:
        return replace(super().recipe, batch_size=90)


def error(found: Any, expected: Any) -> float:
    """Of a vector, relative to what was expected, which must not be nothing."""
    size = np.linalg.norm(expected)
    assert size > 1e-3, "there is hardly a gradient: the comparison would prove nothing"
    return float(np.linalg.norm(np.asarray(found) - np.asarray(expected)) / size)


def by(
    road: Callable[..., dict[int, MetaGradient]], way: Unroll, candidates: list[Tunable], seed: int = 3
) -> list[MetaGradient]:
    found = road(way, draw(way.task, seed, 0, way.length), candidates, [one.phi for one in candidates])
    return [found[i] for i in range(len(candidates))]


def kernels(task: Task, *names: str) -> list[Tunable]:
    return [Tunable.of(one, task) for one in losses(*(names or NAMES))]


# ------------------------------------------------------------------------------------------- the ridge solution


def ridge_terms(model: nn.Linear, batch: tuple[Tensor, Tensor]) -> tuple[Terms, Terms]:
    """Residuals, and the weights themselves as outputs of one row, so that a loss may shrink them."""
    x, y = batch
    return Terms(model(x), y), Terms(model.weight, torch.zeros_like(model.weight))


ROWS, FEATURES = 40, 4


def ridge_task(*, decay: float = 0.0, momentum: float = 0.0, **parts: Any) -> Task:
    generator = torch.Generator().manual_seed(8)
    x = torch.randn(80, FEATURES, generator=generator, dtype=torch.float64)
    y = x[:, :1] - 0.5 * x[:, 1:2] + 0.7 * torch.randn(80, 1, generator=generator, dtype=torch.float64)
    split = {"train": (x[:40], y[:40]), "valid": (x[40:60], y[40:60]), "selection": (x[60:], y[60:])}
    step = Step(lr=0.05, momentum=momentum, weight_decay=decay)
    recipe = replace(step.recipe, batch_size=ROWS)
    model = lambda seed: nn.Linear(FEATURES, 1, bias=False).double()  # noqa: E731
    return Task(**{**split, "model": model, "head": "identity", "recipe": recipe, "forward": ridge_terms, **parts})


def ridge_way(task: Task, length: int, settings: Implicit) -> Unroll:
    optimizer = task.recipe.optimizer
    step = Step(lr=0.05, momentum=optimizer.momentum, weight_decay=optimizer.weight_decay)  # type: ignore[attr-defined]
    way = Unroll(task, loss("mse", head="identity"), step.descent, length, STACKED, STACKED.chunks(1))
    return replace(way, implicit=settings)


def ridge_solution(task: Task, phi: np.ndarray[Any, Any], decay: float) -> np.ndarray[Any, Any]:
    """dL/dφ of L = mean (x·θ* − y)² on fitness rows, θ* = argmin mean (w0(w1 t − w2 x·θ))² + ‖w θ‖² + ½ decay ‖θ‖².

    By hand: θ* = A⁻¹b with A = 2 (w0 w2)² XᵀX/N + (2w² + decay) I and b = 2 w0² w1 w2 Xᵀy/N, so that
    dθ* = A⁻¹(db − dA θ*).
    """
    (x, y), (after, target) = (task.data[split].batch(torch.arange(n)) for split, n in (("train", 40), ("fitness", 20)))
    x, y, after, target = (part.numpy() for part in (x, y, after, target))
    w0, w1, w2, w = phi
    gram, cross, one = x.T @ x / len(x), x.T @ y / len(x), np.eye(FEATURES)
    a = 2 * (w0 * w2) ** 2 * gram + (2 * w**2 + decay) * one
    theta = np.linalg.solve(a, 2 * w0**2 * w1 * w2 * cross)
    da = (4 * w0 * w2**2 * gram, 0 * gram, 4 * w0**2 * w2 * gram, 4 * w * one)
    db = (4 * w0 * w1 * w2 * cross, 2 * w0**2 * w2 * cross, 2 * w0**2 * w1 * cross, 0 * cross)
    slope = 2 * after.T @ (after @ theta - target) / len(after)
    return np.array([(slope.T @ np.linalg.solve(a, v - m @ theta)).item() for m, v in zip(da, db, strict=True)])


def ridge_loss(w: float = 0.4) -> LossSet:
    return LossSet(
        [
            Loss(tree("square(t - p)", 0.8, 1.1, 0.9), head="identity"),
            Loss(tree("square(p)", w), head="identity"),
        ]
    )


@pytest.mark.parametrize(("decay", "momentum"), [(0.0, 0.0), (0.3, 0.0), (0.1, 0.9)])
@pytest.mark.parametrize("settings", [CG, Implicit("neumann", terms=1000)], ids=["cg", "neumann"])
def test_it_is_the_derivative_of_the_ridge_solution(settings: Implicit, decay: float, momentum: float) -> None:
    task = ridge_task(decay=decay, momentum=momentum)
    candidate = Tunable.of(ridge_loss(), task)
    (found,) = by(implicit, ridge_way(task, 300, settings), [candidate])
    expected = ridge_solution(task, candidate.phi, decay)
    assert (np.abs(expected) > 1e-3).all()
    assert error(found.gradient, expected) < 1e-6
    assert found.note == ""


def test_damping_makes_it_a_little_wrong_and_few_terms_make_it_wronger() -> None:
    task = ridge_task()
    candidate = Tunable.of(ridge_loss(), task)
    expected = ridge_solution(task, candidate.phi, 0.0)

    def off(settings: Implicit) -> float:
        return error(by(implicit, ridge_way(task, 300, settings), [candidate])[0].gradient, expected)

    assert 1e-5 < off(Implicit("cg", 60, 1e-3)) < 1e-2
    assert off(Implicit("cg", 1, 1e-9)) > off(Implicit("cg", 2, 1e-9)) > off(CG)
    series = [off(Implicit("neumann", terms)) for terms in (5, 50, 500)]
    assert series == sorted(series, reverse=True)
    assert series[0] > 0.1


@pytest.mark.parametrize("terms", [0, 1, 5])
def test_at_rest_the_series_of_a_quadratic_is_the_truncated_unroll(terms: int) -> None:
    task = ridge_task()
    candidate = Tunable.of(ridge_loss(), task)
    way = ridge_way(task, 300, Implicit("neumann", terms))
    (found,), (expected,) = (
        by(implicit, way, [candidate]),
        by(unrolled, replace(way, implicit=None, truncation=terms + 1), [candidate]),
    )
    assert error(found.gradient, expected.gradient) < 1e-7  # as far as 300 steps lead
    assert found.value == pytest.approx(expected.value, rel=1e-12)
    assert found.inner == pytest.approx(expected.inner, rel=1e-12)


# ------------------------------------------------------------------------------------------------- long unrolls


def test_it_agrees_with_a_long_unroll_of_a_small_net() -> None:
    step, names = Whole(lr=0.2, momentum=0.9, weight_decay=0.05), ("tanh", "taylor")
    task = double_task(step)
    candidates = kernels(task, *names)
    way = how(task, step, 400, len(candidates), STACKED)
    long = by(unrolled, way, candidates)
    for settings, least, most in (
        (CG, 0.0, 1e-3),
        (Implicit(), 1e-3, 1e-2),  # damping of 1e-3
        (Implicit("neumann", 200), 3e-3, 3e-2),
        (Implicit("neumann", 20), 0.1, 0.5),
    ):
        for name, one, other in zip(
            names, long, by(implicit, replace(way, implicit=settings), candidates), strict=True
        ):
            assert other.value == pytest.approx(one.value, rel=1e-10), name
            assert least < error(other.gradient, one.gradient) < most, (name, settings)
            assert other.note == ""


# ------------------------------------------------------------------------------------------- the one-step unroll


@pytest.mark.parametrize("name", [name for name in STEPS if name != "clipped"])
def test_without_terms_it_is_the_one_step_unroll(name: str) -> None:
    step, series = STEPS[name], Implicit("neumann", terms=0)
    task = double_task(step)
    candidates = kernels(task)
    way = how(task, step, 1, len(candidates), STACKED)
    for one, other in zip(
        by(closed_form, way, candidates), by(implicit, replace(way, implicit=series), candidates), strict=True
    ):
        assert error(other.gradient, one.gradient) < 1e-10
        assert other.value == pytest.approx(one.value, rel=1e-12)
    way = replace(way, length=4)
    for one, other in zip(
        by(unrolled, replace(way, truncation=1), candidates),
        by(implicit, replace(way, implicit=series), candidates),
        strict=True,
    ):
        assert error(other.gradient, one.gradient) < 1e-10
        assert other.value == pytest.approx(one.value, rel=1e-12)


# --------------------------------------------------------------------------------------------- batches, memory


def test_conjugate_gradient_looks_at_several_batches_and_the_series_at_one() -> None:
    few, whole = double_task(STEPS["plain"]), double_task(Whole())
    assert batches_looked_at(CG, few, 10) == BATCHES
    assert batches_looked_at(CG, few, 2) == 2
    assert batches_looked_at(CG, whole, 10) == batches_looked_at(Implicit("neumann"), few, 10) == 1


def test_several_batches_are_one_large_one() -> None:
    step = Step(lr=0.2, weight_decay=0.1)
    task = double_task(step)
    candidates = kernels(task)
    settings = Implicit("cg", terms=60, damping=1e-3)
    way = replace(how(task, step, BATCHES, len(candidates), STACKED), implicit=settings)
    drawn = draw(task, 3, 0, BATCHES)
    phis = [one.phi for one in candidates]
    found = implicit(way, drawn, candidates, phis)
    # By hand: the same last step, and curvature of all rows at once, by matrices.
    for i, one in enumerate(candidates):
        theta = [p.detach().clone() for p in drawn.model.parameters()]
        phi = torch.tensor(one.phi, requires_grad=True)

        def value(batch: Any, at: Tensor, phi: Tensor = phi, name: str = NAMES[i], like: Any = theta) -> Tensor:
            return by_hand(batch, at, like, lambda log_p, t: KERNELS[name][1](log_p.exp(), log_p, t, phi))

        at = torch.cat([p.flatten() for p in theta])
        for batch in drawn.train:
            before = at
            at = at.detach().requires_grad_()
            (slope,) = torch.autograd.grad(value(batch, at), at)
            at = at - step.lr * (slope + step.weight_decay * at)
        at = at.detach().requires_grad_()
        task_loss = by_hand(drawn.fitness, at, theta, lambda log_p, t: -t * log_p)
        (v,) = torch.autograd.grad(task_loss, at)
        rows = tuple(torch.cat(parts) for parts in zip(*drawn.train, strict=True))
        hessian = torch.autograd.functional.hessian(functools.partial(value, rows), before.detach())
        damping = float(found[i].note.split()[3].rstrip(":")) if found[i].note else settings.damping
        q = torch.linalg.solve(hessian + (step.weight_decay + damping) * torch.eye(len(at)).double(), v)
        before = before.detach().requires_grad_()
        (g,) = torch.autograd.grad(value(rows, before), before, create_graph=True)
        (expected,) = torch.autograd.grad(-(g * q.detach()).sum(), phi)
        assert error(found[i].gradient, expected.numpy()) < 1e-4


def by_hand(batch: Any, flat: Tensor, like: list[Tensor], formula: Callable[[Tensor, Tensor], Tensor]) -> Tensor:
    """Mean over rows of a formula (log p, t) of the two layers, whose weights are one vector."""
    (x, y), parts = batch, iter(torch.split(flat, [p.numel() for p in like]))
    w1, b1, w2, b2 = (next(parts).reshape(p.shape) for p in like)
    logits = torch.tanh(x @ w1.T + b1) @ w2.T + b2
    log_p = logits - logits.logsumexp(1, keepdim=True)
    return formula(log_p, torch.eye(3, dtype=x.dtype)[y]).sum(1).mean()


class Kept:
    """A tensor that automatic differentiation keeps; what is gone is no longer counted."""

    def __init__(self, tensor: Tensor) -> None:
        self.tensor = tensor


def most_kept(run: Callable[[], object]) -> int:
    """The most bytes that automatic differentiation kept at any one time."""
    now = most = 0

    def forget(size: int) -> None:
        nonlocal now
        now -= size

    def keep(tensor: Tensor) -> Kept:
        nonlocal now, most
        kept, now = Kept(tensor), now + tensor.nbytes
        weakref.finalize(kept, forget, tensor.nbytes)
        most = max(most, now)
        return kept

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda kept: kept.tensor):
        run()
    return most


@pytest.mark.parametrize("solver", ["cg", "neumann"])
def test_memory_does_not_grow_with_the_number_of_steps(solver: str) -> None:
    task = double_task(STEPS["momentum"])
    candidates = kernels(task)

    def kept(length: int, settings: Implicit | None) -> int:
        way = replace(how(task, STEPS["momentum"], length, len(candidates), STACKED), implicit=settings)
        return most_kept(lambda: by(unrolled if settings is None else implicit, way, candidates))

    settings = Implicit("cg", terms=3) if solver == "cg" else Implicit("neumann", terms=3)
    assert kept(30, settings) == kept(5, settings) > 0
    assert kept(30, None) > 5 * kept(5, None) > 0


# ------------------------------------------------------------------------------------- candidates, networks, tuning


@pytest.mark.parametrize("settings", [Implicit(), Implicit("neumann", 5)], ids=["cg", "neumann"])
def test_candidates_do_not_see_each_other(settings: Implicit) -> None:
    task = double_task(STEPS["decay"])
    candidates = kernels(task)
    wild = Tunable.of(Loss(tree("square(t - p)", 1e200, 1e200, 1.0)), task)
    count = len(candidates)
    way = replace(how(task, STEPS["decay"], 5, count + 1, STACKED), implicit=settings)
    company = by(implicit, way, [*candidates[:2], wild, *candidates[2:]])
    assert not company[2].finite
    alone = replace(way, road=Road(), chunks=tuple((i,) for i in range(count)))
    for one, other in zip(by(implicit, alone, candidates), [*company[:2], *company[3:]], strict=True):
        assert one.finite
        assert one.note == other.note
        assert error(other.gradient, one.gradient) < 1e-8


def test_raised_damping_is_noted() -> None:
    task = double_task(STEPS["plain"])
    hollow = Tunable.of(Loss(tree("1 - square(t - p)", 1.0, 1.0, 1.0, 1.0, 1.0)), task)
    way = replace(how(task, STEPS["plain"], 3, 1, STACKED), implicit=Implicit("cg", 20, 1e-3))
    (found,) = by(implicit, way, [hollow])
    assert found.finite
    assert found.note.startswith("damping raised to ")
    assert found.note.endswith(": curvature was not positive")
    (series,) = by(implicit, replace(way, implicit=Implicit("neumann", 50)), [hollow])
    assert series.note.endswith(": the series grew")


def test_curvature_that_no_damping_makes_positive_stops_the_tuning_and_says_so() -> None:
    step = Step(lr=1e-9)
    task = double_task(step)
    hollow, sound = Loss(tree("1 - square(t - p)", 1.0, 1e9, 1.0, 1.0, 1.0)), losses("squared")[0]
    fallen, fine = tune(task, [hollow, sound], Tuning(meta_steps=3, implicit=Implicit()), seed=0)
    assert fallen.status.kind == "diverged"
    assert "curvature was not positive with damping 1e+05 either" in fallen.status.sentence
    assert fallen.loss.kernel.phi == hollow.kernel.phi
    assert fine.status.ok
    assert fine.meta_steps == 3


class Normed(nn.Module):
    """Batch norm and dropout: buffers and masks."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(6, 5), nn.BatchNorm1d(5), nn.Tanh(), nn.Dropout(0.3), nn.Linear(5, 3))

    def forward(self, x: Tensor) -> Tensor:
        return self.layers(x)


@pytest.mark.parametrize("road", [STACKED, Road()], ids=["stacked", "alone"])
def test_masks_and_buffers_are_those_of_the_unroll(road: Road) -> None:
    task = double_task(STEPS["momentum"], model=lambda seed: Normed().double())
    candidates = kernels(task)
    way = replace(how(task, STEPS["momentum"], 3, len(candidates), road), carried={})
    series = Implicit("neumann", terms=0)
    for _ in range(2):  # the second time θ, momentum and buffers are carried over
        long = replace(way, truncation=1)
        found = by(implicit, replace(way, implicit=series, carried=dict(way.carried or {})), candidates)
        for one, other in zip(by(unrolled, long, candidates), found, strict=True):
            assert error(other.gradient, one.gradient) < 1e-9
            assert other.value == pytest.approx(one.value, rel=1e-12)
            assert other.inner == pytest.approx(one.inner, rel=1e-12)


def test_theta_is_carried_over() -> None:
    task = double_task(STEPS["momentum"])
    candidates = kernels(task)
    way = replace(how(task, STEPS["momentum"], 3, len(candidates), STACKED), implicit=CG, carried={})
    by(implicit, way, candidates)
    assert way.carried
    first = {k: p.clone() for k, p in way.carried[way.chunks[0]].parameters.items()}
    assert way.carried[way.chunks[0]].steps == 3
    by(implicit, way, candidates)
    assert way.carried[way.chunks[0]].steps == 6
    assert not any(torch.equal(p, first[k]) for k, p in way.carried[way.chunks[0]].parameters.items())


@pytest.mark.parametrize("solver", ["cg", "neumann"])
def test_a_tuning_lowers_the_task_loss(solver: str) -> None:
    settings = Implicit("cg", terms=10) if solver == "cg" else Implicit("neumann", terms=10)
    task = ridge_task()
    tuning = Tuning(meta_steps=20, unroll_length=60, meta_lr=0.05, implicit=settings)
    (tuned,) = tune(task, [ridge_loss(w=1.0)], tuning, seed=1)
    assert tuned.status.ok
    (_, first), *_, (_, last) = tuned.history
    assert last < 0.8 * first
    assert tuned.steps == 20 * 60
