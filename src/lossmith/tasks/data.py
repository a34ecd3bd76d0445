"""Rows of one split, asked for by index; `TensorData` holds them in memory."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from functools import cached_property
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor

from lossmith.errors import TaskError
from lossmith.tasks.trees import digest_tensors, map_tree, tensors, with_member

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
        tree = map_tree(_as_tensor, tree)
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
                self.tree = with_member(tree, self._target_key, target.long())

    def __len__(self) -> int:
        return self._rows

    def batch(self, index: Tensor) -> Any:
        index = index.to(self.device)
        return map_tree(lambda leaf: leaf.index_select(0, index), self.tree)

    def subset(self, index: Tensor) -> TensorData:
        return TensorData(self.batch(index))

    def to(self, device: torch.device | str) -> TensorData:
        if torch.device(device) == self.device:
            return self
        return TensorData(map_tree(lambda leaf: leaf.to(device), self.tree))

    @property
    def targets(self) -> Tensor | None:
        target = None if self._target_key is None else self.tree[self._target_key]
        return target if isinstance(target, Tensor) else None

    def with_targets(self, targets: Tensor) -> TensorData:
        """The same rows with other targets."""
        assert self._target_key is not None
        return TensorData(with_member(self.tree, self._target_key, targets))

    def inputs(self) -> Iterator[Tensor]:
        """Every tensor but the targets."""
        return (leaf for leaf in tensors(self.tree) if leaf is not self.targets)

    @property
    def in_memory(self) -> bool:
        return True

    def _digest(self) -> str:
        return digest_tensors(tensors(self.tree))


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


def _target_key(tree: Any) -> int | str | None:
    if isinstance(tree, dict):
        return next((key for key in TARGET_KEYS if key in tree), None)
    return 1 if isinstance(tree, tuple | list) and len(tree) >= 2 else None
