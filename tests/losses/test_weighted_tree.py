"""Trees with a weight on every edge (ALGORITHMS §4, transition): value(node) = op(w·v(child), …)."""

from __future__ import annotations

import copy
import json
import math
import pickle
from collections.abc import Sequence

import pytest
import torch
from expression_trees import SMOOTH, trees
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from lossmith.errors import LossError
from lossmith.losses import Kernel, Loss, Setting, Taylor, Tree, from_json, to_json
from lossmith.losses.export import export
from lossmith.losses.expression import Apply, Node, Number, Symbol, symbols, walk
from lossmith.losses.inputs import compute_inputs, inputs_from_prediction
from lossmith.losses.parser import parse
from lossmith.losses.primitives import PRIMITIVES
from lossmith.losses.printer import to_text

OUTPUT = torch.tensor([[2.0, 0.5, -1.0], [0.1, 0.2, 0.3]], dtype=torch.float64)
TARGET = torch.tensor([0, 2])
ONE_HOT = torch.nn.functional.one_hot(TARGET, 3).double()
OPS = (*SMOOTH, "min", "max", "abs", "log", "div", "sqrt", "protected_log")


def tree(text: str, weights: Sequence[float] = ()) -> Tree:
    return Tree(parse(text), tuple(weights))


def by_definition(root: Node, weights: Sequence[float], x: dict[str, Tensor | float]) -> Tensor:
    """op(w·v(child), …) node by node, in Python, from the definition; logarithms clamped as they are."""
    left = iter((1.0, *weights))

    def value(node: Node) -> Tensor:
        weight = next(left)
        if isinstance(node, Number):
            found = torch.tensor(node.value, dtype=torch.float64)
        elif isinstance(node, Symbol):
            found = torch.as_tensor(x[node.name], dtype=torch.float64)
        else:
            found = torch.as_tensor(PRIMITIVES[node.op].function(*[value(arg) for arg in node.args]))
        return weight * found

    return value(root)


def inputs(kernel: Kernel, *more: str) -> dict[str, Tensor | float]:
    return compute_inputs(kernel.reads | {"t", "p", "n", "p_t", "log_p", "z", *more}, OUTPUT, ONE_HOT)


def test_weights_are_those_of_the_edges_in_walk_order() -> None:
    kernel = tree("t*log(p) + 1", (2.0, 3.0, 5.0, 7.0, 11.0))  # of mul, t, log, p, 1
    assert [to_text(node) for node in walk(kernel.root)][1:] == ["t*log(p)", "t", "log(p)", "p", "1"]
    assert kernel.phi == kernel.weights == (2.0, 3.0, 5.0, 7.0, 11.0)
    expected = 2 * (3 * ONE_HOT * 5 * (math.log(7) + OUTPUT.log_softmax(-1))) + 11
    torch.testing.assert_close(kernel.value(inputs(kernel)), expected, rtol=1e-14, atol=0)
    assert to_text(kernel.expression()) == "2*(3*t*(5*log(7*p))) + 11"
    assert kernel.reads == {"t", "log_p"}


def test_a_weight_of_one_leaves_no_trace() -> None:
    kernel = tree("t*log(p) + 1", (1.0, 1.0, -1.0, 1.0, 1.0))
    assert to_text(kernel.expression()) == "t*(-1*log(p)) + 1"
    assert tree("t*log(p) + 1", (1.0,) * 5).expression() == parse("t*log(p) + 1")
    assert tree("t*log(p) + 1").phi == ()


@st.composite
def weighted(draw: st.DrawFn) -> Tree:
    numbers = st.sampled_from([1.0, -1.0, 0.5]).map(Number)
    root = draw(trees(symbols=("t", "p", "n"), ops=OPS, numbers=numbers, max_leaves=10))
    drawn = draw(st.lists(st.floats(0.3, 3.0), min_size=root.size - 1, max_size=root.size - 1))
    return Tree(root, tuple(drawn))


