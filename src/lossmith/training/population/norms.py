"""Rules for normalisations: statistics are of one candidate, whatever its companions."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from lossmith.training.population.stacked import (
    NotStackable,
    Stacked,
    alike,
    apart,
    count_of,
    images,
    leading,
    leading_shape,
    overwrite,
    rule,
    stacked,
    stacked_images,
    to_images,
)


@rule(F.layer_norm, torch.layer_norm)
def _layer_norm(x: Any, shape: Any, weight: Any = None, bias: Any = None, eps: float = 1e-5, *_: Any) -> Any:
    raw = leading(x) if isinstance(x, Stacked) else x
    return _affine(F.layer_norm(raw, list(shape), eps=eps), isinstance(x, Stacked), weight, bias)


def _affine(normal: Tensor, own: bool, weight: Any, bias: Any) -> Any:
    """normal · weight + bias, in one pass where both are given."""
    found: Any = stacked(normal) if own else normal
    if weight is not None and bias is not None:
        return torch.addcmul(bias, found, weight)
    if weight is not None:
        return found * weight
    return found if bias is None else found + bias


if hasattr(F, "rms_norm"):

    @rule(F.rms_norm, torch.rms_norm)
    def _rms_norm(x: Any, shape: Any, weight: Any = None, eps: float | None = None) -> Any:
        raw = leading(x) if isinstance(x, Stacked) else x
        return _affine(F.rms_norm(raw, list(shape), eps=eps), isinstance(x, Stacked), weight, None)


@rule(F.batch_norm, torch.batch_norm)
def _batch_norm(
    x: Any,
    running_mean: Any = None,
    running_var: Any = None,
    weight: Any = None,
    bias: Any = None,
    training: bool = False,
    momentum: float = 0.1,
    eps: float = 1e-5,
    *_: Any,
) -> Any:
    """Candidates' channels side by side: `F.batch_norm` of P·C channels."""
    count = count_of((x, running_mean, running_var, weight, bias))
    channel_wise = [_flat(one, count, written=i < 2 and training) for i, one in enumerate((running_mean, running_var))]
    channel_wise += [_flat(one, count) for one in (weight, bias)]
    mean, var, w, b = channel_wise
    return _side_by_side(x, count, lambda raw: F.batch_norm(raw, mean, var, w, b, training, momentum, eps))


@rule(F.instance_norm)
def _instance_norm(
    x: Any,
    running_mean: Any = None,
    running_var: Any = None,
    weight: Any = None,
    bias: Any = None,
    use_input_stats: bool = True,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> Any:
    count = count_of((x, running_mean, running_var, weight, bias))
    mean, var = (_flat(one, count, written=use_input_stats) for one in (running_mean, running_var))
    w, b = (_flat(one, count) for one in (weight, bias))
    return _side_by_side(x, count, lambda raw: F.instance_norm(raw, mean, var, w, b, use_input_stats, momentum, eps))


@rule(F.group_norm, torch.group_norm)
def _group_norm(x: Any, groups: int, weight: Any = None, bias: Any = None, eps: float = 1e-5, *_: Any) -> Any:
    count = count_of((x, weight, bias))
    w, b = _flat(weight, count), _flat(bias, count)
    return _side_by_side(x, count, lambda raw: F.group_norm(raw, groups * count, w, b, eps))


def _side_by_side(x: Any, count: int, function: Callable[[Tensor], Tensor]) -> Stacked:
    """A function of channels, of [N, P·C, *spatial]."""
    if not isinstance(x, Stacked):
        return stacked_images(function(to_images(x.expand(count, *x.shape))), count)
    if x.images:
        return alike(x, function(x.raw))
    if len(leading_shape(x)) == 2:  # [P, N, C]: there and back
        # Contiguous: on other orders of memory sums are rounded by how many channels, and so candidates, there are.
        found = function(x.raw.transpose(0, 1).flatten(1).contiguous())
        return stacked(apart(found, count).transpose(0, 1), x.order)
    return stacked_images(function(images(x)), count)


def _flat(one: Any, count: int, *, written: bool = False) -> Tensor | None:
    """[P·C] of a stacked or shared [C]; the very memory where it is written to."""
    if one is None:
        return None
    if isinstance(one, Stacked):
        raw = leading(one)
        if written and not raw.is_contiguous():
            overwrite(one, raw.contiguous())
            raw = one.raw
        return raw.reshape(-1)
    if written:
        raise NotStackable("running statistics that all candidates share cannot be written by each of them.")
    return one.repeat(count)  # type: ignore[no-any-return]
