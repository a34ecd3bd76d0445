"""What is written is read back, once, whatever the order; and what differs under one key is refused."""

from __future__ import annotations

import math
import sqlite3
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import store_scenario as scenario
from hypothesis import given, settings
from hypothesis import strategies as st

from lossmith.errors import RunError
from lossmith.records import OK, Candidate, Evaluation, Request, Screening, Status, Tuning
from lossmith.store import RunStore, comparable_rows

given(st.none())(lambda _: None)()  # hypothesis looks up numpy's seed() once: now, before conftest poisons it
FINITE = st.floats(allow_nan=False, allow_infinity=False)


@pytest.fixture
def store(tmp_path: Path) -> Iterator[RunStore]:
    with scenario.create(tmp_path / "run") as store:
        yield store


def asked(store: RunStore, generation: int = 0) -> list[Request]:
    proposed, requests = scenario.candidates(generation)
    store.add_generation(generation, proposed, requests)
    return [r for r in requests if r is not None]


def test_everything_written_is_read_back(store: RunStore) -> None:
    proposed, requests = scenario.candidates(0)
    store.add_generation(0, proposed, requests, duplicate_of=[None, "0:0", None, None])
    wanted = [r for r in requests if r is not None]
    results = [scenario.result(r, worker="17", attempt=2) for r in wanted]
    store.record(list(zip(wanted, results, strict=True)), purpose="search")
    statuses = [OK, Status("diverged", sentence="non-finite at step 3"), OK, proposed[3].status]
    store.tell(
        0, [0.5, None, 1 / 3, None], {"ok": 2, "diverged": 1}, checkpoint={"m": [0.1]}, steps=103, statuses=statuses
    )
    with RunStore.open(store.path) as reader:
        for side in (store, reader):
            rows = side.candidates()
            assert [r.candidate for r in rows] == [
                replace(c, status=s) for c, s in zip(proposed, statuses, strict=True)
            ]
            assert [r.fitness for r in rows] == [0.5, None, 1 / 3, None]
            assert [r.request for r in rows] == [r.key if r else None for r in requests]
            assert [r.duplicate_of for r in rows] == [None, "0:0", None, None]
            assert [side.evaluation(r.key) for r in wanted] == results
            stored = side.evaluations("search")
            assert [r.request.key for r in stored] == sorted(r.key for r in wanted)
            assert {r.request for r in stored} == set(wanted)
            (generation,) = side.generations()
            assert generation.told
            assert (generation.candidates, generation.counts, generation.steps) == (4, {"ok": 2, "diverged": 1}, 103)
            checkpoint = side.checkpoint("method")
            assert checkpoint is not None
            assert (checkpoint.generation, checkpoint.document) == (0, {"m": [0.1]})
            run = side.run()
            assert (run.kind, run.task, run.method, run.seed, run.state) == (
                "search",
                "digits/mlp",
                "random",
                7,
                "running",
            )
            assert run.fingerprint == {"digest": "abc", "shapes": [[64, 10]]}
            assert side.spec_toml() == scenario.SPEC
            assert side.evaluation("nobody") is side.checkpoint("nobody") is None
            assert side.evaluations("elite") == side.candidates(9) == side.events() == ()


@settings(max_examples=40, deadline=None)
@given(value=FINITE, scale=FINITE, curve=st.lists(st.tuples(st.integers(0, 2**40), FINITE), max_size=3), text=st.text())
def test_numbers_and_texts_come_back_bit_by_bit(
    memory_disk: Path, value: float, scale: float, curve: list[tuple[int, float]], text: str
) -> None:
    request = Request(loss=text, seed=2**62, lr_scale=scale, splits=("fitness",))
    evaluation = Evaluation(request.key, Status("ok", sentence=text), {"fitness": value}, tuple(curve), worker=text)
    candidate = Candidate(loss=text, key=text, lr_scale=scale, origin=text, genome=(value, scale))
    with scenario.create(Path(tempfile.mkdtemp(dir=memory_disk)) / "run") as store:
        store.record([(request, evaluation)], purpose="search")
        store.add_generation(0, [candidate], [request])
        store.tell(0, [value], {text: 1}, checkpoint={text: value})
        assert store.evaluation(request.key) == evaluation
        assert store.evaluations()[0].request == request
        assert store.candidates()[0].candidate == candidate
        assert store.candidates()[0].fitness == value
        assert store.generations()[0].counts == {text: 1}
        assert store.checkpoint().document == {text: value}  # type: ignore[union-attr]


