"""Batches of a user's loader without end, that can be taken up again where they were."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

from lossmith.errors import UsageError
from lossmith.rng import derive_seed
from lossmith.training.online.random_state import RandomState

_CPU = torch.device("cpu")


class ValidBatches:
    """Epoch after epoch of a loader; its shuffling draws from streams of the seed, never from the user's generators.

    Args:
        loader: anything that can be iterated over again and again: a DataLoader, a list of batches. A generator of its
            own goes on by itself and is put back on `load`.
        seed: names the streams.

    Raises:
        UsageError: it can be iterated over only once; an epoch of it is empty.
    """

    def __init__(self, loader: Iterable[Any], seed: int) -> None:
        if not hasattr(loader, "__iter__") or isinstance(loader, Iterator):
            raise UsageError(
                f"valid_loader is a {type(loader).__name__}, which ends for good: give a DataLoader or a list."
            )
        self._loader, self._seed = loader, seed
        self._epoch, self._place = 0, 0
        self._batches: Iterator[Any] | None = None
        self._own = self._own_generator()

    def next(self) -> Any:
        """The next batch."""
        batch = self._in_epoch()
        if batch is _END:
            if not self._place:
                raise UsageError("valid_loader gives no batches: the loss adapts to at least one.")
            self._epoch, self._place, self._batches = self._epoch + 1, 0, None
            return self.next()
        self._place += 1
        return batch

    def state(self) -> dict[str, Tensor]:
        """Where the batches are."""
        own = {} if self._own is None else {"loader_generator": self._own}
        return {"batches": torch.tensor([self._epoch, self._place]), **own}

    def load(self, state: Mapping[str, Tensor]) -> None:
        """Go on from what `state` returned, by reading the present epoch again up to there."""
        epoch, place = map(int, state["batches"].tolist())
        generator = getattr(self._loader, "generator", None)
        if isinstance(generator, torch.Generator) and "loader_generator" in state:
            generator.set_state(state["loader_generator"].cpu())
        self._epoch, self._place, self._batches = epoch, 0, None
        while self._place < place and self._in_epoch() is not _END:
            self._place += 1

    def _in_epoch(self) -> Any:
        with RandomState(_CPU).aside(derive_seed(self._seed, "online", "valid", self._epoch, self._place)):
            if self._batches is None:
                self._own = self._own_generator()
                self._batches = iter(self._loader)
            return next(self._batches, _END)

    def _own_generator(self) -> Tensor | None:
        generator = getattr(self._loader, "generator", None)
        return generator.get_state() if isinstance(generator, torch.Generator) else None


_END = object()
