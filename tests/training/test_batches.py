from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from lossmith.errors import TaskError
from lossmith.rng import derive_seed
from lossmith.training.batches import batch_indices


def draw(rows: Tensor, batch_size: int, count: int, seed: int = 0) -> list[Tensor]:
    return list(itertools.islice(batch_indices(rows, batch_size, seed=seed), count))


@settings(deadline=None)
@given(n=st.integers(1, 40), batch_size=st.integers(1, 50), seed=st.integers(0, 9))
def test_every_row_once_per_epoch(n: int, batch_size: int, seed: int) -> None:
    rows = torch.arange(n) * 3 + 1
    batches = draw(rows, batch_size, count=-(-4 * n // batch_size), seed=seed)
    assert all(batch.shape == (batch_size,) and batch.dtype == torch.int64 for batch in batches)
    drawn = torch.cat(batches)
    for epoch in drawn[: len(drawn) // n * n].split(n):  # batches run on across the ends of epochs
        assert epoch.sort().values.equal(rows)


def test_the_stream_is_named_by_its_seed() -> None:
    rows = torch.arange(10)
    batches = draw(rows, 4, 5, seed=7)
    generator = np.random.Generator(np.random.PCG64(derive_seed(7, "batches")))
    by_hand = np.concatenate([generator.permutation(10) for _ in range(2)])
    assert torch.cat(batches).tolist() == by_hand.tolist()
    assert not torch.equal(torch.cat(batches), torch.cat(draw(rows, 4, 5, seed=8)))


def test_epochs_differ_and_fewer_rows_are_repeated() -> None:
    first, second = draw(torch.arange(50), 50, 2)
    assert not first.equal(second)
    (batch,) = draw(torch.tensor([5, 9]), 7, 1)
    assert sorted(batch.tolist())[:3] == [5, 5, 5]
    assert batch.tolist().count(9) in (3, 4)


def test_rows_are_not_written_to() -> None:
    rows = torch.arange(10)
    draw(rows, 3, 20)
    assert rows.equal(torch.arange(10))


def test_no_rows_are_no_endless_wait() -> None:
    with pytest.raises(TaskError, match="no training rows"):
        draw(torch.arange(0), 4, 1)