def test_every_kind_of_work_is_stored_under_its_own_key(store: RunStore) -> None:
    settings = Tuning(meta_steps=3, screen_after=Screening(rows=7)).to_settings()
    train = Request("{}", seed=0)
    screen = replace(train, work="screen", settings=Screening().to_settings())
    tune = replace(train, work="tune", settings=settings)
    made = {train.key: "", screen.key: '{"gradients":"abc"}', tune.key: '{"loss":"{\\"x\\":1}"}'}
    results = [(r, Evaluation(r.key, OK, steps=3, product=made[r.key])) for r in (train, screen, tune)]
    for _ in range(2):
        store.record(results, purpose="stages")
    assert len(made) == len(store.evaluations()) == 3
    for request, evaluation in results:
        assert store.evaluation(request.key) == evaluation
    assert {row.request for row in store.evaluations()} == {train, screen, tune}
    before = store.comparable_rows()
    with pytest.raises(RunError, match=r"is stored with product .*abc.*, now it is .*other"):
        store.record([(screen, replace(results[1][1], product='{"gradients":"other"}'))], purpose="stages")
    assert store.comparable_rows() == before
    (found,) = (row.request for row in store.evaluations() if row.request.work == "tune")
    assert Tuning.from_settings(found.settings) == Tuning(meta_steps=3, screen_after=Screening(rows=7))


def test_a_tuned_loss_stays_with_its_candidate(store: RunStore) -> None:
    asked(store)
    tuned = ['{"weights":[1.5]}', None, None, None]
    told: dict[str, Any] = {"fitness": [0.5, 0.6, 0.7, None], "counts": {"ok": 3}}
    with pytest.raises(ValueError, match="4 candidates, 4 fitness, 4 statuses, 1 tuned"):
        store.tell(0, **told, tuned=tuned[:1])
    store.tell(0, **told, tuned=tuned)
    before = store.comparable_rows()
    for again_ in (tuned, None):  # a second time changes nothing, and neither does asking again
        store.tell(0, **told, tuned=again_)
        asked(store)
    assert store.comparable_rows() == before
    with pytest.raises(RunError, match="is stored with tuned"):
        store.tell(0, **told, tuned=[None] * 4)
    assert [row.tuned for row in store.candidates()] == tuned
    assert [row.candidate.loss for row in store.candidates()] == [c.loss for c in PROPOSED]


def test_a_sentence_that_is_no_unicode_is_stored_in_escapes(store: RunStore) -> None:
    request = Request("{}", seed=0)  # a user's exception may hold a file name that was never text
    store.record([(request, Evaluation(request.key, Status("crashed", sentence="no \udcff.csv")))], purpose="search")
    assert store.evaluation(request.key).status.sentence == r"no \udcff.csv"  # type: ignore[union-attr]


def test_writing_the_same_again_changes_nothing(tmp_path: Path) -> None:
    scenario.play(tmp_path / "run")
    before = comparable_rows(tmp_path / "run")
    with RunStore.open(tmp_path / "run", write=True) as store:
        first = store.evaluations()
        for number, generation in enumerate(store.generations()):
            rows = store.candidates(number)
            proposed, requests = scenario.candidates(number)
            store.add_generation(number, proposed, requests)
            checkpoint = {"memory": [[r.fitness for r in store.candidates(n)] for n in range(number + 1)]}
            statuses = [r.candidate.status for r in rows]
            fitness = [r.fitness for r in rows]
            for given in (statuses, None):
                store.tell(
                    number, fitness, generation.counts, checkpoint=checkpoint, steps=generation.steps, statuses=given
                )
        for row in first:
            other = replace(row.evaluation, worker="other", attempt=9, seconds=99.0)
            store.record([(row.request, other)], purpose="elite")
        store.add_event("verdict", "k00", {"sentence": "not shown"})
        store.add_event("test_touched", next(e.subject for e in store.events("test_touched")), {"why": "again"})
        store.write_checkpoint("finalists", scenario.GENERATIONS, {"best": "k00"})
        store.write_checkpoint("finalists", scenario.GENERATIONS - 1, {"best": "older"})
        assert store.evaluations() == first  # purpose, worker, seconds and time too: the first one stays
        assert store.count_test_touches() == 1
    assert comparable_rows(tmp_path / "run") == before
    assert all(before.values())


