"""What every search over expression trees has in common: limits, required arguments, starting losses, storage.

A subclass says only which trees come next (`_proposals`), what is learned from their fitness, and which loss a tree is
(`_kernel`, `_key`). A tree that lacks an argument is a candidate of its own, "screened:required_arguments", placed
before the repaired one that fills its slot; a method that does not repair leaves it in the slot as a failure.
"""

from __future__ import annotations

import dataclasses
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from lossmith.errors import ExpressionError, LossError
from lossmith.losses import Loss, Tree, to_json
from lossmith.losses.expression import Node
from lossmith.losses.inputs import Head
from lossmith.losses.keys import algebraic_key
from lossmith.losses.parser import parse
from lossmith.losses.primitive_sets import PrimitiveSet, primitive_set
from lossmith.losses.printer import to_text
from lossmith.records import OK, Candidate, Status
from lossmith.search import settings
from lossmith.search.base import Problem
from lossmith.search.ranking import succeeded
from lossmith.search.required_arguments import required_arguments, with_required_arguments
from lossmith.search.settings import whole
from lossmith.search.slot_search import SlotSearch, SlotState, unknown_head
from lossmith.search.starting_trees import starting_tree
from lossmith.search.tree_growth import Limits

TALLEST = 30  # a formula of this height is far from the parser's nesting limit


@dataclass(frozen=True)
class Individual:
    """A tree that was evaluated.

    Args:
        fitness: lower is better; None where there is no number.
    """

    root: Node
    fitness: float | None


@dataclass(frozen=True)
class Proposal:
    """A tree for a slot.

    Args:
        origin: where it came from, for people.
        parent: the valid tree that takes its place where it cannot be repaired within the limits.
    """

    root: Node
    origin: str
    parent: Node | None = None


@dataclass(frozen=True)
class TreeState(SlotState):
    """State of a search over trees.

    Args:
        parents: the population that the next generation descends from; empty where the next trees are fresh ones.
        trees: while candidates wait for `tell`: the tree in each slot.
    """

    parents: tuple[Individual, ...] = field(default=(), kw_only=True)
    trees: tuple[Node, ...] = field(default=(), kw_only=True)


