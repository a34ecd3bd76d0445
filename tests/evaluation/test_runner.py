"""What happens to requests on their way through an executor that fails in every way it can."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import BrokenExecutor, Future

import pytest

from lossmith.errors import LossmithError, TaskError
from lossmith.evaluation import Plan, run_requests, runner
from lossmith.records import Evaluation, Request, Status, Work

REQUESTS = [Request("{}", seed) for seed in range(5)]
SEED = {request.key: request.seed for request in REQUESTS}


class Scripted:
    """An executor whose every answer is written down beforehand.

    Args:
        answer: from a chunk's seeds and the number of times it was tried to what becomes of it: None for success.
    """

    def __init__(self, answer: Callable[[tuple[int, ...], int], Exception | str | None], workers: int = 1) -> None:
        self.workers = workers
        self.answer = answer
        self.answer_losses: Callable[[tuple[str, ...]], Exception | None] = lambda losses: None
        self.tried: list[tuple[int, ...]] = []  # the seeds of each chunk that was tried
        self.losses: list[tuple[str, ...]] = []
        self.vanished: set[Future[list[Evaluation]]] = set()
        self.futures: list[Future[list[Evaluation]]] = []

    def submit_chunk(self, requests: Sequence[Request], plan: Plan) -> Future[list[Evaluation]]:
        seeds = tuple(request.seed for request in requests)
        losses = tuple(request.loss for request in requests)
        self.tried.append(seeds)
        self.losses.append(losses)
        future: Future[list[Evaluation]] = Future()
        self.futures.append(future)
        outcome = self.answer_losses(losses) or self.answer(seeds, self.tried.count(seeds))
        if outcome == "vanish":
            self.vanished.add(future)
        elif isinstance(outcome, Exception):
            future.set_exception(outcome)
        elif outcome is None:
            future.set_result([Evaluation(request.key, Status()) for request in requests])
        return future

    def lost(self, future: Future[list[Evaluation]]) -> bool:
        return future in self.vanished

    def close(self, *, kill: bool = False) -> None: ...


def run(
    answer: Callable[[tuple[int, ...], int], Exception | str | None], plan: Plan | None = None, workers: int = 1
) -> tuple[dict[int, tuple[str, int]], Scripted, dict[int, str]]:
    """Status and attempt by seed, the executor afterwards, and the sentences."""
    executor = Scripted(answer, workers)
    done = [e for chunk in run_requests(REQUESTS, executor, plan or Plan()) for e in chunk]  # type: ignore[arg-type]
    assert sorted(SEED[e.request] for e in done) == list(range(5))  # each exactly once
    statuses = {SEED[e.request]: (str(e.status), e.attempt) for e in done}
    return statuses, executor, {SEED[e.request]: e.status.sentence for e in done}


def test_chunks_are_those_of_the_plan_at_any_worker_count() -> None:
    for workers in (1, 2, 7):
        statuses, executor, _ = run(lambda seeds, n: None, Plan(chunk=2), workers)
        assert executor.tried == [(0, 1), (2, 3), (4,)]
        assert set(statuses.values()) == {("ok", 1)}
    assert list(run_requests([], Scripted(lambda seeds, n: None), Plan())) == []  # type: ignore[arg-type]


def test_a_chunk_holds_one_kind_of_work() -> None:
    kinds: list[Work] = ["screen"] * 5 + ["tune"] * 3 + ["train"] * 3 + ["screen"]  # type: ignore[list-item]
    mixed = [Request(str(number), 0, work=work) for number, work in enumerate(kinds)]
    plan = Plan(chunk=1, screen_chunk=4, tune_chunk=2)
    expected = [("0", "1", "2"), ("3", "4", "11"), ("5", "6"), ("7",), ("8",), ("9",), ("10",)]
    for workers in (1, 3):
        executor = Scripted(lambda seeds, n: None, workers)
        done = [e.request for chunk in run_requests(mixed, executor, plan) for e in chunk]  # type: ignore[arg-type]
        assert executor.losses == expected
        assert sorted(done) == sorted(r.key for r in mixed)


@pytest.mark.parametrize("known", [(), (0,), (3, 4, 5), (0, 1, 2, 3, 4, 5), (1, 6, 7, 8)])
def test_what_is_known_leaves_the_chunks_of_the_rest_as_they_were(known: tuple[int, ...]) -> None:
    """A resumed run trains in the company that an undisturbed one has."""
    stacked = [Request(str(number), 7) for number in range(9)]
    plan = Plan(engine="population", chunk=4)
    whole = [(0, 1, 2), (3, 4, 5), (6, 7, 8)]
    expected = [tuple(str(i) for i in chunk if i not in known) for chunk in whole]
    executor = Scripted(lambda seeds, n: None)
    keys = {stacked[i].key for i in known}
    done = [e.request for chunk in run_requests(stacked, executor, plan, known=keys) for e in chunk]  # type: ignore[arg-type]
    assert executor.losses == [chunk for chunk in expected if chunk]
    assert done == [request.key for request in stacked if request.key not in keys]


def test_stacked_candidates_past_their_deadline_are_run_one_by_one() -> None:
    """A chunk has the deadlines of its candidates together (see test_workers); then each has its own."""
    stacked = [Request(str(number), 7) for number in range(5)]
    number = {request.key: int(request.loss) for request in stacked}
    executor = Scripted(lambda seeds, n: None)
    executor.answer_losses = lambda losses: TimeoutError() if "3" in losses else None
    plan = Plan(engine="population", chunk=3, deadline=1.5)
    done = [e for chunk in run_requests(stacked, executor, plan) for e in chunk]  # type: ignore[arg-type]
    assert executor.losses == [("0", "1", "2"), ("3", "4"), ("3",), ("4",)]
    statuses = {number[e.request]: str(e.status) for e in done}
    assert statuses == {0: "ok", 1: "ok", 2: "ok", 3: "timed_out", 4: "ok"}


def test_what_is_done_is_handed_out_before_more_is_begun() -> None:
    executor = Scripted(lambda seeds, n: None)
    chunks = run_requests(REQUESTS, executor, Plan())  # type: ignore[arg-type]
    for count in (1, 2, 3):
        next(chunks)
        assert len(executor.tried) == count


def test_a_worker_that_dies_once_costs_an_attempt() -> None:
    statuses, executor, _ = run(lambda seeds, n: OSError("gone") if seeds == (2,) and n == 1 else None)
    assert statuses == {0: ("ok", 1), 1: ("ok", 1), 2: ("ok", 2), 3: ("ok", 1), 4: ("ok", 1)}
    assert executor.tried.count((2,)) == 2


def test_a_worker_that_dies_twice_is_a_crash() -> None:
    statuses, executor, sentences = run(lambda seeds, n: OSError("gone") if seeds == (2,) else None)
    assert statuses[2] == ("crashed", 2)
    assert sentences[2] == "its worker died twice: OSError: gone"
    assert [statuses[seed][0] for seed in (0, 1, 3, 4)] == ["ok"] * 4
    assert executor.tried.count((2,)) == 2


def test_a_chunk_that_fails_twice_is_run_one_by_one() -> None:
    statuses, executor, _ = run(lambda seeds, n: OSError("gone") if 3 in seeds else None, Plan(chunk=3))
    assert statuses == {0: ("ok", 1), 1: ("ok", 1), 2: ("ok", 1), 3: ("crashed", 2), 4: ("ok", 1)}
    assert executor.tried.count((3, 4)) == 2
    assert executor.tried.count((3,)) == 2
    assert executor.tried.count((4,)) == 1


def test_a_deadline_is_not_tried_again() -> None:
    plan = Plan(deadline=2.5, chunk=2)
    statuses, executor, sentences = run(lambda seeds, n: TimeoutError() if 1 in seeds else None, plan)
    assert statuses[1] == ("timed_out", 1)
    assert sentences[1] == "gave up after the deadline of 2.5 s"
    assert statuses[0] == ("ok", 1)
    assert executor.tried.count((0, 1)) == 1
    assert executor.tried.count((1,)) == 1


def test_a_timeout_without_a_deadline_is_the_executors_own() -> None:
    statuses, _, sentences = run(lambda seeds, n: TimeoutError("slow") if seeds == (1,) else None)
    assert statuses[1] == ("crashed", 2)
    assert sentences[1] == "its worker died twice: TimeoutError: slow"


def test_a_worker_that_vanishes_without_a_word(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runner, "LOOK_EVERY", 0.01)
    statuses, executor, sentences = run(lambda seeds, n: "vanish" if seeds == (2,) else None)
    assert statuses[2] == ("crashed", 2)
    assert sentences[2] == "its worker died twice: it ended in the middle of its work"
    assert all(future.cancelled() for future in executor.vanished)
    statuses, _, _ = run(lambda seeds, n: "vanish" if seeds == (2,) and n == 1 else None)
    assert statuses[2] == ("ok", 2)


def test_a_broken_executor_is_nobodys_doing() -> None:
    statuses, _, _ = run(lambda seeds, n: BrokenExecutor() if n <= 3 else None)
    assert set(statuses.values()) == {("ok", 1)}


def test_a_task_that_cannot_be_brought_to_workers_ends_the_run() -> None:
    with pytest.raises(TaskError, match="cannot be rebuilt"):
        run(lambda seeds, n: TaskError("the task cannot be rebuilt") if seeds == (1,) else None)


def test_an_executor_that_is_shut_down_ends_the_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runner, "LOOK_EVERY", 0.01)
    executor = Scripted(lambda seeds, n: "later", workers=3)
    submit = executor.submit_chunk

    def and_cancel(requests: Sequence[Request], plan: Plan) -> Future[list[Evaluation]]:
        future = submit(requests, plan)
        future.cancel()
        return future

    executor.submit_chunk = and_cancel  # type: ignore[method-assign]
    with pytest.raises(LossmithError, match="was shut down before its work was done"):
        list(run_requests(REQUESTS, executor, Plan()))  # type: ignore[arg-type]


def test_what_is_in_flight_is_cancelled_when_nobody_waits_any_more() -> None:
    executor = Scripted(lambda seeds, n: None if seeds == (0,) else "later", workers=2)
    chunks = run_requests(REQUESTS, executor, Plan())  # type: ignore[arg-type]
    assert len(next(chunks)) == 1
    chunks.close()  # type: ignore[attr-defined]
    assert [future.cancelled() for future in executor.futures] == [False, True, True, True]  # two per worker
