"""Memory that is worth keeping from one meta-step of tuning to the next."""

from __future__ import annotations

from collections.abc import Hashable
from math import prod

import torch
from torch import Tensor


class Kept:
    """Tensors by name.

    Memory that goes back to the operating system comes back as empty pages, which cost more than small products do;
    here it stays.

    Example:
        >>> kept = Kept()
        >>> like = torch.zeros(1)
        >>> kept.empty("change", (2, 3), like).data_ptr() == kept.empty("change", (2, 3), like).data_ptr()
        True
    """

    def __init__(self) -> None:
        self._memory: dict[Hashable, Tensor] = {}

    def empty(self, name: Hashable, shape: tuple[int, ...], like: Tensor) -> Tensor:
        """A contiguous tensor of the type and on the device of another, with anything in it.

        The same memory whenever it is asked for by the same name, whatever its shape.
        """
        size, key = prod(shape), (name, like.dtype, like.device)
        found = self._memory.get(key)
        if found is None or found.numel() < size:
            found = self._memory[key] = torch.empty(size, dtype=like.dtype, device=like.device)
        return found[:size].view(shape)
