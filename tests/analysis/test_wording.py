"""One way to write a number."""

from __future__ import annotations

import pytest

from lossmith.analysis import wording


@pytest.mark.parametrize(
    ("value", "decimals", "text"),
    [
        (0.0312, 4, ".0312"),
        (-0.0312, 4, "−.0312"),
        (-0.00001, 3, ".000"),  # no negative zero
        (12.345, 1, "12.3"),
        (0.0, None, ".0000"),
        (3.1e-7, 4, "3.1e−07"),
        (26916.3, None, "26916"),
        (float("inf"), 2, "inf"),
    ],
)
def test_numbers(value: float, decimals: int | None, text: str) -> None:
    assert wording.number(value, decimals) == text


@pytest.mark.parametrize(
    ("values", "text"),
    [
        ([], "failed"),
        ([0.0312], ".03120"),
        ([0.03, 0.034], ".0320 ± .0028"),  # sd .00283: two digits of it
        ([0.1, 0.1, 0.1], ".1000 ± 0"),
        ([3000.0, 3100.0], "3050 ± 71"),
    ],
)
def test_means(values: list[float], text: str) -> None:
    assert wording.mean_and_deviation(values) == text


def test_p_values() -> None:
    assert [wording.p_value(p) for p in (None, 0.0002, 0.0123, 0.31)] == [
        "p not defined",
        "p < .001",
        "p = .012",
        "p = .31",
    ]
    assert [wording.p_cell(p) for p in (None, 0.0002, 0.0123, 1.0)] == ["–", "<.001", ".012", "1.00"]


def test_lists_and_counts() -> None:
    assert wording.listing(["a"]) == "a"
    assert wording.listing(["a", "b", "c"]) == "a, b and c"
    assert wording.listing(["a, tuned", "b"]) == "a, tuned; b"
    assert wording.count(1, "seed") == "1 seed"
    assert wording.count(1240, "seed") == "1,240 seeds"
    assert wording.margin(0.005) == ".005"
    assert wording.margin(2.0) == "2"


def test_tables_line_up() -> None:
    lines = wording.table(("name", "n"), [("a", "10"), ("long", "1")]).splitlines()
    assert lines == ["  name   n", "  a     10", "  long   1"]
