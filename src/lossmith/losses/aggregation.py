"""How elementwise values become one number: the named part around an elementwise kernel (ALGORITHMS §0).

- `Pointwise`: mean over rows of the sum (or mean) over outputs of ℓ(p, t). Everything in the papers.
- `Ratio`: 1 − Σa/Σb per class or over the batch, both sums of elementwise values: Dice, Tversky, soft F-measures.
- `Pairwise`: mean of ℓ(z_i − z_j) over pairs of rows with t_i > t_j inside a group: AUC, ranking.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

import torch
from torch import Tensor

from lossmith.errors import LossError
from lossmith.losses.family import Kernel


@dataclass(frozen=True)
class Pointwise:
    """Weighted mean over rows of the values reduced over outputs."""

    kind = "pointwise"


@dataclass(frozen=True)
class Ratio:
    """1 − (Σa + s)/(Σb + s), a from the loss's kernel and b from `denominator`.

    Args:
        denominator: kernel of b.
        over: "class" takes one ratio per class and means them; "batch" one ratio of everything.
        smooth: s, keeps the ratio defined where a class is absent.
    """

    denominator: Kernel
    over: Literal["class", "batch"] = "class"
    smooth: float = 1.0
    kind = "ratio"

    def __post_init__(self) -> None:
        if self.over not in ("class", "batch"):
            raise LossError(f'ratio over {self.over!r}: use "class" or "batch".')
        if not self.smooth >= 0:
            raise LossError(f"ratio smooth {self.smooth!r}: use a number >= 0.")


@dataclass(frozen=True)
class Pairwise:
    """Mean over ordered pairs inside a group of ℓ(z = z_i − z_j, t = t_i − t_j) where t_i > t_j."""

    kind = "pairwise"


Aggregation: TypeAlias = Pointwise | Ratio | Pairwise


def document(aggregation: Aggregation) -> dict[str, Any]:
    """JSON-able form."""
    if isinstance(aggregation, Ratio):
        kernel = {"family": aggregation.denominator.family, **aggregation.denominator.document()}
        return {"kind": "ratio", "denominator": kernel, "over": aggregation.over, "smooth": aggregation.smooth}
    return {"kind": aggregation.kind}


def weighted_mean(rows: Tensor, weight: Tensor | None, num_items: Tensor | float | None, reduction: str) -> Tensor:
    """Σwℓ / Σw, or Σwℓ / num_items; a row of weight 0 contributes exactly nothing, whatever its value.

    Args:
        rows: ℓ per row, [N]. weight: [N] or None. num_items: divisor that replaces Σw (gradient accumulation).
        reduction: "mean", "sum" or "none" (then weighted rows [N]).
    """
    if weight is not None:
        rows = torch.where(weight == 0, torch.zeros_like(rows), rows) * weight
    if reduction == "none":
        return rows
    total = rows.sum()
    if reduction == "sum":
        return total
    if num_items is not None:
        return total / num_items
    if weight is None:
        return total / max(rows.shape[0], 1)
    mass = weight.sum()
    return total / torch.where(mass == 0, torch.ones_like(mass), mass)


def ratio(numerator: Tensor, denominator: Tensor, weight: Tensor | None, how: Ratio) -> Tensor:
    """1 − Σa/Σb from elementwise a, b [N, ...]."""
    a, b = torch.broadcast_tensors(numerator, denominator)
    if weight is not None:
        w = weight.reshape(-1, *[1] * (a.dim() - 1))
        a, b = a * w, b * w
    axes = (0,) if how.over == "class" else tuple(range(a.dim()))
    return (1 - (a.sum(axes) + how.smooth) / (b.sum(axes) + how.smooth)).mean()


def pairwise(kernel: Kernel, output: Tensor, target: Tensor, weight: Tensor | None, group: Tensor | None) -> Tensor:
    """Mean of ℓ over ordered pairs; output and target [N, C]; 0 where no pair is ordered."""
    unknown = kernel.reads - {"z", "t"}
    if unknown:
        raise LossError(f"a pairwise loss reads z (= z_i − z_j) and t only, not {', '.join(sorted(unknown))}.")
    gap = output[:, None] - output[None]  # [N, N, C]
    order = target[:, None] - target[None]
    mask = order > 0
    if group is not None:
        mask = mask & (group[:, None] == group[None])[..., None]
    values = kernel.value({"z": gap, "t": order}).expand_as(gap)
    pair_weight = mask.to(values.dtype)
    if weight is not None:
        pair_weight = pair_weight * (weight[:, None] * weight[None])[..., None]
    mass = pair_weight.sum()
    return torch.where(mask, values, torch.zeros_like(values)).mul(pair_weight).sum() / mass.clamp(min=1e-30)


def aggregation_from(document: Mapping[str, Any], kernel_from: Any) -> Aggregation:
    """The inverse of `document`; `kernel_from` rebuilds a kernel from its document."""
    kind = document.get("kind")
    if kind == "pointwise":
        return Pointwise()
    if kind == "pairwise":
        return Pairwise()
    if kind == "ratio":
        try:
            return Ratio(kernel_from(document["denominator"]), document["over"], float(document["smooth"]))
        except KeyError as missing:
            raise LossError(f"a ratio aggregation needs the field {missing}.") from None
    raise LossError(f"unknown aggregation {kind!r}: pointwise, ratio or pairwise.")
