"""How figures look and leave matplotlib: one style, no global state, SVG that sits in a page and follows its colours.

Colours are Okabe & Ito's, told apart by colour-blind readers and in grey; lines also differ in dashes.
"""

from __future__ import annotations

import io
import re
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Format = Literal["svg", "png"]

INK, MUTED, GRID = "#1c2128", "#667080", "#dfe3e8"
BLUE, ORANGE, GREEN, PURPLE, SKY, YELLOW, GREY = (
    "#0072b2", "#d55e00", "#009e73", "#cc79a7", "#56b4e9", "#e69f00", "#8a8f98",
)  # fmt: skip

_VARIABLES = {INK: "ink", MUTED: "muted", GRID: "grid", BLUE: "blue", ORANGE: "orange", GREEN: "green"}

_STYLE: dict[str, Any] = {
    "font.family": "sans-serif",
    "font.sans-serif": ["DejaVu Sans"],  # ships with matplotlib: the same picture everywhere
    "font.size": 9.0,
    "text.color": INK,
    "text.usetex": False,
    "mathtext.fontset": "cm",
    "axes.edgecolor": MUTED,
    "axes.labelcolor": INK,
    "axes.titlesize": 10.0,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.linewidth": 0.8,
    "axes.grid": True,
    "axes.axisbelow": True,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "grid.color": GRID,
    "grid.linewidth": 0.8,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    "lines.linewidth": 1.8,
    "legend.frameon": False,
    "legend.fontsize": 8.5,
    "svg.fonttype": "path",
    "figure.facecolor": "none",
    "axes.facecolor": "none",
    "savefig.facecolor": "none",
}


def render(draw: Callable[[Figure], None], *, name: str, size: tuple[float, float], format: Format) -> bytes:
    """Draw on a fresh figure and return the picture.

    Args:
        draw: puts the content on the figure.
        name: prefix of every id inside the SVG, so that several pictures can share a page.
        size: width and height in inches.
        format: "svg" (transparent, deterministic) or "png" (white, 150 dots per inch).
    """
    import matplotlib as mpl
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure

    buffer = io.BytesIO()
    with mpl.rc_context():
        mpl.rcdefaults()  # a reader's own matplotlibrc must not change the pictures
        style: Any = {**_STYLE, "svg.hashsalt": name}
        mpl.rcParams.update(style)
        figure = Figure(figsize=size, layout="constrained")
        canvas = FigureCanvasSVG if format == "svg" else FigureCanvasAgg
        canvas(figure)
        draw(figure)
        if format == "svg":
            figure.savefig(buffer, format="svg", metadata={"Date": None})
        else:
            figure.savefig(buffer, format="png", dpi=150, facecolor="white")
    return buffer.getvalue()


def for_page(svg: bytes, *, name: str, label: str) -> str:
    """An SVG as an element of an HTML page: no prolog, no outside addresses, its own ids, colours as CSS variables.

    Args:
        svg: from `render`.
        name: prefix of ids, as given to `render`.
        label: what the picture shows, for readers who cannot see it; plain text.
    """
    from html import escape

    text = svg.decode()
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    text = re.sub(r"<!--.*?-->", "", text, flags=re.DOTALL)
    text = re.sub(r'\sxmlns(:\w+)?="[^"]*"', "", text)
    text = re.sub(r'(?<=\sid=")', f"{name}-", text)
    text = re.sub(r'(?<=href="#)|(?<=url\(#)', f"{name}-", text)
    for colour, variable in _VARIABLES.items():
        text = text.replace(colour, f"var(--{variable}, {colour})")
    title = escape(label, quote=True)
    return text.replace("<svg", f'<svg role="img" aria-label="{title}"', 1).strip()
