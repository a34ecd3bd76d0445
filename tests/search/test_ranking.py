"""What failures mean is decided in one place."""

from __future__ import annotations

import math

from hypothesis import given, settings
from hypothesis import strategies as st

from lossmith.search import ranks

fitness = st.lists(st.one_of(st.none(), st.floats(allow_nan=True), st.sampled_from([0.0, 1.0, -1.0])), max_size=30)


@settings(deadline=None)
@given(fitness)
def test_a_rank_counts_the_strictly_better(values: list[float | None]) -> None:
    def good(v: float | None) -> bool:
        return v is not None and math.isfinite(v)

    for value, rank in zip(values, ranks(values), strict=True):
        better = [v for v in values if good(v) and (not good(value) or v < value)]  # type: ignore[operator]
        assert rank == len(better)


def test_failures_share_the_last_place_whatever_they_are() -> None:
    assert ranks([None, 3.0, math.nan, -math.inf, 1.0, math.inf]) == (2, 1, 2, 2, 0, 2)
    assert ranks([None, None]) == (0, 0)
    assert ranks([]) == ()
    assert ranks([-0.0, 0.0]) == (0, 0)
    assert ranks([1.0, 1.0 + 2**-52]) == (0, 1)
