"""Random search over the Taylor family: the control every method must beat (ALGORITHMS §5).

Genomes are independent draws from N(0, σ²), screened and redrawn exactly as in TaylorGLO, so that at equal evaluations
the only difference between the two is that nothing is learned here.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from lossmith.search.base import Problem
from lossmith.search.cma_es import Array, Draw
from lossmith.search.taylor_search import TaylorSearch, TaylorState


@dataclass(frozen=True)
class RandomSearch(TaylorSearch):
    """Random search over Taylor genomes.

    Example:
        >>> from lossmith.losses import Setting
        >>> method = RandomSearch(population=5)
        >>> candidates, state = method.ask(method.init(Problem(Setting("softmax", 10))))
        >>> sum(candidate.status.ok for candidate in candidates)
        5
    """

    name: ClassVar[str] = "random"
    summary: ClassVar[str] = "independent random Taylor losses: the control every method must beat"
    origin: ClassVar[str] = "random"

    def _begin(self, problem: Problem, starts: tuple[Array, ...]) -> TaylorState:
        del starts  # they join the first population; there is nothing else to start
        return TaylorState(problem)

    def _sampler(self, state: Any) -> Draw:
        generator, size = state.problem.stream(state.generation), self.family.size
        return lambda number: self.sigma * generator.standard_normal((number, size))

    def _learned(self, state: Any, fitness: tuple[float | None, ...], products: tuple[str, ...]) -> TaylorState:
        del fitness, products
        assert isinstance(state, TaylorState)
        return state

    def _dumped(self, state: Any) -> dict[str, Any]:
        return {}

    def _loaded(self, state: Any, document: Mapping[str, Any]) -> TaylorState:
        assert isinstance(state, TaylorState)
        return state
