"""The seed block, and what it means that one candidate is better than another (DESIGN §4, "Seeds").

A run fixes its evaluation seeds. Every candidate begins with the first; elites gain further ones, in order. Two
candidates are compared on the seeds both have had.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from lossmith.rng import derive_seed


def seed_block(run_seed: int, purpose: str, count: int) -> tuple[int, ...]:
    """`count` evaluation seeds; a longer block begins with the shorter one."""
    return tuple(derive_seed(run_seed, "evaluation", purpose, i) % 2**31 for i in range(count))


@dataclass
class Standing:
    """The fitness of one candidate on each seed it has had, in seed order; None where the training failed."""

    position: tuple[int, int]
    fitness: list[float | None] = field(default_factory=list)

    def mean(self, seeds: int) -> float:
        """Mean fitness over the first `seeds` seeds; infinite if any of them failed or is missing."""
        had = self.fitness[:seeds]
        if len(had) < seeds or not had:
            return float("inf")
        total = 0.0
        for value in had:
            if value is None:
                return float("inf")
            total += value
        return total / seeds


def better(a: Standing, b: Standing) -> bool:
    """Whether `a` is better than `b` on their common seeds; more seeds win a tie, then the earlier position."""
    common = min(len(a.fitness), len(b.fitness))
    left, right = a.mean(common), b.mean(common)
    if left != right:
        return left < right
    return (-len(a.fitness), a.position) < (-len(b.fitness), b.position)


def top(standings: Sequence[Standing], count: int) -> list[Standing]:
    """The best `count` candidates with a number, best first, each the winner of a scan over those left.

    Comparison on common seeds need not be transitive; the scan in candidate order makes the answer a function of the
    data.
    """
    left = [s for s in standings if s.mean(len(s.fitness)) < float("inf")]
    chosen: list[Standing] = []
    while left and len(chosen) < count:
        winner = left[0]
        for challenger in left[1:]:
            if better(challenger, winner):
                winner = challenger
        chosen.append(winner)
        left.remove(winner)
    return chosen


def mean_fitness(values: Mapping[int, float | None] | Sequence[float | None]) -> float | None:
    """Mean over seeds; None if any failed: a candidate that fails on a seed has no mean."""
    had = list(values.values()) if isinstance(values, Mapping) else list(values)
    if not had or any(v is None for v in had):
        return None
    return sum(v for v in had if v is not None) / len(had)
