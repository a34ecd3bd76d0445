"""The folder of rolling checkpoints of a run: one file per training under way, gone when its evaluation is stored."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from lossmith.evaluation.plan import Plan
from lossmith.records import content_hash
from lossmith.training import keeping
from lossmith.training.checkpoint_file import UNFINISHED, Unusable, read_checkpoint
from lossmith.training.keeping import Place

FOLDER = "training"  # below the run's folder
SUFFIX = ".safetensors"
_NAME = re.compile(r"(?P<key>[0-9a-f]{16})(?:-(?P<part>[0-9]+))?\.safetensors")
_UNFINISHED = re.compile(rf"{_NAME.pattern}\.[0-9]+{re.escape(UNFINISHED)}")
_COMPUTE = ("lossmith", "torch", "numpy", "numba")  # what the bits of a training are made by


@dataclass(frozen=True)
class Rolling:
    """Where the trainings of a run leave their checkpoints; it travels to workers, which may not reach the folder.

    Args:
        folder: full path; made when the first checkpoint is written. Where the folder around it is missing (on another
            machine, say), trainings have none.
        marks: (name, text) pairs: all that the bits of the run's trainings depend on beside the request.
        every: seconds between two checkpoints of a training.
    """

    folder: str
    marks: tuple[tuple[str, str], ...] = ()
    every: float = keeping.EVERY

    @classmethod
    def of_run(cls, run: str, task: str, plan: Plan) -> Rolling:
        """That of a run.

        Args:
            run: its folder. task: digest of its task. plan: of its evaluations.
        """
        marks = [("task", task), ("plan", content_hash(plan.to_dict())), *((name, _version(name)) for name in _COMPUTE)]
        return cls(os.path.join(os.path.realpath(run), FOLDER), tuple(marks), keeping.EVERY)

    def place(self, request: str, part: int | None = None) -> Place:
        """Where the training of a request leaves its checkpoint.

        Args:
            request: its key. part: number of the training, where the request is several (one per task of a search).
        """
        name = request if part is None else f"{request}-{part}"
        marks = {**dict(self.marks), "training": name}
        return Place(Path(self.folder) / f"{name}{SUFFIX}", marks, self.every)

    def discard(self, requests: Iterable[str]) -> None:
        """Remove the checkpoints of requests whose evaluations are stored."""
        there = self._files()
        for request in requests if there else ():
            for path in there:
                if path.name.startswith(request):
                    _remove(path)

    def tidy(self, stored: Callable[[str], bool], *, finished: bool) -> list[str]:
        """Remove what nobody will go on with, when a run is opened and before its trainings begin.

        Args:
            stored: whether the evaluation of a request's key is stored. finished: whether the run is.

        Returns:
            For people: one sentence per checkpoint that cannot be gone on with, because it is damaged, newer, or of
            something else. It is left where it is until its training writes another.
        """
        notes = []
        for path in self._files():
            name = _NAME.fullmatch(path.name)
            if name is None or finished or stored(name["key"]):
                _remove(path)
            else:
                part = None if name["part"] is None else int(name["part"])
                try:
                    read_checkpoint(path, self.place(name["key"], part).marks)
                except Unusable as why:
                    notes.append(f"{path} {why}: that training starts anew.")
        with suppress(OSError):
            Path(self.folder).rmdir()  # where nothing is left
        return notes

    def _files(self) -> list[Path]:
        """The checkpoints there, and what a kill left of one that was being written; never what somebody else put."""
        with suppress(OSError):
            files = sorted(Path(self.folder).iterdir())
            return [file for file in files if _NAME.fullmatch(file.name) or _UNFINISHED.fullmatch(file.name)]
        return []


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "unknown"


def _remove(path: Path) -> None:
    with suppress(OSError):
        path.unlink(missing_ok=True)