@settings(deadline=None)
@given(weighted())
def test_value_is_that_of_the_definition_and_of_the_expression(kernel: Tree) -> None:
    # Two roads. The definition's logarithms are clamped, which predictions of 0.06 and more cannot feel.
    x = inputs(kernel, *Tree(kernel.expression()).reads)
    found = kernel.value(x)
    for other in (by_definition(kernel.root, kernel.weights, x), Tree(kernel.expression()).value(x)):
        a, b = torch.broadcast_tensors(found, other)
        if torch.isfinite(b).all() and float(b.abs().max()) < 1e6 and not _cancels(kernel, x):
            torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-9)


def _cancels(kernel: Tree, x: dict[str, Tensor | float]) -> bool:
    """Whether a clamp may be at work: a logarithm, root or quotient of almost nothing, or of something huge."""
    expression = kernel.expression()
    watched = [node.args[-1] for node in walk(expression) if isinstance(node, Apply) and node.op in ("log", "div")]
    watched += [node.args[0] for node in walk(expression) if isinstance(node, Apply) and node.op not in ("add", "sub")]
    sizes = [torch.as_tensor(Tree(node).value({**x, **inputs(Tree(node))})).abs() for node in watched]
    return any(float(size.min()) < 1e-3 or float(size.max()) > 1e4 for size in sizes)


def test_the_logarithm_of_the_prediction_stays_exact() -> None:
    kernel = tree("t*log(p)", (-1.5, 1.0, 2.0))
    output = torch.tensor([[300.0, 0.0, -200.0]])  # p_2 underflows: log p = −500
    assert float(Loss(kernel)(output, torch.tensor([2]))) == pytest.approx(-1.5 * (math.log(2) - 500), rel=1e-6)
    assert kernel.reads == {"t", "log_p"}
    # −w·log|w·p| of nested and negative weights, quotients and roots: log|Π w| + log p
    nested = tree("log(sqrt(abs(p*n)))", (0.5, -3.0, 2.0, 7.0, 11.0))
    value = nested.value(compute_inputs(nested.reads, output, torch.eye(3)[2:]))
    expected = math.log(0.5) + 0.5 * (math.log(3 * 2) + math.log(7) + math.log(11) + math.log(3) - 500)
    assert float(value[0, 2]) == pytest.approx(expected, rel=1e-6)
    quotient = tree("t/p", (3.0, 2.0))
    assert quotient.reads == {"t", "inv_p"}
    p = compute_inputs(quotient.reads, OUTPUT, ONE_HOT)
    torch.testing.assert_close(quotient.value(p), 1.5 * ONE_HOT / OUTPUT.softmax(-1))
    assert tree("protected_log(p)", (2.0,)).reads == {"p"}  # EvoMAL's keeps its clamp


def test_the_gradient_of_phi_is_that_of_finite_differences() -> None:
    kernel = tree("-min(t, p)*log(p) + aq(t - p, tanh(p)) - square(t/p)", [1 + 0.1 * i for i in range(18)])
    x = inputs(kernel)

    def total(phi: Tensor) -> Tensor:
        return (kernel.value(x, phi) * torch.arange(1.0, 7.0, dtype=torch.float64).reshape(2, 3)).sum()

    phi = torch.tensor(kernel.phi, dtype=torch.float64, requires_grad=True)
    with torch.random.fork_rng(devices=[]):  # the check draws its directions from the global state
        assert torch.autograd.gradcheck(total, phi)
        assert torch.autograd.gradgradcheck(total, phi)


def test_phi_as_numbers_tensor_and_batch() -> None:
    kernel = tree("t*log(p) + square(p)", (1.0, 2.0, 3.0, 4.0, 5.0, 6.0))
    x, other = inputs(kernel), (0.5, -1.0, 2.0, 0.25, 1.5, 3.0)
    expected = kernel.with_phi(other).value(x)
    torch.testing.assert_close(kernel.value(x, other), expected, rtol=0, atol=0)
    batch = torch.tensor([kernel.phi, other], dtype=torch.float64)
    torch.testing.assert_close(kernel.value(x, batch[1]), expected)
    values = kernel.value(x, batch)
    assert values.shape == (2, 2, 3)
    torch.testing.assert_close(values[1], expected)
    torch.testing.assert_close(values[0], kernel.value(x))
    mapped = torch.func.vmap(lambda phi: kernel.value(x, phi))(batch)
    torch.testing.assert_close(mapped, values)
    with pytest.raises(LossError, match=r"phi has 2 numbers; this tree has 6 weights"):
        kernel.value(x, (1.0, 2.0))


