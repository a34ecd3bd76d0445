"""What a forward pass hands to the loss."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from lossmith.errors import TaskError


@dataclass(frozen=True)
class Terms:
    """The arguments of a loss for one batch.

    Args:
        output: what the model returns, before the head, `[..., C]` (`[N, C]` as a rule).
        target: integer classes `[...]`, or `[..., C]` for soft, several-label and regression targets.
        weight: per row `[...]`, or None; a masked row has weight 0.
        group: per row, for aggregations within a group, or None.
    """

    output: Tensor
    target: Tensor
    weight: Tensor | None = None
    group: Tensor | None = None


Forward = Callable[[nn.Module, Any], Terms | tuple[Terms, ...]]


def supervised(model: nn.Module, batch: Any) -> Terms:
    """The forward of plain supervised learning: a batch `(x, y)` → `Terms(model(x), y)`.

    Raises:
        TaskError: the batch is no pair.
    """
    if not isinstance(batch, tuple | list) or len(batch) != 2:
        got = f"{len(batch)} parts" if isinstance(batch, tuple | list | dict) else type(batch).__name__
        raise TaskError(
            f"lm.supervised expects batches (x, y) but got {got}: write a forward of your own, e.g. "
            "`def forward(model, batch): return lm.Terms(model(batch['x']), batch['y'], weight=batch['mask'])`."
        )
    x, y = batch
    return Terms(model(x), y)


def as_terms(returned: object) -> tuple[Terms, ...]:
    """What a forward returned, as a tuple of at least one `Terms`.

    Raises:
        TaskError: it returned something else.
    """
    if isinstance(returned, Terms):
        return (returned,)
    if isinstance(returned, tuple) and returned and all(isinstance(t, Terms) for t in returned):
        return returned
    raise TaskError(
        f"forward returned {type(returned).__name__}: it must return lm.Terms(output, target), or a tuple of Terms "
        "for several losses."
    )
