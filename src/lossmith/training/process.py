"""The numeric state of a process that trains: threads and denormals, set for a block and put back afterwards."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch


@contextmanager
def compute_scope(threads: int) -> Iterator[None]:
    """Run a block on `threads` intra-op threads with denormals flushed to zero.

    The thread count is part of the evaluation plan because sums are split by it: the same count gives the same bits. A
    matrix product on denormals is two orders of magnitude slower than on ordinary numbers (DESIGN §4).
    """
    before, flushed = torch.get_num_threads(), _flushes_denormals()
    if before != threads:
        torch.set_num_threads(threads)
    torch.set_flush_denormal(True)
    try:
        yield
    finally:
        torch.set_flush_denormal(flushed)
        if before != threads:
            torch.set_num_threads(before)


def _flushes_denormals() -> bool:
    """Whether this thread flushes denormals to zero; torch can set it but not tell it."""
    smallest_normal = torch.full((1,), torch.finfo(torch.float32).tiny)
    return (smallest_normal / 2).item() == 0.0
