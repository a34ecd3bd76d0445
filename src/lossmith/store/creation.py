"""Creating a run folder: complete or not at all.

The folder is built beside its place under a hidden name, brought to the disk, and renamed: a rename is atomic, fails
when the place is taken, and succeeds on an empty folder. What a kill leaves under the hidden name is swept by the next
creation of the same run.
"""

from __future__ import annotations

import errno
import os
import secrets
import shutil
import socket
from collections.abc import Mapping
from contextlib import closing
from pathlib import Path

from lossmith.errors import RunError
from lossmith.store.hooks import reached
from lossmith.store.lock import WriterLock, without_writer
from lossmith.store.opening import connect, database_file
from lossmith.store.schema import RUN, make_tables, put
from lossmith.store.soundness import DATABASE, SPEC, writing

_TAKEN = (errno.EEXIST, errno.ENOTEMPTY, errno.ENOTDIR)


def create_folder(path: str | os.PathLike[str], run: Mapping[str, object], spec_toml: str) -> tuple[Path, WriterLock]:
    """Build the folder of a run and hold its lock from before it can be seen.

    Returns:
        The real folder and the held lock.

    Raises:
        RunError: the place is taken or cannot be written.
    """
    shown = os.fspath(path)
    building, lock = None, None
    try:
        target = _real(path)
        _refuse_taken(target, shown)
        target.parent.mkdir(parents=True, exist_ok=True)
        _sweep(target)
        building = target.with_name(f"{_hidden(target)}{os.getpid()}-{secrets.token_hex(4)}")
        building.mkdir()
        lock = WriterLock(building, shown)
        lock.announce()
        with open(building / SPEC, "w", encoding="utf-8", newline="") as file:
            file.write(spec_toml)
            file.flush()
            os.fsync(file.fileno())
        _make_database(building, shown, run)
        _sync(building)
        reached("create", "before")
        os.rename(building, target)
        building = None
        _sync(target.parent)
        reached("create", "after")
    except BaseException as error:  # not only errors: Ctrl-C too leaves nothing behind
        if lock is not None:
            lock.release()
        if building is not None:
            shutil.rmtree(building, ignore_errors=True)
        if isinstance(error, OSError):
            if error.errno in _TAKEN:
                _refuse_taken(_real(path), shown)
            raise RunError(f"{shown} cannot be created ({error.strerror}): choose another --run") from error
        raise
    return target, lock


def _real(path: str | os.PathLike[str]) -> Path:
    try:
        return Path(os.path.realpath(path))  # unlike Path.resolve, a circle of links is no exception
    except ValueError as error:  # a NUL inside
        raise RunError(f"{os.fspath(path)!r} cannot be a folder: choose another --run") from error


def _make_database(folder: Path, shown: str, run: Mapping[str, object]) -> None:
    file = database_file(folder)
    with writing(shown), closing(connect(file, "mode=rwc")) as connection:
        if connection.execute("PRAGMA journal_mode = WAL").fetchone() != ("wal",):
            raise RunError(f"the file system of {shown} cannot share memory between processes: use a local disk")
        connection.execute("BEGIN")
        make_tables(connection)
        put(connection, RUN, run)
        connection.execute("COMMIT")


def _refuse_taken(target: Path, shown: str) -> None:
    if (target / DATABASE).exists():
        raise RunError(f"{shown} exists already: `lossmith resume {shown}` continues it, or choose another --run")
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise RunError(f"{shown} exists already and is no run: choose another --run")


def _hidden(target: Path) -> str:
    return f".{target.name}.creating-{socket.gethostname()}-"


def _sweep(target: Path) -> None:
    """Remove what crashed creations of this folder left: this machine's, whose process is dead."""
    for left in target.parent.iterdir():
        pid = left.name.removeprefix(_hidden(target)).partition("-")[0]
        if left.name.startswith(_hidden(target)) and pid.isdecimal() and not _alive(int(pid)):
            with without_writer(left, os.fspath(left)) as unlocked:
                if unlocked:
                    shutil.rmtree(left, ignore_errors=True)


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OSError:
        return True
    return True


def _sync(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
