"""From the raw rows of a data set to the four splits of a built-in task, scaled by statistics of its training rows."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from lossmith.records import Split
from lossmith.tasks.data import TensorData
from lossmith.tasks.datasets import RawData
from lossmith.tasks.splits import split_rows

Pair = tuple[Tensor, Tensor]
Splits = dict[Split, Pair]
Scale = Callable[[Splits], Splits]


@dataclass(frozen=True)
class Shares:
    """Rows of the judging splits: counts (int) or fractions (float) of what they are cut from; train keeps the rest.

    Args:
        fitness, selection: of the rows that come without a test split, or of the official training rows.
        test: the same, or None to use the official test split.
    """

    fitness: float | int
    selection: float | int
    test: float | int | None = None


def divide(raw: RawData, shares: Shares, seed: int = 0) -> Splits:
    """Stratified, seeded, disjoint splits."""
    x, y = (torch.as_tensor(part) for part in raw.train)
    parts = (shares.fitness, shares.selection, shares.test or 0, 0)
    fitness, selection, test, train = split_rows(y, len(y), parts, seed, "built-in")
    splits: Splits = {"train": (x[train], y[train]), "fitness": (x[fitness], y[fitness])}
    splits["selection"] = (x[selection], y[selection])
    if shares.test is not None:
        splits["test"] = (x[test], y[test])
    elif raw.test is not None:
        splits["test"] = (torch.as_tensor(raw.test[0]), torch.as_tensor(raw.test[1]))
    return splits


def in_memory(splits: Splits) -> dict[Split, TensorData]:
    """The splits as data of a task."""
    return {split: TensorData(pair) for split, pair in splits.items()}


def _inputs(splits: Splits, change: Callable[[Tensor], Tensor]) -> Splits:
    return {split: (change(x), y) for split, (x, y) in splits.items()}


def flat_digits(splits: Splits) -> Splits:
    """8×8 digits with pixels 0…16 → [N, 64] in [0, 1]."""
    return _inputs(splits, lambda x: x.float().reshape(len(x), 64) / 16)


def upsampled_digits(splits: Splits) -> Splits:
    """8×8 digits with pixels 0…16 → [N, 1, 28, 28] in [0, 1], bilinear."""
    return _inputs(
        splits,
        lambda x: F.interpolate(
            x.float().reshape(-1, 1, 8, 8) / 16, size=(28, 28), mode="bilinear", align_corners=False
        ),
    )


def grey_images(splits: Splits) -> Splits:
    """Bytes → [N, 1, 28, 28] in [0, 1]."""
    return _inputs(splits, lambda x: x.reshape(-1, 1, 28, 28).float() / 255)


def colour_images(splits: Splits) -> Splits:
    """Bytes → [N, 3, 32, 32], each channel standardised with mean and standard deviation of the training pixels."""
    train = splits["train"][0].reshape(-1, 3, 32 * 32)
    pixels = [train[:, channel].reshape(-1) for channel in range(3)]
    # From the 256 counts: exact, and without a float copy of every pixel.
    counts = torch.stack([torch.bincount(values.long(), minlength=256) for values in pixels]).double()  # [3, 256]
    share, level = counts / counts.sum(1, keepdim=True), torch.arange(256, dtype=torch.float64) / 255
    mean = share @ level
    deviation = (share @ level.square() - mean.square()).sqrt()
    shift, scale = mean.float().reshape(3, 1, 1), deviation.float().reshape(3, 1, 1)
    return _inputs(splits, lambda x: (x.reshape(-1, 3, 32, 32).float() / 255 - shift) / scale)


def standardised(splits: Splits) -> Splits:
    """Columns of x and the target y `[N, 1]`, each with mean 0 and standard deviation 1 over the training rows."""
    x, y = splits["train"]
    (mx, sx), (my, sy) = _moments(x), _moments(y)
    return {
        split: (((x.double() - mx) / sx).float(), ((y.double() - my) / sy).float().reshape(-1, 1))
        for split, (x, y) in splits.items()
    }


def _moments(values: Tensor) -> tuple[Tensor, Tensor]:
    deviation = values.double().std(0, correction=0)
    return values.double().mean(0), torch.where(deviation > 0, deviation, torch.ones_like(deviation))
