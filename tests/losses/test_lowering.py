from __future__ import annotations

import math
import pickle

import pytest
import torch
from expression_trees import SMOOTH, trees
from hypothesis import given, settings
from hypothesis import strategies as st

from lossmith.losses import Loss, Tree
from lossmith.losses.expression import Node, Number
from lossmith.losses.inputs import compute_inputs
from lossmith.losses.lowering import Program, evaluate, lower
from lossmith.losses.parser import parse
from lossmith.losses.printer import to_text


@pytest.mark.parametrize(
    ("text", "lowered"),
    [
        ("-t*log(p)", "-t*log_p"),
        ("log(1 - p)", "log_1mp"),
        ("log(-p + 1)", "log_1mp"),
        ("log(1 + -p)", "log_1mp"),
        ("log(1*p)", "log_p"),
        ("log(p^2*(1 - p))", "2*log_p + log_1mp"),
        ("log(sqrt(p)/square(1 - p))", "0.5*log_p + -2*log_1mp"),
        ("log(abs(-p))", "log_p"),
        ("log(p/n)", "log_p + -1*log(n)"),
        ("log(p*prior)", "log_p + log(prior)"),
        ("log(inv_p)", "-1*log_p"),
        ("log(p/p)", "0"),
        ("t/p", "t*inv_p"),
        ("1/p", "inv_p"),
        ("t/(n*p)", "t/n*inv_p"),
        ("t/(-p)", "t/-1*inv_p"),
        ("log(p)/p", "log_p*inv_p"),
        ("t/(p*log(1 - p))", "t/log_1mp*inv_p"),
        ("p^-1", "inv_p"),
        ("p^0.7", "exp(0.7*log_p)"),
        ("(1 - p)^1.5", "exp(1.5*log_1mp)"),
        ("2*3 + log(n)", "6 + log(n)"),
        ("t/(p*r*p_t)", "t/(r*p_t)*inv_p"),
        ("t/(p*(1 + p))", "t/(1 + p)*inv_p"),
        ("-log(p_t)", "-log_p_t"),
        ("log(2*p_t/n)", "0.6931471805599453 + log_p_t + -1*log(n)"),
        ("log(p_t*p)", "log_p_t + log_p"),
        ("p_t^0.7", "exp(0.7*log_p_t)"),
        # what must stay as it is
        ("protected_log(p)", "protected_log(p)"),
        ("log(t*p)", "log(t*p)"),
        ("log(t*p + 1e-7)", "log(t*p + 1e-7)"),
        ("log(0*p)", "log(0*p)"),
        ("log(n)", "log(n)"),
        ("t/p^2", "t/p^2"),
        ("t/(p*p)", "t/(p*p)"),
        ("p^2", "p^2"),
        ("p^-0.5", "p^-0.5"),
        ("p^t", "p^t"),
        ("1/p_t", "1/p_t"),
        ("log(1 - p_t)", "log(1 - p_t)"),
        ("exp(1000)*p", "exp(1000)*p"),
    ],
)
def test_where_exact_inputs_are_used(text: str, lowered: str) -> None:
    assert to_text(lower(parse(text))) == to_text(parse(lowered))


def test_a_coefficient_keeps_its_logarithm() -> None:
    # log|c·p| = log|c| + log p, also for c < 0: the clamp's absolute value is part of the definition of log
    for text in ("log(2*p)", "log(-2*p)", "log(p/0.5)"):
        lowered = lower(parse(text))
        assert evaluate(lowered, {"log_p": -3.0}) == pytest.approx(0.6931471805599453 - 3.0, rel=1e-15)  # log 2


