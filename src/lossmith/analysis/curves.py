"""The numbers behind the figures: what a loss does to one output, and how a search went. Drawn elsewhere."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lossmith.errors import LossError
from lossmith.losses import Loss, Pointwise
from lossmith.losses.inputs import head_name
from lossmith.records import Status

Direction = Literal["min", "max"]
LOG_ODDS = 8.0  # p from 3e-4 to 1 − 3e-4: what predictions visit during training
RESIDUAL = 3.0  # in the task's standardised units
POINTS = 161


@dataclass(frozen=True)
class Line:
    """One loss in one role, along the axis of its `LossCurve`.

    Args:
        loss: "loss" (what the curve is about) or "reference".
        role: "true class", "false class", or "target −1" … for regression.
        value: loss of a row, minus its value where all predictions are equal (regression: where the residual is 0); NaN
            where it is not finite.
        pull: −∂(loss of a row)/∂z of the output on the axis: how SGD moves it; NaN where it is not finite.
    """

    loss: Literal["loss", "reference"]
    role: str
    value: tuple[float, ...]
    pull: tuple[float, ...]


@dataclass(frozen=True)
class LossCurve:
    """A loss next to a reference, as one output of a row varies and the others share the rest equally.

    Args:
        name, reference: what the two losses are called.
        head, classes: under which head, with how many outputs.
        x: the axis: log-odds of the output's prediction (softmax, sigmoid) or the residual p − t (identity).
        prediction: the same axis as prediction p of the output.
        lines: values and pulls, as the losses are (not scaled).
        scale: factor that gives the loss the reference's pull where all predictions are equal (regression: at residual
            1): shapes can then be compared, and 1/scale says how much larger the loss's own step is.
        progress: the training progress τ at which a loss that uses it was taken.
    """

    name: str
    reference: str
    head: str
    classes: int
    x: tuple[float, ...]
    prediction: tuple[float, ...]
    lines: tuple[Line, ...]
    scale: float
    progress: float | None = None

    def of(self, loss: Literal["loss", "reference"]) -> tuple[Line, ...]:
        """The lines of one of the two losses."""
        return tuple(line for line in self.lines if line.loss == loss)


def loss_curve(loss: Loss, reference: Loss, *, classes: int, progress: float = 0.5, points: int = POINTS) -> LossCurve:
    """Value and pull of a loss and of a reference on the same rows.

    Args:
        loss: the loss to be shown; reference: usually the task loss; both pointwise and under the same head.
        classes: number of outputs C (softmax); other heads are shown for one output.
        progress: τ for losses that use it.
        points: points on the axis.
    Raises:
        LossError: there is no such picture: a head of the user's own, different heads, or an aggregation over rows.
    """
    head = head_name(loss.head)
    if head == "custom":
        raise LossError("a curve against the prediction needs the softmax, sigmoid or identity head")
    if head != head_name(reference.head):
        raise LossError(
            f"the loss is under the {head} head, its reference under {head_name(reference.head)}; use one head"
        )
    for one in (loss, reference):
        if not isinstance(one.aggregation, Pointwise):
            raise LossError(f"{one} has no value per row ({one.aggregation.kind}), so there is no curve to draw")
    reach = RESIDUAL if head == "identity" else LOG_ODDS
    x = torch.linspace(-reach, reach, points, dtype=torch.float64)
    outputs = classes if head == "softmax" else 1
    even = -math.log(classes - 1) if head == "softmax" else 0.0  # where every output has the same prediction
    unit = torch.tensor([1.0 if head == "identity" else even], dtype=torch.float64)
    origin = torch.tensor([even], dtype=torch.float64)
    lines, unit_pulls = [], []
    whose: tuple[tuple[Literal["loss", "reference"], Loss], ...] = (("loss", loss), ("reference", reference))
    for which, one in whose:
        for role, target in _roles(head).items():
            value, pull = _along(one, x, head, outputs, target, progress)
            zero, _ = _along(one, origin, head, outputs, target, progress)
            lines.append(Line(which, role, _finite(value - zero), _finite(pull)))
            unit_pulls.append(float(_along(one, unit, head, outputs, target, progress)[1][0]))
    half = len(lines) // 2
    kept = lines
    if head == "identity":  # further targets only where they make a difference; the reference is one line
        kept = [line for i, line in enumerate(lines[:half]) if i == 0 or _differs(line, lines[0])] + [lines[half]]
    return LossCurve(
        name=str(loss.name or loss),
        reference=str(reference.name or reference),
        head=head,
        classes=classes,
        x=tuple(x.tolist()),
        prediction=tuple((x if head == "identity" else torch.sigmoid(x)).tolist()),
        lines=tuple(kept),
        scale=_scale(unit_pulls[0], unit_pulls[half]),
        progress=progress if "tau" in loss.kernel.reads else None,
    )


@dataclass(frozen=True)
class Scored:
    """One candidate of a history: its generation, its status as text, its metric in the metric's own direction."""

    generation: int
    status: str
    value: float | None = None


