"""Chunks as laws: every request exactly once, order kept, company kept, evenly divided, a function of nothing else."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Sequence
from typing import get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lossmith.evaluation import Plan, divide, stacking_key
from lossmith.evaluation.plan import ENGINES
from lossmith.records import Request, Work

REQUESTS = st.lists(
    st.builds(
        Request,
        loss=st.sampled_from("abc"),
        seed=st.integers(0, 2),
        budget=st.sampled_from([0.1, 1.0]),
        lr_scale=st.sampled_from([0.5, 1.0]),
        splits=st.sampled_from([("fitness",), ("fitness", "selection")]),
        work=st.sampled_from(get_args(Work)),
    ),
    max_size=40,
    unique=True,
)
PLANS = st.builds(
    Plan,
    engine=st.sampled_from(ENGINES),
    chunk=st.integers(1, 9),
    screen_chunk=st.integers(1, 9),
    tune_chunk=st.integers(1, 9),
)


@given(REQUESTS, PLANS)
def test_the_laws_of_chunks(requests: list[Request], plan: Plan) -> None:
    chunks = divide(requests, plan)
    placed = [request for chunk in chunks for request in chunk]
    assert sorted(map(requests.index, placed)) == list(range(len(requests)))  # each exactly once
    groups: dict[object, list[tuple[Request, ...]]] = {}
    for chunk in chunks:
        works = {request.work for request in chunk}
        keys = {stacking_key(request) for request in chunk}
        assert len(works) == 1
        (work,) = works
        assert 1 <= len(chunk) <= plan.chunk_of(work)
        one_by_one = work == "train" and plan.engine == "sequential"
        assert one_by_one or len(keys) == 1
        groups.setdefault(work if one_by_one else keys.pop(), []).append(chunk)
    assert [chunk for group in groups.values() for chunk in group] == chunks  # a group's chunks follow each other
    for group in groups.values():
        together = [request for chunk in group for request in chunk]
        assert together == sorted(together, key=requests.index)  # order within a group
        sizes = [len(chunk) for chunk in group]
        assert max(sizes) - min(sizes) <= 1
        assert sizes == sorted(sizes, reverse=True)
        most = plan.chunk_of(together[0].work)
        assert len(sizes) == -(-len(together) // most)  # no more of them than there must be
    assert divide(requests, plan) == chunks


@pytest.mark.parametrize(
    ("count", "most", "sizes"),
    [(25, 16, [13, 12]), (16, 16, [16]), (17, 16, [9, 8]), (50, 16, [13, 13, 12, 12]), (1, 16, [1]), (3, 1, [1, 1, 1])],
)
def test_groups_are_split_evenly(count: int, most: int, sizes: list[int]) -> None:
    requests = [Request(str(i), 0) for i in range(count)]
    for engine in ENGINES:
        assert [len(chunk) for chunk in divide(requests, Plan(engine=engine, chunk=most))] == sizes
    assert divide([], Plan()) == []


def test_seeds_that_alternate_are_brought_together() -> None:
    """As a search with two seeds per candidate asks for them."""
    requests = [Request(loss, seed) for loss, seed in itertools.product("abcd", (0, 1))]

    def placed(plan: Plan) -> list[list[str]]:
        return [[f"{r.loss}{r.seed}" for r in chunk] for chunk in divide(requests, plan)]

    assert placed(Plan(engine="population", chunk=3)) == [["a0", "b0"], ["c0", "d0"], ["a1", "b1"], ["c1", "d1"]]
    assert placed(Plan()) == [["a0"], ["a1"], ["b0"], ["b1"], ["c0"], ["c1"], ["d0"], ["d1"]]  # as they came


def different(request: Request, field: str) -> Request:
    values = {
        "loss": "z",
        "lr_scale": 3.0,
        "seed": 9,
        "budget": 0.25,
        "data_fraction": 0.25,
        "splits": ("test",),
        "curve": 5,
        "stop_at_chance": True,
        "settings": '{"rows":7}',
    }
    return dataclasses.replace(request, **{field: values[field]})  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("work", "apart"),
    [
        ("train", ["seed", "budget", "data_fraction", "splits", "curve", "stop_at_chance"]),
        ("screen", ["seed", "settings"]),
        ("tune", ["seed", "settings", "lr_scale"]),
    ],
)
def test_what_can_be_done_at_once(work: Work, apart: Sequence[str]) -> None:
    one = Request("a", 1, work=work)
    for field in ("loss", "lr_scale", *(f for f in ("seed", "settings", "budget", "splits", "curve") if f in apart)):
        assert (stacking_key(different(one, field)) != stacking_key(one)) == (field in apart), field
    others = [stacking_key(Request("a", 1, work=other)) for other in get_args(Work) if other != work]
    assert stacking_key(one) not in others


def test_every_field_of_a_request_is_decided_on() -> None:
    """A new field must be put into the key or be known not to matter there."""
    known = {"loss", "seed", "budget", "lr_scale", "data_fraction", "splits", "curve", "stop_at_chance"}
    assert {field.name for field in dataclasses.fields(Request)} == known | {"work", "settings"}
