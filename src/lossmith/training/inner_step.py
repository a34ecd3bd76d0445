"""One training step of base models as a function of φ, for roads that go from step to step."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from lossmith.rng import torch_global_scope
from lossmith.tasks import Terms
from lossmith.training.base_models import BaseModels
from lossmith.training.candidate_deltas import values_and_deltas
from lossmith.training.functional_network import Network
from lossmith.training.functional_sgd import Gradients
from lossmith.training.meta_adam import Vector
from lossmith.training.meta_gradient import Draw, Unroll
from lossmith.training.outer_loss import task_values
from lossmith.training.tunable import Tunable, per_candidate, value_at

Phi = Sequence[Sequence[Tensor]]  # of each candidate, of each of its losses, [K]


def start_of(how: Unroll, network: Network, chunk: tuple[int, ...]) -> BaseModels:
    """Where the training of a chunk begins: where the meta-step before left it, or at the θ0 that was drawn."""
    carried = None if how.carried is None else how.carried.get(chunk)
    return (BaseModels.fresh(network, len(chunk)) if carried is None else carried).leaves()


def phi_of(members: Sequence[Tunable], phis: Sequence[Vector], device: torch.device, *, graph: bool) -> Phi:
    """φ of candidates as tensors in float64.

    Args:
        graph: whether they are leaves to be differentiated by.
    """
    return [
        [torch.tensor(part, device=device, requires_grad=graph) for part in candidate.split(phi)]
        for candidate, phi in zip(members, phis, strict=True)
    ]


def inner_values(members: Sequence[Tunable], phi: Phi, stack: Sequence[Terms], progress: float) -> Tensor:
    """M_φ of each candidate, the sum over its Terms, [P]."""
    values = []
    for candidate, own, terms in zip(members, phi, per_candidate(stack, len(members)), strict=True):
        parts = [(candidate.member(position), term) for position, term in enumerate(terms)]
        values.append(
            torch.stack([value_at(candidate.members[at], own[at], term, progress) for at, term in parts]).sum()
        )
    return torch.stack(values)


def inner_gradients(
    how: Unroll,
    drawn: Draw,
    network: Network,
    members: Sequence[Tunable],
    phi: Phi,
    base: BaseModels,
    number: int,
    *,
    graph: bool,
) -> tuple[Tensor, Gradients, BaseModels]:
    """The training loss of a batch and its gradient by θ.

    Args:
        number: of the batch in the draw, which also names the dropout masks.
        graph: whether the gradient is to be differentiated once more, by θ and φ.

    Returns:
        M_φ of each candidate without graph, [P]; gradients [P, ...], None where z does not depend on a parameter; and
        `base` with the buffers after the forward pass.
    """
    progress = min(base.steps / how.task.steps, 1.0)
    with torch_global_scope(drawn.seed, "dropout", number, device=how.task.device):
        stack, buffers = network(base.parameters, base.buffers, drawn.train[number])
    # Each a node of its own: one output may be made from another, or be a parameter, and must not bear its derivative.
    stack = [replace(terms, output=terms.output.view_as(terms.output)) for terms in stack]
    # By way of the outputs, so that a gradient is missing where the *network* does not use a parameter, never where a
    # loss does not depend on the output.
    outputs = [term.output for term in stack]
    found_at_once = None if graph else values_and_deltas(members, phi, stack, progress)
    if found_at_once is None:
        values = inner_values(members, phi, stack, progress)
        deltas = _grad(values.sum(), outputs, graph=graph)
    else:
        values, deltas = found_at_once
    leaves = list(base.parameters.values())
    found = torch.autograd.grad(outputs, leaves, deltas, create_graph=graph, allow_unused=True)
    return values.detach(), dict(zip(base.parameters, found, strict=True)), replace(base, buffers=buffers)


def inner_step(
    how: Unroll,
    drawn: Draw,
    network: Network,
    members: Sequence[Tunable],
    phi: Phi,
    base: BaseModels,
    number: int,
    *,
    graph: bool,
) -> tuple[BaseModels, Tensor]:
    """The base models after one step on a batch, and M_φ on it, [P]; see `inner_gradients`.

    Without `graph` what comes back are leaves.
    """
    values, gradients, base = inner_gradients(how, drawn, network, members, phi, base, number, graph=graph)
    parameters, momentum = how.descent.step(base.parameters, gradients, base.momentum)
    after = replace(base, parameters=parameters, momentum=momentum, steps=base.steps + 1)
    return (after if graph else after.leaves()), values


def outer_values(how: Unroll, drawn: Draw, network: Network, base: BaseModels) -> Tensor:
    """The task loss of each candidate on the fitness batch, [P], differentiable by θ."""
    with torch_global_scope(drawn.seed, "dropout", "fitness", device=how.task.device):
        stack, _ = network(base.parameters, base.buffers, drawn.fitness)
    return task_values(how.task_loss, stack[0], base.count)


def _grad(value: Tensor, by: Sequence[Tensor], *, graph: bool) -> Sequence[Any]:
    if not value.requires_grad:  # a loss that depends neither on the output nor on a φ that is differentiated by
        return [torch.zeros_like(one) for one in by]
    return torch.autograd.grad(value, list(by), create_graph=graph, allow_unused=True, materialize_grads=True)
