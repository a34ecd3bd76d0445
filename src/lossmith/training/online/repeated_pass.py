"""Products J·w with the Jacobian J = ∂z/∂θ of a forward pass that the optimiser's step has left behind.

The step has moved the parameters in place, so what autograd kept of the pass is of no use. The pass is done again at
the values from before the step, with the same dropout masks and buffers, and differentiated forward with dual numbers;
where a layer has no forward derivative, backward twice.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
import torch.autograd.forward_ad as fwAD
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.attention import SDPBackend, sdpa_kernel

from lossmith.errors import TaskError
from lossmith.training.functional_network import duals, shares_tensors, tangent_of
from lossmith.training.online.random_state import RandomState


class Remembered:
    """What a forward pass found before it began: random state and buffers."""

    def __init__(self, module: nn.Module, device: torch.device) -> None:
        self.random = RandomState(device)
        self.buffers = {name: buffer.clone() for name, buffer in module.named_buffers()}


class RepeatedPass:
    """Forward passes of a module, done again at other parameters.

    Args:
        module: in the mode in which it trains.
    """

    def __init__(self, module: nn.Module) -> None:
        self._module = module
        self._tied = shares_tensors(module.named_parameters) or shares_tensors(module.named_buffers)
        self._forward = True  # mode, until it is seen that a layer has none
        self._names = {id(p): name for name, p in module.named_parameters()}

    def tangents(
        self,
        inputs: tuple[object, ...],
        outputs: Callable[[Any], list[Tensor]],
        remembered: Remembered,
        moved: Sequence[Tensor],
        start: Sequence[Tensor],
        w: Sequence[Tensor],
        keywords: Mapping[str, object] | None = None,
    ) -> list[Tensor]:
        """J·w for each output of a pass, in its shape.

        Args:
            inputs, keywords: what the module was called with.
            outputs: from what it returns to the outputs z that are meant.
            remembered: from before that pass.
            moved: the parameters that have been moved since; those that are not the module's count for nothing.
            start: their values before. w: a direction for each.

        Raises:
            TaskError: a layer that can be differentiated neither forward nor twice.
        """
        own = [(self._names[id(p)], a, d) for p, a, d in zip(moved, start, w, strict=True) if id(p) in self._names]
        theta, along = {name: a for name, a, _ in own}, {name: d for name, _, d in own}

        def run(parameters: Mapping[str, Tensor]) -> list[Tensor]:
            # functional_call leaves here what a forward pass puts in a buffer's place
            given = {**parameters, **{name: b.clone() for name, b in remembered.buffers.items()}}
            return outputs(functional_call(self._module, given, inputs, dict(keywords or {}), tie_weights=self._tied))

        # Fused attention has neither derivative.
        with remembered.random.again(), sdpa_kernel([SDPBackend.MATH]):
            if self._forward:
                try:
                    with torch.no_grad(), fwAD.dual_level():
                        return [tangent_of(z) for z in run(duals(theta, along))]
                except torch.OutOfMemoryError:
                    raise
                except (RuntimeError, NotImplementedError):
                    self._forward = False
                    remembered.random.restore()
            return _backward_twice(run, theta, along)


def _backward_twice(
    run: Callable[[Mapping[str, Tensor]], list[Tensor]], theta: Mapping[str, Tensor], along: Mapping[str, Tensor]
) -> list[Tensor]:
    """Jᵀu is linear in u: differentiating it once more by u gives J, whatever u is."""
    try:
        with torch.enable_grad():
            leaves = {name: part.detach().requires_grad_() for name, part in theta.items()}
            found = run(leaves)
            zeros = [torch.zeros_like(z).requires_grad_() for z in found]
            pulled = torch.autograd.grad(found, list(leaves.values()), zeros, create_graph=True, allow_unused=True)
            reached = [(g, along[name]) for name, g in zip(leaves, pulled, strict=True) if g is not None]
            tangents = torch.autograd.grad(
                [g for g, _ in reached], zeros, [d for _, d in reached], allow_unused=True, materialize_grads=True
            )
    except (RuntimeError, NotImplementedError) as error:
        raise TaskError(
            "adapting a loss differentiates twice through the model, and that failed "
            f"({str(error).splitlines()[0]:.200}): use layers that have a second derivative."
        ) from None
    return [part.detach() for part in tangents]
