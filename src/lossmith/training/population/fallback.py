"""What happens to a torch function without a rule: its body, `vmap`, or one candidate after the other.

In this order. All three give the numbers of the sequential path, or an exception; they differ in speed only.
"""

from __future__ import annotations

import types
import warnings
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.func import vmap
from torch.utils._pytree import TreeSpec, tree_flatten, tree_map, tree_unflatten

from lossmith.training.population.stacked import NotStackable, Stacked, count_of, leading, overwrite, stacked

_UNGUARDED: dict[Any, Callable[..., Any] | None] = {}
_VMAPPED: dict[Any, bool] = {}  # calls, told apart by what their arguments look like: whether vmap can do them


def without_rule(func: Any, args: Any, kwargs: Any) -> Any:
    """The result of a torch function on stacked arguments.

    Raises:
        NotStackable: it cannot be had, with the reason.
    """
    name = getattr(func, "__name__", str(func))
    body = _UNGUARDED[func] if func in _UNGUARDED else _UNGUARDED.setdefault(func, _body(func))
    if body is not None:
        return body(*args, **kwargs)
    leaves, spec = tree_flatten((args, kwargs))
    places = [i for i, leaf in enumerate(leaves) if isinstance(leaf, Stacked)]
    if not places:
        raise NotStackable(f"{name} was given stacked tensors in a place where they cannot be found.")
    if name.endswith("_") and not name.endswith("__"):
        return _in_place(func, name, leaves, spec, places)
    return _each(func, name, leaves, spec, places)


def _in_place(func: Any, name: str, leaves: list[Any], spec: TreeSpec, places: Sequence[int]) -> Any:
    target = leaves[0]
    if not isinstance(target, Stacked):
        raise NotStackable(f"{name} writes numbers of each candidate into one tensor that all of them share.")
    if target.images:
        overwrite(target, leading(target).contiguous())
    _each(func, name, leaves, spec, places)
    return target


def _each(func: Any, name: str, leaves: list[Any], spec: TreeSpec, places: Sequence[int]) -> Any:
    key = (func, spec, tuple(_look(leaf) for leaf in leaves))
    if key not in _VMAPPED:
        device = leaves[places[0]].raw.device
        state = _random_state(device)
        try:
            found = _by_vmap(func, leaves, spec, places)
            _VMAPPED[key] = True
            return found
        except NotStackable:
            raise
        except Exception:
            _VMAPPED[key] = False
            _set_random_state(device, state)  # a failed attempt may have drawn
    elif _VMAPPED[key]:
        return _by_vmap(func, leaves, spec, places)
    try:
        return _one_by_one(func, name, leaves, spec, places)
    except NotStackable:
        raise
    except Exception as error:
        raise NotStackable(f"{name} fails on stacked tensors ({gist(error)}).") from error


def _by_vmap(func: Any, leaves: list[Any], spec: TreeSpec, places: Sequence[int]) -> Any:
    def one(*own: Tensor) -> Any:
        filled = list(leaves)
        for place, tensor in zip(places, own, strict=True):
            filled[place] = tensor
        args, kwargs = tree_unflatten(filled, spec)
        return func(*args, **kwargs)

    with warnings.catch_warnings():
        warnings.filterwarnings("error", message=".*performance drop")  # of what vmap can only loop over itself
        found = vmap(one, randomness="same")(*(leading(leaves[place]) for place in places))
    return tree_map(lambda leaf: stacked(leaf) if isinstance(leaf, Tensor) else leaf, found)


def _one_by_one(func: Any, name: str, leaves: list[Any], spec: TreeSpec, places: Sequence[int]) -> Any:
    raws = {place: leading(leaves[place]) for place in places}
    device = leaves[places[0]].raw.device
    state, found = _random_state(device), []
    for candidate in range(count_of(leaves)):
        if candidate:
            _set_random_state(device, state)  # each candidate draws what it draws when trained alone
        filled = list(leaves)
        for place, raw in raws.items():
            filled[place] = raw.select(0, candidate)
        args, kwargs = tree_unflatten(filled, spec)
        found.append(tree_flatten(func(*args, **kwargs)))
    return tree_unflatten(
        [_together(name, parts) for parts in zip(*(flat for flat, _ in found), strict=True)], found[0][1]
    )


def _together(name: str, parts: Sequence[Any]) -> Any:
    if isinstance(parts[0], Tensor):
        return stacked(torch.stack(list(parts)))
    if any(part != parts[0] for part in parts):
        raise NotStackable(f"{name} gives a different answer for each candidate.")
    return parts[0]


def _body(func: Any) -> Callable[..., Any] | None:
    """A composite function of torch written in Python, without its look for arguments with rules of their own."""
    if not isinstance(func, types.FunctionType) or func.__closure__:
        return None
    if func.__module__ not in ("torch.nn.functional", "torch.functional", "torch._tensor"):
        return None
    names = [n for n in func.__code__.co_names if n.startswith("has_torch_function")]
    if not names:
        return None
    own = {**func.__globals__, **dict.fromkeys(names, lambda *_: False)}
    made = types.FunctionType(func.__code__, own, func.__name__, func.__defaults__)
    made.__kwdefaults__ = func.__kwdefaults__
    return made


def _look(leaf: Any) -> Any:
    if isinstance(leaf, Stacked):
        return ("stacked", leaf.raw.dim(), leaf.images, leaf.raw.dtype)
    if isinstance(leaf, Tensor):
        return (leaf.dim(), leaf.dtype)
    return type(leaf)


def _random_state(device: torch.device) -> list[Tensor]:
    state = [torch.get_rng_state()]
    return [*state, torch.cuda.get_rng_state(device)] if device.type == "cuda" else state


def _set_random_state(device: torch.device, state: list[Tensor]) -> None:
    torch.set_rng_state(state[0])
    if device.type == "cuda":
        torch.cuda.set_rng_state(state[1], device)


def gist(error: Exception) -> str:
    """The first sentence of what went wrong, as part of one."""
    text = str(error).strip().partition("\n")[0].partition(". ")[0]
    return f"{type(error).__name__}: {text}"[:200].rstrip(".")
