"""Normal forms against 50-digit arithmetic (`exact_trees`) and against torch."""

from __future__ import annotations

import itertools

import pytest
import torch
from exact_trees import agree, inputs
from expression_trees import trees
from hypothesis import given, settings
from hypothesis import strategies as st

from lossmith.losses import Loss, Tree
from lossmith.losses.expression import Apply, Node, Number, Symbol, fold, replace_args
from lossmith.losses.inputs import inputs_from_prediction
from lossmith.losses.keys import (
    REWRITES,
    Rewrite,
    algebraic_form,
    algebraic_key,
    structural_form,
    structural_key,
)
from lossmith.losses.lowering import lower
from lossmith.losses.parser import parse
from lossmith.losses.primitive_sets import EVOMAL, GLO, PrimitiveSet
from lossmith.losses.primitives import PRIMITIVES
from lossmith.losses.printer import to_text

# Predictions and targets: ordinary ones, and within reach of the clamps at 1e-7, which 1e-9 and its square are under.
POINTS = [(0.3, 1.0), (0.3, 0.0), (0.9, 0.0), (0.71, 0.25), (1e-9, 1.0), (1e-9, 0.0), (1e-4, 1.0), (0.999, 1.0)]
KINKS = [(0.5, 0.5), (0.5, 0.25), (0.25, 0.25), (0.5 + 1e-9, 1.0), (0.5, 0.0), (1e-9, 1e-9)]


def text_of(text: str) -> str:
    return to_text(algebraic_form(parse(text)))


@st.composite
def trees_of(draw: st.DrawFn, primitives: PrimitiveSet, max_leaves: int = 16) -> Node:
    leaves = st.sampled_from([leaf for leaf, _ in primitives.terminals])
    ops = st.sampled_from([name for name, _ in primitives.functions])

    def grow(children: st.SearchStrategy[Node]) -> st.SearchStrategy[Node]:
        return ops.flatmap(
            lambda op: st.tuples(*[children] * PRIMITIVES[op].arity).map(lambda args: Apply(op, tuple(args)))
        )

    return draw(st.recursive(leaves, grow, max_leaves=max_leaves))


def swapped(root: Node, data: st.DataObject) -> Node:
    """The tree with the arguments of some commutative primitives exchanged."""

    def visit(node: Node, args: tuple[Node, ...]) -> Node:
        if isinstance(node, Apply) and PRIMITIVES[node.op].commutative and data.draw(st.booleans()):
            return Apply(node.op, args[::-1])
        return replace_args(node, args)

    return fold(root, visit)


# --- structural ---------------------------------------------------------------------------------------------------


def test_structural_form_orders_commutative_arguments_and_nothing_else() -> None:
    assert to_text(structural_form(parse("t + p"))) == to_text(structural_form(parse("p + t")))
    for one, other in [
        ("min(t, p)*tanh(1 + p)", "tanh(p + 1)*min(p, t)"),
        ("(t + p)*(1 + p)", "(p + 1)*(p + t)"),
    ]:
        assert structural_key(parse(one)) == structural_key(parse(other))
    apart = [
        "p - p",
        "0",
        "p*1",
        "p",
        "t - p",
        "p - t",
        "t/p",
        "p/t",
        "p + (t + 1)",
        "(p + t) + 1",
        "2*3*p",
        "6*p",
        "--p",
    ]
    assert len({structural_key(parse(text)) for text in apart}) == len(apart)
    assert structural_key(parse("aq(t, p)")) != structural_key(parse("aq(p, t)"))
    assert structural_key(parse("0.1*p")) != structural_key(parse("0.10000000000000002*p"))  # numbers are exact


@settings(deadline=None)
@given(trees(), st.data())
def test_structural_form_is_idempotent_and_blind_to_the_order(root: Node, data: st.DataObject) -> None:
    form = structural_form(root)
    assert form.size == root.size
    assert structural_form(form) == form
    assert structural_key(swapped(root, data)) == structural_key(root)


# --- algebraic: the table -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("rewrite", REWRITES, ids=lambda r: r.name)
def test_a_rewrite_holds_in_value_and_gradient(rewrite: Rewrite) -> None:
    before, after = parse(rewrite.before), parse(rewrite.after)
    assert before != after
    assert algebraic_form(before) == algebraic_form(after)
    settled = 0
    for p, t in POINTS + ([] if rewrite.kinks_apart else KINKS):
        same = agree(before, after, inputs(p, t), rtol=1e-12)
        assert same is not False, (p, t)
        settled += same is True
    assert settled >= len(POINTS)


