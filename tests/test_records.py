from __future__ import annotations

import dataclasses
import json
import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lossmith.records import OK, SPLITS, Candidate, Evaluation, Request, Status, canonical_json, content_hash

KINDS = ("ok", "screened", "diverged", "at_chance", "timed_out", "crashed", "duplicate_of")  # DESIGN §5
documents = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(allow_nan=False, allow_infinity=False), st.text()),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(st.text(), inner, max_size=3)),
    max_leaves=8,
)


@given(documents)
def test_canonical_json_is_a_function_of_the_value(document: Any) -> None:
    text = canonical_json(document)
    assert json.loads(text) == document
    shuffled = json.loads(json.dumps(document))
    if isinstance(shuffled, dict):
        shuffled = dict(reversed(shuffled.items()))
    assert canonical_json(shuffled) == text
    assert content_hash(document) == content_hash(shuffled)


def test_canonical_json_is_compact_and_strict() -> None:
    assert canonical_json({"b": [1, 2.5], "a": "θ"}) == '{"a":"θ","b":[1,2.5]}'
    for number in (math.nan, math.inf):
        with pytest.raises(ValueError, match="not JSON compliant"):
            canonical_json(number)
    assert len(content_hash({}, 40)) == 40


@given(st.sampled_from(KINDS), st.text(st.characters(codec="utf-8"), max_size=8))
def test_a_status_goes_through_text(kind: Any, detail: str) -> None:
    status = Status(kind, detail, "because")
    assert Status.parse(str(status), "because") == status
    assert status.ok == (kind == "ok")


def test_the_words_of_a_status() -> None:
    assert str(OK) == "ok"
    assert str(Status("screened", "invariant")) == "screened:invariant"
    assert str(Status("duplicate_of", "3.7")) == "duplicate_of:3.7"
    assert Status.parse("duplicate_of:3:7").detail == "3:7"


CHANGES: dict[str, Any] = {
    "loss": "{}",
    "seed": 1,
    "budget": 0.5,
    "lr_scale": 2.0,
    "data_fraction": 0.5,
    "splits": ("fitness", "test"),
    "curve": 4,
    "stop_at_chance": True,
}


def test_a_key_of_a_request_is_its_content() -> None:
    request = Request("loss", 0)
    assert set(CHANGES) == {field.name for field in dataclasses.fields(Request)}
    keys = {dataclasses.replace(request, **{name: value}).key for name, value in CHANGES.items()}
    assert len(keys | {request.key}) == len(CHANGES) + 1
    assert request.key == Request("loss", 0).key
    assert Request("loss", 0, splits=("test", "fitness")).key != Request("loss", 0, splits=("fitness", "test")).key


def test_equal_requests_have_equal_keys() -> None:
    one = Request("loss", 3, budget=1, lr_scale=2, data_fraction=1)
    assert one == Request("loss", 3, budget=1.0, lr_scale=2.0)
    assert one.key == Request("loss", 3, budget=1.0, lr_scale=2.0).key
    from_numpy = Request("loss", np.int64(3), lr_scale=np.float64(2.0), curve=np.int32(0))  # type: ignore[arg-type]
    assert from_numpy.key == one.key


def test_records_are_values() -> None:
    for record in (Request("loss", 0), Candidate("loss", "key"), Evaluation("key", OK), OK):
        with pytest.raises(dataclasses.FrozenInstanceError):
            record.status = OK  # type: ignore[misc, union-attr]
        assert record == dataclasses.replace(record)
    assert Evaluation("key", OK).attempt == 1
    assert SPLITS == ("train", "fitness", "selection", "test")
