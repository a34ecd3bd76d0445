"""Which road meta-gradients take: by rule where several are right, by a trial where one may not be.

The rule looks at the model only, never at a clock, so that one search takes one road, whatever else the machine does.
What the rule prefers is tried on two made-up losses in float64 against the plain road; where it fails or gives other
numbers, the plain road is taken and says why.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from torch import Tensor, nn

from lossmith.errors import TaskError, UsageError
from lossmith.losses import Loss, Taylor
from lossmith.rng import torch_global_scope
from lossmith.tasks.trees import map_tree
from lossmith.training.base_models import BaseModels
from lossmith.training.closed_form import closed_form
from lossmith.training.functional_network import Network
from lossmith.training.implicit import implicit
from lossmith.training.meta_gradient import Draw, MetaGradient, Road, Unroll
from lossmith.training.perceptron import layers_of
from lossmith.training.perceptron_step import stack_size
from lossmith.training.tunable import Tunable
from lossmith.training.unrolled import unrolled

STACK = 32  # candidates at most in one stack
MIDDLE, LARGE = 50_000, 500_000  # trainable parameters from which a core does as well with a small stack, with none
MIDDLE_STACK = 8
IMAGES = 6  # candidates in a stack of networks with convolutions: more of their images leave the cache
WIDE = 16  # channels that fill a vector register: from here on a convolution of one group per candidate is no faster
_CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
_NO_SECOND_DERIVATIVE = (
    "tuning differentiates twice through the model, and that failed ({}): use layers that have a second derivative, or "
    "a method that trains candidates as they are (taylorglo, random, gplfl)."
)
_GENOMES = ((1.0, -1.0, 0.5, 2.0, -0.5, 0.3, 0.4, 0.6), (-0.5, 2.0, 0.3, 1.0, 0.7, -1.0, 0.6, 0.3))


def meta_gradients(
    how: Unroll, drawn: Draw, candidates: Sequence[Tunable], phis: Sequence[np.ndarray[Any, Any]]
) -> dict[int, MetaGradient]:
    """Meta-gradients of the candidates named by `how.chunks`, by their index."""
    if how.implicit is not None:
        return implicit(how, drawn, candidates, phis)
    return (closed_form if how.closed else unrolled)(how, drawn, candidates, phis)


def choose_road(how: Unroll, drawn: Draw, count: int) -> Road:
    """The road for `count` candidates.

    Args:
        how: its road and chunks are not looked at.
        drawn: of any meta-step, for the trial; its model is not touched.
        count: of candidates.

    Raises:
        TaskError: the model has no second derivative, so no road is open.
    """
    preferred = _preferred(how, drawn, count)
    if preferred[0].kind == "alone":
        _plain(how, drawn, wide=False)
        return preferred[0]
    wide, tolerance = True, 1e-9
    try:
        # In float64, where rounding cannot be mistaken for an error; not every model can be had in it.
        plain = _plain(how, drawn, wide=True)
    except TaskError:
        plain, wide, tolerance = _plain(how, drawn, wide=False), False, 1e-3
    why = ""
    for road in preferred:
        reason = _why_not(how, drawn, road, plain, wide=wide, tolerance=tolerance)
        if not reason:
            return replace(road, why=road.why or why)
        why = why or road.why or reason
    return Road(why=why)


def _why_not(
    how: Unroll, drawn: Draw, road: Road, plain: Sequence[MetaGradient], *, wide: bool, tolerance: float
) -> str:
    """Why a road is not open; empty where it is."""
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("error", message=".*performance drop")  # of a layer that vmap can only loop over
            found = _trial(how, drawn, road, wide=wide)
    except Exception as error:
        return f"{road} it fails ({_gist(error)})"
    agree = all(_agree(a, b, tolerance) for a, b in zip(plain, found, strict=True))
    return "" if agree else f"{road} it gives other numbers"


def _preferred(how: Unroll, drawn: Draw, count: int) -> list[Road]:
    """Roads in the order in which they are tried."""
    model, cpu = drawn.model, how.task.device.type == "cpu"
    if how.closed and how.descent.clip is None and (layers := layers_of(how.task, model)):
        return [Road("layers", stack_size(layers, how.task.recipe.batch_size) if cpu else STACK)]
    convolutions = [module for module in model.modules() if isinstance(module, _CONVOLUTIONS)]
    if cpu and convolutions:
        one = "convolutions are no faster stacked"
        if not how.closed:
            return [Road("alone", why=one)]
        thin = all(module.in_channels // module.groups < WIDE for module in convolutions)
        return [*([Road("recorded", IMAGES)] if thin else []), Road("recorded", why=one), Road("forward", why=one)]
    if count == 1:
        return [Road(why="there is only one candidate")]
    size = sum(p.numel() for p in model.parameters() if p.requires_grad) if cpu else 0
    if size > LARGE:
        return [Road(why="layers of this size are no faster stacked")]
    return [Road("stacked", MIDDLE_STACK if size > MIDDLE else STACK)]


def _plain(how: Unroll, drawn: Draw, *, wide: bool) -> list[MetaGradient]:
    """The trial of the plain road, which must succeed: in float64 where `wide` and the model can be had in it.

    Raises:
        TaskError: it fails.
    """
    try:
        _check_adjoint(how, drawn, wide=wide)
        return _trial(how, drawn, Road(), wide=wide)
    except UsageError:
        raise
    except Exception as error:
        raise TaskError(_NO_SECOND_DERIVATIVE.format(_gist(error))) from error


def _check_adjoint(how: Unroll, drawn: Draw, *, wide: bool) -> None:
    """⟨JJᵀδ, δ⟩ = ‖Jᵀδ‖² unless a layer's gradient is cut off from its own derivative, which torch need not notice.

    Raises:
        TaskError: it is.
    """
    drawn = _own(how, drawn, wide=wide)
    device = how.task.device
    start = Network(drawn.model, how.task.forward).start(
        drawn.train[0], lambda: torch_global_scope(drawn.seed, "dropout", 0, device=device)
    )
    cotangents = [term.output.detach().cos()[None] / term.output.numel() for term in start.terms]
    pulled = start.pull(cotangents)
    pushed = start.push(pulled)
    norm = sum(float(part.square().sum()) for part in pulled.values())
    product = sum(float((u * v).sum()) for u, v in zip(pushed, cotangents, strict=True))
    if not abs(product - norm) <= (1e-6 if wide else 1e-2) * norm:
        raise TaskError(_NO_SECOND_DERIVATIVE.format("a layer's gradient does not depend on what it should"))


def _trial(how: Unroll, drawn: Draw, road: Road, *, wide: bool) -> list[MetaGradient]:
    """Meta-gradients of two made-up candidates."""
    candidates = [Tunable.of(Loss(Taylor(genome), head=how.task.head), how.task) for genome in _GENOMES]
    chunks = replace(road, chunk=min(road.chunk, 2)).chunks(2)
    # Two steps show what a road does. Implicit gradients go by the same roads, but their solvers may need another
    # number of iterations for the last digits.
    carried: dict[tuple[int, ...], BaseModels] | None = None if how.carried is None else {}
    how = replace(
        how, road=road, chunks=chunks, length=min(how.length, 2), truncation=0, implicit=None, carried=carried
    )
    drawn = replace(drawn, train=drawn.train[: how.length])
    found = meta_gradients(how, _own(how, drawn, wide=wide), candidates, [one.phi for one in candidates])
    return [found[0], found[1]]


def _own(how: Unroll, drawn: Draw, *, wide: bool) -> Draw:
    """The same draw with a model of its own, in float64 where `wide`."""
    fresh = how.task.build_model(drawn.seed).to(how.task.device)
    if not wide:
        return replace(drawn, model=fresh)
    train = tuple(map_tree(_double, batch) for batch in drawn.train)
    return Draw(drawn.seed, fresh.double(), train, map_tree(_double, drawn.fitness))


def _double(leaf: Any) -> Any:
    return leaf.double() if isinstance(leaf, Tensor) and leaf.is_floating_point() else leaf


def _agree(a: MetaGradient, b: MetaGradient, tolerance: float) -> bool:
    size = float(np.abs(a.gradient).max())
    values = abs(a.value - b.value) <= tolerance * abs(a.value)
    return values and bool(np.abs(a.gradient - b.gradient).max() <= tolerance * size)


def _gist(error: Exception) -> str:
    """The first sentence of what went wrong, as part of one."""
    text = str(error).strip().partition("\n")[0].partition(". ")[0]
    return f"{type(error).__name__}: {text}"[:200].rstrip(".")
