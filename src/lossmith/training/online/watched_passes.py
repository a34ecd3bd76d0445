"""What a model was called with and what it returned, seen from outside: hooks on a model in a user's own loop."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_flatten
from torch.utils.weak import WeakIdKeyDictionary

from lossmith.training.online.repeated_pass import Remembered


@dataclass(frozen=True, eq=False)
class SeenPass:
    """One forward pass in training mode.

    Args:
        inputs, keywords: what the model was called with. remembered: random state and buffers before.
        autocast: whether it ran under autocast, and in which precision.
    """

    inputs: tuple[Any, ...]
    keywords: Mapping[str, Any]
    remembered: Remembered
    autocast: tuple[bool, torch.dtype]


class Hook:
    """A method as a hook that neither keeps its object alive nor is copied or stored along with the model it is on."""

    def __init__(self, method: Callable[..., None]) -> None:
        self._method = weakref.WeakMethod(method)

    def __call__(self, *arguments: Any) -> None:
        method = self._method()
        if method is not None:
            method(*arguments)

    def __deepcopy__(self, memo: Any) -> Callable[..., None]:
        return nothing

    def __reduce__(self) -> tuple[Callable[[], Callable[..., None]], tuple[()]]:
        return nothing_hook, ()


def nothing_hook() -> Callable[..., None]:
    """What a stored hook is read back as."""
    return nothing


def nothing(*arguments: Any) -> None:
    """The hook of a copy."""


class WatchedPasses:
    """The forward passes of a model whose outputs are still there.

    Args:
        model: seen from now on. wanted: asked before each pass whether it is of interest.
    """

    def __init__(self, model: nn.Module, wanted: Callable[[], bool]) -> None:
        self._wanted = wanted
        self._before: list[Remembered] = []
        self._seen: WeakIdKeyDictionary = WeakIdKeyDictionary()  # output tensor → (pass, which output)
        self._device = next(iter(model.parameters())).device
        self._handles = [
            model.register_forward_pre_hook(Hook(self._begin)),
            model.register_forward_hook(Hook(self._end), with_kwargs=True),
        ]

    def of(self, output: Tensor) -> tuple[SeenPass, int] | None:
        """The pass that returned a tensor, and which of its tensors it is; None where none did."""
        found: tuple[SeenPass, int] | None = self._seen.get(output, None)  # type: ignore[no-untyped-call]
        return found

    def _begin(self, model: nn.Module, inputs: tuple[Any, ...]) -> None:
        self._before.clear()
        if model.training and torch.is_grad_enabled() and self._wanted():
            self._before.append(Remembered(model, self._device))

    def _end(self, model: nn.Module, inputs: tuple[Any, ...], keywords: Mapping[str, Any], output: Any) -> None:
        if not self._before:
            return
        kind = self._device.type
        autocast = torch.is_autocast_enabled(kind), torch.get_autocast_dtype(kind)
        seen = SeenPass(inputs, keywords, self._before.pop(), autocast)
        for place, leaf in enumerate(tree_flatten(output)[0]):
            if isinstance(leaf, Tensor) and leaf.requires_grad:
                self._seen[leaf] = (seen, place)


def leaves_of(returned: Any, places: list[int]) -> list[Tensor]:
    """The tensors at these places of what a model returned."""
    leaves = tree_flatten(returned)[0]
    return [leaves[place] for place in places]
