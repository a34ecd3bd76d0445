"""Which GPU a worker computes on: every one of a machine is taken by one worker before any is taken by a second.

A plan says "cuda" and not which: every worker makes another GPU its current one, so that no result depends on how many
there are.
"""

from __future__ import annotations

import fcntl
import itertools
import os
from pathlib import Path

import torch

_taken: list[int] = []  # file descriptors that hold this process's place as long as it lives


def take_gpu(folder: Path, gpus: int) -> int:
    """Make the GPU of the first free place the current one of this process.

    Args:
        folder: shared by the workers of one pool. gpus: how many there are.

    Returns:
        Its index.
    """
    folder.mkdir(exist_ok=True)  # a long run may outlive what tidies up temporary files
    place = next(number for number in itertools.count() if _take(folder / f"place-{number}"))
    torch.cuda.set_device(place % gpus)
    return place % gpus


def _take(file: Path) -> bool:
    """Hold a file, unless another process does. The kernel lets go of it with the process, however that ends."""
    descriptor = os.open(file, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        return False
    _taken.append(descriptor)
    return True
