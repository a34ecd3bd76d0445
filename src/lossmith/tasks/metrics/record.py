"""What a metric is: one number with a direction, read off a model's outputs. None needs a gradient."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

import torch
from torch import Tensor

from lossmith.errors import TaskError
from lossmith.losses.inputs import Head
from lossmith.rng import stream
from lossmith.tasks.metrics.reading import Rows, align, predict

Direction = Literal["min", "max"]
OutputKind = Literal["output", "prediction", "output+head"]
RESAMPLES = 100  # of the bootstrap: its own relative error is about 1/√(2·100) = 7 %, enough for a two-sigma rule


@dataclass(frozen=True)
class Metric:
    """A metric of a task.

    Args:
        name: how it is written, parameters included; `resolve(name)` of a built-in one gives it back.
        direction: "min" where lower is better, "max" where higher is.
        function: `(y [N, C], target [N] or [N, C], weight [N] or None) -> number`; one that takes only two arguments is
            called with rows of weight 0 left out.
        rows: `(y, target)` or `(y, target, weight) -> [N]`, contributions whose (weighted) mean is the value, or None.
            They give the standard error std/√N; without them it comes from a bootstrap.
        output_kind: what y is: the "output" z as the model returns it, the "prediction" p after the head, or
            "output+head" where the function takes z and the keyword `head` and sees to it itself.
        parameters: (name, value) pairs handed to `function` and `rows` as keywords.

    Raises:
        TaskError: the direction or the output kind is none of those.

    A value is NaN where an output is NaN: a broken model must not look like one that decides for class 0.
    """

    name: str
    direction: Direction
    function: Callable[..., Any] = field(repr=False)
    rows: Callable[..., Tensor] | None = field(default=None, repr=False)
    output_kind: OutputKind = "output"
    parameters: tuple[tuple[str, Any], ...] = field(default=(), repr=False)

    def __post_init__(self) -> None:
        if self.direction not in get_args(Direction):
            raise TaskError(
                f"metric {self.name!r} has direction {self.direction!r}: write "
                f'lm.metrics.metric(fn, direction="min") or direction="max".'
            )
        if self.output_kind not in get_args(OutputKind):
            raise TaskError(
                f"metric {self.name!r} has output_kind {self.output_kind!r}: "
                f"use one of {', '.join(get_args(OutputKind))}."
            )

    def __str__(self) -> str:
        return self.name

    def describe(self) -> dict[str, Any]:
        """What belongs into a task's fingerprint; JSON-able."""
        return {"name": self.name, "direction": self.direction, "output_kind": self.output_kind}

    def fitness(self, value: float) -> float:
        """The value as a number of which lower is better."""
        return value if self.direction == "min" else -value

    def better(self, a: float, b: float) -> bool:
        """Whether value `a` is strictly better than value `b`."""
        return self.fitness(a) < self.fitness(b)

    @torch.no_grad()
    def value(self, output: Tensor, target: Tensor, weight: Tensor | None = None, head: Head | None = None) -> float:
        """The metric of a model's outputs.

        Args:
            output: z `[N, C]` (or `[..., C]`), before the head.
            target: `[N]` classes or values, or `[N, C]`.
            weight: `[N]` or None; rows of weight 0 do not count.
            head: of the task. Without one, classification metrics take several outputs for a softmax and one for a
                sigmoid, and regression metrics take the output for the prediction.

        Raises:
            TaskError: shapes, labels or weights that do not fit, or a user's function that returns no number.
        """
        return self._value(align(output, target, weight), head)

    @torch.no_grad()
    def value_and_error(
        self, output: Tensor, target: Tensor, weight: Tensor | None = None, head: Head | None = None
    ) -> tuple[float, float]:
        """The metric and its standard error over the draw of the rows (inf where one row is all there is).

        With `rows` r_i and weights w_i the error is √(Σ w_i²(r_i − value)²)/Σ w_i · √(N/(N−1)), which is std(r)/√N for
        equal weights; without, the standard deviation over 100 seeded bootstrap resamples. Arguments as in `value`.
        """
        seen = align(output, target, weight)
        value, n = self._value(seen, head), len(seen)
        if math.isnan(value) or n == 1:
            return value, math.inf
        if self.rows is None:
            return value, self._bootstrap(seen, head)
        r = self._call(self.rows, seen, head).detach().cpu().double()
        w = torch.ones(n, dtype=torch.float64) if seen.weight is None else seen.weight
        centred = w * (r - (w * r).sum() / w.sum())
        return value, float(centred.square().sum().sqrt() / w.sum()) * math.sqrt(n / (n - 1))

    def _value(self, seen: Rows, head: Head | None) -> float:
        if bool(torch.isnan(seen.output).any()):
            return math.nan
        if self.rows is not None and seen.weight is not None and not takes_weight(self.function):
            return weighted_mean(self._call(self.rows, seen, head), seen.weight)
        return self._number(self._call(self.function, seen, head))

    def _call(self, function: Callable[..., Any], seen: Rows, head: Head | None) -> Any:
        output, target, weight, keywords = seen.output, seen.target, seen.weight, dict(self.parameters)
        if self.output_kind == "output+head":
            keywords["head"] = head
        else:  # a user's function may go through numpy, so it gets what numpy can read
            output = predict(output, head) if self.output_kind == "prediction" else output
            output, target = output.cpu(), target.cpu()
        if takes_weight(function):
            return function(output, target, weight, **keywords)
        if weight is not None and function is self.function:
            raise TaskError(
                f"metric {self.name!r} got unequal row weights, which its function does not take: "
                "give it a third argument `weight` ([N] or None)."
            )
        return function(output, target, **keywords)

    def _number(self, returned: Any) -> float:
        try:
            if returned is None or isinstance(returned, str):
                raise TypeError
            return float(returned)
        except (TypeError, ValueError, RuntimeError):
            shape = f" of shape {list(returned.shape)}" if hasattr(returned, "shape") else ""
            raise TaskError(
                f"metric {self.name!r} returned {type(returned).__name__}{shape}: it must return one number."
            ) from None

    def _bootstrap(self, seen: Rows, head: Head | None) -> float:
        rng, n, values = stream(0, "bootstrap", self.name), len(seen), []
        for _ in range(RESAMPLES):
            index = torch.from_numpy(rng.integers(n, size=n))
            try:
                values.append(self._value(seen.take(index), head))
            except Exception:  # a resample may lack a class the user's function needs; the full rows did not
                continue
        finite = [v for v in values if math.isfinite(v)]
        if len(finite) < RESAMPLES // 2:
            return math.inf
        return float(torch.tensor(finite, dtype=torch.float64).std())


