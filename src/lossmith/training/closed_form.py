"""The meta-gradient of a single base-model step in closed form, for all candidates at once (ALGORITHMS §4).

With z = f(θ0) and its Jacobian J, both shared by all candidates, δ(φ) = ∂M_φ/∂z, one step θ' = θ0 − a(Jᵀδ + λθ0)
and v = the gradient of the task loss at θ':

    dL/dφ = −a · ∂/∂φ ⟨δ(φ), J v⟩

so that nothing is differentiated twice through the network but for J itself, which is linear. a is the learning rate,
times 1 + μ under Nesterov's momentum; weight decay λ enters θ' only; with the gradient's norm clipped v is turned
accordingly (`Descent.clipped_direction`).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from lossmith.training.inner_gradients import InnerGradients
from lossmith.training.meta_adam import Vector
from lossmith.training.meta_gradient import Draw, MetaGradient, Unroll
from lossmith.training.one_step import one_step
from lossmith.training.outer_loss import task_values_and_deltas
from lossmith.training.tunable import Tunable


def closed_form(
    how: Unroll, drawn: Draw, candidates: Sequence[Tunable], phis: Sequence[Vector]
) -> dict[int, MetaGradient]:
    """Meta-gradients for K = 1 of the candidates named by `how.chunks`."""
    network = one_step(how, drawn)
    named = [index for chunk in how.chunks for index in chunk]
    inner = InnerGradients([candidates[i] for i in named], [phis[i] for i in named], network.terms, progress=0.0)
    values: list[float] = []
    directions: list[list[Tensor]] = []
    for chunk in how.chunks:
        rows = slice(len(values), len(values) + len(chunk))
        terms, back = network.step([delta[rows] for delta in inner.deltas])
        task_loss, delta = task_values_and_deltas(how.task_loss, terms, len(chunk))
        directions.append(back(delta))
        values += task_loss.tolist()
    mixed = inner.mixed([torch.cat(parts) for parts in zip(*directions, strict=True)])
    rate = how.descent.first_lr
    return {
        index: MetaGradient(value, loss, -rate * gradient)
        for index, value, loss, gradient in zip(named, values, inner.values.tolist(), mixed, strict=True)
    }
