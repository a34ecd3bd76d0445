"""CMA-ES that is stored as what it was told and rebuilt by replaying it, which gives the same distribution to the bit.

Genomes are not stored: each generation draws them again from its own stream; only those that local search moved are. A
population below 4 updates the distribution every ⌈4/population⌉ generations, because an update needs as many.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, TypeAlias

import numpy as np

from lossmith.errors import RunError
from lossmith.search.cma_es import SMALLEST, VERSION, Array, Distribution
from lossmith.search.ranking import ranks, succeeded

SAME = 1e-9  # relative to the step size: another BLAS rounds otherwise; other mathematics differs by far more

Counts: TypeAlias = tuple[int, ...]
Moved: TypeAlias = tuple[tuple[int, tuple[float, ...]], ...]
"""Slots, each with the genome that local search put in the place of the drawn one."""


@dataclass(frozen=True)
class Batch:
    """What one update of the distribution is made of, in few numbers.

    Args:
        redraws: per generation, how often each slot was redrawn.
        ranks: of all its genomes, in order; None where nothing succeeded and nothing was learned.
        moved: per generation, what did not stay as it was drawn: the only genomes that are stored.
    """

    redraws: tuple[Counts, ...]
    ranks: Counts | None
    moved: tuple[Moved, ...] = ()


@dataclass(frozen=True)
class Drawn:
    """The genomes that filled the slots of one generation.

    Args:
        redraws: how often each slot was redrawn. genomes: [P, K].
        foreign: slots whose genome was not drawn from the distribution. moved: see `Moved`; foreign as well.
    """

    redraws: Counts
    genomes: Array
    foreign: Counts = ()
    moved: Moved = ()

    @property
    def learned(self) -> Array:
        """The genomes that are learned from, [P, K]."""
        genomes = self.genomes.copy()
        for slot, genome in self.moved:
            genomes[slot] = genome
        return genomes

    @property
    def strangers(self) -> tuple[int, ...]:
        """Slots whose learned genome was not drawn."""
        return tuple(sorted({*self.foreign, *(slot for slot, _ in self.moved)}))


DrawAgain: TypeAlias = Callable[[Distribution, int, Counts], Drawn]
"""From the distribution, the number of the generation and the slots' redraws to what was drawn then."""


