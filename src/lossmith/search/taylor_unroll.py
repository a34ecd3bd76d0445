"""Unrolled Taylor losses (ALGORITHMS §5): the parameters of a Taylor loss tuned by the unroll, without evolution.

The family is TaylorGLO's (Gonzalez & Miikkulainen, GECCO 2021, arXiv 2002.00059), the tuning that of ML3 (Bechtle et
al., ICPR 2020, arXiv 1906.05374): θ' = θ − α ∇_θ M_φ, φ ← φ − η ∇_φ L_task(θ'), coefficients and centres alike. A
restart begins with a genome from N(0, σ²), as CMA-ES does, or with the Taylor form of a loss in `start_from`: the task
loss is a good one.

The two halves of the comparison: against `taylorglo` it says what the gradient gains over evolution,
against `ml3` what eight readable numbers lose to thousands of weights.

Deviations (there is no paper of it):
    - no invariant screen: a genome that pulls the wrong way is turned round by its gradient;
    - every 50 meta-steps the loss is trained with, in part, and the best of these blocks is chosen.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from lossmith.losses import Loss, Taylor, TaylorFamily, from_json
from lossmith.losses.taylor import SYMBOLS
from lossmith.search.base import Problem
from lossmith.search.gradient_search import GradientSearch
from lossmith.search.settings import positive, whole, words
from lossmith.search.slot_search import unknown_head
from lossmith.search.taylor_search import check_variables, expanded


@dataclass(frozen=True)
class TaylorUnroll(GradientSearch):
    """Taylor losses tuned by unrolled training.

    Example:
        >>> from lossmith.losses import Setting
        >>> from lossmith.search import Problem
        >>> method = TaylorUnroll(order=2, population=3)
        >>> candidates, state = method.ask(method.init(Problem(Setting("softmax", 10))))
        >>> [len(candidate.genome) for candidate in candidates]
        [5, 5, 5]
    """

    name: ClassVar[str] = "taylor_unroll"
    summary: ClassVar[str] = "Taylor polynomials tuned by unrolled training, without evolution"
    reference: ClassVar[str] = "ALGORITHMS §5; the family: arXiv 2002.00059, the tuning: arXiv 1906.05374"

    sigma: float = positive(1.2, 100.0, "standard deviation of the first genomes")
    order: int = whole(3, 2, 9, "order of the Taylor polynomial")
    variables: tuple[str, ...] = words(("target", "prediction"), tuple(SYMBOLS), "what the polynomial is in")

    def __post_init__(self) -> None:
        super().__post_init__()
        check_variables(self.name, self.variables)

    @property
    def family(self) -> TaylorFamily:
        """What is searched."""
        return TaylorFamily(self.order, self.variables)

    def _drawn(self, generator: np.random.Generator) -> Taylor:
        return self.family.decode(self.family.sample(generator, self.sigma))[0]

    def _started(self, problem: Problem, loss: Loss) -> Taylor:
        return self.family.decode(expanded(self.order, self.variables, problem, loss))[0]

    def _genome(self, loss: str) -> tuple[float, ...]:
        found = from_json(loss, head=unknown_head)  # φ is the same under every head
        assert isinstance(found, Loss)
        return found.kernel.phi
