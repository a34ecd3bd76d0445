"""Random trees are what they promise: heights, leaf rule, weights, required arguments."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binomtest, chisquare

from lossmith import rng
from lossmith.losses.expression import Apply, Node, Symbol, subtree, symbols, walk
from lossmith.losses.parser import parse
from lossmith.losses.primitive_sets import EVOMAL, GLO, PrimitiveSet
from lossmith.losses.primitives import PRIMITIVES
from lossmith.losses.printer import to_text
from lossmith.search.required_arguments import required_arguments, with_required_arguments
from lossmith.search.tree_growth import Limits, full, grow, half_and_half, largest_size, pick, weighted_growth

SETS = st.sampled_from([EVOMAL, GLO])
SEEDS = st.integers(0, 10_000)
UNLIKELY = 1e-4  # a fair generator falls below it once in ten thousand seeds; the seeds are fixed


def depths(root: Node) -> Iterator[tuple[Node, int]]:
    """Every node with its depth."""
    waiting = [(root, 0)]
    while waiting:
        node, depth = waiting.pop()
        yield node, depth
        waiting += [(arg, depth + 1) for arg in node.args]


def check_fair(seen: Mapping[object, int], expected: Mapping[object, float]) -> None:
    """The counts are those of the expected probabilities."""
    assert set(seen) <= set(expected), set(seen) - set(expected)
    total, mass = sum(seen.values()), sum(expected.values())
    observed = [seen.get(key, 0) for key in expected]
    assert chisquare(observed, [total * share / mass for share in expected.values()]).pvalue > UNLIKELY, seen


def check_of_set(root: Node, primitives: PrimitiveSet) -> None:
    ops, leaves = {op for op, _ in primitives.functions}, {leaf for leaf, _ in primitives.terminals}
    assert all(node.op in ops if isinstance(node, Apply) else node in leaves for node in walk(root))


@settings(deadline=None, max_examples=60)
@given(SEEDS, SETS, st.integers(0, 5))
def test_full_trees_have_all_leaves_at_one_depth(seed: int, primitives: PrimitiveSet, height: int) -> None:
    root = full(rng.stream(seed, "full"), primitives, height)
    assert {depth for node, depth in depths(root) if not node.args} == {height}
    check_of_set(root, primitives)
    assert root.size <= largest_size(primitives, height)


@settings(deadline=None, max_examples=60)
@given(SEEDS, SETS, st.integers(0, 4), st.integers(0, 2))
def test_grown_trees_keep_their_heights(seed: int, primitives: PrimitiveSet, low: int, more: int) -> None:
    for root in (
        grow(rng.stream(seed, "grow"), primitives, low + more, leaves_from=low),
        half_and_half(rng.stream(seed, "half"), primitives, low, low + more),
    ):
        assert low <= root.height <= low + more
        assert all(depth >= low for node, depth in depths(root) if not node.args)
        check_of_set(root, primitives)


def test_one_stream_gives_one_tree_and_the_stream_is_all_there_is() -> None:
    trees = [half_and_half(rng.stream(7, "tree"), EVOMAL, 2, 4) for _ in range(2)]
    assert trees[0] == trees[1]
    generator = rng.stream(7, "tree")
    several = {half_and_half(generator, EVOMAL, 2, 4) for _ in range(50)}
    assert len(several) > 45


def test_half_are_full_and_heights_are_uniform() -> None:
    generator, n = rng.stream(0, "ramp"), 1500
    trees = [half_and_half(generator, EVOMAL, 2, 6) for _ in range(n)]
    leaf_depths = [{depth for node, depth in depths(tree) if not node.args} for tree in trees]
    # Every full tree has one leaf depth, its drawn height; of the grown ones those with hardly a branch have.
    uneven = sum(len(found) > 1 for found in leaf_depths)
    assert 0.21 < uneven / n < 0.30  # measured on six seeds: .237 to .267; nearly twice that without full trees
    even = Counter(tree.height for tree, found in zip(trees, leaf_depths, strict=True) if len(found) == 1)
    assert all(even[height] > 0.8 * n / 10 for height in range(2, 7))


def test_a_grown_tree_has_a_quarter_of_leaves_where_it_may_have_them() -> None:
    generator = rng.stream(1, "leaf share")
    nodes = [node for _ in range(800) for node, depth in depths(grow(generator, EVOMAL, 4, 2)) if depth == 2]
    leaves = sum(not node.args for node in nodes)
    assert binomtest(leaves, len(nodes), 0.25).pvalue > UNLIKELY  # 4 leaves, 12 functions: ALGORITHMS §4


@pytest.mark.parametrize("primitives", [EVOMAL, GLO], ids=lambda p: p.name)
def test_leaves_and_functions_follow_the_weights(primitives: PrimitiveSet) -> None:
    generator = rng.stream(2, "weights")
    trees = [full(generator, primitives, 3) for _ in range(600)]
    ops = Counter(tree.op for tree in trees if isinstance(tree, Apply))
    leaves = Counter(node for tree in trees for node in walk(tree) if not isinstance(node, Apply))
    check_fair(ops, dict(primitives.functions))
    check_fair(leaves, dict(primitives.terminals))


def test_glo_trees_are_drawn_by_weight_alone() -> None:
    generator = rng.stream(3, "glo")
    trees = [weighted_growth(generator, GLO) for _ in range(3000)]
    assert max(tree.height for tree in trees) == 2
    roots = Counter(tree.op if isinstance(tree, Apply) else to_text(tree) for tree in trees)
    weights = dict(GLO.functions) | {to_text(leaf): weight for leaf, weight in GLO.terminals}
    check_fair(roots, weights)  # log, t, p three times, sqrt twice, the rest once: ALGORITHMS §1
    below = Counter(
        node.op if isinstance(node, Apply) else to_text(node)
        for tree in trees
        for node, depth in depths(tree)
        if depth == 1
    )
    check_fair(below, weights)


def test_a_value_is_picked_by_its_weight_and_never_at_weight_zero() -> None:
    generator = rng.stream(4, "pick")
    seen = Counter(pick(generator, [("a", 1.0), ("b", 0.0), ("c", 2.5)]) for _ in range(3000))
    assert seen["b"] == 0
    check_fair(seen, {"a": 1.0, "c": 2.5})

    class Last:
        def random(self) -> float:
            return 1 - 2**-53

    weights = [(i, 0.1) for i in range(10)]  # 0.1 summed ten times rounds below 1
    assert pick(Last(), weights) in range(10)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("t*log(p)", ""),
        ("abs(r)", ""),
        ("t*log_p", ""),
        ("max(0, 1 - m)", ""),
        ("log(p)", "log(p) does not read the target"),
        ("square(t) + n", "square(t) + n does not read the prediction"),
        ("1 - n", "1 - n does not read the prediction nor the target"),
        ("+".join(["p"] * 40), "… does not read the target"),
    ],
)
def test_what_a_loss_must_read(text: str, complaint: str) -> None:
    status = required_arguments(parse(text))
    assert status.ok == (not complaint)
    assert complaint in status.sentence
    assert len(status.sentence) < 120
    if complaint:
        assert str(status) == "screened:required_arguments"


def test_about_69_percent_of_fresh_trees_lack_an_argument() -> None:
    generator = rng.stream(5, "fresh")
    trees = [half_and_half(generator, EVOMAL, 2, 4) for _ in range(3000)]
    lacking = sum(not required_arguments(tree).ok for tree in trees)
    assert abs(lacking / 3000 - 0.69) < 0.03  # derived in ALGORITHMS §4


@settings(deadline=None, max_examples=150)
@given(SEEDS, SETS)
def test_repair_replaces_one_leaf_by_t_and_p(seed: int, primitives: PrimitiveSet) -> None:
    generator = rng.stream(seed, "repair")
    root = half_and_half(generator, primitives, 0, 4)
    limits = Limits(5, root.size + 2)
    fixed = with_required_arguments(generator, root, limits)
    assert fixed is not None
    assert limits.hold(fixed)
    assert {"t", "p"} <= symbols(fixed)
    assert required_arguments(fixed).ok
    assert fixed.size == root.size + 2
    place = next(i for i, (a, b) in enumerate(zip(walk(root), walk(fixed), strict=False)) if label(a) != label(b))
    new = subtree(fixed, place)
    assert not subtree(root, place).args
    assert (new.size, symbols(new)) == (3, frozenset({"t", "p"}))
    assert [label(node) for node in walk(fixed)][place + 3 :] == [label(node) for node in walk(root)][place + 1 :]


def label(node: Node) -> object:
    return node.op if isinstance(node, Apply) else node


def test_repair_is_uniform_over_leaves_operators_and_orders() -> None:
    generator = rng.stream(6, "repair")
    root = parse("(z + w)*tanh(tau) - n")
    places, joins, orders = Counter[int](), Counter[str](), Counter[bool]()
    for _ in range(2000):
        fixed = with_required_arguments(generator, root, Limits(9, 99))
        assert fixed is not None
        (place, new), *_ = ((i, node) for i, node in enumerate(walk(fixed)) if node.args[:1] in ((T,), (P,)))
        assert isinstance(new, Apply)
        places[place], joins[new.op], orders[new.args == (T, P)] = (
            places[place] + 1, joins[new.op] + 1, orders[new.args == (T, P)] + 1,
        )  # fmt: skip
    check_fair(places, dict.fromkeys((i for i, node in enumerate(walk(root)) if not node.args), 1.0))
    check_fair(joins, dict.fromkeys(("add", "sub", "mul", "div"), 1.0))
    check_fair(orders, {True: 1.0, False: 1.0})


T, P = Symbol("t"), Symbol("p")


def test_repair_stays_within_the_limits_or_says_no() -> None:
    deep = parse("tanh(tanh(tanh(p))) + 1")
    generator = rng.stream(7, "limits")
    fixed = {with_required_arguments(generator, deep, Limits(4, 99)) for _ in range(50)}
    assert len(fixed) > 4
    assert all(tree is not None and tree.height == 4 and tree.args[0] == deep.args[0] for tree in fixed)  # only the 1
    assert with_required_arguments(generator, deep, Limits(9, 7)) is None  # two nodes more are too many
    assert with_required_arguments(generator, P, Limits(0, 9)) is None


@pytest.mark.parametrize(
    ("make", "height"), [(lambda g: full(g, EVOMAL, 12), 12), (lambda g: grow(g, GLO, 30, 3), 30)], ids=["full", "grow"]
)
def test_limits_say_what_is_too_large(make: Callable[..., Node], height: int) -> None:
    root = make(rng.stream(8, "large"))
    assert root.height <= height
    assert Limits(root.height, root.size).hold(root)
    assert not Limits(root.height - 1, root.size).hold(root)
    assert not Limits(root.height, root.size - 1).hold(root)


def test_the_largest_tree() -> None:
    assert [largest_size(EVOMAL, h) for h in range(4)] == [1, 3, 7, 15]
    assert all(PRIMITIVES[op].arity <= 2 for op, _ in EVOMAL.functions)
