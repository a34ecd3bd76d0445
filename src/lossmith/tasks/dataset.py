"""Rows of a map-style `torch.utils.data.Dataset`, read item by item."""

from __future__ import annotations

import hashlib
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Subset, default_collate

from lossmith.rng import torch_global_scope
from lossmith.tasks.data import Data
from lossmith.tasks.trees import digest_tensors, map_tree, tensors


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
        return batch if self.device.type == "cpu" else map_tree(lambda leaf: leaf.to(self.device), batch)

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