@dataclass(frozen=True)
class TreeSearch(SlotSearch):
    """Settings and chores of a search over trees."""

    population: int = whole(25, 1, 10_000, "candidates per generation")
    primitives: str = settings.primitives("evomal")
    max_height: int = whole(10, 2, TALLEST, "height of the tallest tree, in edges")
    max_size: int = whole(100, 7, 2_000, "nodes of the largest tree")

    @abstractmethod
    def _proposals(self, state: Any, generator: np.random.Generator, count: int) -> Sequence[Proposal]:
        """The next `count` trees; elites among them come first."""

    @property
    def elites(self) -> int:
        """How many slots are kept for the best so far."""
        return 0

    @property
    def limits(self) -> Limits:
        """The largest tree proposed."""
        return Limits(self.max_height, self.max_size)

    @property
    def primitive_set(self) -> PrimitiveSet:
        """Functions and leaves of new trees."""
        return primitive_set(self.primitives)

    def init(self, problem: Problem) -> TreeState:
        for loss in problem.start_from:
            root = self._started(problem, loss)
            if not self.limits.hold(root):
                raise LossError(
                    f"{self.name} cannot start from {loss}: its tree has {root.size} nodes and height {root.height}, "
                    f"the limits are max_size = {self.max_size} and max_height = {self.max_height}: raise them, or "
                    f"start from a smaller loss."
                )
        return TreeState(problem)

    def _started(self, problem: Problem, loss: Loss) -> Node:
        """The tree of a loss to start from."""
        return starting_tree(loss, problem, self.name)

    def _kernel(self, problem: Problem, root: Node) -> Tree:
        """The loss that a tree is, to be minimised."""
        del problem
        return Tree(root)

    def _key(self, root: Node) -> str:
        """Losses whose trees have one key need one evaluation."""
        return algebraic_key(root)

    def _repaired(self, generator: np.random.Generator, proposal: Proposal) -> Node | None:
        """The tree with its missing arguments; None leaves it in its slot as a failure."""
        return with_required_arguments(generator, proposal.root, self.limits) or proposal.parent

    def _asked(self, state: Any) -> TreeState:
        problem: Problem = state.problem
        generator = problem.stream(state.generation)
        begun = self._starts_before(state.generation)
        room = self.population if state.generation == 0 else max(1, self.population - self.elites)
        starts = [
            Proposal(self._started(problem, loss), f"start: {loss}")
            for loss in problem.start_from[begun : begun + room]
        ]
        proposals = [*starts, *self._proposals(state, generator, self.population - len(starts))]
        asked: list[Candidate] = []
        slots: list[int] = []
        trees: list[Node] = []
        for proposal in proposals:
            root, status = proposal.root, required_arguments(proposal.root)
            asked.append(self._candidate(problem, root, status, proposal.origin))
            repaired = None if status.ok else self._repaired(generator, proposal)
            if repaired is not None:
                root = repaired
                asked.append(self._candidate(problem, root, OK, f"{proposal.origin}, arguments added"))
            slots.append(len(asked) - 1)
            trees.append(root)
        waiting: TreeState = dataclasses.replace(state, asked=tuple(asked), slots=tuple(slots), trees=tuple(trees))
        return waiting

    def _starts_before(self, generation: int) -> int:
        """How many starting losses have had their slot: as many as fit first, then those the elites leave room for."""
        later = max(1, self.population - self.elites)
        return 0 if generation == 0 else self.population + (generation - 1) * later

    def _learned(self, state: Any, fitness: tuple[float | None, ...], products: tuple[str, ...]) -> TreeState:
        told = tuple(Individual(root, value) for root, value in zip(state.trees, fitness, strict=True))
        learned: TreeState = dataclasses.replace(state, parents=self._survivors(state.parents, told), trees=())
        return learned

    def _survivors(self, before: tuple[Individual, ...], told: tuple[Individual, ...]) -> tuple[Individual, ...]:
        """The next parents: what was told, or nobody where nothing succeeded and fresh trees are to come.

        A population of one has no room for an elite: there the better of parent and child goes on.
        """
        if self.population == 1:
            told = tuple(sorted((*told, *before), key=lambda one: (one.fitness is None, one.fitness or 0.0)))[:1]
        return told if any(succeeded(one.fitness) for one in told) else ()

    def _candidate(
        self, problem: Problem, root: Node, status: Status, origin: str, genome: tuple[float, ...] = ()
    ) -> Candidate:
        head: Head = unknown_head if problem.setting.head == "custom" else problem.setting.head
        kernel = self._kernel(problem, root)
        loss = Loss(kernel, head=head, outputs=problem.outputs)
        return Candidate(to_json(loss), self._key(kernel.root), status=status, origin=origin, genome=genome)

    def _asked_note(self, state: Any) -> list[Any]:
        return [[candidate.key, str(candidate.status)] for candidate in state.asked]

    def _dumped(self, state: Any) -> dict[str, Any]:
        return {"parents": [stored(one) for one in state.parents]}

    def _loaded(self, state: Any, document: Mapping[str, Any]) -> TreeState:
        parents = tuple(restored(entry) for entry in document["parents"])
        if len(parents) not in (0, self.population):
            raise ValueError(f"{len(parents)} parents in a population of {self.population}")
        loaded: TreeState = dataclasses.replace(state, parents=parents)
        return loaded


def stored(one: Individual) -> list[Any]:
    """An individual as JSON-able data: the text of a tree reads back as the same tree."""
    return [to_text(one.root), one.fitness]


def restored(entry: Sequence[Any]) -> Individual:
    """The inverse of `stored`; ValueError for anything else."""
    text, fitness = entry
    try:
        return Individual(parse(text), None if fitness is None else float(fitness))
    except ExpressionError as error:
        raise ValueError(str(error)) from None
