from __future__ import annotations

import platform
import resource

import pytest
import torch

from lossmith.training import compute_scope


def flushes() -> bool:
    return (torch.full((4,), 1e-38) * 1e-3).tolist() == [0.0] * 4  # 1e-41 is a denormal float32


def test_denormals_and_threads_are_set_and_put_back() -> None:
    assert (torch.get_num_threads(), flushes()) == (1, False)
    with compute_scope(2):
        assert (torch.get_num_threads(), flushes()) == (2, True)
        with compute_scope(1):
            assert (torch.get_num_threads(), flushes()) == (1, True)
        assert (torch.get_num_threads(), flushes()) == (2, True)  # the inner block leaves the outer one's setting
    assert (torch.get_num_threads(), flushes()) == (1, False)


def test_they_are_put_back_after_an_exception() -> None:
    with pytest.raises(ZeroDivisionError), compute_scope(2):
        torch.zeros(1 // 0)
    assert (torch.get_num_threads(), flushes()) == (1, False)


def test_what_the_user_set_stays_set() -> None:
    torch.set_flush_denormal(True)
    try:
        with compute_scope(1):
            pass
        assert flushes()
    finally:
        torch.set_flush_denormal(False)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc can be told")
def test_freed_memory_is_used_again() -> None:
    resource = pytest.importorskip("resource")

    def faults() -> int:
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
        torch.ones(16_000_000)  # 64 MB, 15,625 pages
        return int(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)

    with compute_scope(1):
        assert min(faults() for _ in range(4)) < 1000


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc is told what to do with freed memory")
def test_memory_between_what_is_still_there_is_given_back() -> None:
    kept: list[torch.Tensor] = []
    with compute_scope(1):
        large = []
        for _ in range(30):
            large.append(torch.ones(1 << 20))  # 4 MiB
            kept.append(torch.ones(64))  # stands in the way of giving back the end of the heap
        during = resident()
        large.clear()
    assert resident() < during - (100 << 20)
    assert len(kept) == 30


def resident() -> int:
    """Bytes of this process in memory."""
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * resource.getpagesize()
