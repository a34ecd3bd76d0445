"""P network losses of one architecture on the CPU, in one compiled call: what `Population` is for expressions.

The second road to the numbers of `Network.value` and its autograd, without a matrix product per element: see
`losses.network_kernel`. For networks with two hidden layers, which are the published ones; others go by autograd.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from lossmith.errors import LossError
from lossmith.losses import network_kernel as machine
from lossmith.losses.family import Kernel
from lossmith.losses.network import BETA, GAMMA, OUTPUTS, Network
from lossmith.losses.tangents import Array


@dataclass(frozen=True, eq=False)
class NetworkPopulation:
    """P networks, ready to run; the same attributes and calls as `interpreter.Population`.

    Attributes:
        hidden: units of the two hidden layers. kind: of the output, as `network_kernel` calls it.
        phi: the networks' own weights, [P, K].
    """

    reads: ClassVar[tuple[str, ...]] = ("p", "t")
    moving: ClassVar[int] = 1
    scalars: ClassVar[frozenset[str]] = frozenset()
    hidden: tuple[int, int]
    kind: int
    phi: Array

    @classmethod
    def of(cls, kernels: Sequence[Kernel]) -> NetworkPopulation:
        """The networks, which must have one `architecture`.

        Raises:
            LossError: they have not.
        """
        first = architecture(kernels[0])
        if first is None or any(architecture(kernel) != first for kernel in kernels):
            raise LossError("one call serves networks of one architecture with two hidden layers only.")
        kernel = kernels[0]
        assert isinstance(kernel, Network)
        weights = np.array([kernel.phi for kernel in kernels], np.float64)
        return cls((kernel.hidden[0], kernel.hidden[1]), OUTPUTS.index(kernel.output), weights)

    def __len__(self) -> int:
        return len(self.phi)

    def run(
        self,
        x: Array,
        rest: Array,
        dx: Array,
        along: Array,
        values: Array,
        slopes: Array,
        scalars: tuple[float, float],
        phi: Array | None,
    ) -> None:
        """ℓ and its slopes, written to `values` and `slopes` [P, M]; arguments as `Population.run` takes them."""
        del scalars
        machine.run(self._phi(phi), self.hidden, self.kind, GAMMA, BETA, x, rest, dx, along, values, slopes)

    def run_mixed(
        self,
        x: Array,
        rest: Array,
        dx: Array,
        along: Array,
        weight: Array,
        scalars: tuple[float, float],
        phi: Array | None,
    ) -> list[Array]:
        """∂/∂φ Σ_m weight_m · slope_m, one array [K] per network; arguments as `Population.run_mixed` takes them."""
        del scalars
        gradient = np.empty(self.phi.shape, x.dtype)
        machine.run_mixed(self._phi(phi), self.hidden, self.kind, GAMMA, BETA, x, rest, dx, along, weight, gradient)
        return list(gradient)

    def _phi(self, phi: Array | None) -> Array:
        if phi is None:
            return self.phi
        if phi.size != self.phi.size:
            raise LossError(f"phi has {phi.size} numbers: these networks have {self.phi.size} weights in all.")
        return np.ascontiguousarray(phi, np.float64).reshape(self.phi.shape)


def architecture(kernel: Kernel) -> Hashable:
    """What networks that one call can serve have in common; None for any other kernel."""
    if type(kernel) is not Network or len(kernel.hidden) != 2:
        return None
    return kernel.hidden, kernel.output
