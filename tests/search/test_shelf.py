"""What the shelf tries is a published result of its own: it does not grow with the catalogue."""

from __future__ import annotations

import math

import pytest

from lossmith.losses import PUBLISHED, Setting
from lossmith.search.shelf import NAMES, grid, grid_size

CLASSIC = {  # as the shelf was when its results were published
    "softmax": "cross_entropy mse mae huber focal generalized_cross_entropy baikal baikal_cma absolute_cross_entropy "
    "sparse_label_smoothing taylor_evolved_1 taylor_evolved_2 taylor_cross_entropy",
    "identity": "mse mae huber",
}


@pytest.mark.parametrize(("head", "size"), [("softmax", 260), ("sigmoid", 260), ("identity", 15)])
def test_the_grid_is_the_one_it_has_always_been(head: str, size: int) -> None:
    setting = Setting(head, 10 if head == "softmax" else 1, head != "identity")
    names = CLASSIC["identity" if head == "identity" else "softmax"].split()
    points = grid(setting)
    assert len(points) == grid_size(setting) == size
    assert [name for name, _, _ in points[: len(names)]] == names  # first everything at its defaults
    assert {(scale, smoothing) for _, scale, smoothing in points[: len(names)]} == {(1.0, 0.0)}
    assert {name for name, _, _ in points} == set(names)
    assert {scale for _, scale, _ in points} == {float(f"{math.sqrt(10) ** k:.6g}") for k in (-2, -1, 0, 1, 2)}


def test_everything_on_it_is_in_the_catalogue() -> None:
    assert set(NAMES) < PUBLISHED.keys()
