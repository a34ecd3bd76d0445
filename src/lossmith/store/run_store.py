"""`RunStore`: what a run writes down.

Every write is one transaction and idempotent: the same thing again is a no-op, another thing under the same key is an
error. One process writes; readers never wait for it and never disturb it.
"""

from __future__ import annotations

import os
import socket
import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from lossmith.errors import RunError
from lossmith.records import Candidate, Evaluation, Request, Status, canonical_json
from lossmith.store import coding, schema
from lossmith.store.creation import create_folder
from lossmith.store.hooks import reached
from lossmith.store.lock import WriterLock
from lossmith.store.migrations import current_format
from lossmith.store.opening import locate, open_writer, start_writing
from lossmith.store.rows import Session
from lossmith.store.run_reader import TEST_TOUCHED, RunReader
from lossmith.store.schema import CANDIDATE, CHECKPOINT, EVALUATION, EVENT, GENERATION, RUN, Value
from lossmith.store.soundness import spec_digest, writing


class RunStore(RunReader):
    """A run folder, open. Make one with `RunStore.create` or `RunStore.open`; `close` it, or use it in a `with` block.

    Methods may be called from any thread of the process that opened the store, never from a forked child. Writing
    raises `RunError` when the disk is full or fails (what was stored stays, the store stays usable), or when something
    else is stored under the same key.

    Attributes:
        path: the folder as it was given.
        writable: whether this is the one writer.
    """

    def __init__(self, path: str, folder: Path, writer: tuple[sqlite3.Connection, WriterLock] | None = None) -> None:
        self._lock = None if writer is None else writer[1]
        super().__init__(path, folder, None if writer is None else writer[0])

    @property
    def writable(self) -> bool:
        return self._lock is not None

    @classmethod
    def create(
        cls,
        path: str | os.PathLike[str],
        *,
        kind: str,
        task: str,
        fingerprint: Mapping[str, Any],
        method: str,
        seed: int,
        spec_toml: str,
    ) -> RunStore:
        """Make a new run folder (parents too; an existing empty folder is fine) and open it for writing.

        Args:
            path: where; a process killed in here leaves nothing at this place.
            kind: "search", "shelf", "compare", ...
            task: its name; `fingerprint` (JSON-able) says what it was made of.
            fingerprint: see `task`.
            method: name of the search method, "" where there is none.
            seed: of the run.
            spec_toml: text of `spec.toml`, kept to the letter; a later writer refuses a changed one.

        Raises:
            RunError: the place is taken or cannot be written; nothing is left behind.
        """
        if not 0 <= seed < 2**63:
            raise RunError(f"seed {seed} is out of range: choose one from 0 to 2^63 - 1")
        shown = os.fspath(path)
        run = {"id": 1, "format": current_format(), "kind": kind, "task": task, "method": method, "seed": seed}
        run |= {"fingerprint": canonical_json(dict(fingerprint)), "spec_digest": spec_digest(spec_toml)}
        run |= {"state": "running", "created_at": _now(), "attempts": "[]"}
        folder, lock = create_folder(path, run, spec_toml)
        return cls(shown, folder, (start_writing(folder, shown, lock), lock))

    @classmethod
    def open(cls, path: str | os.PathLike[str], *, write: bool = False) -> RunStore:
        """Open an existing run folder, to read it, or as its only writer.

        Nothing on disk is changed before the file has been checked in every page and row. A file of an older format is
        brought up to date on disk by a writer and in memory by a reader.

        Raises:
            RunError: no run there; damaged, foreign or newer file; for a writer also: another writer is at work, the
                folder cannot be written, or `spec.toml` was changed.
        """
        folder, shown = locate(path)
        return cls(shown, folder, open_writer(folder, shown) if write else None)

    def close(self) -> None:
        """Close the file and, as the writer, let others write. Does nothing in a forked child."""
        super().close()
        if self._lock is not None:
            self._lock.release()

    def begin_session(self) -> int:
        """Note that this process starts to work on the run; an earlier session without an end was killed.

        Returns:
            The number of the session, from 1.
        """
        with self._transaction("session") as connection:
            sessions = _sessions(connection)
            if sessions and sessions[-1].end is None:
                sessions[-1] = replace(sessions[-1], end="killed")
            sessions.append(Session(started=_now(), pid=os.getpid(), host=socket.gethostname()))
            _change_run(connection, attempts=coding.sessions_column(sessions))
        return len(sessions)

    def end_session(self, how: str = "finished") -> None:
        """Note how the session ended ("finished", "interrupted", "failed: ..."). A second time is a no-op."""
        with self._transaction("session") as connection:
            sessions = _sessions(connection)
            if sessions and sessions[-1].end is None:
                sessions[-1] = replace(sessions[-1], ended=_now(), end=how)
                _change_run(connection, attempts=coding.sessions_column(sessions))

    def set_state(self, state: str) -> None:
        """Set the run's state ("running", "finished", ...)."""
        with self._transaction("state") as connection:
            _change_run(connection, state=state)

    def add_generation(
        self,
        number: int,
        candidates: Sequence[Candidate],
        requests: Sequence[Request | str | None],
        *,
        duplicate_of: Sequence[str | None] | None = None,
    ) -> None:
        """Store what a method asked for: one row per candidate, in order.

        Args:
            number: of the generation.
            candidates: as the method proposed them, screened ones included.
            requests: per candidate the request (or its key) that will tell its fitness, None where there is none.
            duplicate_of: per candidate which other one it repeats, for people; read from its status by default.
        """
        repeats = [None] * len(candidates) if duplicate_of is None else duplicate_of
        _same_length(f"generation {number}", candidates=candidates, requests=requests, duplicate_of=repeats)
        rows = [
            coding.candidate_columns(number, position, *parts)
            for position, parts in enumerate(zip(candidates, requests, repeats, strict=True))
        ]
        generation = coding.generation_columns(number, len(candidates), _now())
        with self._transaction("generation") as connection:
            schema.put(connection, GENERATION, generation, keep=("state", "counts", "steps"))
            told = self._generation(connection, number)["state"] == "told"
            for row in rows:
                schema.put(connection, CANDIDATE, row, keep=("fitness", "status", "sentence", "tuned") if told else ())

    def record(self, results: Sequence[tuple[Request, Evaluation]], *, purpose: str) -> None:
        """Store one finished chunk. What is stored already keeps its purpose, seconds, worker and attempt.

        A request that measures on the test split also leaves the event ("test_touched", request key).

        Args:
            results: what was asked and what came of it.
            purpose: why it was asked for: "search", "elite", "finalist", "control", "shelf", "test", ...

        Raises:
            ValueError: a metric is not finite, or a result does not belong to its request.
        """
        now = _now()
        rows = [coding.evaluation_columns(request, evaluation, purpose, now) for request, evaluation in results]
        touched = [request.key for request, _ in results if "test" in request.splits]
        with self._transaction("record") as connection:
            for row in rows:
                schema.put(connection, EVALUATION, row, keep=("purpose",))
            for key in touched:
                _put_event(connection, TEST_TOUCHED, key, {}, now)

    def tell(
        self,
        generation: int,
        fitness: Sequence[float | None],
        counts: Mapping[str, int],
        *,
        checkpoint: Mapping[str, Any] | None = None,
        steps: int = 0,
        statuses: Sequence[Status] | None = None,
        tuned: Sequence[str | None] | None = None,
        name: str = "method",
    ) -> None:
        """Close a generation: fitness, counts and the method's state, all or nothing.

        Args:
            generation: its number.
            fitness: per candidate in order, lower is better, None where there is no number.
            counts: candidates per status ("ok", "screened:invariant", "diverged", ...).
            checkpoint: the method's state after the tell (JSON-able); only the newest per `name` is kept.
            steps: training steps this generation cost.
            statuses: final status per candidate, where evaluation changed them.
            tuned: per candidate canonical JSON of the loss that tuning made, None where it is the one proposed.
            name: whose state the checkpoint is.
        """
        document = None if checkpoint is None else canonical_json(dict(checkpoint))
        closing = {"state": "told", "counts": canonical_json(dict(counts)), "steps": steps}
        with self._transaction("tell") as connection:
            row = self._generation(connection, generation)
            told = row["state"] == "told"
            write = schema.put if told else schema.replace  # a closed generation can only be told the same again
            write(connection, GENERATION, {**row, **closing, "finished_at": row["finished_at"] or _now()})
            rows = schema.fetch(connection, CANDIDATE, "WHERE generation = ?", (generation,))
            finals = [None] * len(rows) if statuses is None else statuses
            made = [candidate["tuned"] for candidate in rows] if tuned is None else tuned
            where = f"tell of generation {generation}"
            _same_length(where, candidates=rows, fitness=fitness, statuses=finals, tuned=made)
            for candidate, value, status, loss in zip(rows, fitness, finals, made, strict=True):
                final = {} if status is None else {"status": str(status), "sentence": status.sentence}
                write(connection, CANDIDATE, {**candidate, **final, "fitness": value, "tuned": loss})
            if document is not None:
                reached("checkpoint", "before")
                _put_checkpoint(connection, name, generation, document, final=told)
                reached("checkpoint", "after")

    def write_checkpoint(self, name: str, generation: int, document: Mapping[str, Any]) -> None:
        """Store a state outside of a tell. An older generation never overwrites a newer one, nor the same another."""
        text = canonical_json(dict(document))
        with self._transaction("checkpoint") as connection:
            _put_checkpoint(connection, name, generation, text, final=True)

    def add_event(self, kind: str, subject: str, data: Mapping[str, Any] | None = None) -> None:
        """Note something that happens once to a subject. `data` must not depend on time or workers."""
        with self._transaction("event") as connection:
            _put_event(connection, kind, subject, dict(data or {}), _now())

    @contextmanager
    def _transaction(self, name: str) -> Iterator[sqlite3.Connection]:
        connection = self._connection
        if connection is None or self._closed or os.getpid() != self._pid:
            raise RuntimeError(f"{self.path} is not open for writing here: use RunStore.open(..., write=True)")
        with self._mutex, writing(self.path):
            connection.execute("BEGIN IMMEDIATE")
            try:
                yield connection
                reached(name, "before")
                connection.execute("COMMIT")
            except BaseException:
                if connection.in_transaction:  # a full disk may have rolled back already
                    connection.execute("ROLLBACK")
                raise
        reached(name, "after")

    def _generation(self, connection: sqlite3.Connection, number: int) -> dict[str, Value]:
        row = schema.fetch_by_key(connection, GENERATION, number)
        if row is None:
            raise ValueError(f"generation {number} was never added to {self.path}")
        return row


