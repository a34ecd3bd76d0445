"""The text a tuning goes on with: exact, and refused where it is none."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from lossmith.errors import SpecError
from lossmith.records import canonical_json
from lossmith.training.tuning_state import TuningState, meta_steps_of

finite = st.floats(allow_nan=False, allow_infinity=False)


@given(
    mean=arrays(np.float64, 5, elements=finite),
    square=arrays(np.float64, 5, elements=st.floats(min_value=0, allow_nan=False)),
    steps=st.integers(0, 10**6),
)
def test_it_comes_back_to_the_bit(mean: Any, square: Any, steps: int) -> None:
    text = TuningState(steps, "adam", mean, square).to_text()
    back = TuningState.from_text(text, "adam", 5)
    assert (back.meta_steps, back.mean.tobytes(), back.square.tobytes()) == (steps, mean.tobytes(), square.tobytes())
    assert back.to_text() == text == canonical_json(json.loads(text))
    assert meta_steps_of(text) == steps


def test_sgd_keeps_only_where_it_stands() -> None:
    text = TuningState(7, "sgd", np.zeros(3), np.zeros(3)).to_text()
    assert json.loads(text) == {"meta_steps": 7, "optimizer": "sgd"}
    assert TuningState.from_text(text, "sgd", 3).mean.tolist() == [0, 0, 0]


def test_no_text_is_the_beginning() -> None:
    begun = TuningState.from_text("", "adam", 2)
    assert (begun.meta_steps, begun.mean.tolist(), begun.square.tolist()) == (0, [0, 0], [0, 0])
    assert meta_steps_of("") == 0


GOOD = json.loads(TuningState(3, "adam", np.ones(2), np.ones(2)).to_text())
BROKEN = [
    "{",
    "[]",
    "3",
    "[" * 10_000,
    canonical_json({"meta_steps": 3}),
    canonical_json({**GOOD, "meta_steps": -1}),
    canonical_json({**GOOD, "meta_steps": True}),
    canonical_json({**GOOD, "meta_steps": "3"}),
    canonical_json({**GOOD, "optimizer": "lion"}),
    canonical_json({**GOOD, "optimizer": ["adam"]}),
    canonical_json({**GOOD, "mean": 3}),
    canonical_json({**GOOD, "mean": "€€"}),
    canonical_json({**GOOD, "mean": "AAA"}),
    canonical_json({**GOOD, "mean": GOOD["mean"][:8]}),
]


@pytest.mark.parametrize("text", BROKEN)
def test_what_is_no_state_is_said_in_a_sentence(text: str) -> None:
    with pytest.raises(SpecError, match=r"is not the state a tuning goes on with: give the state that an evaluation's"):
        TuningState.from_text(text, "adam", 2)
    assert meta_steps_of(text) in (0, 3)


def packed(*numbers: float) -> str:
    text = TuningState(0, "adam", np.array(numbers), np.zeros(len(numbers))).to_text()
    return str(json.loads(text)["mean"])


@pytest.mark.parametrize("wrong", [{"mean": packed(np.nan, 1)}, {"mean": packed(np.inf, 1)}, {"square": packed(-1, 1)}])
def test_numbers_that_no_mean_can_have_are_refused(wrong: Any) -> None:
    with pytest.raises(SpecError, match="numbers that no running mean can have"):
        TuningState.from_text(canonical_json({**GOOD, **wrong}), "adam", 2)


def test_a_state_of_something_else_is_refused() -> None:
    with pytest.raises(SpecError, match="belongs to 2 loss parameters, and this loss has 3"):
        TuningState.from_text(canonical_json(GOOD), "adam", 3)
    with pytest.raises(SpecError, match="is one of adam, and this tuning moves φ by sgd"):
        TuningState.from_text(canonical_json(GOOD), "sgd", 2)
