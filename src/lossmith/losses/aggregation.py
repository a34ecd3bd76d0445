"""How elementwise values become one number: the named part around an elementwise kernel (ALGORITHMS §0).

- `Pointwise`: mean over rows of the sum (or mean) over outputs of ℓ(p, t). Everything in the papers.
- `Ratio`: 1 − Σa/Σb per class or over the batch, both sums of elementwise values: Dice, Tversky, soft F-measures.
- `Pairwise`: mean of ℓ(z_i − z_j) over pairs of rows with t_i > t_j inside a group: AUC, ranking.
- `Trimmed`: as pointwise, but over the rows of a batch whose loss is smallest: label noise, outliers.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

import torch
from torch import Tensor

from lossmith.errors import LossError
from lossmith.losses.family import Kernel, number


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
        smooth: s >= 0, keeps the ratio defined where a class is absent; 0/0 counts as 1, nothing to lose.
    """

    denominator: Kernel
    over: Literal["class", "batch"] = "class"
    smooth: float = 1.0
    kind = "ratio"

    def __post_init__(self) -> None:
        if self.over not in ("class", "batch"):
            raise LossError(f'ratio over {self.over!r}: use "class" or "batch".')
        if not 0 <= self.smooth < math.inf:
            raise LossError(f"ratio smooth {self.smooth!r}: use a finite number >= 0.")


@dataclass(frozen=True)
class Pairwise:
    """Mean over ordered pairs inside a group of ℓ(z = z_i − z_j, t = t_i − t_j) where t_i > t_j.

    A pair weighs w_i·w_j; columns of [N, C] are ranked separately, their pairs counted together. Memory grows as N²·C.
    """

    kind = "pairwise"


@dataclass(frozen=True)
class Trimmed:
    """Weighted mean over the h rows of the batch with the smallest loss; of equal ones the first.

    Least trimmed squares (Rousseeuw 1984, *Least Median of Squares Regression*, J. American Statistical Association 79)
    and iterative trimmed loss minimisation (Shen & Sanghavi 2019, arXiv 1810.11874), here within each batch.

    Args:
        keep: share of the rows that are kept, in (0, 1]: h = ⌊keep·N⌋, at least 1; rows of weight 0 are no rows.
    """

    keep: float
    kind = "trimmed"

    def __post_init__(self) -> None:
        if not 0 < self.keep <= 1:
            raise LossError(f"trimmed keep {self.keep!r}: use a share in (0, 1].")
        object.__setattr__(self, "keep", float(self.keep))


Aggregation: TypeAlias = Pointwise | Ratio | Pairwise | Trimmed


def document(aggregation: Aggregation) -> dict[str, Any]:
    """JSON-able form."""
    if isinstance(aggregation, Ratio):
        kernel = {"family": aggregation.denominator.family, **aggregation.denominator.document()}
        return {"kind": "ratio", "denominator": kernel, "over": aggregation.over, "smooth": aggregation.smooth}
    if isinstance(aggregation, Trimmed):
        return {"kind": "trimmed", "keep": aggregation.keep}
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
        return total / _divisor(num_items, total)
    return total / (max(rows.shape[0], 1) if weight is None else _divisor(weight.sum(), total))


def ratio(numerator: Tensor, denominator: Tensor, weight: Tensor | None, how: Ratio) -> Tensor:
    """1 − Σa/Σb from elementwise a, b of one shape [N, ...]; a row of weight 0 contributes exactly nothing."""
    a, b = numerator, denominator
    if weight is not None:
        w = weight.reshape(-1, *[1] * (a.dim() - 1))
        a, b = (torch.where(w == 0, torch.zeros_like(part), part) * w for part in (a, b))
    axes = (0,) if how.over == "class" else tuple(range(a.dim()))
    above, below = a.sum(axes) + how.smooth, b.sum(axes) + how.smooth
    empty = (above == 0) & (below == 0)
    lost: Tensor = 1 - above.masked_fill(empty, 1.0) / below.masked_fill(empty, 1.0)
    return lost.mean()


