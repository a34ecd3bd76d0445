"""The genetic programming that GP-LFL and EvoMAL share (ALGORITHMS §4): initial trees, one generation, its settings."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeAlias

import numpy as np

from lossmith.errors import SpecError
from lossmith.losses.expression import Node
from lossmith.search.ranking import ranks
from lossmith.search.selection import double_tournament, elite, tournament
from lossmith.search.settings import between, share, whole
from lossmith.search.tree_growth import half_and_half, largest_size
from lossmith.search.tree_search import Individual, Proposal, TreeSearch
from lossmith.search.variation import crossover, hoist, point_mutation, shrink, subtree_mutation, within

Mutation: TypeAlias = Callable[[np.random.Generator, Node], Node]

ROUNDING = 1e-12  # what probabilities that sum to 1 in decimals may miss it by


@dataclass(frozen=True)
class RampedSearch(TreeSearch):
    """A search whose fresh trees are ramped half-and-half."""

    min_initial_height: int = whole(2, 0, 20, "least height of a fresh tree")
    max_initial_height: int = whole(4, 0, 20, "largest height of a fresh tree")

    def __post_init__(self) -> None:
        super().__post_init__()
        low, high = self.min_initial_height, self.max_initial_height
        if low > high:
            raise SpecError(f"{self.name}.min_initial_height = {low}: at most max_initial_height = {high} expected.")
        if high >= self.max_height:
            raise SpecError(
                f"{self.name}.max_initial_height = {high}: less than max_height = {self.max_height} was expected, "
                f"because missing arguments are added one level down."
            )
        largest = largest_size(self.primitive_set, high) + 2
        if largest > self.max_size:
            raise SpecError(
                f"{self.name}.max_size = {self.max_size}: a fresh tree of height {high} may have {largest} nodes with "
                f"its arguments added; raise max_size, or lower max_initial_height."
            )

    def _fresh(self, generator: np.random.Generator, count: int) -> list[Proposal]:
        low, high = self.min_initial_height, self.max_initial_height
        trees = (half_and_half(generator, self.primitive_set, low, high) for _ in range(count))
        return [Proposal(root, "random") for root in trees]


@dataclass(frozen=True)
class GeneticSearch(RampedSearch):
    """Tournaments, then crossover, mutation or a copy; the best go on unchanged."""

    tournament: int = whole(4, 1, 1_000, "candidates per tournament")
    crossover: float = share(0.70, "probability of one-point subtree crossover")
    mutation: float = share(0.25, "probability of subtree mutation; what is left is copied")
    point: float = share(0.0, "probability of point mutation: another function or leaf in a node's place")
    hoist: float = share(0.0, "probability of hoist mutation: a subtree becomes the tree")
    shrink: float = share(0.0, "probability of shrink mutation: a function gives way to one of its arguments")
    elitism: float = share(0.05, "part of the population that goes on unchanged, at least one; 0: nobody")
    parsimony: float = between(1.0, 1.0, 2.0, "double tournament for smaller trees: 1 is off, 1.4 usual, 2 strict")

    def __post_init__(self) -> None:
        super().__post_init__()
        names = ("crossover", "mutation", "point", "hoist", "shrink")
        total = sum(getattr(self, name) for name in names)
        if total > 1 + ROUNDING:
            raise SpecError(f"{self.name}: {' + '.join(names)} = {total:g}: a sum of at most 1 was expected.")

    @property
    def elites(self) -> int:
        """max(1, round(share · P)), but never everybody."""
        wanted = max(1, round(self.elitism * self.population)) if self.elitism else 0
        return min(wanted, self.population - 1)

    def _proposals(self, state: Any, generator: np.random.Generator, count: int) -> Sequence[Proposal]:
        parents: tuple[Individual, ...] = state.parents
        if not parents:
            return self._fresh(generator, count)
        roots = [parent.root for parent in parents]
        best = elite(roots, [parent.fitness for parent in parents], min(self.elites, count))
        proposals = [Proposal(roots[i], "elite") for i in best]
        selected = [roots[i] for i in self._selected(generator, parents, count - len(proposals))]
        return proposals + [self._child(generator, root, selected) for root in selected]

    def _selected(self, generator: np.random.Generator, parents: Sequence[Individual], count: int) -> list[int]:
        """Places of the parents of the next `count` children."""
        standing = ranks([parent.fitness for parent in parents])
        choose: Callable[[], int] = partial(tournament, generator, standing, self.tournament)
        if self.parsimony > 1:
            sizes = [parent.root.size for parent in parents]
            choose = partial(double_tournament, generator, standing, sizes, self.tournament, self.parsimony)
        return [choose() for _ in range(count)]

    def _child(self, generator: np.random.Generator, parent: Node, mates: Sequence[Node]) -> Proposal:
        """One child of a parent; the mate of a crossover is uniform over the selected, the parent too."""
        fresh = self.primitive_set
        mutations: tuple[tuple[str, float, Mutation], ...] = (
            ("crossover", self.crossover, lambda g, root: crossover(g, root, mates[int(g.integers(len(mates)))])),
            ("mutation", self.mutation, lambda g, root: subtree_mutation(g, root, fresh)),
            ("point mutation", self.point, lambda g, root: point_mutation(g, root, fresh)),
            ("hoist mutation", self.hoist, hoist),
            ("shrink mutation", self.shrink, shrink),
        )
        place = generator.random()
        for origin, probability, vary in mutations:
            place -= probability
            if place < 0:
                return Proposal(within(self.limits, vary(generator, parent), parent), origin, parent)
        return Proposal(parent, "copy", parent)