@pytest.mark.parametrize("rewrite", REWRITES, ids=lambda r: r.name)
def test_a_rewrite_holds_in_torch(rewrite: Rewrite) -> None:
    # the second road: the primitives themselves, in float64, on a grid that holds the clamped region
    p, t = torch.cartesian_prod(
        torch.tensor([0.0, 1e-12, 1e-9, 1e-8, 1e-4, 0.2, 0.45, 0.7, 0.95], dtype=torch.float64),
        torch.tensor([0.0, 1.0, 0.3, -1.5, 1e-9], dtype=torch.float64),
    ).T
    found = []
    for text in (rewrite.before, rewrite.after, to_text(algebraic_form(parse(rewrite.before)))):
        kernel, x = Tree(parse(text)), p.clone().requires_grad_()
        value = kernel.value(inputs_from_prediction(kernel.reads, x[:, None], t[:, None])).expand(len(p), 1)
        slope = torch.zeros_like(p)
        if value.requires_grad:
            (slope,) = torch.autograd.grad(value.sum(), x)
        found.append((value.detach(), slope))
    tied = p == t if rewrite.kinks_apart else torch.zeros_like(p, dtype=torch.bool)
    for value, slope in found[1:]:
        torch.testing.assert_close(value, found[0][0], rtol=1e-12, atol=1e-12)
        torch.testing.assert_close(slope[~tied], found[0][1][~tied], rtol=1e-12, atol=1e-12)


def test_where_kinks_are_told_apart_the_value_is_still_the_same() -> None:
    apart = [rewrite for rewrite in REWRITES if rewrite.kinks_apart]
    assert [rewrite.name.split()[0] for rewrite in apart] == ["min", "min"]  # another subgradient where arguments tie
    for rewrite in apart:
        for p in (0.25, 0.5):
            values = [
                Tree(parse(text)).value({"p": torch.tensor(p), "t": torch.tensor(p)})
                for text in (rewrite.before, rewrite.after)
            ]
            assert values[0] == values[1]


def test_every_primitive_has_a_rewrite() -> None:
    texts = " ".join(f"{rewrite.before} {rewrite.after}" for rewrite in REWRITES)
    signs = {"add": "+", "sub": " - ", "neg": "-", "mul": "*", "div": "/", "pow": "^"}
    assert all(signs.get(name, f"{name}(") in texts for name in PRIMITIVES)


# --- algebraic: any tree --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("primitives", [EVOMAL, GLO], ids=lambda s: s.name)
@settings(deadline=None, max_examples=150)
@given(st.data())
def test_any_tree_keeps_value_and_gradient(primitives: PrimitiveSet, data: st.DataObject) -> None:
    root = data.draw(trees_of(primitives))
    form = algebraic_form(root)
    assert algebraic_form(form) == form
    assert algebraic_form(swapped(root, data)) == form
    assert algebraic_form(parse(to_text(form))) == form
    for p, t in POINTS[::2] if data.draw(st.booleans()) else POINTS[1::2]:
        assert agree(root, form, inputs(p, t)) is not False, (to_text(form), p, t)


def test_most_random_trees_are_settled_by_50_digits() -> None:
    # the property above must not pass by having nothing to compare
    texts = [
        "tanh(p - t)*aq(p, t) - min(t, p)/sqrt(p)",
        "log(p*p) - t/(p*p)",
        "abs(t - p)*protected_log(p)",
        "t/p - log(p)",
    ]
    answers = [agree(parse(text), algebraic_form(parse(text)), inputs(p, t)) for text in texts for p, t in POINTS]
    assert answers == [True] * len(answers)
    wrong = [agree(parse(text), Apply("add", (parse(text), parse("1e-6*p"))), inputs(0.3, 1.0)) for text in texts]
    assert wrong == [False] * len(wrong)


@settings(deadline=None, max_examples=200)
@given(trees(max_leaves=12), st.data())
def test_any_expression_has_one_form(root: Node, data: st.DataObject) -> None:
    # every primitive, every finite number: also where coefficients overflow, and an exponent is no number
    form = algebraic_form(root)
    assert algebraic_form(form) == form
    assert algebraic_form(swapped(root, data)) == form


def test_form_of_an_extreme_loss_is_computed_alike() -> None:
    # exact inputs stay exact and clamped quotients clamped, so logits of 500 must not tell the two apart
    output, target = torch.tensor([[500.0, 0.0, -300.0], [0.0, 2.0, 1.0]], dtype=torch.float64), torch.tensor([2, 0])
    for text in ("t/p - log(p)", "t/(p + p) - log(2*p)*t", "(t + t)/(p + 0) + p^0.5", "log(p + p)*t - 1/(0 - p)"):
        values = [Loss(Tree(root))(output, target) for root in (parse(text), algebraic_form(parse(text)))]
        assert torch.isfinite(values[0])
        torch.testing.assert_close(values[1], values[0], rtol=1e-12, atol=0)


