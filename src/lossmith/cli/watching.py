"""Progress on standard error while something is trained."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from lossmith.experiment.progress import Terminal


@contextmanager
def watched(first: str = "") -> Iterator[Terminal]:
    """A listener that shows what happens; `first` names what goes on before the first event."""
    from lossmith.experiment.events import PhaseStarted
    from lossmith.experiment.progress import Terminal

    with Terminal() as terminal:
        if first:
            terminal(PhaseStarted(first, 1))
        yield terminal
