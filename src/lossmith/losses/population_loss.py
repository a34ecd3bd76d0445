"""P losses made ready once and evaluated again and again: values, derivatives by the output, and by φ.

A training step of a population asks the same losses each time; what depends on them alone (which the interpreter can
compute, their programs, which can be done in one call) is found out here once.

    >>> import torch
    >>> from lossmith.losses import loss
    >>> population = PopulationLoss([loss("cross_entropy"), loss("mse")])
    >>> values, deltas = population(torch.zeros(2, 4, 3), torch.tensor([0, 1, 2, 0]))
    >>> tuple(values.shape), tuple(deltas.shape)
    ((2,), (2, 4, 3))
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from lossmith.errors import LossError
from lossmith.losses.aggregation import Pointwise
from lossmith.losses.autograd_road import (
    mixed_by_autograd,
    rows_by_autograd,
    value_and_delta_by_autograd,
    with_parameters,
)
from lossmith.losses.elements import APART, Elements, elements, flat_phi, flattened
from lossmith.losses.loss import Loss
from lossmith.losses.programs import Program, program_kind, program_of
from lossmith.losses.tangents import Array


@dataclass(frozen=True)
class _Group:
    """Losses that one call can serve; by autograd, one after the other, where there is no program."""

    places: Array
    first: Loss
    program: Program | None


class PopulationLoss:
    """P losses, ready.

    What is changed in a loss afterwards (its settings, hooks) is not seen; `still_of` tells.

    Args:
        losses: P losses of one number each.
        tunable: keep their parameters as such, for `phi` and `mixed`.

    Raises:
        LossError: a loss with reduction="none".
    """

    def __init__(self, losses: Sequence[Loss], *, tunable: bool = False) -> None:
        self.losses = tuple(losses)
        self._tunable = tunable
        self._settings = [_settings(loss) for loss in self.losses]
        groups: dict[Hashable, list[int]] = {}
        for place, loss in enumerate(self.losses):
            if loss.reduction == "none":
                raise LossError('a loss with reduction="none" has no single gradient: use reduction="mean" or "sum".')
            groups.setdefault(_alike(loss, tunable), []).append(place)
        self._groups: list[_Group] = []
        for common, places in groups.items():
            kernels = [self.losses[place].kernel for place in places]
            program = None if common is None else program_of(kernels, tunable=tunable)
            self._groups.append(_Group(np.array(places, np.int64), self.losses[places[0]], program))

    def __len__(self) -> int:
        return len(self.losses)

    def keep(self, places: Sequence[int] | Tensor) -> PopulationLoss:
        """The losses at these places, ready."""
        wanted = places.tolist() if isinstance(places, Tensor) else places
        return PopulationLoss([self.losses[place] for place in wanted], tunable=self._tunable)

    def still_of(self, losses: Sequence[Loss]) -> bool:
        """Whether this is what would be made of these losses now."""
        return self._settings == [_settings(loss) for loss in losses]

    def __call__(
        self,
        outputs: Tensor,
        target: Tensor,
        weight: Tensor | None = None,
        progress: float | Tensor | None = None,
        *,
        per_row: bool = False,
        phi: Sequence[Tensor] | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Values and derivatives of all losses.

        Args:
            outputs: [P, N, C] in any order in memory, or [N, C] shared by all.
            target, weight, progress: as for `Loss.forward`, shared by all.
            per_row: values per row, neither weighted nor averaged, 0 where the weight is 0; for pointwise losses.
            phi: loss parameters to use instead of the losses' own, [K] for each; of losses that are `tunable`.

        Returns:
            Values [P] (or [P, N]) and δ [P, N, C], in the type of the outputs; δ in their order in memory.

        Raises:
            LossError: as `Loss.forward`; outputs of another shape; `per_row` of a loss that has no value per row.
        """
        count = len(self)
        if outputs.dim() not in (2, 3) or (outputs.dim() == 3 and len(outputs) != count):
            raise LossError(f"outputs of shape {tuple(outputs.shape)}: expected (N, C) or ({count}, N, C).")
        values, rows, delta, left = self.by_interpreter(outputs, target, weight, progress, phi)
        for place in left:
            loss = with_parameters(self.losses[place], None if phi is None else phi[place], outputs)
            z = outputs[place] if outputs.dim() == 3 else outputs
            values[place], delta[place] = value_and_delta_by_autograd(loss, z, target, weight, progress)
            if per_row:
                rows[place] = rows_by_autograd(loss, z, target, weight, progress)
        return (rows if per_row else values).to(outputs.dtype), delta.to(outputs.dtype)

    def by_interpreter(
        self,
        outputs: Tensor,
        target: Tensor,
        weight: Tensor | None = None,
        progress: float | Tensor | None = None,
        phi: Sequence[Tensor] | None = None,
    ) -> tuple[Tensor, Tensor, Tensor, list[int]]:
        """What the interpreter can do of a call: values [P], values per row [P, N] and δ [P, N, C] in its precision,
        and the places that it has left to autograd."""
        z = _computable(outputs)
        if z.device.type != "cpu":
            shape = (len(self), *z.shape[-2:])
            return z.new_empty(shape[:1]), z.new_empty(shape[:2]), z.new_empty(shape), list(range(len(self)))
        dtype = np.float64 if z.dtype == torch.float64 else np.float32
        delta = _empty_like(z.numpy(), dtype) if z.dim() == 3 else np.empty((len(self), *z.shape), dtype)
        rows, values = np.empty((len(self), z.shape[-2]), dtype), np.empty(len(self), dtype)
        left: list[int] = []
        for group in self._groups:
            batch = _batch(group, z, target, weight, progress)
            if batch is None:
                left += group.places.tolist()
                continue
            own_phi = None if phi is None else flat_phi([phi[place] for place in group.places])
            batch.values_and_deltas(group.places, values, rows, *flattened(delta), own_phi)
        return torch.from_numpy(values), torch.from_numpy(rows), torch.from_numpy(delta), left

    def mixed(
        self,
        output: Tensor,
        target: Tensor,
        direction: Tensor,
        weight: Tensor | None = None,
        progress: float | Tensor | None = None,
        *,
        phi: Sequence[Tensor] | None = None,
    ) -> list[Tensor]:
        """∂/∂φ Σ_nc u_nc · ∂M/∂z_nc of each loss M; the losses must be `tunable`.

        Args:
            output: z, [N, C], shared. direction: u, [P, N, C].
            target, weight, progress, phi: as for a call.

        Returns:
            One tensor [K] per loss, float64 where the output is, else float32; empty for a loss without parameters.

        Raises:
            LossError: as for a call; losses that are not `tunable`.
        """
        if not self._tunable:
            raise LossError(
                "these losses were made ready without their parameters: use PopulationLoss(…, tunable=True)."
            )
        if output.dim() != 2 or direction.shape != (len(self), *output.shape):
            raise LossError(
                f"output and direction of shapes {tuple(output.shape)} and {tuple(direction.shape)}: expected (N, C) "
                f"and ({len(self)}, N, C)."
            )
        found: dict[int, Tensor] = {}
        z = _computable(output)
        for group in self._groups:
            batch = _batch(group, z, target, weight, progress) if z.device.type == "cpu" else None
            if batch is not None:
                own_phi = None if phi is None else flat_phi([phi[place] for place in group.places])
                along = direction if len(group.places) == len(self) else direction[torch.from_numpy(group.places)]
                gradients = batch.mixed(along.to(z.dtype), own_phi)
                found.update(zip(group.places.tolist(), map(torch.from_numpy, gradients), strict=True))
                continue
            for place in group.places.tolist():
                own = None if phi is None else phi[place]
                loss = self.losses[place]
                found[place] = mixed_by_autograd(loss, output, target, direction[place], weight, progress, own)
        return [found[place] for place in range(len(self))]