def test_the_logarithm_of_the_target_s_prediction_is_finite_and_right_for_extreme_logits() -> None:
    loss = Loss(Tree(parse("-log(p_t)")), outputs="mean")
    for dtype in (torch.float32, torch.float64):
        output = torch.tensor([[1000.0, 0.0, -1e4], [-2000.0, 2000.0, 0.0], [0.5, 2.0, 1.0]], dtype=dtype)
        output.requires_grad_()
        target = torch.tensor([2, 1, 0])
        value = loss(output, target)
        torch.testing.assert_close(value, torch.nn.functional.cross_entropy(output, target))
        assert value > 1e4 / 3
        (slope,) = torch.autograd.grad(value, output)
        expected = (output.detach().softmax(-1) - torch.eye(3, dtype=dtype)[target]) / 3
        torch.testing.assert_close(slope, expected)


def test_parameters_are_split_off_as_numbers_are() -> None:
    names = frozenset({"a", "b"})
    for text, lowered in [
        ("log(a*p)", "log(a) + log_p"),
        ("log(p_t/(a*b))", "log_p_t + -1*log(a) + -1*log(b)"),
        ("t/(a*p)", "t/a*inv_p"),
        ("log(a*t)", "log(a*t)"),
        ("log(a)", "log(a)"),
    ]:
        symbols = ("p", "t", "p_t", "log_p", "log_p_t", "inv_p", *names)
        root = parse(text, symbols=symbols)
        found = lower(root, parameters=names)
        assert to_text(found) == to_text(parse(lowered, symbols=symbols))
        x = {"p": 0.3, "t": 1.0, "p_t": 0.6, "a": -2.0, "b": 0.5, "log_p": math.log(0.3), "log_p_t": math.log(0.6)}
        x["inv_p"] = 1 / 0.3
        assert evaluate(found, x) == pytest.approx(evaluate(root, x), rel=1e-14)
    assert lower(parse("log(n*t)")) == parse("log(n*t)")


@settings(deadline=None)
@given(st.data())
def test_lowered_and_literal_values_agree_where_no_clamp_acts(data: st.DataObject) -> None:
    moderate = st.sampled_from([0.5, 1.0, 2.0, -1.5]).map(Number)
    ops = (*SMOOTH, "log", "div", "abs")
    tree = data.draw(trees(symbols=("p", "t", "n"), ops=ops, numbers=moderate, max_leaves=8))
    generator = torch.Generator().manual_seed(1)
    output = torch.randn(4, 3, generator=generator, dtype=torch.float64)
    target = torch.full_like(output, 0.25)
    lowered = lower(tree)
    reads = frozenset(leaf for leaf in Program.of(lowered).leaves if isinstance(leaf, str)) | {"p", "t", "n"}
    x = compute_inputs(reads, output, target)
    # The literal road must not come near a clamp: every quotient and logarithm of it well away from 0.
    if any(abs(part) < 1e-5 for part in _clamped_parts(tree, x)):
        return
    values = (torch.as_tensor(evaluate(root, x), dtype=torch.float64) for root in (tree, lowered))
    literal, exact = torch.broadcast_tensors(*values)  # log(p/p) is the number 0
    if torch.isfinite(literal).all() and literal.abs().max() < 1e6:
        torch.testing.assert_close(exact, literal, rtol=1e-6, atol=1e-6)


def _clamped_parts(tree: Node, x: dict[str, torch.Tensor | float]) -> list[float]:
    from lossmith.losses.expression import Apply, walk

    parts = [node.args[-1] for node in walk(tree) if isinstance(node, Apply) and node.op in ("log", "div")]
    return [float(torch.as_tensor(evaluate(part, x)).abs().min()) for part in parts]


def test_a_program_computes_equal_parts_once_and_pickles() -> None:
    program = Program.of(parse("(t - p)*(t - p) + log(t - p)"))
    assert [op for op, _ in program.steps] == ["sub", "mul", "log", "add"]
    assert program.leaves == ("t", "p")
    assert pickle.loads(pickle.dumps(program)) == program


def test_numbers_stay_numbers() -> None:
    value = evaluate(parse("tau*2 - n"), {"tau": 0.25, "n": 10.0})
    assert value == -9.5
    assert isinstance(value, float)
