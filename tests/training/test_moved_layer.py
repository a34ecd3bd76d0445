"""Which products of a layer are cheapest; that all give the same numbers is for `test_perceptron`."""

from __future__ import annotations

import pytest

from lossmith.training.moved_layer import Form

WEIGHTS, BOTH, GRAM = Form(True, False), Form(True, True), Form(False, True)


@pytest.mark.parametrize(
    ("rows", "after", "inputs", "outputs", "first", "form"),
    [
        (128, 128, 784, 256, True, GRAM),  # 2·784·256·128 of weights against 2·128·128·256
        (128, 128, 64, 256, True, GRAM),  # as much, and no weights to keep
        (128, 128, 8, 128, True, WEIGHTS),
        (128, 128, 256, 256, False, BOTH),  # 5 : 4 : 4.5
        (128, 128, 256, 10, False, WEIGHTS),
        (32, 32, 1024, 1024, False, GRAM),
        (128, 24, 256, 256, False, GRAM),  # few fitness rows
    ],
)
def test_the_cheapest_products(rows: int, after: int, inputs: int, outputs: int, first: bool, form: Form) -> None:
    assert Form.cheapest(rows, after, inputs, outputs, first=first) == form
