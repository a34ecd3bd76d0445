from __future__ import annotations

import pytest
import torch
from expression_trees import trees
from hypothesis import given, settings
from hypothesis import strategies as st
from published_losses import FORMULAS

from lossmith.errors import LossError
from lossmith.losses import PUBLISHED, Loss, Ratio, Taylor, Tree, loss
from lossmith.losses.expression import Node, Number
from lossmith.losses.inputs import inputs_from_prediction
from lossmith.losses.keys import algebraic_form
from lossmith.losses.parser import parse
from lossmith.losses.simplify import readable

P = torch.tensor([[0.7, 0.2, 0.1], [0.05, 0.6, 0.35]], dtype=torch.float64)
T = torch.tensor([[1.0, 0.0, 0.0], [0.0, 0.0, 1.0]], dtype=torch.float64)


def value(root: Node) -> torch.Tensor:
    kernel = Tree(root)
    prior = torch.full((3,), 1 / 3, dtype=torch.float64)
    return kernel.value(inputs_from_prediction(kernel.reads, P, T, prior=prior, progress=0.5)).expand(P.shape)


@pytest.mark.parametrize(
    ("text", "simple"),
    [
        ("-1.00001*t*log(p) + 0.5*p*t + p*t*1.23456 - p + p", "1.735*t*p - t*log(p)"),
        ("-(t*1)*log(p)", "-t*log(p)"),
        ("-p + t", "t - p"),
        ("2*(p - t) - p", "p - 2*t"),
        ("t*(1 - p^0.7)/0.7", "1.429*t*(1 - p^0.7)"),
        ("-t*(1 - p)*(1 - p)*log(p)", "-t*log(p)*(1 - p)^2"),
        ("(1 - p)^1.5*3", "3*(1 - p)^1.5"),
        ("log(1 - p)", "log(1 - p)"),
        ("-(1/p)*t", "-t/p"),
        ("-1/p", "-1/p"),
        ("1/p/p", "(1/p)^2"),
        ("log(p_t)*-1", "-log(p_t)"),
        ("protected_log(p) + protected_log(t)", "protected_log(p) + log(t)"),  # log(p) would be the exact one
        ("log(p + p)", "protected_log(2*p)"),
        ("t/(p + p)", "t/(2*(p + 0))"),
        ("square(square(p - t))", "(t - p)^4"),
        ("123456*p^12345", "123500*p^12345"),
        ("0.00001234567*p", "1.235e-5*p"),
        ("p*(1.00001*t + 0.33333333)", "p*(t + 0.3333)"),
        ("0.99999*p*t + t", "t + t*p"),
        ("1.00002*p - 0.99998*p", "4e-5*p"),
        ("abs(0 - r)", "abs(t - p)"),
        ("t - t", "0"),
    ],
)
def test_what_people_read(text: str, simple: str) -> None:
    found = readable(parse(text))
    assert found == simple
    torch.testing.assert_close(value(parse(found)), value(parse(text)), rtol=2e-3, atol=1e-4)


def test_weights_are_multiplied_in() -> None:
    kernel = Tree(parse("t*log(p)"), (-1.5, 1.0, 2.0))
    assert readable(kernel) == "-1.5*t*(log(p) + 0.6931)"
    assert readable(kernel, digits=2) == "-1.5*t*(log(p) + 0.69)"
    assert readable(Loss(kernel)) == readable(kernel)
    assert readable(Tree(parse("t*log(p)"), (1.0, 1.0, 1.0))) == "t*log(p)"


def test_any_kernel_with_an_expression() -> None:
    assert readable(Taylor((0.0, -1.0, 0.0, 2.0, 0.0, 0.0, 0.0, 0.0))) == "p^2 - 2*t*p"
    assert readable(Loss(Tree(parse("t*p")), aggregation=Ratio(Tree(parse("t + p"))))) == "t*p"
    with pytest.raises(LossError, match="digits = 0: at least one"):
        readable(parse("p"), digits=0)


@pytest.mark.parametrize("name", FORMULAS)
def test_every_published_loss_reads_as_itself(name: str) -> None:
    kernel = loss(name, head=PUBLISHED[name].heads[0]).kernel
    root = kernel.expression()
    text = readable(kernel, digits=15)
    torch.testing.assert_close(value(parse(text)), value(root), rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(value(parse(readable(kernel))), value(root), rtol=2e-3, atol=2e-2)  # cubes cancel


@settings(deadline=None)
@given(st.data())
def test_with_all_digits_it_is_the_same_loss(data: st.DataObject) -> None:
    numbers = st.sampled_from([1.0, -1.0, 0.5, 3.0]).map(Number)
    ops = ("add", "sub", "mul", "div", "neg", "log", "square", "sqrt", "abs", "tanh", "min", "max", "aq")
    root = data.draw(
        trees(symbols=("t", "p", "n", "r", "log_p", "inv_p", "p_t"), ops=ops, numbers=numbers, max_leaves=9)
    )
    text = readable(root, digits=17)
    assert algebraic_form(parse(text)) == algebraic_form(root)
    assert readable(parse(text), digits=17) == text
    parse(readable(root))
