from __future__ import annotations

import dataclasses
import json
import math
import re
from collections.abc import Callable
from typing import Any, get_args

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lossmith.errors import SpecError
from lossmith.records import (
    OK,
    SPLITS,
    Candidate,
    Evaluation,
    Implicit,
    Preparation,
    Request,
    Screening,
    Status,
    Tuning,
    Work,
    canonical_json,
    content_hash,
)

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
    "work": "screen",
    "settings": '{"rows":3}',
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


def test_trainings_keep_the_keys_they_had_before_there_was_other_work() -> None:
    # written by Lossmith 0.1.0 at format 1 of the run file
    assert Request("loss", 0).key == "8fa9eb021d3e35d7"
    full = Request("loss", 3, budget=0.5, lr_scale=2.0, splits=("fitness", "test"), curve=4, stop_at_chance=True)
    assert full.key == "ca43508df2812157"
    work = {dataclasses.replace(full, work=kind).key for kind in get_args(Work)}  # type: ignore[arg-type]
    assert len(work) == 3


@pytest.mark.parametrize("text", ["", "fine", "OK", "screen:x", "ok ", ":invariant"])
def test_a_status_that_does_not_exist(text: str) -> None:
    with pytest.raises(ValueError, match="is no status: it must begin with ok, screened, diverged"):
        Status.parse(text)


@given(st.integers(0, 10**6), st.integers(1, 10**6), st.booleans())
def test_settings_of_a_screen_go_through_text(steps: int, rows: int, equivalence: bool) -> None:
    screening = Screening(steps, rows, equivalence)
    assert Screening.from_settings(screening.to_settings()) == screening
    for after in (screening, None):
        tuning = Tuning(rows, rows, 0.1 + steps, after)
        assert Tuning.from_settings(tuning.to_settings()) == tuning
        assert canonical_json(json.loads(tuning.to_settings())) == tuning.to_settings()


def test_settings_say_what_the_papers_say() -> None:
    assert Screening() == Screening(rejection_steps=1000, rows=100, gradient_equivalence=True)  # ALGORITHMS §4
    assert Tuning() == Tuning(meta_steps=250, unroll_length=1, meta_lr=1e-3, screen_after=None)  # ALGORITHMS §4
    assert Preparation() == Preparation(screening=None, tuning=None)
    assert Tuning(meta_lr=1).to_settings() == Tuning(meta_lr=1.0).to_settings()  # equal settings, equal keys
    assert Screening.from_settings("{}") == Screening()


@pytest.mark.parametrize(
    ("make", "match"),
    [
        (lambda: Screening(rows=0), "rows = 0: a whole number of at least 1"),
        (lambda: Screening(rejection_steps=-1), "rejection_steps = -1: a whole number of at least 0"),
        (lambda: Screening(rows=2.5), "rows = 2.5"),
        (lambda: Screening(gradient_equivalence="no"), "gradient_equivalence = 'no': true or false"),
        (lambda: Tuning(meta_steps=0), "meta_steps = 0"),
        (lambda: Tuning(unroll_length=True), "unroll_length = True"),
        (lambda: Tuning(meta_lr=math.inf), "meta_lr = inf: a finite number above 0"),
        (lambda: Tuning(meta_lr=0.0), "meta_lr = 0.0"),
        (lambda: Tuning(screen_after=True), "screen_after = True: a Screening or None"),
        (lambda: Tuning.from_settings('{"screen_after":7}'), "no settings of a Screening"),
        (lambda: Screening.from_settings("no JSON"), "'no JSON' are no settings of a Screening: a JSON object"),
        (lambda: Screening.from_settings('{"row":1}'), "unknown setting 'row' of a Screening: it has rejection_steps,"),
    ],
)
def test_settings_out_of_range(make: Callable[[], Any], match: str) -> None:
    with pytest.raises(SpecError, match=match):
        make()


def test_records_are_values() -> None:
    for record in (Request("loss", 0), Candidate("loss", "key"), Evaluation("key", OK), OK, Screening(), Tuning()):
        with pytest.raises(dataclasses.FrozenInstanceError):
            record.status = OK  # type: ignore[misc, union-attr]
        assert record == dataclasses.replace(record)
    assert Evaluation("key", OK).attempt == 1
    assert SPLITS == ("train", "fitness", "selection", "test")


def test_the_settings_of_older_tunings_keep_their_text() -> None:
    assert json.loads(Tuning(meta_steps=5).to_settings()) == {
        "meta_steps": 5,
        "unroll_length": 1,
        "meta_lr": 0.001,
        "screen_after": None,
    }


@pytest.mark.parametrize(
    "tuning",
    [
        Tuning(unroll_length=5, truncation=2, meta_optimizer="sgd", reinitialise=10),
        Tuning(implicit=Implicit("neumann", 0, 0.5), task_loss="mse", state="{}"),
        Tuning(implicit=Implicit(), screen_after=Screening(7)),
    ],
)
def test_every_option_of_a_tuning_survives_its_settings(tuning: Tuning) -> None:
    assert Tuning.from_settings(tuning.to_settings()) == tuning


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: Tuning(truncation=2), "truncation = 2: at most unroll_length = 1"),
        (lambda: Tuning(reinitialise=0), "reinitialise = 0"),
        (lambda: Tuning(meta_optimizer="lion"), "adam or sgd"),
        (lambda: Tuning(implicit=True), "an Implicit or None"),
        (lambda: Tuning(state=3), "a text was expected"),
        (lambda: Implicit("lu"), "cg or neumann"),
        (lambda: Implicit(terms=0), "terms = 0"),
        (lambda: Implicit(damping=0.0), "a finite number above 0"),
        (lambda: Tuning.from_settings('{"implicit": {"solver": "cg", "rank": 3}}'), "unknown setting 'rank'"),
    ],
)
def test_a_tuning_that_makes_no_sense_is_refused(make: Callable[[], object], says: str) -> None:
    with pytest.raises(SpecError, match=re.escape(says)):
        make()
