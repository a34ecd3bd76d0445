"""The meta-gradient of any number of base-model steps, by differentiating through all of them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from lossmith.rng import torch_global_scope
from lossmith.tasks import Terms
from lossmith.training.functional_network import Network
from lossmith.training.functional_sgd import Parameters
from lossmith.training.meta_adam import Vector
from lossmith.training.meta_gradient import Draw, MetaGradient, Unroll
from lossmith.training.outer_loss import task_values
from lossmith.training.tunable import Tunable, per_candidate, value_at


def unrolled(
    how: Unroll, drawn: Draw, candidates: Sequence[Tunable], phis: Sequence[Vector]
) -> dict[int, MetaGradient]:
    """Meta-gradients for any K of the candidates named by `how.chunks`. Memory grows as K times the chunk."""
    network = Network(drawn.model, how.task.forward, stacked=how.road.kind == "stacked")
    found: dict[int, MetaGradient] = {}
    for chunk in how.chunks:
        found |= _chunk(how, drawn, network, chunk, candidates, phis)
    return found


def _chunk(
    how: Unroll,
    drawn: Draw,
    network: Network,
    chunk: Sequence[int],
    candidates: Sequence[Tunable],
    phis: Sequence[Vector],
) -> dict[int, MetaGradient]:
    device, count = how.task.device, len(chunk)
    members = [candidates[i] for i in chunk]
    parameters: Parameters = {
        name: p.detach().expand(count, *p.shape).clone().requires_grad_() for name, p in network.theta.items()
    }
    phi = [
        [torch.tensor(part, device=device, requires_grad=True) for part in candidate.split(phis[index])]
        for candidate, index in zip(members, chunk, strict=True)
    ]
    buffers = network.buffers(count)
    momentum: Parameters = {}
    inner = torch.zeros(count, dtype=torch.float64, device=device)
    for step, batch in enumerate(drawn.train):
        with torch_global_scope(drawn.seed, "dropout", step, device=device):
            stack, buffers = network(parameters, buffers, batch)
        values = _inner_values(members, phi, stack, step / how.task.steps)
        inner = inner + values.detach()
        # By way of the outputs, so that a gradient is missing where the *network* does not use a parameter, never
        # where a loss does not depend on the output.
        outputs = [term.output for term in stack]
        deltas = torch.autograd.grad(
            values.sum(), outputs, create_graph=True, allow_unused=True, materialize_grads=True
        )
        gradients = torch.autograd.grad(
            outputs, list(parameters.values()), deltas, create_graph=True, allow_unused=True
        )
        parameters, momentum = how.descent.step(parameters, dict(zip(parameters, gradients, strict=True)), momentum)
    with torch_global_scope(drawn.seed, "dropout", "fitness", device=device):
        stack, _ = network(parameters, buffers, drawn.fitness)
    task_loss = task_values(how.task_loss, stack[0], count)
    flat = [part for parts in phi for part in parts]
    slopes = iter(torch.autograd.grad(task_loss.sum(), flat, allow_unused=True, materialize_grads=True))
    return {
        index: MetaGradient(value, loss, np.concatenate([next(slopes).double().cpu().numpy() for _ in parts]))
        for index, value, loss, parts in zip(chunk, task_loss.tolist(), inner.tolist(), phi, strict=True)
    }


def _inner_values(
    members: Sequence[Tunable], phi: Sequence[Sequence[Tensor]], stack: Sequence[Terms], progress: float
) -> Tensor:
    """M_φ of each candidate, the sum over its Terms, [P]."""
    values = []
    for candidate, own, terms in zip(members, phi, per_candidate(stack, len(members)), strict=True):
        parts = [(candidate.member(position), term) for position, term in enumerate(terms)]
        values.append(
            torch.stack([value_at(candidate.members[at], own[at], term, progress) for at, term in parts]).sum()
        )
    return torch.stack(values)
