"""The binary version of CIFAR-10 and CIFAR-100.

Format (cs.toronto.edu/~kriz/cifar.html): records of one label byte (CIFAR-10) or two, coarse then fine (CIFAR-100),
followed by 3 × 1,024 bytes of red, green and blue, row by row.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from lossmith.tasks.datasets.records import Pair, damaged

PIXELS = 3 * 32 * 32


def read_cifar(paths: tuple[Path, ...], *, classes: int, label_bytes: int = 1) -> Pair:
    """Images uint8 `[N, 3, 32, 32]` and the last label of each record, int64 `[N]`, file after file.

    Raises:
        DataMissingError: a file is not readable, no whole number of records, or has a label outside the classes.
    """
    size, parts = label_bytes + PIXELS, []
    for path in paths:
        try:
            raw = np.frombuffer(path.read_bytes(), np.uint8)
        except OSError as error:
            raise damaged(path, "a readable file", str(error)) from None
        if not len(raw) or len(raw) % size:
            raise damaged(path, f"records of {size:,} bytes", f"{len(raw):,} bytes, no whole number of records")
        records = raw.reshape(-1, size)
        if (highest := int(records[:, label_bytes - 1].max())) >= classes:
            raise damaged(path, f"labels 0 to {classes - 1}", f"label {highest}")
        parts.append(records)
    y = np.concatenate([part[:, label_bytes - 1] for part in parts]).astype(np.int64)
    x = np.concatenate([part[:, label_bytes:] for part in parts]).reshape(-1, 3, 32, 32)
    return torch.from_numpy(x), torch.from_numpy(y)


def read_cifar10(paths: tuple[Path, ...]) -> tuple[Pair, Pair | None]:
    """data_batch_1 … data_batch_5, test_batch."""
    return read_cifar(paths[:-1], classes=10), read_cifar(paths[-1:], classes=10)


def read_cifar100(paths: tuple[Path, ...]) -> tuple[Pair, Pair | None]:
    """train, test; the 100 fine labels."""
    train, test = (read_cifar((path,), classes=100, label_bytes=2) for path in paths)
    return train, test