def test_the_order_in_which_chunks_finish_leaves_no_trace(tmp_path: Path) -> None:
    scenario.play(tmp_path / "a")
    scenario.play(tmp_path / "b", worker="3", backwards=True)
    assert comparable_rows(tmp_path / "a") == comparable_rows(tmp_path / "b")
    raw = sqlite3.connect(tmp_path / "b" / "lossmith.db")
    try:
        with pytest.raises(sqlite3.OperationalError, match="no such column: rowid"):
            raw.execute("SELECT rowid FROM evaluation")
    finally:
        raw.close()


def test_comparable_rows_see_a_difference_in_the_last_bit(tmp_path: Path) -> None:
    for name, fitness in (("a", 0.1), ("b", math.nextafter(0.1, 1))):
        with scenario.create(tmp_path / name) as store:
            store.add_generation(0, [Candidate("{}", "k")], [None])
            store.tell(0, [fitness], {"ok": 1})
    assert comparable_rows(tmp_path / "a") != comparable_rows(tmp_path / "b")


TOLD: dict[str, Any] = {"fitness": [0.5, 0.6, 0.7, None], "counts": {"ok": 3}, "checkpoint": {"m": 1}, "steps": 5}
PROPOSED, REQUESTS = scenario.candidates(0)
GOOD = next(r for r in REQUESTS if r is not None and scenario.result(r).status.ok)
NEW = Request("new", seed=0)


def again(evaluation: Evaluation) -> Callable[[RunStore], None]:
    """Record another result for a stored request, in one chunk with a new one that must not be stored either."""
    return lambda store: store.record([(NEW, Evaluation(NEW.key, OK)), (GOOD, evaluation)], purpose="search")


@pytest.mark.parametrize(
    "write",
    [
        again(replace(scenario.result(GOOD), metrics={"fitness": 0.25})),
        again(Evaluation(GOOD.key, Status("crashed"))),
        lambda s: s.add_generation(0, [*PROPOSED[:2], replace(PROPOSED[2], key="?"), PROPOSED[3]], REQUESTS),
        lambda s: s.add_generation(0, PROPOSED[:2], REQUESTS[:2]),
        lambda s: s.tell(0, **{**TOLD, "fitness": [0.5, 0.6, None, None]}),
        lambda s: s.tell(0, **{**TOLD, "counts": {"ok": 2}}),
        lambda s: s.tell(0, **{**TOLD, "checkpoint": {"m": 2}}),
        lambda s: s.add_event("verdict", "x", {"p": 0.2}),
    ],
    ids=["metric", "status", "candidate", "fewer", "fitness", "counts", "checkpoint", "event"],
)
def test_something_different_under_the_same_key_is_refused_and_nothing_stored(
    store: RunStore, write: Callable[[RunStore], None]
) -> None:
    store.record([(r, scenario.result(r)) for r in asked(store)], purpose="search")
    store.tell(0, **TOLD)
    store.add_event("verdict", "x", {"p": 0.1})
    before = store.comparable_rows()
    with pytest.raises(RunError, match=rf"{store.path}: .*stored with .*, now it is .*start a new run"):
        write(store)
    assert store.comparable_rows() == before


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_a_number_that_is_none_is_a_mistake_of_the_caller(store: RunStore, value: float) -> None:
    (request, *_) = asked(store)
    with pytest.raises(ValueError, match=rf"metric 'fitness' of evaluation {request.key} is (nan|-?inf): .* Status"):
        store.record([(request, Evaluation(request.key, OK, {"fitness": value}))], purpose="search")
    with pytest.raises(ValueError, match="curve of evaluation"):
        store.record([(request, Evaluation(request.key, OK, {}, ((1, value),)))], purpose="search")
    with pytest.raises(ValueError, match=r"fitness is (nan|-?inf)"):
        store.tell(0, [value, None, None, None], {"ok": 1})
    with pytest.raises(ValueError, match="genome"):
        store.add_generation(1, [Candidate("{}", "k", genome=(value,))], [None])
    assert not store.evaluations()
    assert [g.told for g in store.generations()] == [False]


