"""Metrics of values: the prediction after the head against the target, averaged over the columns."""

from __future__ import annotations

import torch
from torch import Tensor

from lossmith.losses.inputs import Head
from lossmith.tasks.metrics.reading import one_hot, predict
from lossmith.tasks.metrics.record import Metric, mean_of
from lossmith.tasks.ranges import check_number


def _residual(output: Tensor, target: Tensor, head: Head | None) -> Tensor:
    """p − t `[N, C]` in float64, on the CPU; classes become indicators."""
    return predict(output, head).cpu().double() - one_hot(target, output.shape[1]).cpu().double()


def _squared(output: Tensor, target: Tensor, *, head: Head | None) -> Tensor:
    return _residual(output, target, head).square().mean(1)


def _absolute(output: Tensor, target: Tensor, *, head: Head | None) -> Tensor:
    return _residual(output, target, head).abs().mean(1)


def _pinball(output: Tensor, target: Tensor, *, head: Head | None, q: float) -> Tensor:
    short = -_residual(output, target, head)  # t − p
    return torch.maximum(q * short, (q - 1) * short).mean(1)


def _explained(output: Tensor, target: Tensor, weight: Tensor | None, *, head: Head | None) -> Tensor:
    """Rows whose mean is R² = 1 − Σ(p − t)²/Σ(t − t̄)² and whose spread is that of its linearisation."""
    w = torch.ones(len(output), dtype=torch.float64) if weight is None else weight
    share = (w / w.sum())[:, None]
    left = _residual(output, target, head).square()
    t = one_hot(target, output.shape[1]).cpu().double()
    spread = (t - (share * t).sum(0)).square()
    unexplained, total = (share * left).sum(0), (share * spread).sum(0)
    varied = total > 0
    safe = torch.where(varied, total, 1.0)
    # scikit-learn's convention for a target without variance: 1 if it is hit, else 0
    ratio = torch.where(varied, unexplained / safe, (unexplained > 0).double())
    return (1 - ratio - torch.where(varied, (left - ratio * spread) / safe, 0.0)).mean(1)


mse = mean_of("mse", "min", _squared)
mae = mean_of("mae", "min", _absolute)
r2 = mean_of("r2", "max", _explained)


def quantile(q: float) -> Metric:
    """Pinball loss max(q(t − p), (q − 1)(t − p)): its best constant is the q-quantile of the target.

    Raises:
        TaskError: q is not in (0, 1).

    Reference: Koenker & Bassett (1978), Regression Quantiles, Econometrica 46.
    """
    check_number("quantile.q", q, above=0, below=1)
    return mean_of(f"quantile(q={float(q):.12g})", "min", _pinball, q=float(q))
