"""Many requests through an executor: chunked by the plan, answered in any order, failures of workers turned into statuses.

Chunks are a pure function of the requests and the plan, never of worker count or timing. A chunk whose worker died is run
again whole; one that fails twice is run one by one; a request that kills its worker alone twice is `crashed`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, wait
from dataclasses import dataclass, replace

from lossmith.evaluation.executors import AnyExecutor
from lossmith.evaluation.plan import Plan
from lossmith.records import Evaluation, Request, Status

MOST_ATTEMPTS = 2


@dataclass(frozen=True)
class _Chunk:
    requests: tuple[Request, ...]
    attempt: int = 1


def run_requests(requests: Sequence[Request], executor: AnyExecutor, plan: Plan) -> Iterator[list[Evaluation]]:
    """Evaluate every request, yielding each finished chunk as soon as it is there.

    No more than two chunks per worker are in flight, so that an interruption has little to wait for.
    """
    size = plan.chunk
    waiting = [_Chunk(tuple(requests[i : i + size])) for i in range(0, len(requests), size)][::-1]
    flying: dict[Future[list[Evaluation]], _Chunk] = {}
    try:
        while waiting or flying:
            while waiting and len(flying) < 2 * executor.workers:
                chunk = waiting.pop()
                flying[executor.submit_chunk(chunk.requests, plan)] = chunk
                if executor.workers == 1 and next(iter(flying)).done():
                    break  # in process: hand out each chunk before the next is begun
            done, _ = wait(flying, return_when=FIRST_COMPLETED)
            for future in done:
                chunk = flying.pop(future)
                finished, again = _settle(future, chunk, plan)
                if finished:
                    yield finished
                waiting.extend(reversed(again))
    finally:
        for future in flying:
            future.cancel()


def _settle(
    future: Future[list[Evaluation]], chunk: _Chunk, plan: Plan
) -> tuple[list[Evaluation], list[_Chunk]]:
    try:
        return [replace(e, attempt=chunk.attempt) for e in future.result()], []
    except TimeoutError:
        if len(chunk.requests) > 1:
            return [], [_Chunk((request,)) for request in chunk.requests]
        sentence = f"gave up after the deadline of {plan.deadline:g} s"
        return [_failed(chunk, Status("timed_out", "", sentence))], []
    except Exception as error:  # the worker died, or the work could not be brought to it
        if chunk.attempt < MOST_ATTEMPTS:
            return [], [replace(chunk, attempt=chunk.attempt + 1)]
        if len(chunk.requests) > 1:
            return [], [_Chunk((request,)) for request in chunk.requests]
        sentence = f"its worker died twice: {type(error).__name__}: {error}"
        return [_failed(chunk, Status("crashed", "", sentence[:500]))], []


def _failed(chunk: _Chunk, status: Status) -> Evaluation:
    return Evaluation(chunk.requests[0].key, status, attempt=chunk.attempt)