def test_mistakes_of_the_caller_say_what_is_wrong(store: RunStore) -> None:
    (request, *_) = asked(store)
    with pytest.raises(ValueError, match="was handed in with request"):
        store.record([(request, Evaluation("other", OK))], purpose="search")
    with pytest.raises(ValueError, match="4 candidates, 2 fitness"):
        store.tell(0, [1.0, 2.0], {"ok": 2})
    with pytest.raises(ValueError, match="generation 5 was never added"):
        store.tell(5, [], {})
    with pytest.raises(ValueError, match="1 candidates, 0 requests"):
        store.add_generation(1, [Candidate("{}", "k")], [])
    with RunStore.open(store.path) as reader, pytest.raises(RuntimeError, match="not open for writing"):
        reader.set_state("finished")
    store.close()
    with pytest.raises(RuntimeError, match="closed"):
        store.run()


def test_every_touch_of_the_test_split_is_counted_once(store: RunStore) -> None:
    looks = [Request("{}", seed=s, splits=("fitness", "test")) for s in range(3)]
    blind = Request("{}", seed=3)
    for _ in range(2):
        store.record([(r, scenario.result(r)) for r in [*looks, blind]], purpose="test")
    assert store.count_test_touches() == 3
    assert [e.subject for e in store.events("test_touched")] == sorted(r.key for r in looks)


def test_sessions_tell_how_each_one_ended(tmp_path: Path) -> None:
    with scenario.create(tmp_path / "run") as store:
        assert store.begin_session() == 1
        store.end_session("interrupted")
        store.end_session("finished")  # too late: it ended already
    with RunStore.open(tmp_path / "run", write=True) as store:
        assert store.begin_session() == 2  # and never ended
    with RunStore.open(tmp_path / "run", write=True) as store:
        assert store.begin_session() == 3
        store.set_state("finished")
        attempts = store.run().attempts
    assert [a.end for a in attempts] == ["interrupted", "killed", None]
    assert [a.ended is None for a in attempts] == [False, True, True]
    assert all(a.started.endswith("Z") and a.pid and a.host for a in attempts)


def test_a_full_disk_is_said_clearly_and_loses_nothing(store: RunStore) -> None:
    wanted = asked(store)
    store.record([(wanted[0], scenario.result(wanted[0]))], purpose="search")
    before = store.comparable_rows()
    connection = store._connection
    pages = connection.execute("PRAGMA page_count").fetchone()[0]
    connection.execute(f"PRAGMA max_page_count = {pages}")
    big = Request("x" * 100_000, seed=0)
    with pytest.raises(RunError, match=rf"{store.path}: the disk is full: free some space, then `lossmith resume"):
        store.record([(r, scenario.result(r)) for r in (*wanted, big)], purpose="search")
    assert store.comparable_rows() == before
    connection.execute("PRAGMA max_page_count = 1000000")
    store.record([(r, scenario.result(r)) for r in (*wanted, big)], purpose="search")  # the same store goes on
    store.close()
    with RunStore.open(store.path) as reader:
        assert len(reader.evaluations()) == 4


def test_every_commit_reaches_the_disk(store: RunStore) -> None:
    connection = store._connection
    assert connection is not None
    assert connection.execute("PRAGMA journal_mode").fetchone() == ("wal",)
    assert connection.execute("PRAGMA synchronous").fetchone() == (
        2,
    )  # FULL, sqlite.org/pragma.html#pragma_synchronous


def test_anyone_can_read_it_with_sqlite(tmp_path: Path) -> None:
    scenario.play(tmp_path / "run")
    raw = sqlite3.connect(tmp_path / "run" / "lossmith.db")
    try:
        tables = {row[0] for row in raw.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
        assert tables == {"run", "generation", "candidate", "evaluation", "checkpoint", "event"}
        best = raw.execute(
            "SELECT c.loss, e.budget FROM candidate c JOIN evaluation e ON c.request = e.request"
            " WHERE fitness IS NOT NULL ORDER BY fitness LIMIT 1"
        ).fetchone()
        assert best[0].startswith('{"family":"tree"')
        assert best[1] == 0.1
        ddl = raw.execute("SELECT sql FROM sqlite_master WHERE name = 'candidate'").fetchone()[0]
        assert "-- lower is better; null until told, or failed" in ddl
    finally:
        raw.close()
