"""When a training leaves a checkpoint, and from where it is taken up: the clock and the files of `checkpoints`."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from lossmith.training.checkpoint_file import Contents, Unusable, read_checkpoint, write_checkpoint
from lossmith.training.checkpoints import UnderWay, contents_of
from lossmith.training.hidden_state import hidden_state

EVERY = 60.0  # seconds between two checkpoints: trainings that take less have none


@dataclass(frozen=True)
class Place:
    """Where one training leaves its checkpoint.

    Args:
        path: the file; its folder is made where only that is missing.
        marks: texts that name the training and all that its bits depend on; a file with others is not gone on with.
        every: seconds between two checkpoints.
    """

    path: Path
    marks: Mapping[str, str] = field(default_factory=dict)
    every: float = EVERY

    def found(self) -> Contents | None:
        """What an earlier attempt left that can be gone on with."""
        with suppress(Unusable):
            return read_checkpoint(self.path, self.marks)
        return None


class Keeper:
    """Writes the checkpoints of one training.

    Args:
        place: where, or None for nowhere.
        run: the training.
        fresh: begins it once more, for comparison (see `hidden_state`).
    """

    def __init__(self, place: Place | None, run: UnderWay, fresh: Callable[[], UnderWay]) -> None:
        self._place, self._run, self._fresh = place, run, fresh
        self._last = time.monotonic()
        self._untrained: str | None = None

    def look(self) -> None:
        """Called after every finished step: write where it is time."""
        if self._place is None or time.monotonic() - self._last < self._place.every:
            return
        try:
            self._place.path.parent.mkdir(exist_ok=True)
            if self._untrained is None:
                begun = self._fresh()
                self._untrained = hidden_state(begun.model, begun.optimizer)
            if hidden_state(self._run.model, self._run.optimizer) == self._untrained:
                write_checkpoint(self._place.path, contents_of(self._run), self._place.marks)
            else:
                self._place = None  # something changed that is not stored: going on would not be exact
        except OSError:  # a full disk may have room in a minute; a folder that cannot be made never will
            if self._place is not None and not self._place.path.parent.is_dir():
                self._place = None
        except Exception:  # what cannot be stored today cannot be tomorrow; the training matters more
            self._place = None
        self._last = time.monotonic()
