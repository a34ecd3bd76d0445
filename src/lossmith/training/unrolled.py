"""The meta-gradient of any number of base-model steps, by differentiating through all of them or the last ones.

Truncated to T of K steps, θ_{K−T} and the momentum there count as given: what φ did to them is left out, and memory
grows with T in the place of K (Shaban et al., Truncated back-propagation for bilevel optimization, arXiv 1810.10667).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from lossmith.training.functional_network import Network
from lossmith.training.inner_step import inner_step, outer_values, phi_of, start_of
from lossmith.training.meta_adam import Vector
from lossmith.training.meta_gradient import Draw, MetaGradient, Unroll
from lossmith.training.tunable import Tunable


def unrolled(
    how: Unroll, drawn: Draw, candidates: Sequence[Tunable], phis: Sequence[Vector]
) -> dict[int, MetaGradient]:
    """Meta-gradients for any K of the candidates named by `how.chunks`.

    Memory grows as the number of steps that are differentiated through times the chunk (`unroll_memory`).
    """
    network = Network(drawn.model, how.task.forward, stacked=how.road.kind == "stacked")
    found: dict[int, MetaGradient] = {}
    for chunk in how.chunks:
        found |= _chunk(how, drawn, network, chunk, candidates, phis)
    return found


def _chunk(
    how: Unroll,
    drawn: Draw,
    network: Network,
    chunk: tuple[int, ...],
    candidates: Sequence[Tunable],
    phis: Sequence[Vector],
) -> dict[int, MetaGradient]:
    device, length = how.task.device, len(drawn.train)
    members, own = [candidates[i] for i in chunk], [phis[i] for i in chunk]
    phi, given = (phi_of(members, own, device, graph=graph) for graph in (True, False))
    first = length - min(how.truncation or length, length)  # of the steps that are differentiated through
    base = start_of(how, network, chunk)
    inner = torch.zeros(len(chunk), dtype=torch.float64, device=device)
    for number in range(length):
        graph = number >= first
        base, values = inner_step(how, drawn, network, members, phi if graph else given, base, number, graph=graph)
        inner = inner + values
    task_loss = outer_values(how, drawn, network, base)
    flat = [part for parts in phi for part in parts]
    slopes = iter(torch.autograd.grad(task_loss.sum(), flat, allow_unused=True, materialize_grads=True))
    if how.carried is not None:
        how.carried[chunk] = base.leaves()
    return {
        index: MetaGradient(value, loss, np.concatenate([next(slopes).double().cpu().numpy() for _ in parts]))
        for index, value, loss, parts in zip(chunk, task_loss.tolist(), inner.tolist(), phi, strict=True)
    }
