"""Dividing rows: one seeded order whose every prefix is stratified, from which all splits and subsets are cut."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from lossmith.rng import stream

QUANTILES = 10  # strata of a continuous target


def strata(targets: Tensor | None, rows: int) -> np.ndarray:
    """The stratum of each row `[rows]`: its class, the decile of its continuous target, or 0 where neither applies."""
    if targets is not None and targets.ndim == 2 and targets.shape[1] == 1:
        targets = targets[:, 0]
    if targets is None or targets.ndim != 1 or len(targets) != rows:
        return np.zeros(rows, dtype=np.int64)
    values = targets.detach().cpu()
    if not values.is_floating_point():
        return values.to(torch.int64).numpy()
    ranks = np.argsort(np.argsort(values.double().numpy(), kind="stable"), kind="stable")
    return (ranks * QUANTILES) // max(rows, 1)


def stratified_order(targets: Tensor | None, rows: int, seed: int, *names: str | int) -> Tensor:
    """A random order of `rows` rows in which every prefix holds each stratum in proportion.

    The r-th of the n_s shuffled rows of stratum s gets the key (r + u_s)/n_s with one u_s ~ U[0, 1) per stratum; rows
    are sorted by key. So a prefix up to key x holds n_s·x rows of s to within one, subsets of growing size are
    nested, and complementary parts share no row.

    Args:
        targets: `[rows]` classes or continuous targets, or None (then it is a plain shuffle).
        rows: how many rows.
        seed: with `names`, names the random stream.

    Returns:
        A permutation of range(rows), int64 `[rows]`.
    """
    rng = stream(seed, "splits", *names)
    stratum = strata(targets, rows)
    keys = np.empty(rows)
    for value in np.unique(stratum):
        members = np.flatnonzero(stratum == value)
        keys[rng.permutation(members)] = (np.arange(len(members)) + rng.random()) / len(members)
    return torch.from_numpy(np.argsort(keys, kind="stable"))


def part_sizes(rows: int, parts: tuple[float, ...] | tuple[int, ...]) -> list[int]:
    """Rows of each part: whole numbers are counts, fractions are rounded; what remains goes to the last part."""
    sizes = [part if isinstance(part, int) else round(part * rows) for part in parts[:-1]]
    return [*sizes, rows - sum(sizes)]


def split_rows(
    targets: Tensor | None, rows: int, parts: tuple[float, ...] | tuple[int, ...], seed: int, *names: str | int
) -> list[Tensor]:
    """Disjoint stratified row indices, one sorted tensor per part; together they are all rows.

    Args:
        targets: see `stratified_order`.
        rows: how many rows.
        parts: counts (int) or fractions (float); the last one takes what remains.
        seed: with `names`, names the random stream.
    """
    order = stratified_order(targets, rows, seed, *names)
    return [piece.sort().values for piece in torch.split_with_sizes(order, part_sizes(rows, parts))]
