"""Second derivatives of the training loss of base models, as products with vectors: of H = ∂²M/∂θ² and of ∂²M/∂θ∂φ.

Pearlmutter, *Fast exact multiplication by the Hessian*, Neural Computation 1994: with g = ∂M/∂θ kept as a function of θ
and φ, H·p is the derivative of ⟨g, p⟩ by θ, and that by φ is pᵀ ∂²M/∂θ∂φ. No matrix is ever formed; a product costs
about as much as two gradients.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

from lossmith.training.functional_sgd import Gradients, Parameters
from lossmith.training.meta_adam import Vector


class Curvature:
    """The training losses of P candidates around the θ where their gradients were taken.

    A vector [P, n] holds all parameters of a candidate that its outputs depend on, in the order of `parameters`.

    Args:
        parameters: θ, leaves, [P, ...] each.
        gradients: ∂M/∂θ with a graph behind it; None where the outputs do not depend on a parameter.
        phi: φ of each candidate, leaves, in parts.
        decay: λ of the recipe's weight decay, whose ½λ‖θ‖² belongs to what is minimised.
    """

    def __init__(
        self, parameters: Parameters, gradients: Gradients, phi: Sequence[Sequence[Tensor]], *, decay: float = 0.0
    ) -> None:
        taken = {name: g for name, g in gradients.items() if g is not None}
        self._names, self._gradients = list(taken), list(taken.values())
        self._theta = [parameters[name] for name in taken]
        self._phi, self._decay = phi, decay

    def vector(self, directions: Mapping[str, Tensor]) -> Tensor:
        """Something for every parameter, [P, ...] each, as [P, n]."""
        return torch.cat([directions[name].flatten(1) for name in self._names], dim=1)

    def product(self, p: Tensor) -> Tensor:
        """(H + λI)·p of each candidate, [P, n] → [P, n]."""
        found = self._along(p, self._theta)
        return torch.cat([part.flatten(1) for part in found], dim=1) + self._decay * p

    def mixed(self, q: Tensor) -> list[Vector]:
        """qᵀ ∂²M/∂θ∂φ of each candidate, [P, n] → [K] of each."""
        slopes = iter(self._along(q, [part for own in self._phi for part in own]))
        return [np.concatenate([next(slopes).double().cpu().numpy() for _ in own]) for own in self._phi]

    def _along(self, p: Tensor, by: Sequence[Tensor]) -> Sequence[Tensor]:
        """∂⟨g, p⟩/∂ of each of `by`, zero where g does not depend on it: of a linear model and loss on nothing."""
        parts = torch.split(p, [theta[0].numel() for theta in self._theta], dim=1)
        pairs = [(g, part.reshape(g.shape)) for g, part in zip(self._gradients, parts, strict=True) if g.requires_grad]
        if not pairs:
            return [torch.zeros_like(one) for one in by]
        gradients, along = zip(*pairs, strict=True)
        return torch.autograd.grad(
            gradients, list(by), along, retain_graph=True, allow_unused=True, materialize_grads=True
        )
