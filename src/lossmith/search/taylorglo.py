"""TaylorGLO (ALGORITHMS §2).

Gonzalez & Miikkulainen, *Optimizing Loss Functions Through Multivariate Taylor Polynomial Parameterization*, GECCO
2021, arXiv 2002.00059: CMA-ES over the genome of a Taylor loss, initial mean 0 and σ 1.2, fitness = validation metric
after partial training.

`tune` adds local search (ALGORITHMS §5): the genome's loss is tuned by the unroll for so many meta-steps, and the
fitness is that of the tuned loss. The genome stays what was drawn, so that the distribution learns where good starts
lie (the Baldwin effect: Hinton & Nowlan, *Complex Systems* 1, 1987); with `inherit` the tuned genome takes its place
(Lamarck), as a solution from outside whose distance from the mean CMA-ES limits.

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
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np

from lossmith.errors import SpecError
from lossmith.losses import LossSet, from_json
from lossmith.records import Candidate, Preparation, content_hash
from lossmith.search.base import Problem
from lossmith.search.cma_es import Array, Distribution, Draw
from lossmith.search.cma_log import CmaLog, Counts, Drawn
from lossmith.search.settings import flag, whole
from lossmith.search.slot_search import unknown_head
from lossmith.search.taylor_search import TaylorSearch, TaylorState, redraws, slot_genomes
from lossmith.search.unroll_settings import UnrollSettings


@dataclass(frozen=True)
class CmaState(TaylorState):
    """State of TaylorGLO.

    Args:
        cma: where genomes are drawn from, and every batch learned so far.
    """

    cma: CmaLog = field(kw_only=True)

    @property
    def distribution(self) -> Distribution:
        """Where genomes are drawn from."""
        return self.cma.distribution


@dataclass(frozen=True)
class TaylorGLO(UnrollSettings, TaylorSearch):
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

    tune: int = whole(0, 0, 100_000, "meta-steps of local search per candidate; 0: none")
    inherit: bool = flag(False, "whether the distribution learns from tuned genomes instead of drawn ones")

    def __post_init__(self) -> None:
        super().__post_init__()
        self.tuning(max(1, self.tune))  # for its complaints
        if self.inherit and not self.tune:
            raise SpecError(f"{self.name}.inherit: nothing is tuned that could be inherited; set tune, e.g. tune = 20.")
        for name in (one.name for one in dataclasses.fields(UnrollSettings)):
            if not self.tune and getattr(self, name) != getattr(UnrollSettings, name):
                raise SpecError(f"{self.name}.{name}: nothing is tuned that it could change; set tune, e.g. tune = 20.")

    @property
    def preparation(self) -> Preparation:
        return Preparation(tuning=self.tuning(self.tune)) if self.tune else Preparation()

    def _candidate(self, problem: Problem, genome: Array, origin: str) -> Candidate:
        candidate = super()._candidate(problem, genome, origin)
        # Genomes that train alike are tuned apart: only equal ones have one result.
        return dataclasses.replace(candidate, key=content_hash(candidate.loss)) if self.tune else candidate

    def _begin(self, problem: Problem, starts: tuple[Array, ...]) -> CmaState:
        mean = starts[0] if starts else np.zeros(self.family.size)
        return CmaState(problem, cma=CmaLog.start(mean.tolist(), self.sigma, self.population))

    def _sampler(self, state: Any) -> Draw:
        draw: Draw = state.distribution.sampler(state.problem.stream(state.generation))
        return draw

    def _learned(self, state: Any, fitness: tuple[float | None, ...], products: tuple[str, ...]) -> CmaState:
        assert isinstance(state, CmaState)
        counts = redraws(state)
        moved = tuple((slot, _tuned(product)) for slot, product in enumerate(products) if product and self.inherit)
        drawn = Drawn(counts, slot_genomes(state), self._foreign(state, counts), moved)
        return dataclasses.replace(state, cma=state.cma.told(drawn, fitness))

    def _dumped(self, state: Any) -> dict[str, Any]:
        document: dict[str, Any] = state.cma.dump()
        return document

    def _loaded(self, state: Any, document: Mapping[str, Any]) -> CmaState:
        assert isinstance(state, CmaState)

        def draw_again(distribution: Distribution, generation: int, counts: Counts) -> Drawn:
            then = dataclasses.replace(state, generation=generation, cma=CmaLog(self.population, distribution))
            return Drawn(counts, self._redrawn(then, counts), self._foreign(then, counts))

        cma = state.cma.replayed(document, draw_again)
        if cma.generations != document["generation"]:
            raise ValueError(f"{cma.generations} generations in the log of {document['generation']}")
        return dataclasses.replace(state, cma=cma)

    def _redrawn(self, state: CmaState, counts: Counts) -> Array:
        """The slots' genomes of a stored generation [P, K], drawn again without screening anything."""
        draw = self._sampler(state)
        genomes = [genome for genome, _ in self._first_genomes(state, draw)]
        for slot, count in enumerate(counts):
            for _ in range(count):
                genomes[slot] = draw(1)[0]
        return np.array(genomes)

    def _foreign(self, state: CmaState, counts: Counts) -> Counts:
        """The slots that a starting loss fills as it is."""
        starts = len(state.problem.start_from) - state.generation * self.population
        return tuple(slot for slot, count in enumerate(counts) if slot < starts and count == 0)


def _tuned(product: str) -> tuple[float, ...]:
    """The genome that tuning made."""
    found = from_json(json.loads(product)["loss"], head=unknown_head)  # φ is the same under every head
    members = found if isinstance(found, LossSet) else (found,)
    return tuple(number for member in members for number in member.kernel.phi)
