r"""A loss as a picture of its formula: LaTeX set by matplotlib's mathtext, broken into lines that fit a page."""

from __future__ import annotations

import re
from functools import cache
from typing import TYPE_CHECKING

from lossmith.analysis.drawing import Format, render

if TYPE_CHECKING:
    from matplotlib.figure import Figure

WIDTH = 7.8  # inches
_SIZE = 13  # points
_LEAD = 0.14  # inches between lines
_INDENT = 0.35  # inches, of continued lines
_SIGN = re.compile(r" [+-] ")


def draw_formula(latex: str, *, format: Format = "svg", name: str = "formula", width: float = WIDTH) -> bytes | None:
    r"""The formula as a picture just as large as it needs to be; None where mathtext cannot read it.

    Numbers are rounded to five digits: a picture is for reading, the exact ones are in the text form.

    Args:
        latex: without dollar signs, e.g. from `losses.printer.to_latex`.
        width: inches after which a line is broken, before a + or − of the outermost sum.
    """
    try:
        lines = break_formula(_polished(latex), width)
        boxes = [_extent(line) for line in lines]
    except ValueError:  # mathtext's word for "not the LaTeX that I know"
        return None
    indents = [0.0] + [_INDENT] * (len(lines) - 1)
    wide = max(indent + box[0] for indent, box in zip(indents, boxes, strict=True)) + 0.05
    tall = sum(height + depth + _LEAD for _, height, depth in boxes)

    def draw(figure: Figure) -> None:
        figure.set_layout_engine("none")
        top = tall
        for line, indent, (_, height, depth) in zip(lines, indents, boxes, strict=True):
            baseline = top - _LEAD / 2 - height
            figure.text(indent / wide, baseline / tall, f"${line}$", fontsize=_SIZE, va="baseline", ha="left")
            top = baseline - depth - _LEAD / 2

    return render(draw, name=name, size=(wide, tall), format=format)


def break_formula(latex: str, width: float = WIDTH) -> list[str]:
    """The formula in lines of at most `width` inches where that can be had by breaking its outermost sum.

    Raises:
        ValueError: mathtext cannot read it.
    """
    if _extent(latex)[0] <= width:
        return [latex]
    for level in (0, 1, 2):
        flat = _plain_parentheses(latex, level)
        places = _breaks(flat, level)
        if not places:
            continue
        pieces = [flat[a:b].strip() for a, b in zip([0, *places], [*places, len(flat)], strict=True)]
        lines = [pieces[0]]
        for piece in pieces[1:]:
            longer = f"{lines[-1]} {piece}"
            if _extent(longer)[0] <= width - (_INDENT if len(lines) > 1 else 0.0):
                lines[-1] = longer
            else:
                lines.append(rf"{piece[0]}\;{piece[1:].lstrip()}")  # a sign that opens a line would get no space
        if max(_extent(line)[0] for line in lines) <= width or level == 2:
            return lines
    return [latex]


def _polished(latex: str) -> str:
    r"""What mathtext sets badly, said otherwise: `\left(p\right)` shrinks parentheses, outer fractions are small."""
    latex = re.sub(r"\d+\.\d{4,}", lambda m: f"{float(m.group()):.5g}", latex)
    stack: list[int] = []
    plain: set[int] = set()
    for match in re.finditer(r"\\left\(|\\right\)", latex):
        if match.group() == r"\left(":
            stack.append(match.start())
        elif stack:
            start = stack.pop()
            if not re.search(r"\\frac|\\sqrt", latex[start : match.start()]):
                plain |= {start, match.start()}
    latex = re.sub(r"\\left\(|\\right\)", lambda m: m.group()[-1] if m.start() in plain else m.group(), latex)
    depth = _depths(latex)
    return re.sub(r"\\frac(?={)", lambda m: r"\dfrac" if depth[m.start()][1] == 0 else m.group(), latex)


def _breaks(latex: str, level: int) -> list[int]:
    """Where a + or − stands inside exactly `level` parentheses and no braces."""
    depth = _depths(latex)
    return [m.start() + 1 for m in _SIGN.finditer(latex) if depth[m.start()] == (level, 0)]


def _plain_parentheses(latex: str, level: int) -> str:
    r"""`\left(` and `\right)` of the outer `level` parentheses as plain ones: a stretching pair cannot be broken."""
    depth = _depths(latex)

    def plain(match: re.Match[str]) -> str:
        opens = match.group() == r"\left("
        inside = depth[match.end() - 1][0] + (0 if opens else 1)
        return ("(" if opens else ")") if inside <= level else match.group()

    return re.sub(r"\\left\(|\\right\)", plain, latex)


def _depths(latex: str) -> list[tuple[int, int]]:
    """(parentheses, braces) that are open after each character."""
    parentheses = braces = 0
    depths = []
    for character in latex:
        parentheses += (character == "(") - (character == ")")
        braces += (character == "{") - (character == "}")
        depths.append((parentheses, braces))
    return depths


@cache
def _extent(latex: str) -> tuple[float, float, float]:
    """Width, height above and depth below the baseline in inches; ValueError where mathtext cannot read it."""
    import matplotlib as mpl
    from matplotlib.font_manager import FontProperties
    from matplotlib.mathtext import MathTextParser

    with mpl.rc_context({"mathtext.fontset": "cm"}):
        parsed = MathTextParser("path").parse(f"${latex}$", dpi=72, prop=FontProperties(size=_SIZE))
    return parsed.width / 72, (parsed.height - parsed.depth) / 72, parsed.depth / 72
