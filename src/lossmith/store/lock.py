"""Who may write: one process at a time, found out with `flock`, which vanishes with the process that holds it.

The lock is on the file `lossmith.lock`, never on the database (closing any handle of that would drop SQLite's own
locks). A writer holds it exclusively as long as it lives, a reader shares it for the moment it copies an idle run. The
text in the file only tells people who the writer is; a dead writer's text means nothing.
"""

from __future__ import annotations

import errno
import json
import os
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from lossmith.errors import RunError

try:
    import fcntl
except ImportError:  # pragma: no cover - Windows: the rest of Lossmith still imports
    fcntl = None  # type: ignore[assignment]

LOCK_FILE = "lossmith.lock"
_READERS_PATIENCE = 30.0  # seconds a writer waits for readers that are copying
_handles: set[int] = set()


def _drop_inherited() -> None:
    """A forked worker must not keep a killed host's lock alive: its copy of the handle is closed at once."""
    for handle in _handles:
        os.close(handle)
    _handles.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_drop_inherited)


class WriterLock:
    """The right to write a run folder.

    Args:
        folder: the run folder; `lossmith.lock` is created in it when missing.
        shown: the folder as the user wrote it, for messages.

    Raises:
        RunError: another process (or another store of this one) holds it, or the file system cannot lock.
    """

    def __init__(self, folder: Path, shown: str) -> None:
        self._pid, self._handle = os.getpid(), -1
        if fcntl is None:  # pragma: no cover
            raise RunError("runs are written on Linux and macOS only: this Python has no fcntl")
        self._handle = os.open(folder / LOCK_FILE, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
        _handles.add(self._handle)
        try:
            self._acquire(folder, shown)
        except BaseException:
            self._close()
            raise

    def _acquire(self, folder: Path, shown: str) -> None:
        deadline = time.monotonic() + _READERS_PATIENCE
        while not _try(self._handle, fcntl.LOCK_EX, shown):
            if not _try(self._handle, fcntl.LOCK_SH, shown):
                raise busy(folder, shown)
            fcntl.flock(self._handle, fcntl.LOCK_UN)  # only readers are in the way: they are done in a moment
            if time.monotonic() > deadline:
                raise RunError(f"{shown} is being read without end by another program: stop it and try again")
            time.sleep(0.01)

    def announce(self) -> None:
        """Write down who holds the lock, for the message a second writer gets."""
        holder = {"pid": self._pid, "host": socket.gethostname(), "since": time.strftime("%Y-%m-%d %H:%M:%S")}
        os.truncate(self._handle, 0)
        os.pwrite(self._handle, json.dumps(holder).encode(), 0)

    def release(self) -> None:
        """Give the right back. Does nothing in a forked child, and nothing the second time."""
        if self._handle >= 0 and os.getpid() == self._pid:
            try:
                os.truncate(self._handle, 0)
            finally:
                self._close()

    def __del__(self) -> None:
        """Ctrl-C may come before anybody owns the lock."""
        self.release()

    def _close(self) -> None:
        _handles.discard(self._handle)
        os.close(self._handle)
        self._handle = -1


@contextmanager
def without_writer(folder: Path, shown: str) -> Iterator[bool]:
    """Keep writers out for the moment of the block; yields False, keeping nobody out, when one is at work."""
    try:
        handle = os.open(folder / LOCK_FILE, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:  # a copied folder without the file: nobody can be writing
        yield True
        return
    _handles.add(handle)
    try:
        yield fcntl is None or _try(handle, fcntl.LOCK_SH, shown)
    finally:
        _handles.discard(handle)
        os.close(handle)


def busy(folder: Path, shown: str) -> RunError:
    """The refusal a second writer gets."""
    try:
        holder = json.loads((folder / LOCK_FILE).read_text())
        here = " (this one: close the other store)" if holder["pid"] == os.getpid() else ""
        who = f"process {holder['pid']}{here} on {holder['host']} since {holder['since']}"
    except (OSError, ValueError, TypeError, KeyError):
        who = "another process"
    return RunError(
        f"{shown} is being written by {who}: wait until it ends, or stop it; `lossmith show {shown}` works meanwhile"
    )


def _try(handle: int, kind: int, shown: str) -> bool:
    try:
        fcntl.flock(handle, kind | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno in (errno.EWOULDBLOCK, errno.EACCES):
            return False
        raise RunError(
            f"the file system of {shown} cannot lock files ({error.strerror}): put the run on a local disk"
        ) from error
    return True
