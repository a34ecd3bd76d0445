"""A comparison of two losses whose trainings are long enough to be killed in the middle of one.

    python trained_long.py FOLDER EVERY [WORKERS [STEPS]]

EVERY: seconds between two checkpoints of a training. Where one is gone on with, its number of steps is printed.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

import lossmith as lm
from lossmith.experiment.events import Event, Note
from lossmith.training import keeping, loop
from lossmith.training.checkpoint_file import Contents
from lossmith.training.checkpoints import UnderWay

sys.path.insert(0, str(Path(__file__).parents[1]))

from small_tasks import dropout_network, small_task


def say(event: Event) -> None:
    if isinstance(event, Note):
        print("note:", event.text, flush=True)


def announce(run: UnderWay, contents: Contents) -> None:
    original(run, contents)
    print("resumed", os.getpid(), run.done, flush=True)


original = loop.restore


def begin_or_resume(folder: Path, workers: int = 0, steps: int = 2500) -> None:
    """Bring the comparison in `folder` to its end, from wherever it stands."""
    task = small_task(steps=steps, model=dropout_network, optimizer=lm.SGD(lr=0.02, momentum=0.9), name="long")
    if (folder / "lossmith.db").exists():
        lm.resume(folder, task=task, workers=workers, listeners=[say])
    else:
        lm.compare(["cross_entropy", "brier"], task, seeds=1, path=folder, workers=workers, engine="sequential")


if __name__ == "__main__":
    keeping.EVERY = float(sys.argv[2])
    loop.restore = announce
    begin_or_resume(Path(sys.argv[1]), *map(int, sys.argv[3:]))
