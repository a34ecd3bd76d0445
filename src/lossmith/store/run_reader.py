"""`RunReader`: everything that can be asked of a run, while it goes on or later."""

from __future__ import annotations

import os
import sqlite3
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Self

from lossmith.records import Evaluation
from lossmith.store import coding, schema
from lossmith.store.opening import Signature, open_reader, signature
from lossmith.store.rows import CandidateRow, Checkpoint, EvaluationRow, EventRow, GenerationRow, RunRow
from lossmith.store.schema import CANDIDATE, CHECKPOINT, EVALUATION, EVENT, GENERATION, RUN, Table, Value
from lossmith.store.soundness import read_spec, reading

TEST_TOUCHED = "test_touched"


class RunReader:
    """The reading half of `RunStore`. Every method raises `RunError` when the file turns out to be damaged.

    A reader follows the run: of a running one it reads what is committed, of an idle one a copy in memory that is made
    anew when the file has changed.

    Attributes:
        path: the folder as it was given.
    """

    def __init__(self, path: str, folder: Path, connection: sqlite3.Connection | None = None) -> None:
        self.path = path
        self._folder, self._connection = folder, connection  # the writer's connection
        self._copy: sqlite3.Connection | None = None  # an idle run in memory, and the signature of its file
        self._seen: Signature | None = None
        self._mutex, self._pid, self._closed = threading.RLock(), os.getpid(), False
        if connection is None:
            live = self._look()
            if live is not None:
                live.close()

    def close(self) -> None:
        """Close the file. A forked child only forgets it: SQLite connections must not be touched across a fork."""
        if os.getpid() == self._pid:
            with self._mutex:
                for connection in (self._connection, self._copy):
                    if connection is not None:
                        connection.close()
                self._closed = True

    def __del__(self) -> None:
        if not getattr(self, "_closed", True):  # forgotten: a later writer must not be kept out by garbage
            self.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def run(self) -> RunRow:
        """The run itself."""
        with reading(self.path):
            return coding.read_run(self._rows(RUN)[0])

    def generations(self) -> tuple[GenerationRow, ...]:
        """All generations by number; the last one may not be told yet."""
        with reading(self.path):
            return tuple(map(coding.read_generation, self._rows(GENERATION)))

    def candidates(self, generation: int | None = None) -> tuple[CandidateRow, ...]:
        """Candidates by generation and position."""
        where, values = ("", ()) if generation is None else ("WHERE generation = ?", (generation,))
        with reading(self.path):
            return tuple(map(coding.read_candidate, self._rows(CANDIDATE, where, values)))

    def evaluation(self, key: str) -> Evaluation | None:
        """The stored result of a request, by `Request.key`."""
        with reading(self.path):
            rows = self._rows(EVALUATION, "WHERE request = ?", (key,))
            return coding.read_evaluation(rows[0]).evaluation if rows else None

    def evaluations(self, purpose: str | None = None) -> tuple[EvaluationRow, ...]:
        """Stored results in order of their request keys (which says nothing about time)."""
        where, values = ("", ()) if purpose is None else ("WHERE purpose = ?", (purpose,))
        with reading(self.path):
            return tuple(map(coding.read_evaluation, self._rows(EVALUATION, where, values)))

    def checkpoint(self, name: str = "method") -> Checkpoint | None:
        """The newest state stored under a name."""
        with reading(self.path):
            rows = self._rows(CHECKPOINT, "WHERE name = ?", (name,))
            return coding.read_checkpoint(rows[0]) if rows else None

    def events(self, kind: str | None = None) -> tuple[EventRow, ...]:
        """Events by kind and subject."""
        where, values = ("", ()) if kind is None else ("WHERE kind = ?", (kind,))
        with reading(self.path):
            return tuple(map(coding.read_event, self._rows(EVENT, where, values)))

    def count_test_touches(self) -> int:
        """How many trainings were measured on the test split."""
        return len(self.events(TEST_TOUCHED))

    def spec_toml(self) -> str:
        """The text of `spec.toml`; raises `RunError` when it is not what the run was created with."""
        return read_spec(self._folder, self.path, self.run().spec_digest)

    def comparable_rows(self) -> dict[str, list[tuple[Value, ...]]]:
        """Per table the rows in key order; see the function `comparable_rows`."""
        with self._source() as connection:
            return {
                table.name: [tuple(row[name] for name in table.compared) for row in schema.fetch(connection, table)]
                for table in schema.TABLES
            }

    def _rows(self, table: Table, where: str = "", values: tuple[Value, ...] = ()) -> list[dict[str, Value]]:
        with self._source() as connection:
            return schema.fetch(connection, table, where, values)

    @contextmanager
    def _source(self) -> Iterator[sqlite3.Connection]:
        """What to read from: the writer's own connection, the copy while it is fresh, else a new look at the file."""
        with self._mutex, reading(self.path):
            if self._closed or os.getpid() != self._pid:
                raise RuntimeError(f"{self.path} is closed, or was opened by another process: open it again")
            live = None
            if self._connection is None and (self._copy is None or signature(self._folder) != self._seen):
                live = self._look(checked=True)
            connection = live or self._copy or self._connection
            assert connection is not None
            nested = connection.in_transaction  # the writer reads inside its own transaction
            try:
                if not nested:
                    connection.execute("BEGIN")  # one look, one state
                yield connection
            finally:
                if not nested and connection.in_transaction:
                    connection.execute("ROLLBACK")
                if live is not None:
                    live.close()

    def _look(self, *, checked: bool = False) -> sqlite3.Connection | None:
        """Take a new copy of an idle run, or connect to a running one for the moment."""
        connection, seen = open_reader(self._folder, self.path, checked=checked)
        if self._copy is not None:
            self._copy.close()
        self._copy, self._seen = (None, None) if seen is None else (connection, seen)
        return connection if seen is None else None
