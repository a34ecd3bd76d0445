"""The two passes through the base model that a step on φ adds: of the task loss at θ_{t+1}, and J·w at θ_t."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.func import functional_call

from lossmith.losses import Loss
from lossmith.losses.delta import value_and_delta
from lossmith.tasks import Task, Terms
from lossmith.training.functional_network import Whole
from lossmith.training.online.repeated_pass import Remembered, RepeatedPass
from lossmith.training.perceptron import Layer, Slope, layers_of
from lossmith.training.prediction import arranged, terms_of
from lossmith.training.run_record import Training


class OnlinePass(Protocol):
    """A base model, whose parameters the optimiser moves in place."""

    def remember(self) -> None:
        """A forward pass comes next that `tangents` will be asked about."""

    def slopes(self, batch: Any, task_loss: Loss, parameters: Sequence[Tensor]) -> tuple[float, list[Tensor]]:
        """The task loss on a batch at the present parameters, and its gradient by those named, zero where it has none.

        The model is in training mode, as in that pass; it keeps nothing of this one.
        """

    def tangents(
        self, batch: Any, moved: Sequence[Tensor], start: Sequence[Tensor], w: Sequence[Tensor]
    ) -> list[Tensor]:
        """J·w of the remembered pass, for each of its Terms.

        Args:
            batch: of that pass. moved: parameters moved since. start: their values then. w: a direction for each.
        """


def passes_of(task: Task, model: nn.Module, how: Training) -> OnlinePass:
    """With explicit matrices for a plain perceptron, which saves a third of the time of a small one; else autograd."""
    layers = layers_of(task, model) if how.dtype == "float32" and task.device.type == "cpu" else ()
    return ThroughLayers(layers) if layers else ThroughModel(task, model, how)


class ThroughModel:
    """Any model."""

    def __init__(self, task: Task, model: nn.Module, how: Training) -> None:
        self._task, self._how = task, how
        self._whole = Whole(model, lambda own, batch: terms_of(task, own, batch, how.dtype))
        self._repeated = RepeatedPass(self._whole)
        self._remembered: Remembered | None = None

    def remember(self) -> None:
        """See `OnlinePass`."""
        self._remembered = Remembered(self._whole, self._task.device)

    def slopes(self, batch: Any, task_loss: Loss, parameters: Sequence[Tensor]) -> tuple[float, list[Tensor]]:
        """See `OnlinePass`."""
        return slopes_at_present(self._whole, arranged(batch, self._how.channels_last), task_loss, parameters)

    def tangents(
        self, batch: Any, moved: Sequence[Tensor], start: Sequence[Tensor], w: Sequence[Tensor]
    ) -> list[Tensor]:
        """See `OnlinePass`."""
        assert self._remembered is not None
        return self._repeated.tangents((batch,), _outputs, self._remembered, moved, start, w)


def slopes_at_present(whole: Whole, batch: Any, loss: Loss, parameters: Sequence[Tensor]) -> tuple[float, list[Tensor]]:
    """The loss of the first Terms of a pass, and its gradient by parameters, zero where it does not depend on one.

    The model keeps nothing of the pass: buffers are copies.
    """
    buffers = {name: buffer.clone() for name, buffer in whole.named_buffers()}
    term: Terms = (functional_call(whole, buffers, (batch,)) if buffers else whole(batch))[0]
    value, delta = value_and_delta(loss, term.output.detach(), term.target, term.weight, 0.0, group=term.group)
    if not term.output.requires_grad:
        return float(value), [torch.zeros_like(p) for p in parameters]
    found = torch.autograd.grad(term.output, list(parameters), delta, allow_unused=True, materialize_grads=True)
    return float(value), list(found)


def _outputs(terms: tuple[Terms, ...]) -> list[Tensor]:
    return [term.output for term in terms]


class ThroughLayers:
    """A plain perceptron, with explicit matrices: for small ones what autograd does around the products costs as much
    as these do.

    For a layer a = hWᵀ + b with Δ = ∂L/∂a:  ∂L/∂W = Δᵀh,  Δ_below = (ΔW)·slope,  ȧ = hẆᵀ + ḃ + ḣWᵀ,  ḣ = ȧ·slope.
    """

    def __init__(self, layers: Sequence[Layer]) -> None:
        self._layers = layers

    def remember(self) -> None:
        """Nothing is drawn or kept by a perceptron."""

    @torch.no_grad()
    def slopes(self, batch: Any, task_loss: Loss, parameters: Sequence[Tensor]) -> tuple[float, list[Tensor]]:
        """See `OnlinePass`."""
        x, target = batch
        entered: list[Tensor] = []
        slopes: list[Slope | None] = []
        h = x.flatten(1)
        for layer in self._layers:
            entered.append(h)
            h, slope = layer.activated(nn.functional.linear(h, layer.linear.weight, layer.linear.bias))
            slopes.append(slope)
        value, delta = value_and_delta(task_loss, h, target, None, 0.0)
        found: dict[int, Tensor] = {}
        for at in reversed(range(len(self._layers))):
            linear, slope = self._layers[at].linear, slopes[at]
            if slope is not None:
                delta = slope.times(delta)
            found[id(linear.weight)] = delta.t() @ entered[at]
            if linear.bias is not None:
                found[id(linear.bias)] = delta.sum(0)
            if at:
                delta = delta @ linear.weight
        return float(value), [found[id(p)] for p in parameters]

    @torch.no_grad()
    def tangents(
        self, batch: Any, moved: Sequence[Tensor], start: Sequence[Tensor], w: Sequence[Tensor]
    ) -> list[Tensor]:
        """See `OnlinePass`."""
        before = {id(p): part for p, part in zip(moved, start, strict=True)}
        along = {id(p): part for p, part in zip(moved, w, strict=True)}
        h, tangent = batch[0].flatten(1), None
        for layer in self._layers:
            weight, bias = layer.linear.weight, layer.linear.bias
            own = before.get(id(weight), weight)
            own_bias = None if bias is None else before.get(id(bias), bias)
            a_dot = nn.functional.linear(h, along[id(weight)], None if bias is None else along[id(bias)])
            if tangent is not None:
                a_dot.addmm_(tangent, own.t())
            tangent = a_dot
            if layer is not self._layers[-1] or layer.activations:  # else nothing asks for the outputs themselves
                h, slope = layer.activated(nn.functional.linear(h, own, own_bias))
                tangent = a_dot if slope is None else slope.times(a_dot)
        assert tangent is not None
        return [tangent]
