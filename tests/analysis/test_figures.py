"""Figures: well-formed, the same every time, without traces in matplotlib's global state."""

from __future__ import annotations

import re
from collections.abc import Callable
from xml.etree import ElementTree

import matplotlib as mpl
import pytest
from matplotlib import _pylab_helpers

from lossmith.analysis import Arm, Scored, draw_arms, draw_curve, draw_formula, draw_history, history, judge, loss_curve
from lossmith.analysis.drawing import for_page
from lossmith.analysis.formula import WIDTH, _extent, break_formula
from lossmith.losses import Loss
from lossmith.losses.parser import parse
from lossmith.losses.printer import to_latex
from lossmith.losses.tree import Tree

CE = Loss(Tree(parse("-t*log(p)")), name="cross_entropy")
BAIKAL = Loss(Tree(parse("t/p - log(p)")), name="costs $5 & <b>")
CURVE = loss_curve(BAIKAL, CE, classes=10)
ROWS = [
    Scored(g, "ok" if i else "screened:exact", 0.1 * i / (g + 1) if i else None) for g in range(4) for i in range(5)
]
HISTORY = history(ROWS, metric="error_rate", direction="min")
VERDICT = judge(
    [Arm("found <b>", "subject", (0.1, 0.12, None), (0, 1, 2))],
    [Arm("cross_entropy", "control", (None, None, None), (0, 1, 2))],
    [("found <b>", "cross_entropy")],
    metric="error_rate",
    direction="min",
)
LONG = to_latex(parse("-(" + " + ".join(f"{i}.25*(p - 1.5)^{i}*(t - {i})" for i in range(1, 8)) + ")"))

DRAWINGS: dict[str, Callable[..., bytes | None]] = {
    "curve": lambda **k: draw_curve(CURVE, **k),
    "history": lambda **k: draw_history(HISTORY, **k),
    "nothing": lambda **k: draw_history(history([], metric="m", direction="max"), **k),
    "only failures": lambda **k: draw_history(history([Scored(0, "diverged")], metric="m", direction="max"), **k),
    "arms": lambda **k: draw_arms(VERDICT, **k),
    "formula": lambda **k: draw_formula(LONG, **k),
}


@pytest.mark.parametrize("what", DRAWINGS)
def test_svg_is_well_formed_and_deterministic(what: str) -> None:
    svg = DRAWINGS[what]()
    assert svg is not None
    assert ElementTree.fromstring(svg).tag.endswith("svg")
    assert svg == DRAWINGS[what]()


@pytest.mark.parametrize("what", DRAWINGS)
def test_png_is_a_png(what: str) -> None:
    png = DRAWINGS[what](format="png")
    assert png is not None
    assert png[:8] == b"\x89PNG\r\n\x1a\n"


def test_matplotlib_is_left_as_it_was() -> None:
    with mpl.rc_context({"axes.grid": False, "font.size": 31.0}):
        before = dict(mpl.rcParams)
        big = draw_curve(CURVE)
        assert dict(mpl.rcParams) == before
    assert big == draw_curve(CURVE)  # a reader's own settings do not change the picture
    assert not _pylab_helpers.Gcf.figs  # no figure registered with pyplot


def test_svg_for_a_page_brings_nothing_along() -> None:
    pages = [
        for_page(draw_curve(CURVE, name="a"), name="a", label='"quoted" <b>'),
        for_page(draw_history(HISTORY, name="b"), name="b", label="history"),
    ]
    for text in pages:
        root = ElementTree.fromstring(text.replace("xlink:href", "href"))
        assert "http" not in text
        assert "<!--" not in text
        ids = [e.attrib["id"] for e in root.iter() if "id" in e.attrib]
        assert len(ids) == len(set(ids))
        for used in re.findall(r'href="#([^"]+)"|url\(#([^)]+)\)', text):
            assert (used[0] or used[1]) in ids
    assert 'aria-label="&quot;quoted&quot; &lt;b&gt;"' in pages[0]
    assert "var(--ink, #1c2128)" in pages[0]
    ids = re.findall(r' id="([^"]+)"', "".join(pages))
    assert len(ids) == len(set(ids))


def test_a_long_formula_is_broken_where_it_may_be() -> None:
    lines = break_formula(LONG)
    assert len(lines) > 1
    assert all(_extent(line)[0] <= WIDTH for line in lines)
    assert "".join(lines).count("(") == LONG.count("(")
    assert break_formula("-t \\, \\log(p)") == ["-t \\, \\log(p)"]


def test_a_formula_that_cannot_be_broken_is_one_line() -> None:
    wide = "x" * 200
    assert break_formula(wide) == [wide]
    assert draw_formula(wide) is not None


@pytest.mark.parametrize("text", [r"\nonsense{x}", r"\frac{1}", "{"])
def test_latex_that_mathtext_cannot_read_is_no_picture(text: str) -> None:
    assert draw_formula(text) is None


@pytest.mark.parametrize(
    "text",
    [
        "-t*log(p)",
        "tanh(sqrt(abs(t - p)))*min(t, p)/sqrt(1 + p^2)",
        "sign(t - 0.5)*max(p, log(p)) - exp(-z)*p_t",
        "1e-7*tau*prior",
    ],
)
def test_what_the_printer_writes_is_drawn(text: str) -> None:
    assert draw_formula(rf"\ell = {to_latex(parse(text))}") is not None
