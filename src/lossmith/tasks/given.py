"""From the data a user gives to the rows of the four splits."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset, IterableDataset, TensorDataset

from lossmith.errors import TaskError
from lossmith.records import Split
from lossmith.tasks.data import Data, TensorData
from lossmith.tasks.dataset import DatasetData
from lossmith.tasks.splits import split_rows

VALID_SHARE = 0.2  # of train, where no validation data is given


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


def divide_rows(train: Any, valid: Any, selection: Any, test: Any, seed: int) -> dict[Split, Data]:
    """The four splits, cutting what is not given out of what is."""
    fit = as_data(train, "train")
    if valid is None:
        if len(fit) < 3:
            raise TaskError(f"train has {len(fit)} rows: give valid=, or at least 3 rows to cut it from.")
        size = min(max(2, round(VALID_SHARE * len(fit))), len(fit) - 1)
        cut, kept = split_rows(fit.targets, len(fit), (size, 0), seed, "valid")
        fit, judge = fit.subset(kept), fit.subset(cut)
    else:
        judge = as_data(valid, "valid")
    if selection is None:
        if len(judge) < 2:
            raise TaskError(
                "valid has one row: give at least two, one for fitness and one for selection, or selection=."
            )
        first, second = split_rows(judge.targets, len(judge), (0.5, 0.5), seed, "selection")
        data: dict[Split, Data] = {"train": fit, "fitness": judge.subset(first), "selection": judge.subset(second)}
    else:
        data = {"train": fit, "fitness": judge, "selection": as_data(selection, "selection")}
    return data if test is None else {**data, "test": as_data(test, "test")}


def _all_arrays(values: list[Any]) -> bool:
    return 2 <= len(values) <= 8 and all(isinstance(value, Tensor | np.ndarray) for value in values)
