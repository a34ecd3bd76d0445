from __future__ import annotations

import contextlib

import pytest
from hypothesis import given, reject, settings
from hypothesis import strategies as st

from lossmith.errors import ExpressionError
from lossmith.losses.expression import Apply, Node, Number, Symbol
from lossmith.losses.lowering import evaluate
from lossmith.losses.parser import parse

P, T = Symbol("p"), Symbol("t")


def call(op: str, *args: Node) -> Node:
    return Apply(op, args)


@pytest.mark.parametrize(
    ("text", "tree"),
    [
        ("t-p-1", call("sub", call("sub", T, P), Number(1))),
        ("t/p/2", call("div", call("div", T, P), Number(2))),
        ("t+p*2", call("add", T, call("mul", P, Number(2)))),
        ("p^t^2", call("pow", P, call("pow", T, Number(2)))),
        ("p**2", call("pow", P, Number(2))),
        ("-p^2", call("neg", call("pow", P, Number(2)))),
        ("-2^p", call("neg", call("pow", Number(2), P))),
        ("(-2)^p", call("pow", Number(-2), P)),
        ("p^-2", call("pow", P, Number(-2))),
        ("p^-t*2", call("mul", call("pow", P, call("neg", T)), Number(2))),
        ("-t*log(p)", call("mul", call("neg", T), call("log", P))),
        ("t - -p", call("sub", T, call("neg", P))),
        ("t--2", call("sub", T, Number(-2))),
        ("-(2)", call("neg", Number(2))),
        ("+p", P),
        ("add(t, p)", call("add", T, P)),
        ("min(t, aq(p, 1e-7))", call("min", T, call("aq", P, Number(1e-7)))),
        (".5*p + 2.", call("add", call("mul", Number(0.5), P), Number(2))),
        ("1E3", Number(1000)),
        ("p_t", Symbol("p_t")),
        (" \n\tp ", P),
        ("−t·log(p) × 2 ÷ p", parse("-t*log(p)*2/p")),
    ],
)
def test_trees(text: str, tree: Node) -> None:
    assert parse(text) == tree


def arithmetic() -> st.SearchStrategy[str]:
    leaves = st.sampled_from(["a", "b", "2", "3", ".5", "1.5"])

    def grow(inner: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
        binary = st.tuples(inner, st.sampled_from([" + ", "-", "*", " * ", "- "]), inner).map("".join)
        power = st.tuples(inner, st.sampled_from(["**2", "**3", " ** 2**2"])).map("".join)
        return st.one_of(binary, power, inner.map("({})".format), inner.map("-{}".format))

    return st.recursive(leaves, grow, max_leaves=12)


@settings(deadline=None)
@given(arithmetic())
def test_reads_arithmetic_as_python_does(text: str) -> None:
    # The independent road: Python's own parser on the same text. Whole numbers keep both exact or equally rounded.
    a, b = 1.25, -0.75
    try:
        expected = float(eval(text, {"__builtins__": {}}, {"a": a, "b": b}))
    except OverflowError:
        reject()  # towers of powers
    value = evaluate(parse(text, symbols=("a", "b")), {"a": a, "b": b})
    assert value == pytest.approx(expected, rel=1e-12, abs=1e-12)


def test_parameters_become_numbers() -> None:
    assert parse("-t*(1-p)^gamma", parameters={"gamma": -2}) == parse("-t*(1-p)^(-2)")
    assert parse("a*p", symbols=("a", "p")) == call("mul", Symbol("a"), P)


@pytest.mark.parametrize(
    ("text", "message", "caret"),
    [
        ("", "is empty", 0),
        ("t/", "has the end where a number, a name, ( or - was expected", 2),
        ("t*/p", "has '/' where a number, a name, ( or - was expected", 2),
        ("-t*log(p", "has the end where an operator, a comma or ) was expected", 8),
        ("(t", "has the end where an operator or ) was expected", 2),
        ("t p", "has 'p' where an operator (+ - * / ^) or the end was expected", 2),
        ("t)", "has ')' where an operator (+ - * / ^) or the end was expected", 1),
        ("t*lg(p)", "has the unknown function 'lg': did you mean log", 2),
        ("t*lop_p", "has the unknown symbol 'lop_p': did you mean log_p", 2),
        ("t*y", "has the unknown symbol 'y': there are t, p, z, r, m, p_t", 2),
        ("log", "names the function log without its arguments: write log(...)", 0),
        ("t(2)", "calls 't', which is no function: write t*(...)", 0),
        ("min(p)", "gives min 1 arguments; it takes 2 arguments", 0),
        ("log(p, t)", "gives log 2 arguments; it takes one argument", 0),
        ("log()", "has ')' where a number, a name, ( or - was expected", 4),
        ("p = 3", "has the character '='", 2),
        ("p; import", "has the character ';'", 1),
        ("1e999*p", "has a number too large for floating point, 1e999", 0),
        ("p + " * 100 + "q", "has the unknown symbol 'q'", 400),
    ],
)
def test_errors_say_what_where_and_what_was_expected(text: str, message: str, caret: int) -> None:
    with pytest.raises(ExpressionError) as caught:
        parse(text)
    first, shown, below = str(caught.value).split("\n")
    assert message in first
    assert f"(character {caret + 1})" in first
    if caret < len(text):
        assert shown[below.index("^")] == text[caret]


def test_a_parameter_cannot_take_the_name_of_something_else() -> None:
    with pytest.raises(ExpressionError, match="'tau' has the name of a loss input"):
        parse("tau*p", parameters={"tau": 1.0})
    with pytest.raises(ExpressionError, match="'log' has the name of a function"):
        parse("log*p", parameters={"log": 1.0})


@pytest.mark.parametrize("text", ["(" * 5000 + "p", "-" * 5000 + "p", "p^" * 5000 + "p", "log(" * 5000 + "p"])
def test_too_deep_is_an_error_with_a_sentence(text: str) -> None:
    with pytest.raises(ExpressionError, match="nested deeper than 100 levels"):
        parse(text)


def test_too_long_is_an_error_and_long_is_not() -> None:
    with pytest.raises(ExpressionError, match="50000 are the limit"):
        parse("p+" * 30_000 + "p")
    long = parse("p+" * 20_000 + "p")
    assert long.size == 40_001


@settings(deadline=None)
@given(st.text(st.sampled_from("tpzn01.e+-*/^(),  log_minabs$é")))
def test_any_text_is_a_tree_or_an_expression_error(text: str) -> None:
    with contextlib.suppress(ExpressionError):  # anything else fails the test
        assert parse(text).size >= 1