def takes_weight(function: Callable[..., Any]) -> bool:
    """Whether a metric function has a place for the row weights: a third positional argument, or one of that name."""
    try:
        parameters = inspect.signature(function).parameters
    except (TypeError, ValueError):  # some builtins have no signature
        return False
    positional = [p for p in parameters.values() if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
    third = positional[2] if len(positional) > 2 else None
    return third is not None and (third.name == "weight" or third.default is third.empty)


def weighted_mean(rows: Tensor, weight: Tensor | None) -> float:
    """Σ w r / Σ w in float64."""
    rows = rows.detach().cpu().double()
    return float(rows.mean() if weight is None else (weight * rows).sum() / weight.sum())


@dataclass(frozen=True)
class MeanOf:
    """The metric function that is the (weighted) mean of `rows`."""

    rows: Callable[..., Tensor]

    def __call__(self, output: Tensor, target: Tensor, weight: Tensor | None, **keywords: Any) -> float:
        rows = (
            self.rows(output, target, weight, **keywords)
            if takes_weight(self.rows)
            else self.rows(output, target, **keywords)
        )
        return weighted_mean(rows, weight)


def mean_of(name: str, direction: Direction, rows: Callable[..., Tensor], **parameters: Any) -> Metric:
    """A built-in metric that is the mean of what each row contributes."""
    return Metric(name, direction, MeanOf(rows), rows, "output+head", tuple(parameters.items()))
