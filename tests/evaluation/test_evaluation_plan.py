from __future__ import annotations

import json
from typing import get_args

import pytest

from lossmith.errors import SpecError
from lossmith.evaluation import Plan
from lossmith.records import Work


def test_a_plan_goes_through_a_spec() -> None:
    plan = Plan(engine="population", dtype="bfloat16", chunk=16, chance_step=7, chance_value=0.5, deadline=3.0)
    assert Plan(**json.loads(json.dumps(plan.to_dict()))) == plan


def test_older_plans_mean_what_they_meant() -> None:
    """As written to specs by versions that knew only trainings, then only one engine."""
    oldest = {"engine": "sequential", "reason": "the only engine so far", "device": "cpu", "dtype": "float32"}
    oldest |= {"threads": 1, "channels_last": True, "chunk": 1, "chance_step": 50, "chance_value": 0.9, "deadline": 0.0}
    older = {**oldest, "screen_chunk": 64, "tune_chunk": 8}
    for document in (oldest, older):
        plan = Plan(**document)  # type: ignore[arg-type]
        assert (plan.engine, plan.dtype, plan.compile, plan.compile_reason) == ("sequential", "float32", False, "")
        assert {work: plan.chunk_of(work) for work in get_args(Work)} == {"train": 1, "screen": 64, "tune": 8}
        assert document.items() <= plan.to_dict().items()


@pytest.mark.parametrize(
    ("field", "value", "expected"),
    [
        ("engine", "warp", "sequential or population"),
        ("engine", "auto", "sequential or population"),  # a choice, not an engine
        ("dtype", "float16", "float32 or bfloat16"),
        ("chunk", 0, "at least 1"),
        ("tune_chunk", -1, "at least 1"),
    ],
)
def test_what_no_plan_can_say(field: str, value: object, expected: str) -> None:
    with pytest.raises(SpecError, match=rf"plan\.{field} = {value!r}: .*{expected}"):
        Plan(**{field: value})  # type: ignore[arg-type]


def test_a_plan_in_words() -> None:
    assert Plan(reason="asked for").describe() == "engine sequential, float32 on cpu (asked for)"
    stacked = Plan(engine="population", chunk=16, dtype="bfloat16", device="cuda", compile=True)
    assert stacked.describe() == "engine population, up to 16 candidates at once, bfloat16 on cuda, compiled"
