"""The small real data sets that ship with scikit-learn."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from lossmith.tasks.datasets.records import Pair


def read_digits(paths: tuple[Path, ...] = ()) -> tuple[Pair, Pair | None]:
    """8×8 digits: uint8 `[1797, 1, 8, 8]` of 0 … 16, classes `[1797]`."""
    from sklearn.datasets import load_digits  # slow to import

    images, labels = load_digits(return_X_y=True)
    x = torch.from_numpy(images.astype(np.uint8).reshape(-1, 1, 8, 8))
    return (x, torch.from_numpy(labels.astype(np.int64))), None


def read_diabetes(paths: tuple[Path, ...] = ()) -> tuple[Pair, Pair | None]:
    """Ten measurements per patient `[442, 10]`, unscaled (statistics belong to training rows), and values `[442]`."""
    from sklearn.datasets import load_diabetes

    table, values = load_diabetes(return_X_y=True, scaled=False)
    return (torch.from_numpy(table).float(), torch.from_numpy(values).float()), None
