"""One sentence for every number out of its range: the field, the value, the range."""

from __future__ import annotations

import math
import numbers

from lossmith.errors import TaskError, UsageError


def check_number(
    field: str,
    value: object,
    *,
    above: float | None = None,
    least: float | None = None,
    most: float | None = None,
    below: float | None = None,
    whole: bool = False,
    error: type[UsageError] = TaskError,
) -> None:
    """Raise `error` unless `value` is a finite number (a whole one if `whole`) within the bounds.

    Args:
        field: how the value is called in the message, e.g. "SGD.lr".
        value: what was given.
        above, least: exclusive or inclusive lower bound.
        most, below: inclusive or exclusive upper bound.
        whole: whether it has to be an integer.
        error: the exception to raise.
    """
    low = f"({above:g}" if above is not None else f"[{least:g}" if least is not None else "(-inf"
    high = f"{most:g}]" if most is not None else f"{below:g})" if below is not None else "inf)"
    kind = "a whole number" if whole else "a number"
    right = isinstance(value, numbers.Integral if whole else numbers.Real) and not isinstance(value, bool)
    if right:
        x = float(value)  # type: ignore[arg-type]
        right = (
            math.isfinite(x)
            and (above is None or x > above)
            and (least is None or x >= least)
            and (most is None or x <= most)
            and (below is None or x < below)
        )
    if not right:
        raise error(f"{field} is {value!r}: it must be {kind} in {low}, {high}.")
