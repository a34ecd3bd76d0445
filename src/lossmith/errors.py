"""Every exception Lossmith raises on purpose.

    LossmithError
    ├── UsageError              something was asked for that cannot be done; the sentence says what to type next
    │   ├── UnknownNameError    a method, task, modifier, loss … that does not exist, with the nearest names
    │   ├── SpecError           a field of a spec: the field, the value, the range
    │   ├── ExpressionError     a malformed loss expression: position and what was expected
    │   ├── LossError           a loss that cannot be built, read or applied to what it was given
    │   ├── TaskError           a task that cannot be trained: wrong shapes, labels, metrics, returns
    │   ├── DataMissingError    a data set that is not on this machine, and where to get it
    │   └── RunError            a run folder that exists, is missing, damaged, newer, or belongs to another task
    └── Interrupted             Ctrl-C or SIGTERM arrived; everything finished so far is stored

The command line prints a `UsageError` as one message and exits with code 2. A failed *candidate* is never an exception:
it is a `Status` (see `lossmith.records`).
"""

from __future__ import annotations

import difflib
import functools
from collections.abc import Iterable


class LossmithError(Exception):
    """Base of every exception Lossmith raises on purpose."""


class UsageError(LossmithError):
    """Something was asked for that cannot be done; the message says what to do instead."""


class UnknownNameError(UsageError):
    """A name that is not registered.

    Args:
        kind: what was looked for, singular ("method", "task", "loss").
        name: what was given.
        known: every valid name.
        listing: what prints all valid names, e.g. "lossmith tasks".
    """

    def __init__(self, kind: str, name: str, known: Iterable[str], *, listing: str | None = None) -> None:
        self.kind, self.name, self.known, self.listing = kind, name, sorted(known), listing
        near = difflib.get_close_matches(name, self.known, n=3, cutoff=0.5)
        if near:
            hint = f"did you mean {' or '.join(repr(n) for n in near)}?"
        elif len(self.known) <= 12:
            hint = f"known: {', '.join(self.known)}."
        else:
            hint = f"there are {len(self.known)} known ones."
        more = f" `{listing}` lists them all." if listing else ""
        super().__init__(f"unknown {kind} {name!r}: {hint}{more}")

    def __reduce__(self) -> tuple[object, ...]:  # by default the composed message would be taken for the arguments
        return (functools.partial(UnknownNameError, listing=self.listing), (self.kind, self.name, self.known))


class SpecError(UsageError):
    """A field of a spec is missing, malformed or out of range."""


class ExpressionError(UsageError):
    """A loss expression cannot be parsed; says where and what was expected."""


class LossError(UsageError):
    """A loss cannot be built, read, or applied to what it was given."""


class TaskError(UsageError):
    """A task cannot be trained as it is."""


class DataMissingError(UsageError):
    """A data set is not on this machine; says where to get it and where to put it."""


class RunError(UsageError):
    """A run folder cannot be created, opened or continued."""


class Interrupted(LossmithError):
    """Ctrl-C or SIGTERM arrived; everything finished so far is stored."""
