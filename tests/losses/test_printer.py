from __future__ import annotations

import io

import pytest
from expression_trees import trees
from hypothesis import given, settings
from hypothesis import strategies as st
from matplotlib import mathtext
from matplotlib.font_manager import FontProperties

from lossmith.losses.expression import Node, Number
from lossmith.losses.parser import parse
from lossmith.losses.printer import number_text, to_latex, to_text, to_torch, torch_helpers


@settings(deadline=None)
@given(trees())
def test_text_parses_back_to_the_same_tree(tree: Node) -> None:
    assert parse(to_text(tree)) == tree


@settings(deadline=None)
@given(st.floats(allow_nan=False, allow_infinity=False))
def test_numbers_are_exact(value: float) -> None:
    assert float(number_text(value)) == value
    assert parse(to_text(Number(value))) == Number(value)


@pytest.mark.parametrize(
    "text",
    [
        "-t*log(p)",
        "log(p) - t/p",
        "-(t*log(p))",
        "t - (p - 1)",
        "t - p - 1",
        "t/(p/2)",
        "(p - t)^2",
        "p^t^2",
        "(p^t)^2",
        "-p^2",
        "(-p)^2",
        "p^-2",
        "p^(-2)^t",
        "-(2)",
        "-(-p)",
        "t - (-2)",
        "2*(-p)",
        "t + (-2)",
        "min(t, 1e-7)*sqrt(p + 1)",
        "1e22*p",
        "-2*t",
        "(t + 1)*(p - 1)",
    ],
)
def test_text_has_no_more_parentheses_than_these(text: str) -> None:
    assert to_text(parse(text)) == text


@pytest.mark.parametrize(
    ("text", "latex"),
    [
        ("-t*log(p)", r"-t \, \log\left(p\right)"),
        ("t/p - log(p)", r"\frac{t}{p} - \log\left(p\right)"),
        ("-(t*p)^2", r"-\left(t \, p\right)^{2}"),
        ("square(t - p)*2", r"\left(t - p\right)^{2} \cdot 2"),
        ("p_t^-gamma", r"p_{t}^{-\gamma}"),
        ("1e-7*p + 2.5e-9", r"10^{-7} \, p + 2.5 \cdot 10^{-9}"),
        ("aq(t, p + 1)", r"\frac{t}{\sqrt{1 + \left(p + 1\right)^{2}}}"),
        ("inv_p^2", r"\left(\frac{1}{p}\right)^{2}"),
        ("p*0.12345678901", r"p \cdot 0.123457"),
    ],
)
def test_latex(text: str, latex: str) -> None:
    names = {"gamma": r"\gamma"}
    tree = parse(text, symbols=("t", "p", "p_t", "inv_p", "gamma"))
    assert to_latex(tree, symbols=names) == latex


def rendered(latex: str) -> bytes:
    image = io.BytesIO()
    mathtext.math_to_image(f"${latex}$", image, prop=FontProperties(size=10), dpi=30, format="raw")
    return image.getvalue()


def test_mathtext_renders_every_primitive_and_symbol() -> None:
    from lossmith.losses.inputs import INPUTS, LOWERED
    from lossmith.losses.primitives import PRIMITIVES

    calls = [f"{name}({', '.join(['prior', 't'][: f.arity])})" for name, f in PRIMITIVES.items()]
    seen = {rendered(to_latex(parse(text))) for text in [*calls, *INPUTS, *LOWERED]}
    assert len(seen) == len(calls) + len(INPUTS) + len(LOWERED) - 1  # protected_log prints as log


@settings(deadline=None)
@given(trees(max_leaves=8))
def test_latex_is_balanced_and_has_no_double_superscript(tree: Node) -> None:
    latex = to_latex(tree)
    assert latex.count("{") == latex.count("}")
    assert latex.count(r"\left") == latex.count(r"\right")
    assert "}^{" not in latex.replace("p_{t}^{", "")  # else something raised is raised again, without parentheses


def test_torch_source_uses_plain_operators_where_they_mean_the_same() -> None:
    assert to_torch(parse("-t*(1 - p)^2/3 + 1/n")) == "-t * (1 - p) ** 2 / 3 + 1 / n"
    assert to_torch(parse("t/p^0.5 + log(r)")) == ("_div(t, _pow(p, torch.tensor(0.5, dtype=torch.float64))) + _log(r)")
    assert to_torch(parse("p^-2")) == "_div(1, p ** 2)"
    assert torch_helpers(parse("-t*(1 - p)^2/3")) == ()
    assert [helper.split("(")[0] for helper in torch_helpers(parse("p^-2"))] == ["def _div"]
    assert [helper.split("(")[0] for helper in torch_helpers(parse("log(t/p) - log(t)"))] == ["def _div", "def _log"]