@pytest.mark.parametrize(
    ("text", "form"),
    [
        ("-(2*t*log(p) - t*log(p)) + p - p", "-t*log_p"),
        ("t*(-1)*(1 - p)*2", "2*t*(p - 1)"),
        ("t/(-p)", "-t*inv_p"),
        ("0.5*(p - t)*2 + t", "p"),
        ("r^2", "square(t - p)"),
        ("t*p/p/p", "t*p*square(inv_p)"),
        ("tanh(-p)/(1 - p)", "-tanh(p)/(1 - p)"),
        ("protected_log(p) - log(t)", "protected_log(p) - protected_log(t)"),
        ("t/(p + p)", "t/(2*(p + 0))"),
        ("min(-p, -max(t, 1))", "-max(max(t, p), 1)"),
        ("p - p", "0"),
        ("1e200*p*1e200", "1e200*p*1e200"),  # 1e400 is no float: only the order of arguments is put in order
    ],
)
def test_forms(text: str, form: str) -> None:
    assert algebraic_form(parse(text)) in (parse(form), structural_form(parse(form)))


KEPT_APART = [
    # clamped quotients: a divisor of zero counts as positive, and 1e-7 is the smallest
    ("p/(-t)", "-(p/t)"),
    ("tanh(p)/tanh(p)", "1"),
    ("p/p", "1"),
    ("1/(t*tanh(p))", "1/t*(1/tanh(p))"),
    ("1/(1/tanh(p))", "tanh(p)"),
    ("1/square(p)", "square(1/p)"),
    # logarithms and roots of max(|x|, 1e-7)
    ("log(t*p)", "log(t) + log(p)"),
    ("log(square(p) + 0)", "2*log(p)"),
    ("log(exp(100*(p - 1)))", "100*(p - 1)"),
    ("log(p)", "protected_log(p)"),
    ("log(p + p)", "log(2*p)"),
    ("sqrt(square(p))", "abs(p)"),
    ("square(sqrt(p))", "p"),
    ("sqrt(t*p)", "sqrt(t)*sqrt(p)"),
    ("(p + 0)^0.7", "p^0.7"),
    ("p^2*p^0.5", "p^2.5"),
    # the sign of zero is zero
    ("sign(abs(t))", "1"),
    ("sign(t)*sign(t)", "1"),
    # other functions
    ("min(p, t)", "max(p, t)"),
    ("abs(p + t)", "abs(p) + abs(t)"),
    ("tanh(2*p)", "2*tanh(p)"),
    ("aq(t, p)", "aq(p, t)"),
    ("aq(t, 2*p)", "aq(t, p)"),
    ("t*log(p)", "-t*log(p)"),
    ("p_t", "p"),
    ("0.3*p", "0.30000000000000004*p"),
]


@pytest.mark.parametrize(("one", "other"), KEPT_APART)
def test_what_is_not_the_same_keeps_its_key(one: str, other: str) -> None:
    assert algebraic_key(parse(one)) != algebraic_key(parse(other))


@pytest.mark.parametrize(("one", "other"), [pair for pair in KEPT_APART if "p_t" not in "".join(pair)])
def test_and_is_indeed_not_the_same(one: str, other: str) -> None:
    points = [*POINTS, (0.3, -1.0), (1e-9, 1e-9), *itertools.product((1e-20, 1e-5), (1e-5, 0.0))]
    answers = [agree(parse(one), parse(other), inputs(p, t), rtol=1e-17) for p, t in points]
    assert False in answers


def test_distinct_losses_have_distinct_keys() -> None:
    leaves = [Symbol("t"), Symbol("p"), Number(1.0), Number(-1.0)]
    made: list[Node] = [Apply(name, (leaf,)) for name in ("tanh", "sqrt", "protected_log") for leaf in leaves[:2]]
    made += [Apply("mul", (a, b)) for a, b in itertools.combinations(made, 2)]
    assert len({algebraic_key(root) for root in made}) == len(made) == 21
    assert len(algebraic_key(made[0])) == 16


def test_a_long_sum_is_as_welcome_as_a_bushy_tree() -> None:
    root: Node = Symbol("p")
    for i in range(400):
        root = Apply("add", (root, Apply("mul", (Number(float(i % 7)), Symbol("t")))))
    assert to_text(algebraic_form(root)) == f"{sum(i % 7 for i in range(400))}*t + p"
    deep: Node = Symbol("p")
    for _ in range(400):
        deep = Apply("tanh", (deep,))
    assert algebraic_form(deep) == deep


def test_lowering_leaves_a_form_as_it_is() -> None:
    for text in ("t/(p + p)", "log(p + p)", "(p*1 + 0)^0.7", "1/(p - 0)", "(1 - p + 0)^1.5", "t/(p + 0)^1"):
        form = algebraic_form(parse(text))
        assert lower(form) == form
