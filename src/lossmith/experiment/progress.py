"""Progress on the terminal, as a listener: a live bar on a terminal, plain lines elsewhere."""

from __future__ import annotations

import time
from typing import Any, Self

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

from lossmith.analysis.wording import status_label
from lossmith.experiment.events import Event, GenerationFinished, Note, PhaseStarted, TrainingFinished

PLAIN_EVERY = 10.0  # seconds between plain lines inside one phase
NAMES = {
    "screen": "screening",
    "tune": "tuning loss parameters",
    "search": "searching",
    "elite": "elites gain a seed",
    "finalist": "finalists, full training",
    "tuning": "tuning learning rates",
    "test": "verdict on test",
}


class Terminal:
    """A listener that shows what happens; use it as a context manager so that the bar is taken down.

    Args:
        console: where to; standard error by default, so that results on standard output stay clean.
    """

    def __init__(self, console: Console | None = None) -> None:
        self.console = console or Console(stderr=True)
        self.live = self.console.is_terminal
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
        self.progress = Progress(*columns, console=self.console, transient=True)
        self.bar: TaskID | None = None
        self.phase, self.total, self.done, self.failed = "", 0, 0, 0
        self.told = time.monotonic()
        self.first: int | None = None  # generation that this sitting began with
        self.started = time.monotonic()

    def __enter__(self) -> Self:
        if self.live:
            self.progress.start()
        return self

    def __exit__(self, *_: Any) -> None:
        if self.live:
            self.progress.stop()

    def __call__(self, event: Event) -> None:
        if isinstance(event, PhaseStarted):
            self._phase(event)
        elif isinstance(event, TrainingFinished):
            self._training(event)
        elif isinstance(event, GenerationFinished):
            self._generation(event)
        elif isinstance(event, Note):
            self.console.print(escape(event.text), highlight=False)

    def _phase(self, event: PhaseStarted) -> None:
        self.phase, self.total, self.done, self.failed = event.phase, event.total, event.done, 0
        self.told = time.monotonic()
        if not self.live:
            return
        if self.bar is not None:
            self.progress.remove_task(self.bar)
        self.bar = self.progress.add_task(NAMES.get(event.phase, event.phase), total=event.total, completed=event.done)

    def _training(self, event: TrainingFinished) -> None:
        self.done += 1
        self.failed += event.status != "ok"
        if self.live:
            assert self.bar is not None
            name = NAMES.get(self.phase, self.phase) + (f" ({self.failed} failed)" if self.failed else "")
            self.progress.update(self.bar, completed=self.done, description=name)
        elif time.monotonic() - self.told > PLAIN_EVERY:
            self.told = time.monotonic()
            failed = f", {self.failed} failed" if self.failed else ""
            self.console.print(
                f"  {NAMES.get(self.phase, self.phase)}: {self.done}/{self.total}{failed}", highlight=False
            )

    def _generation(self, event: GenerationFinished) -> None:
        number = event.number + 1
        counts = ", ".join(f"{count} {status_label(status)}" for status, count in sorted(event.counts.items()))
        best = "none yet" if event.best is None else f"{event.metric} {event.best:.4g}"
        self.first = event.number if self.first is None else self.first
        left = (time.monotonic() - self.started) / (number - self.first) * (event.generations - number)
        remaining = f"  about {duration(left)} left" if number < event.generations else ""
        formula = f"  {event.formula}" if event.formula else ""
        if not self.live and len(formula) > 60:
            formula = formula[:57] + "…"
        what = f"generation {number}/{event.generations}"
        if event.meta_steps is not None:
            what = f"meta-step {event.meta_steps[0]:,}/{event.meta_steps[1]:,}"
        self.console.print(
            f"{what}  best {best}  ({counts}){remaining}{escape(formula)}",
            highlight=False,
            soft_wrap=not self.live,
            no_wrap=self.live,
            overflow="ellipsis" if self.live else None,  # one line per generation, cut off where the terminal ends
        )


def duration(seconds: float) -> str:
    """Seconds for people: 8 s, 3 min, 2 h 05 min."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 120 else f"{minutes // 60} h {minutes % 60:02d} min"
