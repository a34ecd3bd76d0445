"""Is this file a whole run that we can read, and what do people get told when it is not, or when writing fails."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from hashlib import sha256
from pathlib import Path

from lossmith.errors import RunError
from lossmith.store.migrations import current_format
from lossmith.store.schema import APPLICATION_ID, TABLES, Conflict, Damage, stored_rows

DATABASE, SPEC = "lossmith.db", "spec.toml"


def damaged(shown: str, reason: object) -> RunError:
    """The refusal of a file that cannot be trusted, in one line whatever SQLite says."""
    text = " ".join(str(reason).replace("*** in database main ***", "").split())
    text = text if len(text) <= 120 else text[:117] + "..."
    return RunError(f"{shown}/{DATABASE} is damaged ({text}): restore the folder from a copy; nothing was changed")


def primary_code(error: BaseException) -> int:
    """SQLite's result code without its extension, 0 for anything else."""
    return int(getattr(error, "sqlite_errorcode", 0)) & 0xFF


@contextmanager
def reading(shown: str) -> Iterator[None]:
    """Whatever a damaged file makes SQLite or Python raise while it is read becomes one `RunError`."""
    try:
        yield
    except (sqlite3.Error, Damage, ValueError, TypeError, LookupError, OverflowError, MemoryError) as error:
        if primary_code(error) == sqlite3.SQLITE_BUSY:
            raise RunError(f"{shown}/{DATABASE} is locked by another program: close it and try again") from error
        if primary_code(error) == sqlite3.SQLITE_CANTOPEN:
            raise RunError(
                f"{shown}/{DATABASE} cannot be opened: check that it is still there and its permissions"
            ) from error
        raise damaged(shown, str(error) or type(error).__name__) from error
    except OSError as error:
        raise RunError(f"{shown} cannot be read ({error.strerror}): check disk and permissions") from error


@contextmanager
def writing(shown: str) -> Iterator[None]:
    """What SQLite raises while writing becomes a `RunError`; mistakes of the caller pass through."""
    try:
        yield
    except Conflict as error:
        raise RunError(
            f"{shown}: {error}; the same run must give the same rows, so the task, machine or versions have changed: "
            "start a new run with another --run"
        ) from error
    except (sqlite3.Error, Damage) as error:
        code = primary_code(error)
        if code == sqlite3.SQLITE_FULL:
            what = "the disk is full: free some space"
        elif code == sqlite3.SQLITE_BUSY:
            what = f"{DATABASE} is locked by another program: close it"
        elif code in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB) or isinstance(error, Damage):
            raise damaged(shown, error) from error
        else:
            what = f"{DATABASE} cannot be written ({error}): check the disk"
        raise RunError(f"{shown}: {what}, then `lossmith resume {shown}`; everything stored before is safe") from error


def check(connection: sqlite3.Connection, shown: str) -> int:
    """Is this a run, of a format we read, whole in every page and row? Returns its format.

    Raises:
        RunError, Damage, or whatever SQLite raises: to be called inside `reading`.
    """
    verdict = connection.execute("PRAGMA quick_check(1)").fetchall()
    if verdict != [("ok",)]:
        raise Damage(" ".join(str(row[0]) for row in verdict) or "it has no pages")
    if connection.execute("PRAGMA application_id").fetchone() != (APPLICATION_ID,):
        raise RunError(f"{shown}/{DATABASE} was not written by Lossmith: give the folder of a run")
    found = connection.execute("SELECT format FROM run").fetchall()
    if len(found) != 1 or not isinstance(found[0][0], int) or found[0][0] < 1:
        raise Damage("table run does not hold one row")
    if found[0][0] > current_format():
        raise RunError(
            f"{shown} was written by a newer Lossmith (format {found[0][0]}; this one reads up to {current_format()}): "
            "upgrade with `pip install --upgrade lossmith`"
        )
    for table in TABLES:
        for _ in stored_rows(connection, table.name):
            pass
    return int(found[0][0])


def check_columns(connection: sqlite3.Connection) -> None:
    """Does a file of the current format have the tables of the current format? Raises `Damage`."""
    for table in TABLES:
        columns = {row[1] for row in connection.execute(f"PRAGMA table_info({table.name})")}
        if columns != {"row_check", *(column.name for column in table.columns)}:
            raise Damage(f"table {table.name} has other columns than it should")


def spec_digest(text: str) -> str:
    """What the run row remembers of `spec.toml`."""
    return sha256(text.encode()).hexdigest()


def read_spec(folder: Path, shown: str, digest: object) -> str:
    """The text of `spec.toml`; raises `RunError` unless it has this digest."""
    try:
        text = (folder / SPEC).read_bytes().decode()
    except (OSError, UnicodeDecodeError) as error:
        raise RunError(f"{shown}/{SPEC} is missing or unreadable: restore it from a copy") from error
    if spec_digest(text) != digest:
        raise RunError(f"{shown}/{SPEC} was changed since the run was created: restore it, or choose another --run")
    return text
