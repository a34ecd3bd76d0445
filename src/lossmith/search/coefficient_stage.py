"""GLO's second stage: CMA-ES over the coefficients of one tree (ALGORITHMS §1)."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from lossmith.losses.expression import Node
from lossmith.search.base import Problem
from lossmith.search.cma_es import Array, Distribution
from lossmith.search.cma_log import CmaLog, Counts, Drawn
from lossmith.search.coefficients import coefficient_places, with_coefficients


@dataclass(frozen=True)
class CoefficientStage:
    """A tree and what was learned about its coefficients. Every verb leaves it as it is.

    Args:
        root: the tree. since: the generation the stage began with.
        cma: of the coefficients that are not absorbed, in `walk` order of their nodes.
    """

    root: Node
    since: int
    cma: CmaLog

    @classmethod
    def begun(cls, root: Node, since: int, sigma: float, population: int) -> CoefficientStage:
        """Every coefficient 1, nothing learned."""
        mean = [1.0] * len(coefficient_places(root))
        return cls(root, since, CmaLog.start(mean, sigma, population))

    def genomes(self, problem: Problem, generation: int) -> Array:
        """The coefficients to try in a generation, [P, K]."""
        return self._drawn(self.cma.distribution, problem, generation)

    def tree(self, genome: Array) -> Node:
        """The tree with these coefficients [K]."""
        return with_coefficients(self.root, coefficient_places(self.root), genome.tolist())

    def told(self, genomes: Array, fitness: tuple[float | None, ...]) -> CoefficientStage:
        """After a generation of genomes [P, K]."""
        return dataclasses.replace(self, cma=self.cma.told(Drawn((0,) * len(genomes), genomes), fitness))

    def dump(self) -> dict[str, Any]:
        """JSON-able data for `replayed`; the tree is not in it."""
        return {"since": self.since, **self.cma.dump()}

    def replayed(self, problem: Problem, document: Mapping[str, Any], generation: int) -> CoefficientStage:
        """A stage just begun, after everything that was told up to a generation.

        Raises:
            RunError: another version of cma gives another distribution.
            KeyError, TypeError, ValueError, IndexError: the document is damaged.
        """

        def draw_again(distribution: Distribution, told: int, counts: Counts) -> Drawn:
            return Drawn(counts, self._drawn(distribution, problem, self.since + told))

        cma = self.cma.replayed(document, draw_again)
        if self.since + cma.generations != generation:
            raise ValueError(f"{self.since + cma.generations} generations in the log of {generation}")
        return dataclasses.replace(self, cma=cma)

    def _drawn(self, distribution: Distribution, problem: Problem, generation: int) -> Array:
        return distribution.sampler(problem.stream(generation))(self.cma.population)
