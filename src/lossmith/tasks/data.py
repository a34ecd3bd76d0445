"""Rows of one split, asked for by index: in memory (`TensorData`) or read item by item (`DatasetData`)."""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator
from functools import cached_property
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset, IterableDataset, Subset, TensorDataset, default_collate

from lossmith.errors import TaskError
from lossmith.rng import torch_global_scope

TARGET_KEYS = ("target", "targets", "label", "labels", "y")  # where a dict keeps its targets, first found


class Data(ABC):
    """The rows of one split. Immutable: every method returns something new."""

    device: torch.device

    @abstractmethod
    def __len__(self) -> int:
        """How many rows."""

    @abstractmethod
    def batch(self, index: Tensor) -> Any:
        """The rows named by an int64 index `[B]`, collated, on `device`."""

    @abstractmethod
    def subset(self, index: Tensor) -> Data:
        """Only the rows named by an int64 index, in its order."""

    @abstractmethod
    def to(self, device: torch.device | str) -> Data:
        """The same rows, served on another device."""

    @property
    @abstractmethod
    def targets(self) -> Tensor | None:
        """All targets `[rows, ...]`, or None where they cannot be told without reading every item."""

    @cached_property
    def digest(self) -> str:
        """Identifies the content: equal rows in equal order give equal text, on any device."""
        return self._digest()

    @abstractmethod
    def _digest(self) -> str: ...

    @property
    def in_memory(self) -> bool:
        """Whether a whole pass over the rows is cheap."""
        return False

    def batches(self, size: int) -> Iterator[Any]:
        """All rows in order, `size` at a time."""
        for start in range(0, len(self), size):
            yield self.batch(torch.arange(start, min(start + size, len(self))))


class TensorData(Data):
    """Rows held in memory as tensors; a batch is one `index_select` per tensor.

    Args:
        tree: a tuple, list or dict (nested as you like) of tensors or arrays with one row per first index; a batch
            has the same structure. Arrays of float64 become float32, integer targets int64; tensors keep their
            floating type.

    Targets are the second member of a tuple or list, or the first of `TARGET_KEYS` in a dict.

    Raises:
        TaskError: no tensor, a tensor without rows, or tensors of different length.
    """

    def __init__(self, tree: Any) -> None:
        self._target_key: int | str | None = _target_key(tree)
        tree = _map(_as_tensor, tree)
        leaves = list(tensors(tree))
        if not leaves or any(leaf.ndim == 0 for leaf in leaves):
            raise TaskError(
                "data must be tensors with one row per first index, e.g. train=(x, y) with x [N, ...], y [N]."
            )
        lengths = sorted({len(leaf) for leaf in leaves})
        if len(lengths) > 1:
            raise TaskError(
                f"the tensors of one split have different lengths {lengths}: give one row per example in each."
            )
        self.tree = tree
        self._rows = lengths[0]
        self.device = leaves[0].device
        if self._target_key is not None:
            target = tree[self._target_key]
            if isinstance(target, Tensor) and not target.is_floating_point() and target.dtype != torch.bool:
                self.tree = _with_member(tree, self._target_key, target.long())

    def __len__(self) -> int:
        return self._rows

    def batch(self, index: Tensor) -> Any:
        index = index.to(self.device)
        return _map(lambda leaf: leaf.index_select(0, index), self.tree)

    def subset(self, index: Tensor) -> TensorData:
        return TensorData(self.batch(index))

    def to(self, device: torch.device | str) -> TensorData:
        if torch.device(device) == self.device:
            return self
        return TensorData(_map(lambda leaf: leaf.to(device), self.tree))

    @property
    def targets(self) -> Tensor | None:
        target = None if self._target_key is None else self.tree[self._target_key]
        return target if isinstance(target, Tensor) else None

    def with_targets(self, targets: Tensor) -> TensorData:
        """The same rows with other targets."""
        assert self._target_key is not None
        return TensorData(_with_member(self.tree, self._target_key, targets))

    def inputs(self) -> Iterator[Tensor]:
        """Every tensor but the targets."""
        return (leaf for leaf in tensors(self.tree) if leaf is not self.targets)

    @property
    def in_memory(self) -> bool:
        return True

    def _digest(self) -> str:
        return digest_tensors(tensors(self.tree))


class DatasetData(Data):
    """Rows of any map-style `torch.utils.data.Dataset`: items are read and collated (`default_collate`) when asked for.

    Nothing is cached, so a random augmentation stays random. It should draw from torch's global generator, which
    Lossmith
    sets for every training: then a training can be repeated exactly.

    Targets are known only if the dataset has an attribute `targets` or `labels` with one class per item.
    """

    def __init__(self, dataset: Any, device: torch.device | str = "cpu") -> None:
        self.dataset, self.device = dataset, torch.device(device)

    def __len__(self) -> int:
        return len(self.dataset)

    def batch(self, index: Tensor) -> Any:
        batch = default_collate([self.dataset[i] for i in index.tolist()])
        return batch if self.device.type == "cpu" else _map(lambda leaf: leaf.to(self.device), batch)

    def subset(self, index: Tensor) -> DatasetData:
        return DatasetData(Subset(self.dataset, index.tolist()), self.device)

    def to(self, device: torch.device | str) -> DatasetData:
        return DatasetData(self.dataset, device)

    @property
    def targets(self) -> Tensor | None:
        return _dataset_targets(self.dataset)

    def _digest(self) -> str:
        """Length, targets and up to 16 items, read twice: of items that differ (augmentation) only shapes count."""
        rows = len(self)
        picks = sorted({round(i * (rows - 1) / 15) for i in range(16)}) if rows else []
        hashed = hashlib.sha256(f"{type(self.dataset).__qualname__}:{rows}".encode())
        if self.targets is not None:
            hashed.update(digest_tensors([self.targets]).encode())
        readings = []
        for reading in range(2):
            with torch_global_scope(reading, "digest"):
                readings.append([list(tensors(default_collate([self.dataset[i]]))) for i in picks])
        for first, second in zip(*readings, strict=True):
            same = len(first) == len(second) and all(map(torch.equal, first, second))
            hashed.update((digest_tensors(first) if same else str([tuple(leaf.shape) for leaf in first])).encode())
        return hashed.hexdigest()


