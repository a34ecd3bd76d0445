"""Nested plain values and tensors as a JSON document beside named tensors, and back: bit for bit, and nothing run.

What an optimiser keeps is dictionaries, lists and tuples of numbers, texts and tensors. Each value is written as a pair
of its type and itself, so that 1, 1.0, True and "1", lists and tuples come back as what they were.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor


class NotStorable(Exception):
    """Holds a value that has no exact text: training goes on without checkpoints."""


def encoded(value: object, tensors: dict[str, Tensor], name: str) -> list[Any]:
    """A JSON-able document of `value`.

    Args:
        value: None, bool, int, float, str, Tensor, or dict, list and tuple of these.
        tensors: receives a copy of every tensor, on the CPU and contiguous, under names that begin with `name`.

    Raises:
        NotStorable: a value of another type.
    """
    kind = type(value)
    if value is None or kind in (bool, int, str):
        return ["plain", value]
    if isinstance(value, float) and kind is float:
        return ["float", value.hex()]  # infinity and NaN have no JSON
    if isinstance(value, Tensor):
        if kind not in (Tensor, torch.nn.Parameter) or value.layout != torch.strided or value.is_quantized:
            raise NotStorable(f"{name} is a {kind.__name__} of layout {value.layout}")
        tensors[name] = value.detach().clone(memory_format=torch.contiguous_format).cpu()
        return ["tensor", name, list(torch.empty_like(value, device="meta").stride()), value.device.type == "cpu"]
    if isinstance(value, dict) and kind is dict:
        pairs = enumerate(value.items())
        return [
            "dict",
            [[encoded(k, tensors, f"{name}/k{i}"), encoded(v, tensors, f"{name}/{i}")] for i, (k, v) in pairs],
        ]
    if isinstance(value, list | tuple) and kind in (list, tuple):
        return [kind.__name__, [encoded(item, tensors, f"{name}/{i}") for i, item in enumerate(value)]]
    raise NotStorable(f"{name} is a {kind.__module__}.{kind.__qualname__}")


def decoded(document: Any, tensors: Mapping[str, Tensor], device: torch.device) -> Any:
    """The inverse of `encoded`: tensors with the strides that they had, on the CPU or, where they were not, `device`.

    Raises:
        ValueError, KeyError, TypeError, RuntimeError: the document is none of `encoded`.
    """
    kind, content, *more = document
    if kind == "plain":
        return content
    if kind == "float":
        return float.fromhex(content)
    if kind == "tensor":
        stored = tensors[content]
        strides, on_cpu = more
        where = torch.device("cpu") if on_cpu else device
        return torch.empty_strided(stored.shape, strides, dtype=stored.dtype, device=where).copy_(stored)
    if kind == "dict":
        return {decoded(key, tensors, device): decoded(value, tensors, device) for key, value in content}
    if kind in ("list", "tuple"):
        items = [decoded(item, tensors, device) for item in content]
        return items if kind == "list" else tuple(items)
    raise ValueError(f"{kind!r:.40} is no type of a stored value")
