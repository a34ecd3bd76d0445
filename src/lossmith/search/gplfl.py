"""GP-LFL: loss function learning by genetic programming alone, the baseline without tuning (ALGORITHMS §5).

Liu et al., *Loss Function Discovery for Object Detection via Convergence-Simulation Driven Search*, arXiv 2102.04700;
Li et al., *AutoLoss-Zero*, arXiv 2103.14026; as the baseline of Raymond et al., *Learning Symbolic Model-Agnostic Loss
Functions via Meta-Learning*, arXiv 2209.08907: the genetic programming of EvoMAL, untuned.

    parent by tournament of 4 → crossover (.70), subtree mutation (.25) or a copy → required arguments
    → screen → training

Deviations:
    - equal losses train once under their algebraic key, rejected ones too;
    - the best max(1, 5 %) go on unchanged, which the papers say and the public code does not do;
    - no tree is larger than 100 nodes (the papers limit the height only);
    - a generation without one success is followed by fresh trees; in a population of one the better of parent and child
      goes on.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from lossmith.search.genetic import GeneticSearch
from lossmith.search.screened import ScreenedBefore


@dataclass(frozen=True)
class GPLFL(ScreenedBefore, GeneticSearch):
    """Genetic programming over loss trees.

    Example:
        >>> from lossmith.losses import Setting
        >>> from lossmith.search import Problem
        >>> method = GPLFL(population=6)
        >>> candidates, state = method.ask(method.init(Problem(Setting("softmax", 10))))
        >>> sum(candidate.status.ok for candidate in candidates)
        6
    """

    name: ClassVar[str] = "gplfl"
    summary: ClassVar[str] = "genetic programming over loss trees, without tuning"
    reference: ClassVar[str] = "Liu et al. 2021, arXiv 2102.04700; Raymond et al., TPAMI 2023, arXiv 2209.08907"
