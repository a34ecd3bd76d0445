"""The last lines of an exported loss whose rows count together: trimmed means, and ratios of sums."""

from __future__ import annotations

from lossmith.losses.aggregation import Ratio, Trimmed
from lossmith.losses.printer import number_text

_WEIGHT = "weight = weight.reshape(-1).to(z.dtype)"


def trimmed_lines(how: Trimmed, outputs: str, reduction: str) -> list[str]:
    """From `value` [N, ...] to the mean (or sum) over the rows that are kept."""
    lines = [
        f"rows = value.flatten(1).{outputs}(1)",
        f"every = torch.ones_like(rows) if weight is None else {_WEIGHT.partition(' = ')[2]}",
        "with torch.no_grad():  # the smallest losses are kept; rows of weight 0 are none",
        "    there = every != 0",
        f"    kept = ({number_text(how.keep)} * there.sum() + 1e-9).floor().clamp(min=1)",
        "    last = rows.masked_fill(rows.isnan(), -torch.inf).masked_fill(~there, torch.nan)",
        "    rank = torch.argsort(torch.argsort(last, stable=True))",
        "    weight = torch.where(there & (rank < kept), every, torch.zeros_like(every))",
        "rows = torch.where(weight == 0, 0.0, rows) * weight",
    ]
    if reduction == "sum":
        return [*lines, "return rows.sum()"]
    return [*lines, "mass = weight.sum()", "return rows.sum() / (mass + (mass == 0))"]


def ratio_lines(how: Ratio) -> list[str]:
    """From `above` and `below` [N, ...] to 1 − Σabove/Σbelow."""
    over = "(0,)" if how.over == "class" else "tuple(range(above.dim()))"
    smooth = number_text(how.smooth)
    return [
        "if weight is not None:",
        f"    {_WEIGHT}",
        "    w = weight.reshape(-1, *[1] * (above.dim() - 1))",
        "    above, below = torch.where(w == 0, 0.0, above) * w, torch.where(w == 0, 0.0, below) * w",
        f"above, below = above.sum({over}) + {smooth}, below.sum({over}) + {smooth}",
        "nothing = (above == 0) & (below == 0)  # 0 / 0 counts as 1: nothing to lose",
        "return (1 - above.masked_fill(nothing, 1.0) / below.masked_fill(nothing, 1.0)).mean()",
    ]
