"""The base models of a chunk of candidates in the midst of training: what the next step needs of them."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import torch

from lossmith.training.functional_network import Network, Stack
from lossmith.training.functional_sgd import Parameters


@dataclass(frozen=True)
class BaseModels:
    """Stacked along a first axis of candidates, [P, ...] each.

    Args:
        parameters: trainable ones by name. buffers: of the model.
        momentum: buffers of the optimiser, empty before the first step.
        steps: taken since θ0.
    """

    parameters: Parameters
    buffers: Stack
    momentum: Parameters = field(default_factory=dict)
    steps: int = 0

    @classmethod
    def fresh(cls, network: Network, count: int) -> BaseModels:
        """At θ0, which all of them share."""
        theta = {name: p.detach().expand(count, *p.shape).clone() for name, p in network.theta.items()}
        return cls(theta, network.buffers(count))

    def leaves(self) -> BaseModels:
        """The same numbers without a graph behind them; parameters are its leaves."""
        return replace(
            self,
            parameters={name: p.detach().requires_grad_() for name, p in self.parameters.items()},
            buffers={name: buffer.detach() for name, buffer in self.buffers.items()},
            momentum={name: m.detach() for name, m in self.momentum.items()},
        )

    @property
    def count(self) -> int:
        """P."""
        return len(next(iter(self.parameters.values())))

    @property
    def device(self) -> torch.device:
        return next(iter(self.parameters.values())).device
