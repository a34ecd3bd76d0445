"""Many requests through an executor: chunked by the plan, answered in any order, lost workers turned into statuses.

Chunks are a pure function of the requests and the plan (`evaluation.chunks`), never of worker count or timing. A
chunk whose worker died is run again whole; one that fails twice is run one by one; a request that kills its worker
alone twice is `crashed`.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, BrokenExecutor, CancelledError, Future, wait
from dataclasses import dataclass, replace

from lossmith.errors import LossmithError
from lossmith.evaluation.chunks import divide
from lossmith.evaluation.executors import AnyExecutor
from lossmith.evaluation.plan import Plan
from lossmith.evaluation.workers import how_it_died
from lossmith.records import Evaluation, Request, Status

MOST_ATTEMPTS = 2
LOOK_EVERY = 1.0  # seconds between two looks for workers that vanished


@dataclass(frozen=True)
class _Chunk:
    requests: tuple[Request, ...]
    attempt: int = 1


_Outcome = tuple[list[Evaluation], list[_Chunk]]  # what is finished, what is to be run (again)


def run_requests(
    requests: Sequence[Request], executor: AnyExecutor, plan: Plan, *, known: Collection[str] = ()
) -> Iterator[list[Evaluation]]:
    """Evaluate every request, yielding each finished chunk as soon as it is there.

    No more than two chunks per worker are in flight, so that an interruption has little to wait for.

    Args:
        known: keys of requests that are answered already. They count when the requests are divided into chunks and are
            left out of these afterwards: so a resumed run has the chunks of one that was never interrupted.

    Raises:
        LossmithError: the work cannot be brought to workers; what was yielded is good.
    """
    left = (tuple(r for r in chunk if r.key not in known) for chunk in divide(requests, plan))
    waiting = [_Chunk(chunk) for chunk in left if chunk][::-1]
    flying: dict[Future[list[Evaluation]], _Chunk] = {}
    try:
        while waiting or flying:
            while waiting and len(flying) < 2 * executor.workers:
                chunk = waiting.pop()
                flying[executor.submit_chunk(chunk.requests, plan)] = chunk
                if executor.workers == 1 and next(iter(flying)).done():
                    break  # in process: hand out each chunk before the next is begun
            wait(flying, timeout=LOOK_EVERY, return_when=FIRST_COMPLETED)  # it overlooks what was cancelled unbegun
            for future in [future for future in flying if future.done() or executor.lost(future)]:
                chunk = flying.pop(future)
                if future.done():
                    finished, again = _settle(future, chunk, plan)
                else:
                    future.cancel()
                    finished, again = _died(chunk, "it ended in the middle of its work")
                waiting.extend(reversed(again))
                if finished:
                    yield finished
    finally:
        for future in flying:
            future.cancel()


def _settle(future: Future[list[Evaluation]], chunk: _Chunk, plan: Plan) -> _Outcome:
    try:
        return [replace(e, attempt=chunk.attempt) for e in future.result()], []
    except TimeoutError as error:
        if not plan.deadline:
            return _died(chunk, how_it_died(error))
        if len(chunk.requests) > 1:
            return [], _one_by_one(chunk)
        sentence = f"gave up after the deadline of {plan.deadline:g} s"
        return [_failed(chunk, Status("timed_out", "", sentence))], []
    except BrokenExecutor:  # not this chunk's doing: the executor starts anew, or says that it cannot
        return [], [chunk]
    except CancelledError:
        raise LossmithError("the executor was shut down before its work was done; what is finished is kept.") from None
    except LossmithError:  # a loss that fails is a status: this is about the task
        raise
    except Exception as error:  # the worker died
        return _died(chunk, how_it_died(error))


def _died(chunk: _Chunk, how: str) -> _Outcome:
    if chunk.attempt < MOST_ATTEMPTS:
        return [], [replace(chunk, attempt=chunk.attempt + 1)]
    if len(chunk.requests) > 1:
        return [], _one_by_one(chunk)
    return [_failed(chunk, Status("crashed", "", f"its worker died twice: {how}"[:500]))], []


def _one_by_one(chunk: _Chunk) -> list[_Chunk]:
    return [_Chunk((request,)) for request in chunk.requests]


def _failed(chunk: _Chunk, status: Status) -> Evaluation:
    return Evaluation(chunk.requests[0].key, status, attempt=chunk.attempt)
