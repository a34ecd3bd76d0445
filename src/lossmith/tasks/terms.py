"""What a forward pass hands to the loss."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from lossmith.errors import TaskError
from lossmith.losses.inputs import Head, head_name


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


def check_terms(terms: Terms, head: Head) -> None:
    """Raise a TaskError unless output and target of one forward pass fit each other and the head; reads no values."""
    output, target = terms.output, terms.target
    for what, value in (("output", output), ("target", target)):
        if not isinstance(value, Tensor):
            raise TaskError(f"forward returned {type(value).__name__} as {what}: Terms(output, target) takes tensors.")
    shape, wanted = tuple(output.shape), "[N, C]: one row per example, one column per output"
    if not output.is_floating_point():
        raise TaskError(f"the model returned {output.dtype}: it must return floating-point outputs {wanted}.")
    if output.ndim < 2:
        raise TaskError(
            f"the model returned shape {list(shape)}: expected {wanted}; for one output use output[:, None]."
        )
    rows = shape[:-1]
    if head == "softmax" and not target.is_floating_point():
        if tuple(target.shape) != rows:
            raise TaskError(
                f"the model returned shape {list(shape)} for integer targets of shape {list(target.shape)}: expected "
                f"{[*target.shape, 'C']}, the outputs last (for images use output.movedim(1, -1))."
            )
        if shape[-1] < 2:
            raise TaskError(
                'the model returned one output under the softmax head: use head="sigmoid" or return C ≥ 2 outputs.'
            )
    elif tuple(target.shape) != shape and not (shape[-1] == 1 and tuple(target.shape) == rows):
        hints = {"softmax": " (or integer classes [N])", "custom": " (classes one-hot)"}
        hint = hints.get(head_name(head), "")
        raise TaskError(
            f"the model returned shape {list(shape)} for targets of shape {list(target.shape)}: under the "
            f"{head_name(head)} head they must be equal{hint}."
        )
    if head == "identity" and not target.is_floating_point():
        raise TaskError(
            f"targets are {target.dtype} under the identity head: give floating-point targets, e.g. y.float()."
        )
