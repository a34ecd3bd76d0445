"""The six tables, as data: made, checked, written and compared from one description.

Row identity is deterministic: keys are made of what a row is about, never of the order in which things finished. Every
row ends with `row_check`, the CRC-32 of its other columns, so that a byte flipped inside a value, which SQLite's own
check cannot see, is found when the row is read.
"""

from __future__ import annotations

import math
import sqlite3
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from lossmith.records import canonical_json

Value = str | int | float | None
Row = Mapping[str, Value]
APPLICATION_ID = 0x4C6F7373  # "Loss": what `file lossmith.db` shows, and how a foreign database is told apart


class Damage(Exception):
    """What is stored cannot be what was written."""


class Conflict(Exception):
    """Something else is stored under the same key already."""


@dataclass(frozen=True)
class Column:
    """A column. `compared=False` for what may differ between an undisturbed run and a resumed one."""

    name: str
    type: Literal["TEXT", "INTEGER", "REAL"]
    meaning: str
    nullable: bool = False
    compared: bool = True

    def clean(self, value: object) -> Value:
        """`value` as SQLite will give it back, so that what is checked is what is stored."""
        if value is None and self.nullable:
            return None
        if self.type == "INTEGER":
            return int(value)  # type: ignore[call-overload, no-any-return]
        if self.type == "REAL":
            number = float(value) + 0.0  # type: ignore[arg-type]  # -0.0 is stored as 0.0
            if not math.isfinite(number):
                raise ValueError(f"{self.name} is {number}; a number that is not finite is a Status, never a value")
            return number
        if not isinstance(value, str):
            raise TypeError(f"{self.name} must be text, not {type(value).__name__}")
        return value.encode(errors="backslashreplace").decode()  # lone surrogates, e.g. out of a user's exception


@dataclass(frozen=True)
class Table:
    name: str
    key: tuple[str, ...]
    columns: tuple[Column, ...]

    @property
    def compared(self) -> tuple[str, ...]:
        return tuple(c.name for c in self.columns if c.compared)

    @property
    def ddl(self) -> str:
        """CREATE TABLE with every column's meaning: `.schema` in the sqlite3 shell documents the file."""
        lines = [
            f"  {c.name} {c.type}{'' if c.nullable else ' NOT NULL'}, -- {c.meaning}"
            for c in (*self.columns, Column("row_check", "INTEGER", "CRC-32 of the other columns"))
        ]
        return (
            f"CREATE TABLE {self.name} (\n" + "\n".join([*lines, f"  PRIMARY KEY ({', '.join(self.key)})"]) + _ROWLESS
        )


_ROWLESS = "\n) WITHOUT ROWID"  # no hidden row number that would tell who finished first


def _integer(name: str, meaning: str, *, compared: bool = True) -> Column:
    return Column(name, "INTEGER", meaning, compared=compared)


def _text(name: str, meaning: str, *, nullable: bool = False, compared: bool = True) -> Column:
    return Column(name, "TEXT", meaning, nullable, compared)


def _real(name: str, meaning: str, *, nullable: bool = False, compared: bool = True) -> Column:
    return Column(name, "REAL", meaning, nullable, compared)


RUN = Table(
    "run",
    ("id",),
    (
        _integer("id", "always 1"),
        _integer("format", "of this file; every format keeps this column"),
        _text("kind", "search, shelf, compare, ..."),
        _text("task", "name"),
        _text("fingerprint", "JSON: what the task was made of"),
        _text("method", "name"),
        _integer("seed", "of the run"),
        _text("spec_digest", "SHA-256 of spec.toml"),
        _text("state", "running, finished, ..."),
        _text("created_at", "UTC", compared=False),
        _text("attempts", "JSON: the sessions that worked on the run", compared=False),
    ),
)
GENERATION = Table(
    "generation",
    ("number",),
    (
        _integer("number", "of the generation"),
        _text("state", "asked, then told"),
        _integer("candidates", "how many"),
        _text("counts", "JSON: candidates per status"),
        _integer("steps", "training steps spent"),
        _text("started_at", "UTC", compared=False),
        _text("finished_at", "UTC", nullable=True, compared=False),
    ),
)
CANDIDATE = Table(
    "candidate",
    ("generation", "position"),
    (
        _integer("generation", "generation.number"),
        _integer("position", "within the generation, from 0"),
        _text("loss", "canonical JSON of the loss"),
        _text("key", "candidates with one key need one evaluation"),
        _real("lr_scale", "factor on the learning rate"),
        _text("genome", "JSON: the numbers the search varies"),
        _text("origin", "where it came from"),
        _text("status", "ok, screened:..., diverged, ..."),
        _text("sentence", "what happened"),
        _text("request", "evaluation.request", nullable=True),
        _text("duplicate_of", "which candidate it repeats", nullable=True),
        _real("fitness", "lower is better; null until told, or failed", nullable=True),
        _text("tuned", "canonical JSON of the loss that tuning made, where it is another one", nullable=True),
        _text("tuning", "JSON of the settings it is tuned with, where they are its own, else empty"),
    ),
)
EVALUATION = Table(
    "evaluation",
    ("request",),
    (
        _text("request", "key of what was asked"),
        _text("loss", "canonical JSON of the loss"),
        _integer("seed", "evaluation seed"),
        _real("budget", "fraction of the full training"),
        _real("lr_scale", "factor on the learning rate"),
        _real("data_fraction", "fraction of the training data"),
        _text("splits", "JSON: where the metric was measured"),
        _integer("curve_points", "how many points of the curve were asked for"),
        _integer("stop_at_chance", "0 or 1"),
        _text("purpose", "who asked first: search, elite, finalist, control, ..."),
        _text("status", "ok, diverged, at_chance, ..."),
        _text("sentence", "what happened"),
        _text("metrics", "JSON: metric per split"),
        _text("curve", "JSON: [step, metric] pairs"),
        _integer("steps", "training steps done"),
        _real("seconds", "wall clock", compared=False),
        _text("worker", "process id", compared=False),
        _integer("attempt", "1, or more after lost workers", compared=False),
        _text("finished_at", "UTC", compared=False),
        _text("work", "train, screen or tune"),
        _text("settings", "JSON of that work, empty for trainings"),
        _text("product", "JSON: what the work made besides metrics, empty for trainings"),
    ),
)
CHECKPOINT = Table(
    "checkpoint",
    ("name",),
    (
        _text("name", "whose state: method, ..."),
        _integer("generation", "after which it was taken"),
        _text("document", "canonical JSON"),
    ),
)
EVENT = Table(
    "event",
    ("kind", "subject"),
    (
        _text("kind", "test_touched, ..."),
        _text("subject", "to whom it happened"),
        _text("data", "JSON"),
        _text("at", "UTC", compared=False),
    ),
)
TABLES = (RUN, GENERATION, CANDIDATE, EVALUATION, CHECKPOINT, EVENT)


