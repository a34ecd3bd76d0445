"""The door for fault injection: a test may stand at every commit and raise, or kill the process, without touching us.

Every transaction has a name: "create", "session", "generation", "record", "tell", "checkpoint", "event", "state". The
hook is called as `hook(name, "before")` when everything is written but not committed, and as `hook(name, "after")` when
it is committed. The checkpoint inside a `tell` shares tell's transaction: its two calls come just before and just after
its row is written, both before tell's commit.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Literal

Moment = Literal["before", "after"]
Hook = Callable[[str, Moment], None]

_hooks: list[Hook] = []


@contextmanager
def fault_injection(hook: Hook) -> Iterator[None]:
    """Call `hook(name, moment)` around every commit of this process inside the block (for tests and `make chaos`)."""
    _hooks.append(hook)
    try:
        yield
    finally:
        _hooks.remove(hook)


def reached(name: str, moment: Moment) -> None:
    for hook in tuple(_hooks):
        hook(name, moment)
