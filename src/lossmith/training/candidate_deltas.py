"""Derivatives of tunable losses by outputs that base models do not share: of training steps nobody differentiates.

Where they are shared, at θ0, `inner_gradients` computes what candidates have in common once.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from lossmith.losses.delta import population_value_and_delta
from lossmith.tasks import Terms
from lossmith.training.tunable import Tunable, by_row


def values_and_deltas(
    members: Sequence[Tunable], phi: Sequence[Sequence[Tensor]], stack: Sequence[Terms], progress: float
) -> tuple[Tensor, list[Tensor]] | None:
    """M_φ of each candidate and its derivatives by the outputs, without a graph, all candidates in one call.

    Args:
        members: P candidates. phi: of each, of each of its losses, [K].
        stack: Terms with a first axis of candidates. progress: τ.

    Returns:
        The sum over all Terms, [P], and for each of them ∂M/∂z, [P, *z.shape]; None where candidates differ in more
        than outputs (targets made by the model) or rows are grouped.
    """
    if not all(_shared(terms, len(members)) for terms in stack):
        return None
    values, deltas = [], []
    for position, terms in enumerate(stack):
        places = [candidate.member(position) for candidate in members]
        losses = [candidate.members[at] for candidate, at in zip(members, places, strict=True)]
        own = [parts[at].detach() for parts, at in zip(phi, places, strict=True)]
        output = terms.output.detach()
        flat = by_row(Terms(output[0], terms.target[0], None if terms.weight is None else terms.weight[0]))
        z = output.reshape(len(members), *flat.output.shape)
        value, delta = population_value_and_delta(losses, z, flat.target, flat.weight, progress, phi=own)
        values.append(value)
        deltas.append(delta.reshape(output.shape))
    return torch.stack(values).sum(0), deltas


def _shared(terms: Terms, count: int) -> bool:
    parts = [part for part in (terms.target, terms.weight) if part is not None]
    return terms.group is None and (count == 1 or all(part.stride(0) == 0 for part in parts))
