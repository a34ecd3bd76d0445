"""Screens: cheap tests that a candidate has to pass before it is tuned or trained (ALGORITHMS §4, filters).

- non-finite: the loss or its gradient is no number at the outputs of an untrained network.
- rejection protocol: those outputs are themselves optimised on the loss; a loss that does not better the metric on the
  very examples it is minimised on is rejected.
- gradient equivalence: the norms of the gradient per example, to two significant digits, are signed. What follows from
  equal signatures is for the search to decide.

Reference: Raymond, Chen, Xue & Zhang, arXiv 2209.08907.

Deviations:
- The model's *outputs* are optimised, through the head, not its predictions, which would leave the simplex.
- The network is seen as at its first training step (dropout and batch norm in training mode); examples are drawn in
  proportion to the classes.
- A loss that reads training progress τ sees it run from 0 to 1, and is signed at 0, ½ and 1.
- A loss without a gradient at the initial outputs is rejected without the 1000 steps that would not move them; the
  gradient is taken in float64, because Adam would make steps of the rounding errors of a constant.
- Of a set of losses the first is screened, on the output that the metric is measured on; a set is not signed.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from lossmith.evaluation.plan import Plan
from lossmith.evaluation.rejection import Optimised, Rows, optimise_outputs, values_and_deltas
from lossmith.evaluation.requested import crashed, grouped, isolated, members, on_device, with_prior
from lossmith.losses import Loss, LossSet
from lossmith.losses.population_loss import PopulationLoss
from lossmith.records import OK, Evaluation, Request, Screening, Status, canonical_json, content_hash
from lossmith.rng import torch_global_scope
from lossmith.tasks import AnyTask, Task
from lossmith.tasks.splits import stratified_order
from lossmith.training import compute_scope
from lossmith.training.prediction import terms_of

NEEDS_PARTS = "the screens need a task given by its parts (model, data, recipe); this one is a training function"
NO_GRADIENT = 1e-12  # of the value, in float64: what is below is rounding


@dataclass(frozen=True)
class Screened:
    """What the screens say of a candidate.

    Args:
        status: `OK`, screened or crashed.
        product: "gradients", the signature, where one was taken; "before" and "after", the metric of the outputs.
    """

    status: Status
    product: Mapping[str, Any] = field(default_factory=dict)


def screen_requests(task: AnyTask, requests: Sequence[Request], plan: Plan) -> list[Evaluation]:
    """The evaluations of screen requests, in order. On a training function every candidate passes, with a note."""
    if not isinstance(task, Task):
        note = canonical_json({"note": NEEDS_PARTS})
        return [Evaluation(request.key, OK, product=note) for request in requests]

    def alike(some: Sequence[Request], losses: Sequence[Loss | LossSet]) -> list[Evaluation]:
        screening, scales = Screening.from_settings(some[0].settings), [request.lr_scale for request in some]
        here = on_device(task, plan.device)
        found = screen(here, losses, screening, seed=some[0].seed, lr_scales=scales, threads=plan.threads)
        return [
            Evaluation(request.key, one.status, product=canonical_json(one.product) if one.product else "")
            for request, one in zip(some, found, strict=True)
        ]

    return grouped(task, requests, alike, key=lambda request: (request.settings, request.seed))


def screen(
    task: Task,
    losses: Sequence[Loss | LossSet],
    screening: Screening,
    *,
    seed: int,
    lr_scales: Sequence[float] | None = None,
    threads: int = 1,
) -> list[Screened]:
    """Screen candidates, all on the same examples and outputs of the same untrained network.

    Args:
        task: given by its parts. losses: the candidates. screening: how.
        seed: names network and examples. lr_scales: factor of each candidate on the recipe's learning rate.
        threads: from the evaluation plan.
    """
    losses = [with_prior(loss, task) for loss in losses]
    lrs = [task.recipe.base_lr * scale for scale in lr_scales or [1.0] * len(losses)]
    with compute_scope(threads):
        rows = initial_rows(task, screening.rows, seed)
        found = [_at_start(loss, rows, screening) for loss in losses]
        if not screening.rejection_steps:
            return found
        left = [i for i, one in enumerate(found) if one.status.ok]
        before = _metric(task, rows, rows.output)
        if before is None:
            note = f"{task.metric.name} has no value on {len(rows.output)} examples of an untrained network"
            judged = [Screened(OK, {"note": note}) for _ in left]
        else:
            work = [(members(losses[i])[0], lrs[i]) for i in left]
            protocol = _Protocol(task, rows, before, screening.rejection_steps)
            judged = isolated(work, protocol, lambda _, status: Screened(status))
        for i, one in zip(left, judged, strict=True):
            found[i] = Screened(one.status, {**found[i].product, **one.product})
    return found


def initial_rows(task: Task, count: int, seed: int) -> Rows:
    """Outputs of an untrained network on at most `count` training examples, or positions of them that have weight."""
    data = task.data["train"]
    chosen = stratified_order(data.targets, len(data), seed, "screen")[:count].sort().values
    model = task.build_model(seed).to(task.device)
    with torch_global_scope(seed, "screen", device=task.device), torch.no_grad():
        terms = terms_of(task, model, data.batch(chosen))[0]
    output = terms.output.reshape(-1, terms.output.shape[-1]).cpu()
    output = output if output.dtype == torch.float64 else output.float()
    classes = terms.target.shape == terms.output.shape[:-1]
    target = terms.target.reshape(-1).cpu() if classes else terms.target.reshape(output.shape).cpu()
    weight = None if terms.weight is None else terms.weight.reshape(-1).cpu()
    group = None if terms.group is None else terms.group.reshape(-1).cpu()
    kept = torch.arange(len(output)) if weight is None else (weight != 0).nonzero().flatten()
    if len(kept) > count:
        kept = kept[torch.arange(count) * len(kept) // count]
    return Rows(output[kept], target[kept], *(None if x is None else x[kept] for x in (weight, group)))


def gradient_signature(deltas: Sequence[Tensor]) -> str:
    """Names the norms of the gradients `[N, C]` per example, to two significant digits; several where they differ."""
    norms = [[f"{norm:.1e}" for norm in delta.norm(dim=-1).tolist()] for delta in deltas]
    return content_hash(norms[:1] if all(other == norms[0] for other in norms) else norms)


def _at_start(loss: Loss | LossSet, rows: Rows, screening: Screening) -> Screened:
    try:
        return _looked_at(loss, rows, screening)
    except Exception as error:  # a loss that does not fit the task, or a user's head
        return Screened(crashed(error))


def _looked_at(loss: Loss | LossSet, rows: Rows, screening: Screening) -> Screened:
    first = members(loss)[0]
    ready = PopulationLoss([first])
    (value,), (delta,) = values_and_deltas(ready, rows.output[None], rows)
    for what, numbers in (("value", value), ("gradient", delta)):
        if not bool(torch.isfinite(numbers).all()):
            sentence = f"its {what} at the outputs of an untrained network is not finite"
            return Screened(Status("screened", "non_finite", sentence))
    times = (0.0, 0.5, 1.0) if "tau" in first.reads else (0.0,)
    exact = rows.output.double()[None]
    deltas = [values_and_deltas(ready, exact, rows, tau)[1][0] for tau in times]
    signed = screening.gradient_equivalence and isinstance(loss, Loss)
    product = {"gradients": gradient_signature(deltas)} if signed else {}
    bar = NO_GRADIENT * max(1.0, abs(value.item()))
    if screening.rejection_steps and all(bool((delta.abs() <= bar).all()) for delta in deltas):
        sentence = "it has no gradient at the outputs of an untrained network"
        return Screened(Status("screened", "rejection_protocol", sentence), product)
    return Screened(OK, product)


@dataclass(frozen=True)
class _Protocol:
    """The rejection protocol, as a function of candidates and their learning rates."""

    task: Task
    rows: Rows
    before: float
    steps: int

    def __call__(self, candidates: Sequence[tuple[Loss, float]]) -> list[Screened]:
        losses, lrs = [loss for loss, _ in candidates], [lr for _, lr in candidates]
        ends = optimise_outputs(losses, self.rows, lrs=lrs, steps=self.steps)
        return [self._judged(end) for end in ends]

    def _judged(self, end: Optimised) -> Screened:
        if end.output is None:
            return self._rejected(f"the loss became non-finite at step {end.step} of optimising the outputs on it")
        metric = self.task.metric
        after = _metric(self.task, self.rows, end.output)
        if after is None:
            return self._rejected(f"{metric.name} has no value on the outputs optimised on it")
        product = {"before": self.before, "after": after}
        if metric.fitness(self.before) - metric.fitness(after) <= 0:
            return self._rejected(
                f"{self.steps} steps of optimising the outputs on it did not better {metric.name}: "
                f"{self.before:.4g} before, {after:.4g} after",
                product,
            )
        return Screened(OK, product)

    def _rejected(self, sentence: str, product: Mapping[str, Any] | None = None) -> Screened:
        return Screened(Status("screened", "rejection_protocol", sentence), product or {})


def _metric(task: Task, rows: Rows, output: Tensor) -> float | None:
    """The metric on the rows; None where it has no value there, as AUC where a class is absent."""
    try:
        value = task.metric.value(output, rows.target, rows.weight, head=task.head)
    except Exception:  # a user's function that says so by raising
        return None
    return value if math.isfinite(value) else None
