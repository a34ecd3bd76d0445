"""The signature of a loss: its learning rule as 64 numbers, comparable across families (ALGORITHMS §6).

With softmax and one-hot targets a loss is γ_T(p) and γ_N(p). Both are sampled at 32 log-odds from −8 to 8. An additive
constant in γ vanishes in the softmax gradient, a positive factor is a step size: neither counts. Where two outputs
share one probability only γ_T(p) − γ_N(1−p) acts, and only that is kept.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray

from lossmith.errors import LossError
from lossmith.losses.family import Kernel
from lossmith.losses.learning_rule import pull
from lossmith.losses.loss import Loss

POINTS = 32
LOG_ODDS: tuple[float, ...] = tuple(np.linspace(-8.0, 8.0, POINTS).tolist())
Array: TypeAlias = NDArray[np.float64]


@dataclass(frozen=True)
class Signature:
    """γ_T at the 32 log-odds, then γ_N: weighted mean 0, weighted mean square 1 (all 0 where nothing pulls).

    Args:
        values: 64 numbers.
        weights: 64 weights that sum to 1: how much each point counts in a distance.
    """

    values: tuple[float, ...]
    weights: tuple[float, ...]


def signature(
    loss: Loss | Kernel, classes: int, *, weights: Sequence[float] | None = None, progress: float = 0.0
) -> Signature:
    """The learning rule of a loss under a softmax over `classes` outputs (2 for each sigmoid output).

    At each log-odds the one output has p = σ(log-odds) and the others share the rest; it is the target for γ_T, and any
    other output for γ_N.

    Args:
        weights: 64 non-negative weights, for instance `visit_weights`; all points count equally without.

    Raises:
        LossError: fewer than two classes, weights that do not fit, a pull that is not finite.
    """
    if isinstance(loss, Loss) and loss.head == "sigmoid":
        classes = 2
    if classes < 2:
        raise LossError(f"a signature needs at least 2 classes, not {classes}.")
    share = _checked_weights(weights)
    gamma = _pulls(loss, classes, progress)
    if not np.isfinite(gamma).all():
        raise LossError(f"{loss} has no signature: its pull is not finite everywhere between p = 0.0003 and 0.9997.")
    if classes == 2:
        contrast = (gamma[:POINTS] - gamma[POINTS:][::-1]) / 2  # p_N = 1 − p_T is the mirrored log-odds
        gamma = np.concatenate([contrast, -contrast[::-1]])
    centred = gamma - (share * gamma).sum()
    spread = float(np.sqrt((share * centred**2).sum()))
    negligible = 1e-12 * float(np.abs(gamma).max())
    normalised = np.zeros_like(centred) if spread <= negligible else centred / spread
    return Signature(tuple(normalised.tolist()), tuple(share.tolist()))


def distance(a: Signature, b: Signature) -> float:
    """Weighted distance of two rules: 0 for the same up to step size, √2 for unrelated, 2 for opposite ones."""
    if a.weights != b.weights:
        raise LossError("signatures with different weights cannot be compared: compute both with the same weights.")
    return float(np.sqrt((np.array(a.weights) * (np.array(a.values) - np.array(b.values)) ** 2).sum()))


def visit_weights(predictions: Array, targets: Array) -> tuple[float, ...]:
    """64 weights: how often a training run visits each point.

    Args:
        predictions: probabilities seen in a run (initial, middle and final ones of a cross-entropy run), [N, C].
        targets: class indices, [N].
    """
    p = np.clip(np.asarray(predictions, dtype=np.float64), 1e-12, 1 - 1e-12)
    nearest = np.clip(np.rint((np.log(p / (1 - p)) + 8.0) / 16.0 * (POINTS - 1)), 0, POINTS - 1).astype(int)  # [N, C]
    is_target = np.arange(p.shape[1]) == np.asarray(targets)[:, None]
    counts = [np.bincount(nearest[chosen], minlength=POINTS) for chosen in (is_target, ~is_target)]
    visits = np.concatenate(counts) / p.size
    return tuple(visits.tolist())


def _pulls(loss: Loss | Kernel, classes: int, progress: float) -> Array:
    """γ_T at the 32 log-odds, then γ_N, [64]."""
    log_odds = torch.tensor(LOG_ODDS, dtype=torch.float64)[:, None]  # [32, 1]
    others = torch.sigmoid(-log_odds) / (classes - 1)  # σ(−x) is 1 − σ(x) without cancellation
    p = torch.cat([torch.sigmoid(log_odds), others.expand(POINTS, classes - 1)], 1)  # [32, C]
    target = torch.zeros(2 * POINTS, classes, dtype=torch.float64)  # [64, C]
    target[:POINTS, 0] = 1.0  # the one output is the target …
    target[POINTS:, 1] = 1.0  # … or another one is
    return np.asarray(pull(loss, torch.cat([p, p]), target, progress=progress)[:, 0].numpy(), dtype=np.float64)


def _checked_weights(weights: Sequence[float] | None) -> Array:
    if weights is None:
        return np.full(2 * POINTS, 1 / (2 * POINTS))
    share = np.asarray(weights, dtype=np.float64)
    if share.shape != (2 * POINTS,) or not np.isfinite(share).all() or (share < 0).any() or share.sum() == 0:
        raise LossError(f"signature weights: {2 * POINTS} non-negative numbers that are not all 0 were expected.")
    return np.asarray(share / share.sum(), dtype=np.float64)
