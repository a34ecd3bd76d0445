"""The state of a process that trains: threads and denormals, set for a block and put back afterwards; freed memory."""

from __future__ import annotations

import ctypes
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import cache

import torch

_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3  # parameters of mallopt(3)


@contextmanager
def compute_scope(threads: int) -> Iterator[None]:
    """Run a block on `threads` intra-op threads with denormals flushed to zero.

    The thread count is part of the evaluation plan because sums are split by it: the same count gives the same bits. A
    matrix product on denormals is two orders of magnitude slower than on ordinary numbers (DESIGN §4).
    """
    keep_freed_memory()
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
        give_back_memory()


def _flushes_denormals() -> bool:
    """Whether this thread flushes denormals to zero; torch can set it but not tell it."""
    smallest_normal = torch.full((1,), torch.finfo(torch.float32).tiny)
    return (smallest_normal / 2).item() == 0.0


@cache
def keep_freed_memory() -> None:
    """Have glibc keep up to half a gigabyte of freed memory for the next step, in place of giving it back.

    By default every large tensor is new memory, which the kernel clears page by page on first touch: a fifth of the
    time of a training step of LeNet-5 (measured: 1,500 page faults per step, none afterwards). Elsewhere than on glibc
    nothing happens.
    """
    with suppress(OSError, AttributeError, TypeError):
        library = ctypes.CDLL(None)
        library.mallopt(_MMAP_THRESHOLD, 1 << 30)
        library.mallopt(_TRIM_THRESHOLD, 1 << 29)


def give_back_memory() -> None:
    """Have glibc give back what is free between two pieces of work.

    Stacks of changing size leave holes in memory that it would otherwise keep: 4.2 GiB after 15 generations of EvoMAL
    on LeNet-5 (measured), for a piece of work that needs .8.
    """
    with suppress(OSError, AttributeError, TypeError):
        ctypes.CDLL(None).malloc_trim(0)
