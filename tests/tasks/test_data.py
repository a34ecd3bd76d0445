"""Data in every accepted form: structure, values, targets, digests."""

from __future__ import annotations

import pickle
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.utils.data import Dataset, IterableDataset, Subset, TensorDataset

from lossmith.errors import TaskError
from lossmith.rng import torch_global_scope
from lossmith.tasks import Data, DatasetData, TensorData
from lossmith.tasks.given import as_data

X, Y = torch.arange(12.0).reshape(6, 2), torch.tensor([0, 1, 2, 0, 1, 2])
INDEX = torch.tensor([4, 0])


class Pair(NamedTuple):
    x: Tensor
    y: Tensor


class Squares(Dataset):  # type: ignore[type-arg]
    """Items (i², i mod 2), with known labels."""

    def __init__(self, rows: int = 6) -> None:
        self.targets = [i % 2 for i in range(rows)]

    def __len__(self) -> int:
        return len(self.targets)

    def __getitem__(self, i: int) -> tuple[Tensor, int]:
        return torch.tensor([float(i) ** 2]), self.targets[i]


class Jittered(Squares):
    """The same with a random augmentation."""

    def __getitem__(self, i: int) -> tuple[Tensor, int]:
        x, y = super().__getitem__(i)
        return x + torch.rand(1), y


@pytest.mark.parametrize(
    ("given", "structure"),
    [
        ((X, Y), tuple),
        ([X, Y], tuple),
        ((X.numpy(), Y.numpy()), tuple),
        (TensorDataset(X, Y), tuple),
        (Pair(X, Y), Pair),
    ],
)
def test_pairs_in_memory(given: Any, structure: type) -> None:
    data = as_data(given, "train")
    assert isinstance(data, TensorData)
    x, y = batch = data.batch(INDEX)
    assert type(batch) is structure
    torch.testing.assert_close(x, X[INDEX])
    torch.testing.assert_close(y, Y[INDEX])
    assert data.targets is not None
    assert data.targets.dtype == torch.int64
    assert data.digest == as_data((X, Y), "train").digest


def test_dict_and_nesting_are_kept() -> None:
    data = as_data({"tokens": X, "extra": (X + 1, [X + 2]), "labels": Y}, "train")
    batch = data.batch(INDEX)
    torch.testing.assert_close(batch["extra"][1][0], X[INDEX] + 2)
    assert isinstance(batch["extra"][1], list)
    assert torch.equal(data.targets, Y)
    assert len(list(data.inputs())) == 3


def test_types_become_what_torch_trains_with() -> None:
    data = TensorData((np.zeros((3, 2)), np.zeros(3, dtype=np.uint8)))  # numpy's default is float64
    assert data.batch(torch.tensor([0]))[0].dtype == torch.float32
    assert data.targets.dtype == torch.int64
    assert TensorData((X.double(), Y)).batch(INDEX)[0].dtype == torch.float64  # a tensor's type was chosen
    assert TensorData((X, Y.float())).targets.dtype == torch.float32


def test_the_users_arrays_are_not_shared() -> None:
    x = np.ones((3, 2), dtype=np.float32)
    data = TensorData((x, np.zeros(3)))
    x[:] = 7
    assert data.batch(torch.tensor([0]))[0].max() == 1


def test_a_view_does_not_drag_its_storage_along() -> None:
    big = torch.zeros(100_000, 2)
    assert len(pickle.dumps(TensorData((big[:3], torch.zeros(3))))) < 10_000


def test_targets_are_unknown_where_nothing_says_so() -> None:
    assert as_data(X, "train").targets is None
    assert as_data({"a": X, "b": Y}, "train").targets is None


@pytest.mark.parametrize("given", [(X, Y), Squares()], ids=["memory", "dataset"])
def test_subset_batches_and_pickle(given: Any) -> None:
    data = as_data(given, "train")
    part = data.subset(torch.tensor([5, 1, 3]))
    assert len(part) == 3
    torch.testing.assert_close(part.batch(torch.tensor([2, 0])), data.batch(torch.tensor([3, 5])))
    assert torch.equal(part.targets, data.targets[[5, 1, 3]])
    assert torch.equal(part.subset(torch.tensor([1])).targets, data.targets[[1]])
    assert torch.equal(torch.cat([y for _, y in data.batches(4)]), data.targets)
    again = pickle.loads(pickle.dumps(part))
    assert again.digest == part.digest != data.digest


def test_digest_follows_content_order_and_shape() -> None:
    base = TensorData((X, Y)).digest
    assert TensorData((X.clone(), Y.clone())).digest == base
    assert TensorData((X + 1e-6, Y)).digest != base
    assert TensorData((X, Y)).subset(torch.tensor([1, 0, 2, 3, 4, 5])).digest != base
    assert TensorData((X.reshape(6, 2, 1), Y)).digest != base
    assert TensorData((X, Y)).with_targets(Y.flip(0)).digest != base


def test_datasets_are_read_item_by_item() -> None:
    data = as_data(Squares(), "train")
    assert isinstance(data, DatasetData)
    x, y = data.batch(torch.tensor([3, 2]))
    assert x.tolist() == [[9], [4]]
    assert y.tolist() == [1, 0]
    assert torch.equal(as_data(Subset(Squares(), [1, 2]), "train").targets, torch.tensor([1, 0]))
    assert as_data([(torch.zeros(2), 1), (torch.ones(2), 0)], "train").batch(torch.tensor([1]))[1].tolist() == [0]


def test_augmentation_stays_random_and_does_not_move_the_digest() -> None:
    data = as_data(Jittered(), "train")
    with torch_global_scope(0, "test"):
        first, second = data.batch(torch.tensor([1]))[0], data.batch(torch.tensor([1]))[0]
    assert not torch.equal(first, second)
    assert data.digest == as_data(Jittered(), "train").digest
    assert data.digest != as_data(Jittered(7), "train").digest
    assert as_data(Squares(), "train").digest != data.digest


class Endless(IterableDataset):  # type: ignore[type-arg]
    def __iter__(self):  # type: ignore[no-untyped-def]
        return iter(())


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ((X, Y[:5]), ["different lengths", "[5, 6]"]),
        ((X[:0], Y[:0]), ["train", "no rows"]),
        ((torch.tensor(1.0), torch.tensor(2)), ["one row per first index"]),
        ((), ["tensors"]),
        ((np.array(["a", "b"]), np.zeros(2)), ["<U1", "encode"]),
        (Endless(), ["train", "IterableDataset", "Task.from_function"]),
        (torch.utils.data.DataLoader(TensorDataset(X, Y)), ["train", "DataLoader", "loader.dataset"]),
        (3, ["train", "int", "(x, y)"]),
        ("mnist", ["train", "str"]),
        (None, ["train", "NoneType"]),
    ],
    ids=lambda value: str(value)[:20] if isinstance(value, list) else "",
)
def test_bad_data_is_refused_in_a_sentence(given: Any, words: list[str]) -> None:
    with pytest.raises(TaskError) as caught:
        as_data(given, "train")
    for word in words:
        assert word in str(caught.value)


def test_a_data_of_your_own_passes_through() -> None:
    class Mine(Data):
        device = torch.device("cpu")

        def __len__(self) -> int:
            return 1

        batch = subset = to = _digest = lambda self, _=None: self  # type: ignore[assignment]
        targets = None  # type: ignore[assignment]

    mine = Mine()
    assert as_data(mine, "train") is mine
