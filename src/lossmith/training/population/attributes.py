"""Rules for what a tensor tells of itself: shape and type are those of one candidate; numbers cannot be read."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor

from lossmith.training.population.stacked import (
    RULES,
    NotStackable,
    Stacked,
    alike,
    leading,
    named,
    overwrite,
    rule,
    stacked,
    without_rules,
)

_GETTERS = """
shape dtype device ndim layout is_cuda is_cpu is_sparse is_quantized is_meta is_nested is_mps is_mkldnn itemsize"""
_METHODS = """size dim ndimension numel nelement element_size is_floating_point is_complex __len__ get_device is_signed
stride is_contiguous is_conj is_neg is_inference result_type"""
_READS = """
item tolist numpy __bool__ __float__ __int__ __index__ __complex__ __array__ __contains__ __format__ is_nonzero equal
allclose data_ptr untyped_storage storage as_strided __dlpack__"""
_SIZED_BY_VALUES = "nonzero argwhere masked_select unique unique_consecutive bincount histc histogram nonzero_static"


def _metadata(func: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    with without_rules():
        return func(*args, **kwargs)


def _reading(name: str, *_: Any, **__: Any) -> Any:
    raise NotStackable(f"the model reads numbers of a tensor ({name}), which differ between candidates.")


def _sizing(name: str, *_: Any, **__: Any) -> Any:
    raise NotStackable(f"the shape of what {name} gives depends on numbers, which differ between candidates.")


for _name in _GETTERS.split():
    if hasattr(Tensor, _name):
        _get = getattr(Tensor, _name).__get__
        RULES[_get] = partial(_metadata, _get)
for _name in _METHODS.split():
    for _func in named(_name, where=(torch, Tensor)):
        RULES[_func] = partial(_metadata, _func)
for _name in _READS.split():
    for _func in named(_name, where=(torch, Tensor)):
        RULES[_func] = partial(_reading, _name.strip("_"))
for _name in _SIZED_BY_VALUES.split():
    for _func in named(_name, where=(torch, Tensor, torch.functional)):
        RULES[_func] = partial(_sizing, _name)

for _name in ("requires_grad", "is_leaf", "grad_fn", "_version", "names", "retains_grad", "output_nr"):
    if hasattr(Tensor, _name):
        _get = getattr(Tensor, _name).__get__
        RULES[_get] = partial(lambda get, x: get(x.raw), _get)


@rule(Tensor.data.__get__)  # type: ignore[attr-defined]
def _data(x: Stacked) -> Stacked:
    return alike(x, x.raw.data)


@rule(Tensor.data.__set__)  # type: ignore[attr-defined]
def _set_data(x: Stacked, value: Any) -> None:
    if not isinstance(value, Stacked):
        value = stacked(value.expand(x.count, *value.shape).clone())
    x.raw.data = leading(value)


@rule(Tensor.grad.__get__)  # type: ignore[union-attr]
def _grad(x: Stacked) -> Stacked | None:
    return None if x.raw.grad is None else alike(x, x.raw.grad)


@rule(Tensor.requires_grad_)
def _requires_grad(x: Stacked, requires_grad: bool = True) -> Stacked:
    x.raw.requires_grad_(requires_grad)
    return x


@rule(Tensor.detach_)
def _detach(x: Stacked) -> Stacked:
    return overwrite(x, leading(x).detach())


def _converted(func: Callable[..., Any], x: Any, *args: Any, **kwargs: Any) -> Any:
    plain = [_stand_in(value) for value in args]
    if not isinstance(x, Stacked):  # to the type of a stacked tensor
        return func(x, *plain, **kwargs)
    kwargs.pop("memory_format", None)  # of one candidate
    found = func(x.raw, *plain, **kwargs)
    return alike(x, found) if isinstance(found, Tensor) else found


def _stand_in(value: Any) -> Any:
    return torch.empty((), dtype=value.raw.dtype, device=value.raw.device) if isinstance(value, Stacked) else value


for _func in (Tensor.to, Tensor.type, Tensor.type_as, Tensor.cpu, Tensor.cuda):
    RULES[_func] = partial(_converted, _func)


@rule(Tensor.__repr__, Tensor.__str__)
def _text(x: Stacked, **_: Any) -> str:
    return Stacked.__repr__(x)