def make_tables(connection: sqlite3.Connection) -> None:
    connection.execute(f"PRAGMA application_id = {APPLICATION_ID}")
    for table in TABLES:
        connection.execute(table.ddl)


def row_check(values: Row) -> int:
    """CRC-32 of a row's columns by name (so that a migration may add or reorder columns)."""
    return zlib.crc32(canonical_json({name: v for name, v in values.items() if name != "row_check"}).encode())


def stored_rows(
    connection: sqlite3.Connection, table: str, where: str = "", parameters: Sequence[Value] = ()
) -> Iterator[dict[str, Value]]:
    """Every row of a table (whatever its format) with its check verified; raises `Damage`."""
    cursor = connection.execute(f"SELECT * FROM {table} {where}", parameters)
    names = [column[0] for column in cursor.description]
    for values in cursor:
        row = dict(zip(names, values, strict=True))
        try:
            sound = row_check(row) == row.pop("row_check", None)
        except (TypeError, ValueError):  # a blob or an infinity: we never write either
            sound = False
        if not sound:
            raise Damage(f"a row of table {table} does not match its check")
        yield row


def fetch(
    connection: sqlite3.Connection, table: Table, where: str = "", parameters: Sequence[Value] = ()
) -> list[dict[str, Value]]:
    """Checked rows in key order."""
    return list(stored_rows(connection, table.name, f"{where} ORDER BY {', '.join(table.key)}", parameters))


def fetch_by_key(connection: sqlite3.Connection, table: Table, *key: Value) -> dict[str, Value] | None:
    rows = fetch(connection, table, "WHERE " + " AND ".join(f"{name} = ?" for name in table.key), key)
    return rows[0] if rows else None


def replace(connection: sqlite3.Connection, table: Table, values: Mapping[str, object]) -> None:
    """Write a row, whatever was there."""
    row = {column.name: column.clean(values[column.name]) for column in table.columns}
    row["row_check"] = row_check(row)
    marks = ", ".join("?" * len(row))
    connection.execute(f"INSERT OR REPLACE INTO {table.name} ({', '.join(row)}) VALUES ({marks})", tuple(row.values()))


def put(
    connection: sqlite3.Connection, table: Table, values: Mapping[str, object], *, keep: Sequence[str] = ()
) -> bool:
    """Write a row once. The same row again is a no-op (`keep`: columns that may differ); another one is a `Conflict`.

    Returns:
        Whether the row is new.
    """
    stored = fetch_by_key(connection, table, *(_column(table, name).clean(values[name]) for name in table.key))
    if stored is None:
        replace(connection, table, values)
        return True
    for name in table.compared:
        new = _column(table, name).clean(values[name])
        if name not in keep and new != stored[name]:
            key = "/".join(str(stored[part]) for part in table.key)
            raise Conflict(f"{table.name} {key} is stored with {name} {_short(stored[name])}, now it is {_short(new)}")
    return False


def reseal(connection: sqlite3.Connection, table: str) -> None:
    """Compute every `row_check` of a table anew, after a migration changed its rows."""
    cursor = connection.execute(f"SELECT * FROM {table}")
    names = [column[0] for column in cursor.description]
    key = [r[1] for r in connection.execute(f"PRAGMA table_info({table})") if r[5]]
    where = " AND ".join(f"{name} = ?" for name in key)
    for values in cursor.fetchall():
        row = dict(zip(names, values, strict=True))
        place = tuple(row[name] for name in key)
        connection.execute(f"UPDATE {table} SET row_check = ? WHERE {where}", (row_check(row), *place))


def _column(table: Table, name: str) -> Column:
    return next(column for column in table.columns if column.name == name)


def _short(value: Value) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."
