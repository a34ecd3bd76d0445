"""Numbers and sentences of a verdict, written one way everywhere: `.0312 ± .0021`, `p = .012`, names after values."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence


def decimals_for(spread: float, center: float = 0.0) -> int:
    """Decimals that show two significant digits of the spread, or four of the value where there is no spread."""
    if spread > 0.0 and math.isfinite(spread):
        return min(max(1 - math.floor(math.log10(spread)), 0), 8)
    if center != 0.0 and math.isfinite(center):
        return min(max(3 - math.floor(math.log10(abs(center))), 0), 8)
    return 4


def number(value: float, decimals: int | None = None) -> str:
    """A number without a leading zero (`.0312`); very small and very large ones in scientific notation."""
    if not math.isfinite(value):
        return str(value)
    if value != 0.0 and not 1e-5 <= abs(value) < 1e6:
        return f"{value:.3g}".replace("-", "−")
    text = f"{value:.{decimals_for(0.0, value) if decimals is None else decimals}f}"
    if float(text) == 0.0:
        text = text.lstrip("-")
    sign, digits = ("−", text[1:]) if text.startswith("-") else ("", text)
    return sign + (digits[1:] if digits.startswith("0.") else digits)


def signed(value: float, decimals: int | None = None) -> str:
    """As `number`, with its sign always shown."""
    text = number(value, decimals)
    return text if text.startswith("−") or value == 0.0 else f"+{text}"


def mean_and_deviation(values: Sequence[float]) -> str:
    """`.0312 ± .0021` (mean ± standard deviation), the mean alone for one value, `failed` for none."""
    if not values:
        return "failed"
    center = math.fsum(values) / len(values)
    if len(values) < 2:
        return number(center)
    spread = math.sqrt(math.fsum((v - center) ** 2 for v in values) / (len(values) - 1))
    if spread <= 1e-12 * abs(center):  # rounding, see statistics.ROUNDING
        return f"{number(center)} ± 0"
    decimals = decimals_for(spread, center)
    return f"{number(center, decimals)} ± {number(spread, decimals)}"


def p_value(p: float | None) -> str:
    """`p = .012`, `p < .001`, or `p not defined`."""
    if p is None:
        return "p not defined"
    return "p < .001" if p < 0.001 else f"p = {number(p, 3 if p < 0.1 else 2)}"


def p_cell(p: float | None) -> str:
    """A p value in a table: `.012`, `<.001` or `–`."""
    return "–" if p is None else p_value(p).removeprefix("p ").removeprefix("= ").replace("< ", "<")


def margin(value: float | None) -> str:
    """A number somebody chose, as they wrote it: `.005`."""
    return f"{value or 0.0:g}".removeprefix("0") or "0"


def interval(pair: tuple[float, float] | None, decimals: int | None = None, *, sign: bool = False) -> str:
    """`[.0031, .0112]`, or `–`."""
    if pair is None:
        return "–"
    show = signed if sign else number
    return f"[{show(pair[0], decimals)}, {show(pair[1], decimals)}]"


def difference(value: float | None, pair: tuple[float, float] | None) -> str:
    """`+.0121 [+.0098, +.0144]`: a difference and its confidence interval, two digits of the half width."""
    if value is None:
        return "–"
    half = (pair[1] - pair[0]) / 2.0 if pair else 0.0
    decimals = decimals_for(half, value)
    return f"{signed(value, decimals)} {interval(pair, decimals, sign=True)}" if pair else signed(value, decimals)


def listing(parts: Iterable[str]) -> str:
    """`a`, `a and b`, `a, b and c`; names that hold a comma themselves are kept apart by semicolons."""
    items = list(parts)
    if any("," in item for item in items[:-1]):
        return "; ".join(items)
    return items[0] if len(items) == 1 else f"{', '.join(items[:-1])} and {items[-1]}"


def status_label(status: str) -> str:
    """`screened:rejection_protocol` reads `screened (rejection protocol)`, `duplicate_of` reads `duplicate`."""
    kind, _, detail = status.partition(":")
    word = "duplicate" if kind == "duplicate_of" else readable(kind)
    return f"{word} ({readable(detail)})" if detail else word


def count(n: int, noun: str) -> str:
    """`1 seed`, `10 seeds`, `1,240 seeds`."""
    return f"{n:,} {noun}" if n == 1 else f"{n:,} {noun}s"


def readable(name: str) -> str:
    """A metric's name for people: `error_rate` reads `error rate`."""
    return name.replace("_", " ")


def table(
    header: Sequence[str], rows: Sequence[Sequence[str]], *, left: Sequence[int] = (0,), indent: str = "  "
) -> str:
    """A plain text table; the columns numbered in `left` are text, the others are set to the right."""
    lines = [header, *rows]
    widths = [max(len(line[i]) for line in lines) for i in range(len(header))]

    def cell(i: int, text: str) -> str:
        return text.ljust(widths[i]) if i in left else text.rjust(widths[i])

    return "\n".join((indent + "  ".join(cell(i, text) for i, text in enumerate(line))).rstrip() for line in lines)
