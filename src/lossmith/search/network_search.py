"""What the searches over network losses have in common: one architecture, drawn weights or a known network to start."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass

import numpy as np

from lossmith.errors import LossError
from lossmith.losses import Loss, Network, Pointwise
from lossmith.losses.network import INITIALISATIONS
from lossmith.search.base import Problem
from lossmith.search.gradient_search import GradientSearch
from lossmith.search.settings import one_of


@dataclass(frozen=True)
class NetworkSearch(GradientSearch):
    """A search by gradient over the weights of a network."""

    initialisation: str = one_of("kaiming", INITIALISATIONS, "how the first weights are drawn")

    @abstractmethod
    def _drawn(self, generator: np.random.Generator) -> Network: ...

    def _started(self, problem: Problem, loss: Loss) -> Network:
        kernel, own = loss.kernel, self._drawn(np.random.Generator(np.random.PCG64(0)))
        fits = isinstance(kernel, Network) and (kernel.hidden, kernel.output) == (own.hidden, own.output)
        if not fits or not isinstance(loss.aggregation, Pointwise) or loss.outputs != problem.outputs or loss.smoothing:
            raise LossError(
                f"{self.name} starts from drawn weights, or from a pointwise {own} that an earlier search found, not "
                f"from {loss}; a shelf to compare with is given as shelf, not to start from."
            )
        assert isinstance(kernel, Network)
        return kernel