@dataclass(frozen=True)
class History:
    """How a search went, generation by generation.

    Args:
        metric, direction: the metric and which way is better.
        generations: their numbers, ascending.
        values: the metric of every candidate that has one.
        best, mean: of each generation's values; None where there are none.
        best_so_far: the best value up to and including each generation.
        counts: candidates by status, per generation; `statuses` lists those that occur, `ok` first.
        unit: what a generation is called: "block" of meta-steps in a search by gradient.
    """

    metric: str
    direction: Direction
    generations: tuple[int, ...]
    values: tuple[tuple[float, ...], ...]
    best: tuple[float | None, ...]
    mean: tuple[float | None, ...]
    best_so_far: tuple[float | None, ...]
    statuses: tuple[str, ...]
    counts: tuple[tuple[int, ...], ...]  # [generation][status]
    unit: str = "generation"

    def total(self, status: str) -> int:
        """How many candidates ended like this in the whole search."""
        place = self.statuses.index(status) if status in self.statuses else None
        return 0 if place is None else sum(row[place] for row in self.counts)


def history(rows: Iterable[Scored], *, metric: str, direction: Direction, unit: str = "generation") -> History:
    """Gather candidates into a history. Values of candidates whose status is not `ok` are left out of best and mean."""
    by_generation: dict[int, list[Scored]] = {}
    for row in rows:
        by_generation.setdefault(row.generation, []).append(row)
    generations = tuple(sorted(by_generation))
    better = min if direction == "min" else max
    values, best_so_far = [], []
    record: float | None = None
    for g in generations:
        found = [
            r.value for r in by_generation[g] if r.status == "ok" and r.value is not None and math.isfinite(r.value)
        ]
        values.append(tuple(found))
        if found:
            record = better(found) if record is None else better(record, *found)
        best_so_far.append(record)
    seen = {_group(r.status) for rows_ in by_generation.values() for r in rows_}
    statuses = tuple(sorted(seen, key=lambda s: (s != "ok", s)))
    counts = tuple(tuple(sum(_group(r.status) == s for r in by_generation[g]) for s in statuses) for g in generations)
    return History(
        metric=metric,
        direction=direction,
        generations=generations,
        values=tuple(values),
        best=tuple(better(v) if v else None for v in values),
        mean=tuple(math.fsum(v) / len(v) if v else None for v in values),
        best_so_far=tuple(best_so_far),
        statuses=statuses,
        counts=counts,
        unit=unit,
    )


def _roles(head: str) -> dict[str, float]:
    """Role of the output on the axis → its target."""
    if head == "identity":
        return {"target 0": 0.0, "target −1": -1.0, "target +1": 1.0}
    return {"true class": 1.0, "false class": 0.0}


def _along(
    loss: Loss, x: Tensor, head: str, outputs: int, target: float, progress: float
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Loss of a row and pull on its first output, at each x: [points], [points]."""
    per_row = Loss(
        loss.kernel,
        head=loss.head,
        reduction="none",
        outputs=loss.outputs,
        smoothing=loss.smoothing,
        prior=loss.prior,
    )
    output = torch.zeros(len(x), outputs, dtype=torch.float64)  # [points, C]
    if head == "softmax":
        output[:, 0] = x + math.log(outputs - 1)  # the others are 0 and share 1 − p equally
        truth = torch.full((len(x),), 0 if target else 1)
    else:
        output[:, 0] = x + target if head == "identity" else x
        truth = torch.full((len(x), 1), target, dtype=torch.float64)
    output.requires_grad_()
    reads_progress = "tau" in loss.kernel.reads
    value = per_row(output, truth, progress=progress if reads_progress else None)
    pull = torch.zeros(len(x), dtype=torch.float64)
    if value.requires_grad:  # a constant loss pulls at nothing
        (gradient,) = torch.autograd.grad(value.sum(), output)
        pull = -gradient[:, 0]
    return value.detach().numpy(), pull.numpy()


def _finite(values: NDArray[np.float64]) -> tuple[float, ...]:
    return tuple(float(v) if math.isfinite(v) else math.nan for v in values)


def _differs(line: Line, other: Line) -> bool:
    a, b = np.asarray(line.pull), np.asarray(other.pull)
    return not np.allclose(a, b, rtol=1e-6, atol=1e-9 + 1e-6 * float(np.nanmax(np.abs(b), initial=0.0)), equal_nan=True)


def _scale(pull: float, reference: float) -> float:
    ratio = abs(reference / pull) if pull else math.nan
    return ratio if math.isfinite(ratio) and 1e-9 < ratio < 1e9 else 1.0


def _group(status: str) -> str:
    """Statuses are counted by kind; only screens are told apart (which candidate one duplicates is no kind)."""
    parsed = Status.parse(status)
    return str(parsed) if parsed.kind == "screened" else parsed.kind
