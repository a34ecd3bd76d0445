"""From what a user gives to a `Metric`: a name, a function with a direction, a torchmetrics-like object."""

from __future__ import annotations

import copy
import inspect
import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from lossmith.errors import TaskError, UnknownNameError
from lossmith.tasks.metrics import classification, ranking, regression
from lossmith.tasks.metrics.record import Direction, Metric, OutputKind

METRICS: dict[str, Metric | Callable[..., Metric]] = {
    "error_rate": classification.error_rate,
    "accuracy": classification.accuracy,
    "balanced_error": classification.balanced_error,
    "macro_f1": classification.macro_f1,
    "top_k_error": classification.top_k_error,
    "log_loss": classification.log_loss,
    "asymmetric_cost": classification.asymmetric_cost,
    "roc_auc": ranking.roc_auc,
    "mse": regression.mse,
    "mae": regression.mae,
    "r2": regression.r2,
    "quantile": regression.quantile,
}


def metric(
    what: object,
    direction: Direction | None = None,
    *,
    name: str | None = None,
    output_kind: OutputKind | None = None,
) -> Metric:
    """Make a metric.

    Args:
        what: a name ("error_rate", "top_k_error(k=3)"), a `Metric`, a function `(output, target) -> number` or
            `(output, target, weight) -> number`, or an object with `update`, `compute` and `reset` (torchmetrics).
        direction: "min" or "max"; a function needs it, an object without `higher_is_better` too.
        name: what a function or an object is called; its own name without.
        output_kind: whether a function gets the "output" z (the default) or the "prediction" p; torchmetrics get p.

    Raises:
        UnknownNameError: no such name.
        TaskError: no direction, a direction that contradicts a built-in metric, or wrong parameters.

    Example:
        >>> metric("top_k_error(k=3)").direction
        'min'
    """
    if isinstance(what, str):
        what = _from_text(what)
    if isinstance(what, Metric):
        if direction not in (None, what.direction):
            raise TaskError(f"metric {what.name!r} has direction {what.direction!r}, not {direction!r}: leave it out.")
        return what
    if all(callable(getattr(what, verb, None)) for verb in ("update", "compute", "reset")):
        higher = getattr(what, "higher_is_better", None)
        own: Direction | None = None if higher is None else "max" if higher else "min"
        if own is not None and direction not in (None, own):
            raise TaskError(f"{type(what).__name__} says that direction {own!r} is right: leave {direction!r} out.")
        name = name or type(what).__name__
        return Metric(name, _required(direction or own, name), Stateful(what), output_kind=output_kind or "prediction")
    if not callable(what):
        raise TaskError(
            f"{what!r} is no metric: give a name ({', '.join(sorted(METRICS))}), a function with a direction, or a "
            "torchmetrics object."
        )
    name = name or getattr(what, "__name__", type(what).__name__).strip("<>")
    return Metric(name, _required(direction, name), what, output_kind=output_kind or "output")


resolve = metric


def _required(direction: Direction | None, name: str) -> Direction:
    if direction is None:
        raise TaskError(
            f'metric {name!r} has no direction: write lm.metrics.metric({name}, direction="min"), or "max" where '
            "higher is better."
        )
    return direction


def _from_text(text: str) -> Metric:
    match = re.fullmatch(r"\s*([^\s()]+)\s*(?:\((.*)\))?\s*", text)
    name = match[1] if match else text
    if match is None or name not in METRICS:
        raise UnknownNameError("metric", name, METRICS)
    made, inside = METRICS[name], match[2]
    if isinstance(made, Metric):
        if inside:
            raise TaskError(f"metric {name!r} has no parameters: write {name!r} instead of {text!r}.")
        return made
    first, *pairs = re.split(r"(?:^|,)\s*(\w+)\s*=", inside or "")
    try:
        positional = json.loads(f"[{first}]")
        named = {key: json.loads(value) for key, value in zip(pairs[::2], pairs[1::2], strict=True)}
    except ValueError:
        raise TaskError(f"metric {text!r}: {inside!r} are no numbers; write e.g. 'top_k_error(k=3)'.") from None
    if made is classification.asymmetric_cost and len(positional) == 2:
        positional = [positional]
    signature = inspect.signature(made)
    try:
        signature.bind(*positional, **named)
    except TypeError as error:
        known = ", ".join(signature.parameters)
        raise TaskError(f"metric {text!r}: {error}; its parameters are {known}.") from None
    return made(*positional, **named)


@dataclass(frozen=True)
class Stateful:
    """An object with `update`, `compute` and `reset`, used as a function: each call works on its own copy."""

    metric: Any

    def __call__(self, prediction: Tensor, target: Tensor) -> Any:
        mine = copy.deepcopy(self.metric)
        mine.reset()
        if prediction.ndim == 2 and prediction.shape[1] == 1 and target.ndim == 1:
            prediction = prediction[:, 0]  # torchmetrics compare equal shapes where there is one output
        mine.update(prediction, target)
        return mine.compute()