@dataclass(frozen=True)
class CmaLog:
    """A distribution and how it came about. Every verb leaves it as it is.

    Args:
        population: genomes per generation.
        distribution: where genomes are drawn from.
        log: every batch learned so far.
        pending: generations, with their fitness, that wait for their batch to fill.
    """

    population: int
    distribution: Distribution = field(compare=False)
    log: tuple[Batch, ...] = ()
    pending: tuple[tuple[Drawn, tuple[float | None, ...]], ...] = field(default=(), compare=False)

    @classmethod
    def start(cls, mean: Sequence[float], sigma: float, population: int) -> CmaLog:
        """N(mean, σ²I), told nothing yet."""
        batch = population * -(-SMALLEST // population)
        return cls(population, Distribution.start(mean, sigma, batch))

    @property
    def generations_per_batch(self) -> int:
        """How many generations one update of the distribution takes."""
        return -(-SMALLEST // self.population)

    @property
    def generations(self) -> int:
        """How many generations it was told."""
        return len(self.log) * self.generations_per_batch + len(self.pending)

    def told(self, drawn: Drawn, fitness: tuple[float | None, ...]) -> CmaLog:
        """After one generation."""
        pending = (*self.pending, (drawn, fitness))
        if len(pending) < self.generations_per_batch:
            return replace(self, pending=pending)
        together = [value for _, values in pending for value in values]
        learned = ranks(together) if any(map(succeeded, together)) else None
        return self._updated([one for one, _ in pending], learned)

    def _updated(self, drawn: Sequence[Drawn], learned: Counts | None) -> CmaLog:
        """After a full batch."""
        distribution = self.distribution
        if learned is not None:
            foreign = [i * self.population + slot for i, one in enumerate(drawn) for slot in one.strangers]
            distribution = distribution.updated(np.concatenate([one.learned for one in drawn]), learned, foreign)
        moved = tuple(one.moved for one in drawn) if any(one.moved for one in drawn) else ()
        batch = Batch(tuple(one.redraws for one in drawn), learned, moved)
        return CmaLog(self.population, distribution, (*self.log, batch))

    def dump(self) -> dict[str, Any]:
        """JSON-able data for `replayed`."""
        return {
            "log": [
                {"redraws": [_sparse(r) for r in batch.redraws], "ranks": batch.ranks and list(batch.ranks)}
                | ({"moved": [_stored(one) for one in batch.moved]} if batch.moved else {})
                for batch in self.log
            ],
            "pending": [
                {"redraws": _sparse(d.redraws), "fitness": list(fitness)}
                | ({"moved": _stored(d.moved)} if d.moved else {})
                for d, fitness in self.pending
            ],
            "distribution": {
                "mean": self.distribution.mean.tolist(),
                "sigma": self.distribution.sigma,
                "spread": self.distribution.spread.tolist(),
                "cma": VERSION,
            },
        }

    def replayed(self, document: Mapping[str, Any], draw_again: DrawAgain) -> CmaLog:
        """A start, after everything a `dump` was told: every number is drawn and learned again.

        Raises:
            RunError: it arrives at another distribution (another version of cma).
            KeyError, TypeError, ValueError, IndexError: the document is damaged.
        """
        now = self
        for entry in document["log"]:
            counts = [self._dense(sparse) for sparse in entry["redraws"]]
            learned = None if entry["ranks"] is None else tuple(int(rank) for rank in entry["ranks"])
            full = self.population * self.generations_per_batch
            if len(counts) != self.generations_per_batch or len(learned or range(0)) not in (0, full):
                raise ValueError("a batch of the wrong size")
            begun = now.generations
            moved = [self._read(one) for one in entry.get("moved", [[]] * len(counts))]
            drawn = [
                replace(draw_again(now.distribution, begun + i, c), moved=m)
                for i, (c, m) in enumerate(zip(counts, moved, strict=True))
            ]
            now = now._updated(drawn, learned)
        _check_same(now.distribution, document["distribution"])
        for entry in document["pending"]:
            fitness = tuple(None if f is None else float(f) for f in entry["fitness"])
            drawn_last = draw_again(now.distribution, now.generations, self._dense(entry["redraws"]))
            now = now.told(replace(drawn_last, moved=self._read(entry.get("moved", []))), fitness)
        return now

    def _read(self, stored: list[list[Any]]) -> Moved:
        moved = tuple((int(slot), tuple(float(number) for number in genome)) for slot, genome in stored)
        size = len(self.distribution.mean)
        if any(not 0 <= slot < self.population or len(genome) != size for slot, genome in moved):
            raise ValueError("a genome that does not fit")
        return moved

    def _dense(self, sparse: list[list[int]]) -> Counts:
        counts = [0] * self.population
        for slot, count in sparse:
            counts[slot] = int(count)
        return tuple(counts)


def _sparse(counts: Counts) -> list[list[int]]:
    return [[slot, count] for slot, count in enumerate(counts) if count]


def _stored(moved: Moved) -> list[list[Any]]:
    return [[slot, list(genome)] for slot, genome in moved]


def _check_same(distribution: Distribution, stored: Mapping[str, Any]) -> None:
    """RunError unless the replay arrived where the stored search was."""
    tolerance = SAME * float(stored["sigma"])
    same = all(
        np.shape(a) == np.shape(b) and np.allclose(a, b, rtol=SAME, atol=tolerance)
        for a, b in (
            (distribution.mean, stored["mean"]),
            (distribution.sigma, stored["sigma"]),
            (distribution.spread, stored["spread"]),
        )
    )
    if not same:
        raise RunError(
            f"replaying the stored search with cma {VERSION} gives another distribution than it had with "
            f"cma {stored['cma']}: install cma=={stored['cma']} to resume it, or start a new run."
        )
