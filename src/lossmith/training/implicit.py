"""The meta-gradient at the end of training, without a way back through it: implicit differentiation (ALGORITHMS §4).

Where training has come to rest, g(θ*, φ) = ∂M_φ/∂θ = 0, θ* is a function of φ, and by the implicit function theorem

    dL/dφ = −⟨q, ∂²M/∂θ∂φ⟩  with  H q = v,  H = ∂²M/∂θ²,  v = ∂L/∂θ

Bengio, *Gradient-based optimization of hyperparameters*, Neural Computation 2000; Lorraine, Vicol & Duvenaud, AISTATS
2020, arXiv 1911.02590. Steps are taken without a graph, so that memory does not grow with K. θ_K stands for θ*: how far
training has come is the caller's business, by K and by carrying θ over.

What is taken where: θ_K = θ_{K−1} − a·g(θ_{K−1}) on the last batch. H and the mixed derivative are taken at θ_{K−1},
where that step was, and v at θ_K. At rest these are one point. Before it the series is a truncated unroll whose factors
I − aH are those of the last step: with J = 0 it is the one-step unroll exactly, with J terms of a quadratic loss on one
batch the last J + 1 steps. So it looks at the last batch. Conjugate gradient stands for the inverse itself, and that of
a single batch is mostly noise: it looks at the last `BATCHES`, averaged, at as many times the cost per product
(docs/decisions/0012). Both derivatives are always of the same batches: a network with more parameters than they have
rows × outputs has directions without curvature, where v is divided by next to nothing and then multiplied by nothing.

Weight decay belongs to H. Momentum changes the way, not where it leads. Clipping is left out: at rest no gradient
exceeds the limit.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from lossmith.records import Implicit
from lossmith.tasks import Task
from lossmith.training.base_models import BaseModels
from lossmith.training.curvature import Curvature
from lossmith.training.functional_network import Network
from lossmith.training.functional_sgd import Gradients
from lossmith.training.inner_step import Phi, inner_gradients, inner_step, outer_values, phi_of, start_of
from lossmith.training.meta_adam import Vector
from lossmith.training.meta_gradient import Draw, MetaGradient, Unroll
from lossmith.training.solvers import Solution, solve
from lossmith.training.tunable import Tunable

BATCHES = 4  # that curvature is averaged over for conjugate gradient, where there are several


def batches_looked_at(how: Implicit, task: Task, length: int) -> int:
    """Of how many training batches the graph is kept: what the memory of a meta-step grows with in the place of K."""
    several = how.solver == "cg" and task.recipe.batch_size < len(task.data["train"])
    return min(length, BATCHES) if several else 1


def implicit(
    how: Unroll, drawn: Draw, candidates: Sequence[Tunable], phis: Sequence[Vector]
) -> dict[int, MetaGradient]:
    """Meta-gradients at θ_K of the candidates named by `how.chunks`, each by itself.

    Memory is that of the steps on `batches_looked_at` with their second derivative and a few vectors of the size of θ,
    whatever K is.

    Args:
        how: its road stacked or one at a time.

    Returns:
        With a note where damping was raised. Where curvature was not positive with the most damping either the gradient
        is NaN, and the note says so.
    """
    network = Network(drawn.model, how.task.forward, stacked=how.road.kind == "stacked")
    found: dict[int, MetaGradient] = {}
    for chunk in how.chunks:
        found |= _chunk(how, drawn, network, chunk, candidates, phis)
    return found


def _chunk(
    how: Unroll,
    drawn: Draw,
    network: Network,
    chunk: tuple[int, ...],
    candidates: Sequence[Tunable],
    phis: Sequence[Vector],
) -> dict[int, MetaGradient]:
    device, last, settings = how.task.device, len(drawn.train) - 1, how.implicit or Implicit()
    members, own = [candidates[i] for i in chunk], [phis[i] for i in chunk]
    phi, given = (phi_of(members, own, device, graph=graph) for graph in (True, False))
    base = before = start_of(how, network, chunk)
    inner = torch.zeros(len(chunk), dtype=torch.float64, device=device)
    for number in range(last + 1):
        before = base
        base, values = inner_step(how, drawn, network, members, given, before, number, graph=False)
        inner = inner + values
    if how.carried is not None:
        how.carried[chunk] = base
    task_loss = outer_values(how, drawn, network, base)
    slopes = torch.autograd.grad(
        task_loss.sum(), list(base.parameters.values()), allow_unused=True, materialize_grads=True
    )
    gradients = _gradients(how, drawn, network, members, phi, before, batches_looked_at(settings, how.task, last + 1))
    curvature = Curvature(before.parameters, gradients, phi, decay=how.descent.sgd.weight_decay)
    v = curvature.vector(dict(zip(base.parameters, slopes, strict=True)))
    solution = solve(settings, curvature.product, v, rate=how.descent.first_lr)
    mixed, notes = curvature.mixed(solution.x), _notes(settings, solution)
    return {
        index: MetaGradient(value, loss, -gradient, note)
        for index, value, loss, gradient, note in zip(
            chunk, task_loss.tolist(), inner.tolist(), mixed, notes, strict=True
        )
    }


def _gradients(
    how: Unroll, drawn: Draw, network: Network, members: Sequence[Tunable], phi: Phi, base: BaseModels, count: int
) -> Gradients:
    """∂M/∂θ with its graph, the mean over the last batches."""
    last = len(drawn.train) - 1
    _, mean, _ = inner_gradients(how, drawn, network, members, phi, base, last, graph=True)
    for number in range(last + 1 - count, last):
        _, more, _ = inner_gradients(how, drawn, network, members, phi, base, number, graph=True)
        mean = {name: _sum(g, more[name]) for name, g in mean.items()}
    return mean if count == 1 else {name: None if g is None else g / count for name, g in mean.items()}


def _sum(a: Tensor | None, b: Tensor | None) -> Tensor | None:
    return b if a is None else a if b is None else a + b


def _notes(how: Implicit, solution: Solution) -> list[str]:
    cause = "curvature was not positive" if how.solver == "cg" else "the series grew"
    rows = zip(solution.damping.tolist(), solution.raised.tolist(), solution.failed.tolist(), strict=True)
    return [
        f"{cause} with damping {damping:.1g} either"
        if failed
        else f"damping raised to {damping:.1g}: {cause}" * (raised > 0)
        for damping, raised, failed in rows
    ]
