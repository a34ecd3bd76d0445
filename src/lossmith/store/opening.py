"""Opening a run file without harming it: a file is judged on a copy in memory, and only a sound one is ever touched.

Opening a SQLite file in WAL mode, even for reading, may write next to it. So an idle run is copied (with the log that a
killed process left behind) into memory while writers are kept out, checked there, and read from there. A run that is
being written is read through an ordinary read-only connection, which finds the writer's files and adds none.
"""

from __future__ import annotations

import os
import shutil
import sqlite3
import tempfile
import time
from contextlib import closing
from pathlib import Path

from lossmith.errors import RunError
from lossmith.store.lock import WriterLock, busy, without_writer
from lossmith.store.migrations import current_format, migrate
from lossmith.store.schema import RUN, fetch
from lossmith.store.soundness import DATABASE, check, check_columns, primary_code, read_spec, reading, writing

TIMEOUT = 30.0  # seconds to wait for a lock that another program, e.g. a sqlite3 shell, holds
Signature = tuple[tuple[int, int, int], ...]


def locate(path: str | os.PathLike[str]) -> tuple[Path, str]:
    """The real run folder and the name the user knows it by; raises `RunError` when there is no run."""
    shown, folder = os.fspath(path), Path(path)
    try:
        if not folder.exists():
            kind = "a link that leads nowhere" if folder.is_symlink() else "missing"
            raise RunError(f"{shown} is {kind}: give the folder of a run (`--run` of the search that made it)")
        if not folder.is_dir():
            raise RunError(f"{shown} is a file: give the folder of a run")
        if not (folder / DATABASE).is_file():
            raise RunError(f"{shown} is no run: it holds no {DATABASE}; give the folder of a run")
        return folder.resolve(), shown
    except OSError as error:
        raise RunError(f"{shown} cannot be read ({error.strerror}): check its permissions") from error


def database_file(folder: Path) -> Path:
    """The database itself: SQLite keeps the log next to where a link leads."""
    return (folder / DATABASE).resolve()


def connect(file: Path, mode: str) -> sqlite3.Connection:
    """A connection that leaves transactions to us and brings every commit to the disk.

    In WAL mode `synchronous = FULL` syncs the log at every commit; NORMAL would lose the last commits with the power.
    A commit is one finished chunk of trainings, beside which a sync of some milliseconds does not count.
    """
    connection = sqlite3.connect(
        f"{file.as_uri()}?{mode}", uri=True, timeout=TIMEOUT, isolation_level=None, check_same_thread=False
    )
    try:
        connection.execute("PRAGMA synchronous = FULL")
        connection.execute("PRAGMA trusted_schema = OFF")
    except BaseException:
        connection.close()
        raise
    return connection


def signature(folder: Path) -> Signature:
    """Changes when the database or its log does."""
    found = []
    for part in (database_file(folder), _log(database_file(folder))):
        try:
            stat = part.stat()
            found.append((stat.st_ino, stat.st_size, stat.st_mtime_ns))
        except FileNotFoundError:
            found.append((0, 0, 0))
    return tuple(found)


def open_reader(folder: Path, shown: str, *, checked: bool = False) -> tuple[sqlite3.Connection, Signature | None]:
    """A connection to what is committed, and the signature of the file it is a copy of; None when it is live.

    A live connection is for one look, not to be kept: kept across the end of its writer it could miss the next one.

    Args:
        folder: the run folder, real.
        shown: its name for people.
        checked: whether this reader has seen a sound file already, so that a live one need not be checked again.
    """
    deadline = time.monotonic() + TIMEOUT
    while time.monotonic() < deadline:
        seen = signature(folder)
        copy = sound_copy(folder, shown)
        if copy is not None:
            return copy, seen
        live = live_connection(folder, shown, checked=checked)
        if live is not None:
            return live, None
        time.sleep(0.01)
    raise RunError(f"{shown} is being opened by a writer for more than {TIMEOUT:.0f} s: try again later")


def open_writer(folder: Path, shown: str) -> tuple[sqlite3.Connection, WriterLock]:
    """Connection and lock; the file is sound and of the current format, the spec is the one of its creation."""
    if not (os.access(folder, os.W_OK) and os.access(database_file(folder), os.W_OK)):
        raise RunError(f"{shown} cannot be written: change its permissions or continue a copy of it")
    while True:
        seen = signature(folder)
        copy = sound_copy(folder, shown)
        if copy is None:
            raise busy(folder, shown)
        try:
            read_spec(folder, shown, fetch(copy, RUN)[0]["spec_digest"])  # another spec would be another run
        finally:
            copy.close()
        try:
            lock = WriterLock(folder, shown)
        except OSError as error:
            raise RunError(f"{shown} cannot be written ({error.strerror}): check its permissions") from error
        if signature(folder) == seen:  # else another writer came and went in between: look again
            return start_writing(folder, shown, lock), lock
        lock.release()


def start_writing(folder: Path, shown: str, lock: WriterLock) -> sqlite3.Connection:
    """Connect as the writer to a file known to be sound; the lock is released when that fails."""
    connection = None
    try:
        with writing(shown):
            lock.announce()
            connection = connect(database_file(folder), "mode=rw")
            connection.execute("PRAGMA journal_mode = WAL")
            migrate(connection, connection.execute("SELECT format FROM run").fetchone()[0])
    except BaseException:
        if connection is not None:
            connection.close()
        lock.release()
        raise
    return connection


def sound_copy(folder: Path, shown: str) -> sqlite3.Connection | None:
    """A copy in memory of an idle run, checked and brought to the current format; None when a writer is at work.

    Raises:
        RunError: the file is damaged, foreign or newer. Nothing on disk is changed.
    """
    memory = sqlite3.connect(":memory:", isolation_level=None, check_same_thread=False)
    try:
        with reading(shown):
            memory.execute("PRAGMA trusted_schema = OFF")
            with without_writer(folder, shown) as idle:
                if not idle:
                    memory.close()
                    return None
                _copy(database_file(folder), memory)
            migrate(memory, check(memory, shown))
            check_columns(memory)
    except BaseException:
        memory.close()
        raise
    return memory


def live_connection(folder: Path, shown: str, *, checked: bool) -> sqlite3.Connection | None:
    """A read-only connection to a run that is being written; None when its writer is just opening or leaving it."""
    file = database_file(folder)
    if not file.with_name(file.name + "-shm").exists():
        return None
    connection = None
    try:
        with reading(shown):
            connection = connect(file, "mode=ro")
            if connection.execute("SELECT format FROM run").fetchone()[0] < current_format():
                connection.close()
                return None  # its writer is about to migrate it
            if not checked:
                check(connection, shown)
                check_columns(connection)
    except BaseException as error:
        if connection is not None:
            connection.close()
        if error.__cause__ is not None and primary_code(error.__cause__) == sqlite3.SQLITE_CANTOPEN:
            return None  # the writer left and took its files along
        raise
    return connection


def _log(file: Path) -> Path:
    return file.with_name(file.name + "-wal")


def _copy(file: Path, memory: sqlite3.Connection) -> None:
    """Copy a database nobody writes. `immutable` promises so, and SQLite leaves no files; but it overlooks the log."""
    if not _log(file).exists() or not _log(file).stat().st_size:
        with closing(connect(file, "immutable=1")) as source:
            source.backup(memory)
        return
    with tempfile.TemporaryDirectory(prefix="lossmith-") as folder:
        copy = Path(folder).resolve() / file.name
        shutil.copyfile(file, copy)
        shutil.copyfile(_log(file), _log(copy))
        with closing(connect(copy, "mode=rw")) as source:
            source.backup(memory)
