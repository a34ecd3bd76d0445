"""The cropped digits of SVHN: MATLAB files with X `[32, 32, 3, N]` uint8 and y `[N, 1]`, where the digit 0 is label 10.

Format: ufldl.stanford.edu/housenumbers, "Format 2: Cropped Digits".
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from lossmith.tasks.datasets.records import Pair, damaged


def read_svhn_file(path: Path) -> Pair:
    """Images uint8 `[N, 3, 32, 32]` and digits int64 `[N]` (label 10 becomes 0).

    Raises:
        DataMissingError: not readable, not MATLAB, or X and y are not as above.
    """
    from scipy.io import loadmat  # slow to import, and only needed here

    try:
        content = loadmat(path, variable_names=("X", "y"))
    except Exception as error:  # scipy raises whatever a damaged file runs into
        raise damaged(path, "a MATLAB file with X and y", f"{type(error).__name__}: {error}") from None
    x, y = (np.asarray(content.get(name)) for name in ("X", "y"))
    if x.ndim != 4 or x.shape[:3] != (32, 32, 3) or x.dtype != np.uint8:
        raise damaged(path, "X of 32 × 32 × 3 × N unsigned bytes", f"shape {x.shape} of {x.dtype}")
    if y.size != x.shape[3] or y.dtype.kind not in "iuf":
        raise damaged(path, f"y with {x.shape[3]:,} labels, one per image", f"shape {y.shape} of {y.dtype}")
    labels = y.reshape(-1).astype(np.int64)
    if labels.size and not (labels.min() >= 1 and labels.max() <= 10):
        raise damaged(path, "labels 1 to 10", f"{labels.min()} to {labels.max()}")
    images = np.ascontiguousarray(x.transpose(3, 2, 0, 1))  # [N, 3, 32, 32]
    return torch.from_numpy(images), torch.from_numpy(labels % 10)


def read_svhn(paths: tuple[Path, ...]) -> tuple[Pair, Pair | None]:
    """train_32x32.mat, test_32x32.mat."""
    return read_svhn_file(paths[0]), read_svhn_file(paths[1])
