"""Which rows each step trains on: pre-drawn, epoch by epoch, from one named stream per evaluation seed."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

from lossmith.errors import TaskError
from lossmith.rng import stream


def batch_indices(rows: Tensor, batch_size: int, *, seed: int) -> Iterator[Tensor]:
    """Endless batches of row indices, every row once per epoch; batches run on across the end of an epoch.

    Args:
        rows: indices to draw from, [N]. Fewer rows than `batch_size` are repeated.
        seed: evaluation seed; all candidates of a run see the same batches under the same seed.

    Yields:
        Index tensors [batch_size].

    Raises:
        TaskError: no rows.
    """
    if not rows.numel():
        raise TaskError("there are no training rows: give the task at least one.")
    generator = stream(seed, "batches")
    pool = rows.numpy()
    left = np.empty(0, dtype=pool.dtype)
    while True:
        parts = [left]
        size = left.size
        while size < batch_size:
            parts.append(pool[generator.permutation(pool.size)])
            size += pool.size
        drawn = torch.from_numpy(np.concatenate(parts))
        whole = drawn.numel() // batch_size * batch_size
        yield from drawn[:whole].reshape(-1, batch_size)
        left = drawn[whole:].numpy()
