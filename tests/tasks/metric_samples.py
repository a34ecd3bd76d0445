"""Random outputs and targets of every kind of head."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from lossmith.rng import stream

N = 400
HEADS: tuple[tuple[str, int], ...] = (("softmax", 5), ("softmax", 2), ("sigmoid", 1), ("sigmoid", 4))


def sample(head: str, columns: int, seed: int = 0, n: int = N) -> tuple[Tensor, Tensor, Tensor]:
    """Outputs that know a little about their targets, targets, and weights of which some are 0."""
    rng = stream(seed, "test", head, columns)
    if head == "identity":
        target = rng.normal(size=(n, columns)) if columns > 1 else rng.normal(size=n)
        output = 0.7 * target.reshape(n, columns) + 0.5 * rng.normal(size=(n, columns))
    elif head == "softmax":
        target = np.append(rng.integers(columns, size=n - columns), range(columns))
        output = rng.normal(size=(n, columns)) + 1.2 * np.eye(columns)[target]
    else:
        target = (rng.random(size=(n, columns)) < 0.3).astype(np.int64)
        output = rng.normal(size=(n, columns)) + 1.5 * target - 0.8
        target = target[:, 0] if columns == 1 else target
    weight = rng.integers(4, size=n) * 0.5
    return torch.from_numpy(output).float(), torch.from_numpy(target), torch.from_numpy(weight)
