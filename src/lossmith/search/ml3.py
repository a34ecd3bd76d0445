"""ML3 (ALGORITHMS §5).

Bechtle, Molchanov, Chebotar, Grefenstette, Righetti, Sukhatme & Meier, *Meta-Learning via Learned Loss*, ICPR 2020,
arXiv 1906.05374: the loss is a perceptron 2-50-50-1 on prediction and target of each output (ReLU, softplus, no
biases), whose weights φ are tuned by unrolled differentiation before it is used.

    θ' = θ − α ∇_θ M_φ   →   φ ← φ − η ∇_φ L_task(θ'), and θ drawn anew

Deviations:
    - φ is tuned on fitness rows, not on the rows that θ is trained on, so that a loss which overfits is not rewarded;
    - 250 meta-steps (their sine regression: 500), Kaiming-normal weights as EvoMAL's authors draw them for ML3;
      `initialisation = xavier` is Bechtle's;
    - the loss of a row is the sum over its outputs;
    - every 50 meta-steps the loss is trained with, in part, and the best of these blocks is chosen, not the last;
    - several restarts, truncation, momentum and implicit hypergradients are settings that the paper does not have.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from lossmith.losses import Network
from lossmith.search.network_search import NetworkSearch


@dataclass(frozen=True)
class ML3(NetworkSearch):
    """Network losses tuned by unrolled training.

    Example:
        >>> from lossmith.losses import Setting
        >>> from lossmith.search import Problem
        >>> method = ML3(meta_steps=120)
        >>> candidates, state = method.ask(method.init(Problem(Setting("softmax", 10))))
        >>> method.rounds, candidates[0].origin
        (3, 'restart 0, 50 meta-steps')
    """

    name: ClassVar[str] = "ml3"
    summary: ClassVar[str] = "a network as loss, tuned by unrolled training before it is used"
    reference: ClassVar[str] = "Bechtle et al., ICPR 2020, arXiv 1906.05374"

    def _drawn(self, generator: np.random.Generator) -> Network:
        return Network.ml3(generator, initialisation=self.initialisation)  # type: ignore[arg-type]
