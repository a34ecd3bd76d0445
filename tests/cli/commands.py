"""What the tests of the command line talk about: a command, what it said, and what lies on the disk."""

from __future__ import annotations

import shlex
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

SMALL = shlex.split(
    "--steps 20 --partial 5 --generations 1 --population 2 --finalists 1 --finalist-seeds 1 --workers 0"
)
TINY = ["--method", "taylorglo", "--task", "digits/mlp", *SMALL]


@dataclass(frozen=True)
class Said:
    """What a command said, and how it ended."""

    code: int
    out: str
    err: str


Command = Callable[..., Said]


def snapshot(folder: Path) -> dict[str, bytes | None]:
    """Every folder and every byte under a folder."""
    return {
        str(path.relative_to(folder)): path.read_bytes() if path.is_file() else None
        for path in sorted(folder.rglob("*"))
    }
