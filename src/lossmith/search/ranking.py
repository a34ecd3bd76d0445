"""What a failed candidate means for a search; the one place where this is decided."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TypeGuard


def ranks(fitness: Sequence[float | None]) -> tuple[int, ...]:
    """Rank of each candidate: how many are strictly better.

    Finite values rank by value, lower first; equal values share a rank; whatever gave no number (None, NaN, infinities)
    shares the last place, after every finite value.

    >>> ranks([0.3, None, 0.1, 0.3, float("nan")])
    (1, 3, 0, 1, 3)
    """
    finite = sorted(value for value in fitness if succeeded(value))
    first = {value: place for place, value in reversed(list(enumerate(finite)))}
    return tuple(first[value] if succeeded(value) else len(finite) for value in fitness)


def succeeded(fitness: float | None) -> TypeGuard[float]:
    """Whether a candidate gave a usable number."""
    return fitness is not None and math.isfinite(fitness)
