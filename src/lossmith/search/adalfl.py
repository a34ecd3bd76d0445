"""AdaLFL (ALGORITHMS §5).

Raymond, Chen, Xue & Zhang, *Meta-Learning Adaptive Loss Functions*, TMLR 2025, arXiv 2301.13247: the loss is a
perceptron 2-40-40-1 on prediction and target of each output (ReLU, smooth leaky ReLU, no biases). An offline start like
ML3's, then the loss adapts while it trains: after every step of the base model φ takes one on the task loss of the
model just moved.

What is found is φ0 with the online rule (`Loss.online`); every training of a candidate adapts it, in the search as in
the verdict.

Deviations:
    - offline, φ is tuned on fitness rows, and θ is drawn anew at every meta-step unless `reinitialise` says otherwise;
    - every 50 meta-steps the loss is trained with, in part and adapting, and the best of these blocks is chosen as φ0,
      not the last;
    - the loss of a row is the sum over its outputs.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from lossmith.losses import Network, OnlineRule
from lossmith.search.network_search import NetworkSearch
from lossmith.search.settings import positive, whole


@dataclass(frozen=True)
class AdaLFL(NetworkSearch):
    """Network losses tuned by unrolled training, which then adapt while they train.

    Example:
        >>> from lossmith.losses import Setting, from_json
        >>> from lossmith.search import Problem
        >>> method = AdaLFL(online_lr=1e-4)
        >>> candidates, state = method.ask(method.init(Problem(Setting("softmax", 10))))
        >>> print(from_json(candidates[0].loss).online)
        online(lr=0.0001)
    """

    name: ClassVar[str] = "adalfl"
    summary: ClassVar[str] = "a network as loss, tuned like ml3, that goes on learning while it trains"
    reference: ClassVar[str] = "Raymond et al., TMLR 2025, arXiv 2301.13247"

    meta_steps: int = whole(2500, 1, 10_000_000, "meta-steps of each restart before training")
    online_lr: float = positive(1e-5, 100.0, "learning rate of the loss parameters during training")
    online_every: int = whole(1, 1, 1_000_000, "training steps from one step on the loss parameters to the next")

    @property
    def online(self) -> OnlineRule:
        return OnlineRule(lr=self.online_lr, every=self.online_every)

    def _drawn(self, generator: np.random.Generator) -> Network:
        return Network.adalfl(generator, initialisation=self.initialisation)  # type: ignore[arg-type]
