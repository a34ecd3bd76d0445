"""GLO (ALGORITHMS §1).

Gonzalez & Miikkulainen, *Improved Training Speed, Accuracy, and Data Utilization Through Loss Function Optimization*,
arXiv 1905.11528: genetic search finds the tree of a loss, CMA-ES then its coefficients.

    stage 1   weighted growth, depth ≤ 2 → roulette → recombination (.80, both children) → node-wise mutation
    stage 2   the best tree with one coefficient per node, minus those absorbed: CMA-ES from 1, σ 1.5

A tree is agreement to be *maximised*: loss = −tree. The minus sign is put on in `_kernel` and taken off starting losses
in `_started`, nowhere else.

Deviations:
    - roulette is proportional to the distance from the worst candidate (`selection.roulette_shares`), because fitness
      is any metric to be minimised here, not an accuracy;
    - results are shared under the algebraic key; a tree without t or p is a screened candidate, not a worst value;
    - which coefficients are absorbed is stated in `coefficients`; BaikalCMA as published keeps four that are;
    - trees are limited in height and size (a child over the limits gives way to its parent);
    - how many generations go to the trees is a setting; the coefficient stage waits for a tree that could be trained,
      and for every starting loss to have had its slot;
    - small populations keep at most half as elites; in a population of one the better of parent and child goes on, and
      below 4 CMA-ES learns every ⌈4/population⌉ generations;
    - CMA-ES is told ranks instead of fitness, and a generation without one success leaves its distribution unchanged.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np

from lossmith.losses import Loss, Tree
from lossmith.losses.expression import Apply, Node, Number
from lossmith.records import OK
from lossmith.search import settings
from lossmith.search.base import Problem
from lossmith.search.coefficient_stage import CoefficientStage
from lossmith.search.ranking import succeeded
from lossmith.search.selection import elite, roulette, roulette_shares
from lossmith.search.settings import positive, share, whole
from lossmith.search.tree_growth import weighted_growth
from lossmith.search.tree_search import Individual, Proposal, TreeSearch, TreeState, restored, stored
from lossmith.search.variation import node_mutation, subtree_swap, within

DEPTH = 2  # of initial trees


@dataclass(frozen=True)
class GloState(TreeState):
    """State of GLO.

    Args:
        best: the best tree so far. stage: the coefficient stage, once it has begun.
    """

    best: Individual | None = field(default=None, kw_only=True)
    stage: CoefficientStage | None = field(default=None, kw_only=True)


@dataclass(frozen=True)
class GLO(TreeSearch):
    """Genetic search over trees, then CMA-ES over the coefficients of the best one.

    Example:
        >>> from lossmith.losses import Setting
        >>> method = GLO(population=20, tree_generations=1)
        >>> candidates, state = method.ask(method.init(Problem(Setting("softmax", 10), seed=1)))
        >>> state = method.tell(state, candidates, [0.1 if c.status.ok else None for c in candidates])
        >>> candidates, state = method.ask(state)
        >>> candidates[0].origin
        'coefficients'
    """

    name: ClassVar[str] = "glo"
    summary: ClassVar[str] = "genetic search over loss trees, then CMA-ES over the best tree's coefficients"
    reference: ClassVar[str] = "Gonzalez & Miikkulainen 2020, arXiv 1905.11528"

    population: int = whole(80, 1, 10_000, "candidates per generation")
    primitives: str = settings.primitives("glo")
    tree_generations: int = whole(0, 0, 1_000_000, "generations of the tree stage; 0: half of those planned")
    elite_count: int = whole(6, 0, 10_000, "trees that go on unchanged, at most half the population")
    recombination: float = share(0.80, "probability that two parents exchange a subtree")
    sigma: float = positive(1.5, 100.0, "first standard deviation of the coefficients about 1")

    @property
    def elites(self) -> int:
        return min(self.elite_count, self.population // 2)

    def planned(self, problem: Problem) -> int:
        """How many generations the tree stage takes if nothing holds it up."""
        return self.tree_generations or max(1, problem.generations // 2)

    def init(self, problem: Problem) -> GloState:
        super().init(problem)  # for its complaints
        return GloState(problem)

    def _course(self, problem: Problem) -> dict[str, Any]:
        return {"tree_generations": self.planned(problem)}

    def _started(self, problem: Problem, loss: Loss) -> Node:
        return negated(super()._started(problem, loss))

    def _kernel(self, problem: Problem, root: Node) -> Tree:
        return Tree(negated(root))

    def _repaired(self, generator: np.random.Generator, proposal: Proposal) -> Node | None:
        return None

    def _asked(self, state: Any) -> TreeState:
        stage: CoefficientStage | None = state.stage
        if stage is None:
            return super()._asked(state)
        genomes = stage.genomes(state.problem, state.generation)
        trees = tuple(stage.tree(genome) for genome in genomes)
        asked = tuple(
            self._candidate(state.problem, root, OK, "coefficients", tuple(genome.tolist()))
            for root, genome in zip(trees, genomes, strict=True)
        )
        waiting: GloState = dataclasses.replace(state, asked=asked, slots=tuple(range(len(asked))), trees=trees)
        return waiting

    def _proposals(self, state: Any, generator: np.random.Generator, count: int) -> Sequence[Proposal]:
        parents: tuple[Individual, ...] = state.parents
        if not parents:
            trees = (weighted_growth(generator, self.primitive_set, DEPTH) for _ in range(count))
            return [Proposal(root, "random") for root in trees]
        roots, fitness = [parent.root for parent in parents], [parent.fitness for parent in parents]
        proposals = [Proposal(roots[i], "elite") for i in elite(roots, fitness, min(self.elites, count))]
        shares = roulette_shares(fitness)
        while len(proposals) < count:
            a, b = (roots[roulette(generator, shares)] for _ in range(2))
            joined = generator.random() < self.recombination
            children = subtree_swap(generator, a, b) if joined else (a, b)
            origin = "recombination" if joined else "mutation"
            for child, parent in zip(children, (a, b), strict=True):
                mutant = node_mutation(generator, child, self.primitive_set)
                proposals.append(Proposal(within(self.limits, mutant, parent), origin))
        return proposals[:count]

    def _learned(self, state: Any, fitness: tuple[float | None, ...], products: tuple[str, ...]) -> GloState:
        assert isinstance(state, GloState)
        if state.stage is not None:
            genomes = np.array([candidate.genome for candidate in state.asked or ()], dtype=np.float64)
            return dataclasses.replace(state, stage=state.stage.told(genomes, fitness), trees=())
        learned = super()._learned(state, fitness, products)
        assert isinstance(learned, GloState)
        best = state.best
        for one in learned.parents:
            if succeeded(one.fitness) and (best is None or best.fitness is None or one.fitness < best.fitness):
                best = one
        learned = dataclasses.replace(learned, best=best)
        told = state.generation + 1
        waiting = self._starts_before(told) < len(state.problem.start_from)
        if best is None or waiting or told < self.planned(state.problem):
            return learned
        return dataclasses.replace(learned, parents=(), stage=self._begun(best.root, told))

    def _begun(self, root: Node, since: int) -> CoefficientStage:
        return CoefficientStage.begun(root, since, self.sigma, self.population)

    def _dumped(self, state: Any) -> dict[str, Any]:
        return {
            **super()._dumped(state),
            "best": None if state.best is None else stored(state.best),
            "stage": None if state.stage is None else state.stage.dump(),
        }

    def _loaded(self, state: Any, document: Mapping[str, Any]) -> GloState:
        loaded = super()._loaded(state, document)
        assert isinstance(loaded, GloState)
        best = None if document["best"] is None else restored(document["best"])
        loaded, kept = dataclasses.replace(loaded, best=best), document["stage"]
        if kept is None:
            return loaded
        if best is None:
            raise ValueError("coefficients of no tree")
        stage = self._begun(best.root, int(kept["since"]))
        return dataclasses.replace(loaded, stage=stage.replayed(state.problem, kept, int(document["generation"])))


def negated(root: Node) -> Node:
    """−tree without a sign in front where one can be spared; exact."""
    if isinstance(root, Number):
        return Number(-root.value)
    if isinstance(root, Apply) and root.op == "neg":
        return root.args[0]
    if isinstance(root, Apply) and root.op == "sub":
        return Apply("sub", root.args[::-1])
    leftmost: Node = root
    while isinstance(leftmost, Apply) and leftmost.op in ("mul", "div"):
        leftmost = leftmost.args[0]
    signed = isinstance(leftmost, Number) or (isinstance(leftmost, Apply) and leftmost.op == "neg")
    if signed and isinstance(root, Apply) and leftmost is not root:
        return Apply(root.op, (negated(root.args[0]), root.args[1]))
    return Apply("neg", (root,))