def test_it_computes_in_the_type_of_the_output() -> None:
    kernel = tree("t*log(p) + 1", (2.0, 3.0, 5.0, 7.0, 11.0))
    x = compute_inputs(kernel.reads, OUTPUT.float(), ONE_HOT.float())
    phi = torch.tensor(kernel.phi, dtype=torch.float64)
    assert kernel.value(x).dtype == kernel.value(x, phi).dtype == torch.float32


def test_with_phi() -> None:
    plain = tree("t - p")
    weighted_tree = plain.with_phi([0.5, 2.0])
    assert weighted_tree == tree("t - p", (0.5, 2.0))
    assert weighted_tree.with_phi(torch.tensor([1.0, 3.0])) == tree("t - p", (1.0, 3.0))  # type: ignore[arg-type]
    assert weighted_tree.with_phi(()) == plain
    taylor = Taylor((1.0, 2.0, 3.0, 0.5, 0.5), order=2)
    assert taylor.with_phi([3.0, 2.0, 1.0, 0.25, 0.75]) == Taylor((3.0, 2.0, 1.0, 0.25, 0.75), order=2)
    with pytest.raises(LossError, match="genome has 1 numbers"):
        taylor.with_phi([1.0])

    class Fixed(Tree):
        family = "fixed"
        with_phi = Kernel.with_phi  # type: ignore[assignment]

    with pytest.raises(LossError, match="fixed family has no parameters"):
        Fixed(Symbol("p")).with_phi([1.0])


def test_minus_zero_is_zero() -> None:
    assert str(tree("t - p", (-0.0, 1.0)).weights) == "(0.0, 1.0)"
    genome = Taylor((-0.0, 2.0, 3.0, -0.0, 0.5), order=2).genome
    assert str(genome) == "(0.0, 2.0, 3.0, 0.0, 0.5)"
    assert to_json(Loss(Taylor((-0.0, 1.0, 1.0, 1.0, 1.0), order=2))) == to_json(
        Loss(Taylor((0.0, 1.0, 1.0, 1.0, 1.0), order=2))
    )


@settings(deadline=None)
@given(st.data())
def test_round_trips(data: st.DataObject) -> None:
    root = data.draw(trees(max_leaves=8))
    finite = st.floats(allow_nan=False, allow_infinity=False)
    weights = data.draw(st.lists(finite, min_size=root.size - 1, max_size=root.size - 1))
    kernel = Tree(root, tuple(weights))
    assert Tree.from_document(json.loads(json.dumps(kernel.document()))) == kernel
    assert from_json(to_json(Loss(kernel))).kernel == kernel
    assert pickle.loads(pickle.dumps(kernel)) == copy.deepcopy(kernel) == kernel
    assert hash(copy.deepcopy(kernel)) == hash(kernel)


def test_weights_take_part_in_equality_and_document() -> None:
    kernel = tree("t - p", (0.5, 2.0))
    assert kernel != tree("t - p")
    assert kernel != tree("t - p", (2.0, 0.5))
    assert kernel.document() == {"expression": "t - p", "weights": [0.5, 2.0]}
    assert tree("t - p").document() == {"expression": "t - p"}
    assert str(tree("t - p", (0.123456, 1.0))) == "0.1235*t - p"


