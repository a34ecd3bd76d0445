"""Tuning the learning rate of a loss: the same protocol for every arm of a comparison (DESIGN §5).

Grid of factors √10 from 1/100 to 100 times the recipe's learning rate, extended while the best is at its edge; every
point sees the same seeds; chosen on the fitness split.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeAlias

from lossmith.evaluation.seeds import mean_fitness

PointsFitness: TypeAlias = Callable[[Sequence[tuple[int, float]]], Sequence[Sequence[float | None]]]

FACTOR = math.sqrt(10.0)
REACH = 4  # steps of √10 to each side: 1/100 … 100
FARTHEST = 8  # the extension ends at 10⁻⁴ … 10⁴ times the recipe's learning rate


@dataclass(frozen=True)
class TunedLearningRate:
    """Outcome of a tuning: `scale` is None where no point of the grid gave a number.

    Args:
        scale: best factor on the recipe's learning rate.
        table: (factor, mean fitness or None), by factor.
        at_edge: whether the best is still at the edge of the longest grid.
    """

    scale: float | None
    table: tuple[tuple[float, float | None], ...]
    at_edge: bool


def scale_at(step: int) -> float:
    """The grid point `step` factors of √10 away from 1, the same float for everyone."""
    return float(f"{FACTOR**step:.6g}")


def tune_learning_rate(fitness: Callable[[Sequence[float]], Sequence[Sequence[float | None]]]) -> TunedLearningRate:
    """Tune one loss.

    Args:
        fitness: from factors to the fitness of each on every seed, lower is better, None where a training failed.
    """
    return tune_learning_rates(lambda points: fitness([scale for _, scale in points]), 1)[0]


def tune_learning_rates(fitness: PointsFitness, count: int) -> list[TunedLearningRate]:
    """Tune several losses side by side, each as if alone: what is known to be needed is asked for in one go.

    Args:
        fitness: from points (number of the loss, factor) to the fitness of each on every seed, as above.
        count: how many losses.
    """
    means: list[dict[int, float | None]] = [{} for _ in range(count)]
    found: dict[int, TunedLearningRate] = {}
    wanted = [(loss, step) for loss in range(count) for step in range(-REACH, REACH + 1)]
    while wanted:
        answers = fitness([(loss, scale_at(step)) for loss, step in wanted])
        for (loss, step), values in zip(wanted, answers, strict=True):
            means[loss][step] = mean_fitness(values)
        wanted = []
        for loss in range(count):
            if loss in found:
                continue
            following = _following(means[loss])
            if isinstance(following, TunedLearningRate):
                found[loss] = following
            else:
                wanted.append((loss, following))
    return [found[loss] for loss in range(count)]


def _following(means: dict[int, float | None]) -> int | TunedLearningRate:
    """The grid point beyond the edge that the best is at, or the end of the tuning."""
    finite = {step: value for step, value in means.items() if value is not None}
    if not finite:
        return TunedLearningRate(None, _table(means), False)
    best = min(finite, key=lambda step: (finite[step], abs(step)))
    edge = best in (min(means), max(means))
    following = best + 1 if best == max(means) else best - 1
    if not edge or abs(following) > FARTHEST:
        return TunedLearningRate(scale_at(best), _table(means), edge)
    return following


def _table(means: dict[int, float | None]) -> tuple[tuple[float, float | None], ...]:
    return tuple((scale_at(step), means[step]) for step in sorted(means))
