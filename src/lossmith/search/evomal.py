"""EvoMAL (ALGORITHMS §4).

Raymond, Chen, Xue & Zhang, *Learning Symbolic Model-Agnostic Loss Functions via Meta-Learning*, TPAMI 2023, arXiv
2209.08907, and *Fast and Efficient Local Search for Genetic Programming Based Loss Function Learning*, GECCO 2023,
arXiv 2403.00865: genetic programming finds the structure of a loss; every edge of a tree then gets a weight, and the
weights are tuned by unrolled differentiation before the loss is trained with.

    parent by tournament of 4 → crossover (.70), subtree mutation (.25) or a copy → required arguments
    → weights N(1, 1e-3) → screen → 250 meta-steps → screen → training

Trees are inherited, their weights are not: a child is weighted anew.

Deviations:
    - candidates are screened before tuning and once more after it (`screen`); the public code tunes first;
    - the best max(1, 5 %) go on unchanged, which the papers say and the public code does not do;
    - `parsimony` is a real double tournament, off by default; the public code's setting exerts no pressure;
    - results are shared under the structural key, rejected ones too, and the initial weights come from a stream of the
      run's seed and that key: one structure has one result per run;
    - truncation, implicit hypergradients and a θ carried over several meta-steps are settings that the papers do not
      have;
    - no tree is larger than 100 nodes (the papers limit the height only);
    - a generation without one success is followed by fresh trees; in a population of one the better of parent and child
      goes on.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from lossmith import rng
from lossmith.losses import Tree
from lossmith.losses.expression import Node
from lossmith.losses.keys import structural_form, structural_key
from lossmith.records import Preparation, Screening
from lossmith.search.base import Problem
from lossmith.search.genetic import GeneticSearch
from lossmith.search.settings import one_of, whole
from lossmith.search.unroll_settings import UnrollSettings

WEIGHT_SPREAD = 1e-3  # standard deviation of the initial weights about 1


@dataclass(frozen=True)
class EvoMAL(UnrollSettings, GeneticSearch):
    """Genetic programming over loss trees whose edge weights are tuned by unrolled training.

    Example:
        >>> from lossmith.losses import Setting
        >>> from lossmith.search import Problem
        >>> method = EvoMAL(population=6)
        >>> candidates, state = method.ask(method.init(Problem(Setting("softmax", 10))))
        >>> method.preparation.tuning.meta_steps
        250
    """

    name: ClassVar[str] = "evomal"
    summary: ClassVar[str] = "genetic programming over loss trees, weights tuned by unrolled training"
    reference: ClassVar[str] = "Raymond et al., TPAMI 2023, arXiv 2209.08907; GECCO 2023, arXiv 2403.00865"
    needs_parts: ClassVar[bool] = True

    meta_steps: int = whole(250, 1, 100_000, "meta-steps of tuning per candidate")
    screen: str = one_of("before,after", ("before,after", "before", "after", "off"), "when candidates are screened")
    rejection_steps: int = whole(1000, 0, 100_000, "Adam steps of the rejection protocol; 0 leaves it out")

    def __post_init__(self) -> None:
        super().__post_init__()
        self.tuning(self.meta_steps)  # for its complaints

    @property
    def preparation(self) -> Preparation:
        before = Screening(self.rejection_steps) if "before" in self.screen else None
        after = Screening(self.rejection_steps) if "after" in self.screen else None
        return Preparation(before, self.tuning(self.meta_steps, screen_after=after))

    def _kernel(self, problem: Problem, root: Node) -> Tree:
        """The transition: a weight on every edge of the tree in its structural form."""
        noise = rng.stream(problem.seed, "weights", structural_key(root)).standard_normal(root.size - 1)
        return Tree(structural_form(root), tuple((1.0 + WEIGHT_SPREAD * noise).tolist()))

    def _key(self, root: Node) -> str:
        return structural_key(root)
