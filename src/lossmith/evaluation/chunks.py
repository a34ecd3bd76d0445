"""Chunks: which requests are one piece of work. A pure function of the requests and the plan (DESIGN §4).

What can be done at once is brought together first and then split evenly, so that two workers finish together: 25 by at
most 16 are 13 and 12. Never a function of worker count, free memory or timing.
"""

from __future__ import annotations

import json
from collections.abc import Hashable, Sequence

from lossmith.evaluation.plan import Plan
from lossmith.records import Request, canonical_json
from lossmith.training.tuning_state import meta_steps_of


def stacking_key(request: Request) -> Hashable:
    """What requests done at once have in common: everything but the loss, and a learning rate where each has its own.

    Trainings of one key see the same batches and are measured at the same steps. Tunings share the learning rate,
    because they train one base model under many losses.
    """
    if request.work == "train":
        if adapts(request.loss):
            return (request.work, request.key)  # a loss that learns while it trains is trained alone
        what = (request.seed, request.budget, request.data_fraction, request.splits)
        return (request.work, *what, request.curve, request.stop_at_chance)
    if request.work == "tune":
        return (request.work, tuned_together(request.settings), request.seed, request.lr_scale)
    return (request.work, request.settings, request.seed)


def adapts(loss: str) -> bool:
    """Whether canonical JSON text is of a loss with an online rule; a quote inside a name is written with a stroke."""
    return '"online":' in loss


def tuned_together(settings: str) -> Hashable:
    """What the settings of tunings done at once have in common: all but the state, and of that the meta-steps done.

    Settings that cannot be read have nothing in common with others.
    """
    if '"state"' not in settings:
        return settings
    try:
        document = json.loads(settings)
        state = document.pop("state", "")
        return canonical_json(document), meta_steps_of(state)
    except (ValueError, TypeError, AttributeError, RecursionError):
        return settings


def divide(requests: Sequence[Request], plan: Plan) -> list[tuple[Request, ...]]:
    """The requests as chunks of the plan: each exactly once, groups and requests in the order they came in."""
    groups: dict[Hashable, list[Request]] = {}
    for request in requests:
        groups.setdefault(_company(request, plan), []).append(request)
    return [chunk for group in groups.values() for chunk in _evenly(group, plan.chunk_of(group[0].work))]


def _company(request: Request, plan: Plan) -> Hashable:
    """What the requests of a chunk share; trainings that are done one by one need not share anything."""
    if request.work == "train" and plan.engine == "sequential":
        return request.work
    return stacking_key(request)


def _evenly(group: Sequence[Request], most: int) -> list[tuple[Request, ...]]:
    """As few parts of at most `most` as there can be, their sizes differing by one at most, larger ones first."""
    count = -(-len(group) // most)
    size, larger = divmod(len(group), count)
    parts, start = [], 0
    for part in range(count):
        end = start + size + (part < larger)
        parts.append(tuple(group[start:end]))
        start = end
    return parts