def as_data(data: Any, what: str) -> Data:
    """Rows in any of the accepted forms.

    Args:
        data: a `Data`; a tuple or dict of tensors or arrays; one tensor; a `TensorDataset`; any map-style dataset.
        what: the argument's name, for messages.

    Raises:
        TaskError: anything else, or no rows.
    """
    found: Data
    if isinstance(data, Data):
        found = data
    elif isinstance(data, TensorDataset):
        found = TensorData(tuple(data.tensors))
    elif isinstance(data, IterableDataset):
        raise TaskError(
            f"{what} is an IterableDataset: Lossmith draws rows by index; give a dataset with __len__ and "
            "__getitem__, or write the training loop yourself with Task.from_function."
        )
    elif isinstance(data, torch.utils.data.DataLoader):
        raise TaskError(
            f"{what} is a DataLoader: give its dataset instead ({what}=loader.dataset); Lossmith draws batches."
        )
    elif isinstance(data, Tensor | np.ndarray | dict | tuple) or (isinstance(data, list) and _all_arrays(data)):
        found = TensorData(tuple(data) if isinstance(data, list) else data)
    elif not isinstance(data, str | bytes) and (
        isinstance(data, Dataset) or (hasattr(data, "__len__") and hasattr(data, "__getitem__"))
    ):
        found = DatasetData(data)
    else:
        raise TaskError(
            f"{what} is {type(data).__name__}: give (x, y) tensors or arrays, a dict of tensors, or a dataset with "
            "__len__ and __getitem__."
        )
    try:
        rows = len(found)
    except (TypeError, NotImplementedError):
        raise TaskError(f"{what} has no length: give a dataset with __len__ and __getitem__.") from None
    if rows == 0:
        raise TaskError(f"{what} has no rows: give at least one.")
    return found


def tensors(tree: Any) -> Iterator[Tensor]:
    """The tensors of a nested tuple, list or dict, in order."""
    if isinstance(tree, Tensor):
        yield tree
    elif isinstance(tree, dict):
        for value in tree.values():
            yield from tensors(value)
    elif isinstance(tree, tuple | list):
        for value in tree:
            yield from tensors(value)


def digest_tensors(leaves: Iterable[Tensor]) -> str:
    """SHA-256 over the type, shape and bytes of tensors, in order."""
    hashed = hashlib.sha256()
    for leaf in leaves:
        leaf = leaf.detach().cpu().contiguous()
        hashed.update(f"{leaf.dtype}{tuple(leaf.shape)}".encode())
        hashed.update(leaf.reshape(-1).view(torch.uint8).numpy().data)
    return hashed.hexdigest()


def _map(function: Callable[[Any], Any], tree: Any) -> Any:
    """The same structure with `function` applied to every tensor or array; other leaves (texts) stay as they are."""
    if isinstance(tree, dict):
        return {key: _map(function, value) for key, value in tree.items()}
    if isinstance(tree, tuple) and hasattr(tree, "_fields"):
        return type(tree)(*(_map(function, value) for value in tree))
    if isinstance(tree, tuple | list):
        return type(tree)(_map(function, value) for value in tree)
    return function(tree) if isinstance(tree, Tensor | np.ndarray) else tree


def _as_tensor(leaf: Any) -> Tensor:
    if isinstance(leaf, np.ndarray):
        if leaf.dtype.kind not in "biuf":
            raise TaskError(f"an array of type {leaf.dtype} is no number: encode it as numbers first.")
        if leaf.dtype in (np.uint16, np.uint32, np.uint64):
            leaf = leaf.astype(np.int64)  # torch can hardly compute with these
        leaf = leaf.astype(np.float32 if leaf.dtype == np.float64 else leaf.dtype, order="C", copy=True)
        return torch.from_numpy(leaf)
    tensor = cast(Tensor, leaf).detach()
    # A view would drag its whole storage along to every worker.
    return tensor if tensor.untyped_storage().nbytes() <= tensor.nbytes else tensor.clone()


def _all_arrays(values: list[Any]) -> bool:
    return 2 <= len(values) <= 8 and all(isinstance(value, Tensor | np.ndarray) for value in values)


def _target_key(tree: Any) -> int | str | None:
    if isinstance(tree, dict):
        return next((key for key in TARGET_KEYS if key in tree), None)
    return 1 if isinstance(tree, tuple | list) and len(tree) >= 2 else None


def _with_member(tree: Any, key: int | str, value: Tensor) -> Any:
    if isinstance(tree, dict):
        return {**tree, key: value}
    members = [value if i == key else member for i, member in enumerate(tree)]
    return type(tree)(*members) if hasattr(tree, "_fields") else type(tree)(members)


def _dataset_targets(dataset: Any) -> Tensor | None:
    if isinstance(dataset, Subset):
        whole = _dataset_targets(dataset.dataset)
        return None if whole is None else whole[torch.as_tensor(dataset.indices)]
    for name in ("targets", "labels"):
        values = getattr(dataset, name, None)
        if values is None:
            continue
        try:
            found = torch.as_tensor(values)
        except (TypeError, ValueError, RuntimeError):
            continue
        if found.ndim >= 1 and len(found) == len(dataset):
            return found if found.is_floating_point() else found.long()
    return None
