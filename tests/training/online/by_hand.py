"""One online step by brute force: the real torch optimiser on copies of model and state, φ moved by hand."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from lossmith.losses import Loss
from lossmith.losses.autograd_road import with_parameters

Vector = np.ndarray[Any, Any]


def task_loss_after_step(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    loss: Loss,
    phi: Vector,
    batches: Sequence[tuple[Tensor, Tensor]],
    valid: tuple[Tensor, Tensor],
    task_loss: Loss,
    *,
    clip: float | None = None,
    random: Tensor | None = None,
    valid_random: Tensor | None = None,
    share: float = 1.0,
) -> float:
    """Task loss of θ_{t+1}, the step taken on copies.

    Args:
        batches: their gradients are accumulated, each loss times `share`. random: state of the generator before them;
            `valid_random`: before the pass that follows.
    """
    model, optimizer = copied(model, optimizer)
    optimizer.zero_grad()
    before = torch.get_rng_state()
    if random is not None:
        torch.set_rng_state(random)
    for x, y in batches:
        z = model(x)
        (share * with_parameters(loss, torch.from_numpy(phi), z)(z, y, progress=0.0)).backward()
    if clip is not None:
        nn.utils.clip_grad_norm_(model.parameters(), clip)
    optimizer.step()
    if valid_random is not None:
        torch.set_rng_state(valid_random)
    with torch.no_grad():
        found = float(task_loss(model(valid[0]), valid[1]))
    torch.set_rng_state(before)
    return found


def copied(model: nn.Module, optimizer: torch.optim.Optimizer) -> tuple[nn.Module, torch.optim.Optimizer]:
    """Both, apart from the originals, the second stepping the first."""
    other = copy.deepcopy(model)
    place = {id(p): q for p, q in zip(model.parameters(), other.parameters(), strict=True)}
    groups = [{**group, "params": [place[id(p)] for p in group["params"]]} for group in optimizer.param_groups]
    again = type(optimizer)(groups, lr=0.1)
    again.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    return other, again


def by_differences(function: Callable[[Vector], float], phi: Vector, step: float = 1e-5) -> Vector:
    """The gradient of a function of φ by central differences."""
    found = []
    for place in range(len(phi)):
        up, down = phi.copy(), phi.copy()
        up[place] += step
        down[place] -= step
        found.append((function(up) - function(down)) / (2 * step))
    return np.array(found)