def comparable_rows(path: str | os.PathLike[str]) -> dict[str, list[tuple[Value, ...]]]:
    """Per table the rows in key order, without columns in which a resumed run may differ from an undisturbed one.

    Those are timestamps, seconds, worker, attempt and the run's list of sessions.
    """
    with RunStore.open(path) as store:
        return store.comparable_rows()


def _put_checkpoint(connection: sqlite3.Connection, name: str, generation: int, document: str, *, final: bool) -> None:
    stored = schema.fetch_by_key(connection, CHECKPOINT, name)
    newest = -1 if stored is None else coding.read_checkpoint(stored).generation
    row = {"name": name, "generation": generation, "document": document}
    if stored is None or generation > newest or (generation == newest and not final):
        schema.replace(connection, CHECKPOINT, row)
    elif generation == newest:
        schema.put(connection, CHECKPOINT, row)


def _put_event(connection: sqlite3.Connection, kind: str, subject: str, data: Mapping[str, Any], now: str) -> None:
    row = {"kind": kind, "subject": subject, "data": canonical_json(data), "at": now}
    schema.put(connection, EVENT, row, keep=("data",) if kind == TEST_TOUCHED else ())  # a touch is a touch


def _sessions(connection: sqlite3.Connection) -> list[Session]:
    return list(coding.read_sessions(schema.fetch(connection, RUN)[0]))


def _change_run(connection: sqlite3.Connection, **columns: object) -> None:
    schema.replace(connection, RUN, {**schema.fetch(connection, RUN)[0], **columns})


def _same_length(what: str, **lists: Sequence[object]) -> None:
    if len({len(each) for each in lists.values()}) > 1:
        raise ValueError(
            f"{what} needs lists of one length, not " + ", ".join(f"{len(v)} {k}" for k, v in lists.items())
        )


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
