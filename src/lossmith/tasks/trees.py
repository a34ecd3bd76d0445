"""Nested tuples, lists and dicts of tensors: what batches are made of."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor


def tensors(tree: Any) -> Iterator[Tensor]:
    """The tensors of a nested tuple, list or dict, in order."""
    if isinstance(tree, Tensor):
        yield tree
    elif isinstance(tree, dict):
        for value in tree.values():
            yield from tensors(value)
    elif isinstance(tree, tuple | list):
        for value in tree:
            yield from tensors(value)


def map_tree(function: Callable[[Any], Any], tree: Any) -> Any:
    """The same structure with `function` applied to every tensor or array; other leaves (texts) stay as they are."""
    if isinstance(tree, dict):
        return {key: map_tree(function, value) for key, value in tree.items()}
    if isinstance(tree, tuple) and hasattr(tree, "_fields"):
        return type(tree)(*(map_tree(function, value) for value in tree))
    if isinstance(tree, tuple | list):
        return type(tree)(map_tree(function, value) for value in tree)
    return function(tree) if isinstance(tree, Tensor | np.ndarray) else tree


def with_member(tree: Any, key: int | str, value: Tensor) -> Any:
    if isinstance(tree, dict):
        return {**tree, key: value}
    members = [value if i == key else member for i, member in enumerate(tree)]
    return type(tree)(*members) if hasattr(tree, "_fields") else type(tree)(members)


def digest_tensors(leaves: Iterable[Tensor]) -> str:
    """SHA-256 over the type, shape and bytes of tensors, in order."""
    hashed = hashlib.sha256()
    for leaf in leaves:
        leaf = leaf.detach().cpu().contiguous()
        hashed.update(f"{leaf.dtype}{tuple(leaf.shape)}".encode())
        hashed.update(leaf.reshape(-1).view(torch.uint8).numpy().data)
    return hashed.hexdigest()
