"""One sitting at a run: the store, the task, the executor and the listeners, held together.

Everything a run does is a set of `Request`s. `Session.evaluate` answers them from the store where it can and trains the
rest, one transaction per finished chunk; so whatever is asked twice, after a kill or by another command, is trained
once.
"""

from __future__ import annotations

import signal
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from types import FrameType
from typing import Any

from lossmith.errors import Interrupted
from lossmith.evaluation import AnyExecutor, Plan, Rolling, run_requests
from lossmith.experiment.events import Event, Listener, PhaseStarted, TrainingFinished
from lossmith.records import Evaluation, Request
from lossmith.store import RunStore
from lossmith.tasks import AnyTask


class Session:
    """An open run.

    Args:
        store: the run's store, open for writing.
        task: what is trained. plan: how. executor: where.
        listeners: called with every event. rolling: the checkpoints of trainings under way.
    """

    def __init__(
        self,
        store: RunStore,
        task: AnyTask,
        plan: Plan,
        executor: AnyExecutor,
        listeners: Sequence[Listener] = (),
        *,
        rolling: Rolling | None = None,
    ) -> None:
        self.store, self.task, self.plan, self.executor = store, task, plan, executor
        self.listeners = tuple(listeners)
        self._rolling = rolling
        self.interrupted = False  # a signal asked for the end

    def emit(self, event: Event) -> None:
        """Tell every listener."""
        for listener in self.listeners:
            listener(event)

    def evaluate(self, requests: Sequence[Request], purpose: str) -> list[Evaluation]:
        """The evaluations of `requests`, in their order.

        Trainings that score the test split are announced as events before they begin, so that no touch goes uncounted.
        """
        unique = {request.key: request for request in requests}
        known = {key: found for key in unique if (found := self.store.evaluation(key)) is not None}
        missing = [request for key, request in unique.items() if key not in known]
        for request in missing:
            if "test" in request.splits:
                self.store.add_event("test_touched", request.key, {"purpose": purpose})
        self.emit(PhaseStarted(purpose, len(unique), len(known)))
        by_key = {request.key: request for request in missing}
        for chunk in run_requests([*unique.values()], self.executor, self.plan, known=frozenset(known)):
            if self.interrupted:  # training code swallowed the interrupt: what it returned is no result
                raise KeyboardInterrupt
            self.store.record([(by_key[done.request], done) for done in chunk], purpose=purpose)
            if self._rolling is not None:
                self._rolling.discard([done.request for done in chunk])
            for done in chunk:
                known[done.request] = done
                self.emit(TrainingFinished(purpose, str(done.status), done.seconds, done.steps))
        return [known[request.key] for request in requests]


@contextmanager
def sitting(session: Session) -> Iterator[Session]:
    """Book-keeping around a session: SIGTERM acts like Ctrl-C, workers are ended, the store says how it went.

    Raises:
        Interrupted: Ctrl-C or SIGTERM arrived.
    """
    store = session.store
    store.begin_session()
    how = "failed"
    try:
        with _interrupted_by_signals(session):
            yield session
        how = "finished"
    except KeyboardInterrupt:
        how = "interrupted"
        raise Interrupted(
            f"stopped; everything finished so far is stored. `lossmith resume {store.path}` goes on."
        ) from None
    finally:
        session.executor.close(kill=how != "finished")
        store.end_session(how)
        store.close()


@contextmanager
def _interrupted_by_signals(session: Session) -> Iterator[None]:
    """SIGTERM acts like Ctrl-C, and neither gets lost.

    Training loops catch `KeyboardInterrupt`: some break and return what they have, Lightning's exits and from then on
    ignores Ctrl-C. So the session is told, too.
    """

    def interrupt(number: int, frame: FrameType | None) -> None:
        session.interrupted = True
        raise KeyboardInterrupt

    before: dict[int, Any] = {}
    try:
        before[signal.SIGTERM] = signal.signal(signal.SIGTERM, interrupt)
        if signal.getsignal(signal.SIGINT) is signal.default_int_handler:  # neither ignored nor the user's own
            before[signal.SIGINT] = signal.signal(signal.SIGINT, interrupt)
    except ValueError:  # not the main thread: signals are not ours to handle
        yield
        return
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
