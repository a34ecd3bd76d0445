"""Who becomes a parent. Fitness is minimised; what gave no number never wins against what did (`ranking`)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from lossmith.losses.expression import Node
from lossmith.search.cma_es import Array
from lossmith.search.ranking import ranks, succeeded

FENCE = 1.5  # interquartile ranges above the upper quartile: Tukey's limit of what is an outlier


def tournament(generator: np.random.Generator, standing: Sequence[int], size: int) -> int:
    """The best of `size` candidates drawn uniformly with replacement; of equals the one drawn first.

    Args:
        standing: rank of each candidate (`ranking.ranks`).
    """
    drawn = generator.integers(len(standing), size=size).tolist()
    return int(min(drawn, key=lambda i: standing[i]))  # min keeps the first of equals


def double_tournament(
    generator: np.random.Generator, standing: Sequence[int], sizes: Sequence[int], size: int, parsimony: float
) -> int:
    """Luke & Panait 2002, fitness first: of the winners of two tournaments the smaller with probability parsimony/2.

    Args:
        standing: rank of each candidate. sizes: nodes of each candidate.
        size: of the fitness tournaments.
        parsimony: from 1 (no pressure) to 2 (always the smaller); between trees of one size a coin decides.
    """
    first, second = (tournament(generator, standing, size) for _ in range(2))
    favoured = generator.random() < parsimony / 2
    if sizes[first] == sizes[second]:
        return first  # the two were drawn alike: the first of them is a coin already
    smaller, larger = sorted((first, second), key=lambda i: sizes[i])
    return smaller if favoured else larger


def roulette_shares(fitness: Sequence[float | None]) -> Array:
    """Probability of each candidate under fitness-proportional selection of a fitness that is minimised, [P].

    Proportional to the distance from the worst candidate that gave a number, so that neither scale nor zero of the
    metric counts; a value beyond Tukey's fence (upper quartile + 1.5 interquartile ranges) counts as the fence, so that
    one outlier cannot make all others equal. Failures have probability 0. Where all successes are equal they share
    equally, and where there is none everybody does.
    """
    good = np.array([succeeded(f) for f in fitness])
    if not good.any():
        return np.full(len(fitness), 1 / len(fitness))
    values = np.array([f if succeeded(f) else np.inf for f in fitness], dtype=np.float64)
    with np.errstate(over="ignore", invalid="ignore"):
        low, high = np.quantile(values[good], (0.25, 0.75))
        worst = np.fmin(values[good].max(), high + FENCE * (high - low))
        distance = np.where(good, np.maximum(worst - values, 0.0), 0.0)
    if not np.isfinite(distance).all() or distance.max() == 0.0:  # all equal, or too far apart to subtract
        distance = np.where(good & (values <= worst), 1.0, 0.0)
    shares = distance / distance.max()  # first, so that the sum stays in range
    return np.asarray(shares / shares.sum(), dtype=np.float64)


def roulette(generator: np.random.Generator, shares: Array) -> int:
    """A candidate drawn by its share."""
    return int(min(np.searchsorted(np.cumsum(shares), generator.random(), side="right"), np.flatnonzero(shares)[-1]))


def elite(roots: Sequence[Node], fitness: Sequence[float | None], count: int) -> tuple[int, ...]:
    """The places of the best `count` different trees that gave a number, best first; of equals the earlier."""
    standing = ranks(fitness)
    order = sorted((i for i, f in enumerate(fitness) if succeeded(f)), key=lambda i: (standing[i], i))
    chosen: dict[Node, int] = {}
    for i in order:
        chosen.setdefault(roots[i], i)
    return tuple(chosen.values())[:count]