def trimmed(
    rows: Tensor, weight: Tensor | None, num_items: Tensor | float | None, reduction: str, how: Trimmed
) -> Tensor:
    """Σwℓ / Σw over the rows that are kept.

    Args:
        rows: ℓ per row, [N]. weight: [N] or None.
        num_items: what the weights of all batches add up to: the mean counts for the share of this one, so that
            accumulated batches add up to the mean of their trimmed means.
        reduction: "mean" or "sum" of what is kept.

    Raises:
        LossError: reduction="none": what a row counts depends on the others.
    """
    if reduction == "none":
        raise LossError('a trimmed loss has no value per row: use reduction="mean".')
    every = torch.ones_like(rows) if weight is None else weight
    with torch.no_grad():
        there = every != 0
        kept = (how.keep * there.sum() + 1e-9).floor().clamp(min=1)  # 0.29·100 is a little less than 29 in floats
        # What is not there is sorted behind everything, and NaN of what is there first: that shall not pass unseen.
        last = rows.masked_fill(rows.isnan(), -torch.inf).masked_fill(~there, torch.nan)
        order = torch.argsort(last, stable=True)
        rank = torch.empty_like(order).scatter(0, order, torch.arange(len(order), device=order.device))
        own = torch.where(there & (rank < kept), every, torch.zeros_like(every))
    value = weighted_mean(rows, own, None, reduction)
    if num_items is None or reduction == "sum":
        return value
    return value * (every.sum() / _divisor(num_items, value))


def check_pairwise(kernel: Kernel) -> None:
    """LossError unless the kernel can be read as ℓ(z_i − z_j)."""
    unknown = kernel.reads - {"z", "t"}
    if unknown:
        raise LossError(f"a pairwise loss reads z (= z_i − z_j) and t only, not {', '.join(sorted(unknown))}.")


def pairwise(
    kernel: Kernel,
    output: Tensor,
    target: Tensor,
    *,
    weight: Tensor | None = None,
    group: Tensor | None = None,
    num_items: Tensor | float | None = None,
    reduction: str = "mean",
) -> Tensor:
    """Mean of ℓ over ordered pairs; 0 where no pair is ordered.

    Args:
        output, target: [N, C]. weight: [N], a pair weighs w_i·w_j. group: [N], pairs are taken inside a group.
        num_items: divisor that replaces the weight of all pairs. reduction: "mean" or "sum".
    """
    order = target[:, None] - target[None]  # [N, N, C]
    mask = order > 0
    if group is not None:
        mask = mask & (group[:, None] == group[None])[..., None]
    if weight is not None:
        mask = mask & ((weight[:, None] != 0) & (weight[None] != 0))[..., None]
    # Masked before the kernel, not only after: exp of a gap that does not count may overflow, and 0·∞ is no gradient.
    gap = (output[:, None] - output[None]).masked_fill(~mask, 0.0)
    values = torch.as_tensor(kernel.value({"z": gap, "t": order}), dtype=gap.dtype, device=gap.device).expand_as(gap)
    pair_weight = mask.to(gap.dtype)
    if weight is not None:
        pair_weight = pair_weight * (weight[:, None] * weight[None])[..., None]
    total = torch.where(mask, values, torch.zeros_like(values)).mul(pair_weight).sum()
    if reduction == "sum":
        return total
    return total / _divisor(pair_weight.sum() if num_items is None else num_items, total)


def _divisor(items: Tensor | float, like: Tensor) -> Tensor:
    """What a sum is divided by to become a mean; nothing at all divides by 1, so that an empty batch loses 0."""
    divisor = torch.as_tensor(items, dtype=like.dtype, device=like.device)
    return torch.where(divisor == 0, torch.ones_like(divisor), divisor)


def aggregation_from(document: object, kernel_from: Callable[[object], Kernel]) -> Aggregation:
    """The inverse of `document`; `kernel_from` rebuilds a kernel from its document."""
    if not isinstance(document, Mapping):
        raise LossError(f'the field "aggregation" is {document!r:.60}: an object with a "kind" was expected.')
    kind = document.get("kind")
    if kind == "pointwise":
        return Pointwise()
    if kind == "pairwise":
        return Pairwise()
    if kind == "ratio":
        try:
            return Ratio(kernel_from(document["denominator"]), document["over"], number(document, "smooth"))
        except KeyError as missing:
            raise LossError(f"a ratio aggregation needs the field {missing}.") from None
    if kind == "trimmed":
        try:
            return Trimmed(number(document, "keep"))
        except KeyError as missing:
            raise LossError(f"a trimmed aggregation needs the field {missing}.") from None
    raise LossError(f"unknown aggregation {kind!r}: pointwise, ratio, pairwise or trimmed.")
