from __future__ import annotations

import copy
import pickle

import pytest
import torch
from expression_trees import trees
from hypothesis import given, settings

from lossmith.errors import ExpressionError, LossError
from lossmith.losses import Loss, Setting, Tree, from_json, to_json
from lossmith.losses.expression import Node, Symbol
from lossmith.losses.inputs import INPUTS, LOWERED, compute_inputs
from lossmith.losses.parser import parse

OUTPUT = torch.tensor([[2.0, 0.5, -1.0], [0.1, 0.2, 0.3]], dtype=torch.float64)  # ALGORITHMS §1
TARGET = torch.tensor([0, 2])


def tree(text: str) -> Tree:
    return Tree(parse(text))


def test_reads_what_the_lowered_expression_needs() -> None:
    assert tree("-t*log(p)").reads == {"t", "log_p"}
    assert tree("t/p - log(1 - p)").reads == {"t", "inv_p", "log_1mp"}
    assert tree("(1 - tau)*r^2").reads == {"tau", "r"}


def test_value_is_elementwise_and_expression_is_as_written() -> None:
    kernel = tree("-t*log(p)")
    one_hot = torch.nn.functional.one_hot(TARGET, 3).double()
    value = kernel.value(compute_inputs(kernel.reads, OUTPUT, one_hot))
    assert value.shape == (2, 3)
    torch.testing.assert_close(value, -one_hot * OUTPUT.log_softmax(-1), rtol=0, atol=0)
    assert kernel.expression() == parse("-t*log(p)")
    assert kernel.phi == ()
    with pytest.raises(LossError, match="phi has 1 numbers; this tree has 0 weights"):
        kernel.value({"t": one_hot, "log_p": one_hot}, [1.0])


def test_the_same_formula_in_other_words_has_the_same_value() -> None:
    # two roads: exact inputs and the literal formula
    exact, literal = Loss(tree("t/p - log(p)")), Loss(tree("aq(t, 0)/(p + 0) - protected_log(p)"))
    torch.testing.assert_close(exact(OUTPUT, TARGET), literal(OUTPUT, TARGET), rtol=1e-12, atol=0)
    extreme = OUTPUT.float() * 100
    assert exact(extreme, TARGET) > literal(extreme, TARGET)  # the clamp bends what the exact input does not


def test_constant_and_broadcast_values_fit_any_shape() -> None:
    for text, expected in (("n", 9.0), ("p_t*0 + 1", 3.0), ("log(p/p) + t", 1.0)):
        assert float(Loss(tree(text))(OUTPUT, TARGET)) == pytest.approx(expected, rel=1e-15)


def test_progress_and_prior_reach_the_expression() -> None:
    loss = Loss(tree("tau*t*prior"), prior=(0.5, 0.25, 0.125))
    assert float(loss(OUTPUT, TARGET, progress=0.5)) == 0.5 * (0.5 + 0.125) / 2  # by hand: mean over rows of τ·π_target


@settings(deadline=None)
@given(trees(symbols=(*INPUTS, *LOWERED)))
def test_document_and_pickle_round_trip(root: Node) -> None:
    kernel = Tree(root)
    assert Tree.from_document(kernel.document()) == kernel
    assert from_json(to_json(Loss(kernel))).kernel == kernel
    assert pickle.loads(pickle.dumps(kernel)) == copy.deepcopy(kernel) == kernel
    assert hash(copy.deepcopy(kernel)) == hash(kernel)
    setting = Setting("softmax", 3)
    assert copy.deepcopy(kernel).key(setting) == kernel.key(setting)


def test_keys_tell_different_trees_apart() -> None:
    setting = Setting("softmax", 3)
    assert tree("t - p").key(setting) != tree("p - t").key(setting)
    assert tree("t*log(p)").key(setting) != tree("t*protected_log(p)").key(setting)


def test_algebraically_equal_trees_have_one_key() -> None:
    setting = Setting("softmax", 3)
    keys = {tree(text).key(setting) for text in ("-t*log(p)", "log(p)*t*(-1)", "t*(p - p) - log(p)*(t + 0)")}
    assert len(keys) == 1
    assert Loss(tree("square(t - p)")).key(3) == Loss(tree("(p - t)^2")).key(3)
    assert Loss(tree("square(t - p)"), outputs="mean").key(3) != Loss(tree("(p - t)^2")).key(3)


def test_errors() -> None:
    with pytest.raises(LossError, match=r"gamma, q in .* is no input of a loss"):
        Tree(parse("q*p^gamma", symbols=("p", "q", "gamma")))
    with pytest.raises(LossError, match='needs the field "expression"'):
        Tree.from_document({})
    with pytest.raises(ExpressionError, match="expected"):
        Tree.from_document({"expression": "t*"})


def test_compiles_in_one_graph() -> None:
    loss = Loss(tree("-t*(1 - p)^1.5*log(p) + min(abs(r), 0.3)/(p + 1) + log(n - 1) + max(t, 0.5)"))
    # "aot_eager" traces forward and backward as the real backend does, without needing a C++ compiler
    compiled = torch.compile(loss, fullgraph=True, backend="aot_eager")
    gradients = []
    for module in (loss, compiled):
        output = OUTPUT.clone().requires_grad_()
        module(output, TARGET).backward()
        gradients.append(output.grad)
    torch.testing.assert_close(gradients[1], gradients[0], rtol=1e-12, atol=1e-12)


def test_a_tree_of_one_symbol() -> None:
    assert Tree(Symbol("p")).reads == {"p"}
