"""Steps on loss parameters φ, by the name of the optimiser: the one place that says what a meta-optimiser is."""

from __future__ import annotations

from collections.abc import Callable

from lossmith.records import MetaOptimizer
from lossmith.training.meta_adam import AdamState, Vector, adam_step

MetaStep = Callable[[Vector, Vector, AdamState, float], tuple[Vector, AdamState]]


def sgd_step(phi: Vector, gradient: Vector, state: AdamState, lr: float) -> tuple[Vector, AdamState]:
    """φ − lr·gradient, as `torch.optim.SGD` without momentum; of the state only the number of steps changes."""
    return phi - lr * gradient, AdamState(state.mean, state.square, state.steps + 1)


META_STEPS: dict[MetaOptimizer, MetaStep] = {"adam": adam_step, "sgd": sgd_step}
