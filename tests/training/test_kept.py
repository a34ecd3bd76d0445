"""Memory that stays."""

from __future__ import annotations

import torch

from lossmith.training.kept import Kept


def test_a_name_has_one_memory_whatever_the_shape() -> None:
    kept, like = Kept(), torch.zeros(1)
    large = kept.empty("a", (4, 5), like)
    small = kept.empty("a", (2, 3), like)
    assert (large.shape, small.shape) == ((4, 5), (2, 3))
    assert large.data_ptr() == small.data_ptr()
    assert small.is_contiguous()
    assert kept.empty("b", (4, 5), like).data_ptr() != large.data_ptr()
    larger = kept.empty("a", (6, 5), like)
    assert larger.shape == (6, 5)


def test_types_are_kept_apart() -> None:
    kept = Kept()
    single, double = (kept.empty("a", (3,), torch.zeros(1, dtype=dtype)) for dtype in (torch.float32, torch.float64))
    assert (single.dtype, double.dtype) == (torch.float32, torch.float64)
    assert single.data_ptr() != double.data_ptr()
