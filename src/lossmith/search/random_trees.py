"""Random search over trees: the control every search over trees must beat (ALGORITHMS §5).

Every generation is ramped half-and-half anew, with the required arguments and the screens of GP-LFL, so that at equal
evaluations the only difference between the two is that nothing is learned here.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from lossmith.search.genetic import RampedSearch
from lossmith.search.screened import ScreenedBefore
from lossmith.search.tree_search import Individual, Proposal


@dataclass(frozen=True)
class RandomTrees(ScreenedBefore, RampedSearch):
    """Random search over loss trees."""

    name: ClassVar[str] = "random_trees"
    summary: ClassVar[str] = "independent random trees: the control every search over trees must beat"

    def _proposals(self, state: Any, generator: np.random.Generator, count: int) -> Sequence[Proposal]:
        return self._fresh(generator, count)

    def _survivors(self, before: tuple[Individual, ...], told: tuple[Individual, ...]) -> tuple[Individual, ...]:
        return ()  # nothing is learned
