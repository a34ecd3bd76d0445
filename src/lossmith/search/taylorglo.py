"""TaylorGLO (ALGORITHMS §2).

Gonzalez & Miikkulainen, *Optimizing Loss Functions Through Multivariate Taylor Polynomial Parameterization*, GECCO
2021, arXiv 2002.00059: CMA-ES over the genome of a Taylor loss, initial mean 0 and σ 1.2, fitness = validation metric
after partial training.

Deviations:
    - the published code gives a genome that violates the invariant a fitness of 0 and lets CMA-ES learn from it; here
      it is redrawn (≤ 20 times), what still fails ranks last, and the screen is the exact condition by default;
    - CMA-ES is told ranks instead of fitness, and never stops by itself;
    - a generation without one success leaves the distribution unchanged;
    - a population below 4 updates the distribution every ⌈4/population⌉ generations, because an update needs as many;
    - `start_from`: the mean is the Taylor expansion of the first loss, and all of them join the first population;
    - 20 candidates per generation (the paper: 28 on MNIST, 20 elsewhere, 40 with the invariant or auxiliary heads).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np

from lossmith.errors import RunError
from lossmith.search.base import Problem
from lossmith.search.cma_es import SMALLEST, VERSION, Distribution, Draw
from lossmith.search.ranking import ranks, succeeded
from lossmith.search.taylor_search import Array, TaylorSearch, TaylorState, redraws, slot_genomes

SAME = 1e-9  # relative to the step size: another BLAS rounds otherwise; other mathematics differs by far more


@dataclass(frozen=True)
class Batch:
    """What one update of the distribution is made of, in few numbers.

    Args:
        redraws: per generation, how often each slot was redrawn.
        ranks: of all its genomes, in order; None where nothing succeeded and nothing was learned.
    """

    redraws: tuple[tuple[int, ...], ...]
    ranks: tuple[int, ...] | None


@dataclass(frozen=True)
class CmaState(TaylorState):
    """State of TaylorGLO.

    Args:
        distribution: where genomes are drawn from.
        log: every batch learned so far; replaying it gives `distribution` again.
        pending: (redraws, genomes [P, K], fitness) of told generations that wait for their batch to fill.
    """

    distribution: Distribution = field(kw_only=True, compare=False)
    log: tuple[Batch, ...] = field(default=(), kw_only=True)
    pending: tuple[tuple[tuple[int, ...], Array, tuple[float | None, ...]], ...] = field(
        default=(), kw_only=True, compare=False
    )


@dataclass(frozen=True)
class TaylorGLO(TaylorSearch):
    """CMA-ES over Taylor losses.

    Example:
        >>> from lossmith.losses import Setting
        >>> method = TaylorGLO(population=8)
        >>> state = method.init(Problem(Setting("softmax", 10), seed=1))
        >>> for _ in range(3):
        ...     candidates, state = method.ask(state)
        ...     fitness = [abs(c.genome[0]) if c.status.ok else None for c in candidates]
        ...     state = method.tell(state, candidates, fitness)
        >>> state.generation
        3
    """

    name: ClassVar[str] = "taylorglo"
    summary: ClassVar[str] = "CMA-ES over multivariate Taylor polynomials"
    reference: ClassVar[str] = "Gonzalez & Miikkulainen, GECCO 2021, arXiv 2002.00059"
    origin: ClassVar[str] = "cma-es"

    @property
    def generations_per_batch(self) -> int:
        """How many generations one update of the distribution takes."""
        return -(-SMALLEST // self.population)

    @property
    def _batch_size(self) -> int:
        return self.population * self.generations_per_batch

    def _begin(self, problem: Problem, starts: tuple[Array, ...]) -> CmaState:
        mean = starts[0] if starts else np.zeros(self.family.size)
        return CmaState(problem, distribution=Distribution.start(mean.tolist(), self.sigma, self._batch_size))

    def _sampler(self, state: Any) -> Draw:
        draw: Draw = state.distribution.sampler(state.problem.stream(state.generation))
        return draw

    def _learned(self, state: Any, fitness: tuple[float | None, ...]) -> CmaState:
        assert isinstance(state, CmaState)
        return self._took_in(state, redraws(state), slot_genomes(state), fitness)

    def _took_in(
        self, state: CmaState, drawn: tuple[int, ...], genomes: Array, fitness: tuple[float | None, ...]
    ) -> CmaState:
        pending = (*state.pending, (drawn, genomes, fitness))
        if len(pending) < self.generations_per_batch:
            return dataclasses.replace(state, pending=pending)
        together = [value for _, _, values in pending for value in values]
        learned = ranks(together) if any(map(succeeded, together)) else None
        batch = Batch(tuple(redrawn for redrawn, _, _ in pending), learned)
        return self._updated(state, batch, np.concatenate([g for _, g, _ in pending]))

    def _updated(self, state: CmaState, batch: Batch, genomes: Array) -> CmaState:
        """The state after a full batch of genomes [P, K]."""
        distribution = state.distribution
        if batch.ranks is not None:
            flat = [count for generation in batch.redraws for count in generation]
            starts = len(state.problem.start_from) - len(state.log) * self._batch_size  # those still waiting for a slot
            foreign = [slot for slot, count in enumerate(flat) if slot < starts and count == 0]
            distribution = distribution.updated(genomes, batch.ranks, foreign)
        return dataclasses.replace(state, distribution=distribution, log=(*state.log, batch), pending=())

    def _dumped(self, state: Any) -> dict[str, Any]:
        distribution: Distribution = state.distribution
        return {
            "log": [
                {"redraws": [_sparse(r) for r in batch.redraws], "ranks": batch.ranks and list(batch.ranks)}
                for batch in state.log
            ],
            "pending": [{"redraws": _sparse(drawn), "fitness": list(fitness)} for drawn, _, fitness in state.pending],
            "distribution": {
                "mean": distribution.mean.tolist(),
                "sigma": distribution.sigma,
                "spread": distribution.spread.tolist(),
                "cma": VERSION,
            },
        }

    def _loaded(self, state: Any, document: Mapping[str, Any]) -> CmaState:
        """Replay: every number is drawn and learned again, which gives the stored distribution to the last bit."""
        now: CmaState = state
        for entry in document["log"]:
            drawn = tuple(self._dense(sparse) for sparse in entry["redraws"])
            learned = None if entry["ranks"] is None else tuple(int(rank) for rank in entry["ranks"])
            if len(drawn) != self.generations_per_batch or len(learned or range(0)) not in (0, self._batch_size):
                raise ValueError("a batch of the wrong size")
            genomes = []
            for counts in drawn:
                genomes.append(self._redrawn(now, counts))
                now = dataclasses.replace(now, generation=now.generation + 1)
            now = self._updated(now, Batch(drawn, learned), np.concatenate(genomes))
        _check_same(now.distribution, document["distribution"])
        for entry in document["pending"]:
            counts = self._dense(entry["redraws"])
            fitness = tuple(None if f is None else float(f) for f in entry["fitness"])
            now = self._took_in(now, counts, self._redrawn(now, counts), fitness)
            now = dataclasses.replace(now, generation=now.generation + 1)
        if now.generation != document["generation"]:
            raise ValueError(f"{now.generation} generations in the log of {document['generation']}")
        return now

    def _redrawn(self, state: CmaState, counts: tuple[int, ...]) -> Array:
        """The slots' genomes of a stored generation [P, K], drawn again without screening anything."""
        draw = self._sampler(state)
        genomes = [genome for genome, _ in self._first_genomes(state, draw)]
        for slot, count in enumerate(counts):
            for _ in range(count):
                genomes[slot] = draw(1)[0]
        return np.array(genomes)

    def _dense(self, sparse: list[list[int]]) -> tuple[int, ...]:
        counts = [0] * self.population
        for slot, count in sparse:
            counts[slot] = int(count)
        return tuple(counts)


def _sparse(counts: tuple[int, ...]) -> list[list[int]]:
    return [[slot, count] for slot, count in enumerate(counts) if count]


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