@pytest.mark.parametrize(
    ("weights", "sentence"),
    [
        ([1.0], r"the tree has 1 weights and 2 edges: give one weight for every node but the root"),
        ([1.0, 2.0, 3.0], r"the tree has 3 weights and 2 edges"),
        ([1.0, float("nan")], r"tree weights\[1\] = nan: every weight must be finite"),
        ([float("-inf"), 1.0], r"tree weights\[0\] = -inf: every weight must be finite"),
        ([1.0, "2"], r"tree weights\[1\] = '2': a number was expected"),
        ([True, 1.0], r"tree weights\[0\] = True: a number was expected"),
        ([None, 1.0], r"tree weights\[0\] = None: a number was expected"),
        ([10**400, 1.0], r"tree weights\[0\] = 1000.*: a number was expected"),
        ("12", r"the field \"weights\" of the tree is '12': a list of numbers was expected"),
        ({"0": 1.0}, r"a list of numbers was expected"),
    ],
)
def test_malformed_weights(weights: object, sentence: str) -> None:
    with pytest.raises(LossError, match=sentence):
        Tree.from_document({"expression": "t - p", "weights": weights})


def test_key_is_that_of_the_expression() -> None:
    setting = Setting("softmax", 3)
    assert tree("t*log(p)", (1.0,) * 3).key(setting) == tree("log(p)*t").key(setting)
    assert tree("t*log(p)", (2.0, 1.0, 1.0)).key(setting) == tree("t*log(p)", (1.0, 2.0, 1.0)).key(setting)
    assert tree("t*log(p)", (2.0, 1.0, 1.0)).key(setting) != tree("t*log(p)", (1.0, 1.0, 2.0)).key(setting)
    assert tree("t - p", (1.0, 1.0)).key(setting) == tree("t - p").key(setting)


def test_key_knows_the_setting() -> None:
    by_n, by_3 = tree("t/n - p"), tree("t/3 - p")
    assert by_n.key(Setting("softmax", 3)) == by_3.key(Setting("softmax", 3))
    assert by_n.key(Setting("softmax", 4)) != by_3.key(Setting("softmax", 4))
    assert by_n.key(Setting("sigmoid", 3)) == tree("0.5*t - p").key(Setting("sigmoid", 3))  # the pair counts as two
    assert tree("square(z - t)").key(Setting("identity", 1)) == tree("square(p - t)").key(Setting("identity", 1))
    assert tree("square(z - t)").key(Setting("softmax", 3)) != tree("square(p - t)").key(Setting("softmax", 3))


def test_it_is_exported_with_its_weights() -> None:
    kernel = tree("-t*log(p) + abs(t - p)", (0.5, -2.0, 1.0, 1.0, 3.0, 1.5, 0.7, 1.0, 1.3))
    space: dict[str, object] = {}
    exec(compile(export(Loss(kernel)), "exported", "exec"), space)
    torch.testing.assert_close(space["loss"](OUTPUT, TARGET), Loss(kernel)(OUTPUT, TARGET))  # type: ignore[operator]
    assert r"\log" in export(Loss(kernel), "latex")
    assert symbols(kernel.expression()) == {"t", "p"}


def test_compiles_in_one_graph() -> None:
    loss = Loss(tree("-t*log(p) + min(abs(r), 1)", [1.1] * 9))
    compiled = torch.compile(loss, fullgraph=True, backend="aot_eager")
    gradients = []
    for module in (loss, compiled):
        output = OUTPUT.clone().requires_grad_()
        module(output, TARGET).backward()
        gradients.append(output.grad)
    torch.testing.assert_close(gradients[1], gradients[0], rtol=1e-12, atol=1e-12)


def test_it_has_a_learning_rule() -> None:
    kernel = tree("-t*log(p)", (2.0, 1.0, 1.0, 1.0))
    p = torch.tensor([[0.5, 0.5]], dtype=torch.float64, requires_grad=True)
    value = kernel.value(inputs_from_prediction(kernel.reads, p, torch.tensor([[1.0, 0.0]], dtype=torch.float64)))
    (slope,) = torch.autograd.grad(value.sum(), p)
    assert slope.tolist() == [[-4.0, 0.0]]  # d/dp of −2·log p at ½