def interpreted(loss: Loss, *, tunable: bool = False) -> bool:
    """Whether a compiled program can stand in for autograd on the CPU, for a loss (with its φ as parameters).

    True for pointwise losses under softmax, sigmoid and identity whose kernel has one: expressions of built-in
    primitives, and networks with two hidden layers. A subclass with a `forward` of its own, or a loss with hooks, has
    to be called to have its say.
    """
    return (
        type(loss).forward is Loss.forward
        and isinstance(loss.aggregation, Pointwise)
        and loss.reduction != "none"
        and isinstance(loss.head, str)
        and not _hooked(loss)
        and program_kind(loss.kernel, tunable=tunable) is not None
    )


def _hooked(loss: Loss) -> bool:
    return bool(loss._forward_hooks or loss._forward_pre_hooks or loss._backward_hooks or loss._backward_pre_hooks)


def _settings(loss: Loss) -> tuple[Hashable, ...]:
    """Everything that counts when a loss is made ready."""
    settings = (loss.aggregation, loss.head, loss.smoothing, loss.prior, loss.outputs, loss.reduction)
    return loss.kernel, *settings, _hooked(loss)


def _alike(loss: Loss, tunable: bool) -> Hashable:
    """What losses have in common that one call can serve; None where autograd must."""
    if not interpreted(loss, tunable=tunable):
        return None
    # Those that need further runs of the interpreter shall not make the others pay for them.
    apart = tuple(name for name in APART if loss.head == "softmax" and name in _inputs_of(loss, tunable))
    kind = program_kind(loss.kernel, tunable=tunable)
    return kind, loss.head, loss.smoothing, loss.prior, loss.outputs, loss.reduction, apart


def _inputs_of(loss: Loss, tunable: bool) -> tuple[str, ...]:
    return program_of((loss.kernel,), tunable=tunable).reads


def _computable(outputs: Tensor) -> Tensor:
    """Without graph, in a precision the interpreter computes in."""
    z = outputs.detach()
    return z if z.dtype in (torch.float32, torch.float64) else z.float()


def _empty_like(array: Array, dtype: type) -> Array:
    """[P, N, C] in the same order in memory."""
    order = sorted(range(3), key=array.strides.__getitem__, reverse=True)
    return np.empty([array.shape[axis] for axis in order], dtype).transpose(np.argsort(order))


def _batch(
    group: _Group, z: Tensor, target: Tensor, weight: Tensor | None, progress: float | Tensor | None
) -> Elements | None:
    """The batch for the interpreter, or None where autograd must do it."""
    if group.program is None or isinstance(progress, Tensor) or torch.is_autocast_enabled("cpu"):
        return None
    try:
        return elements(group.first, group.program, z, target, weight, progress, places=group.places)
    except LossError:
        return None  # the loss itself says it in terms of what it was given
