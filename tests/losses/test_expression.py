from __future__ import annotations

import copy
import pickle

import pytest
from expression_trees import trees
from hypothesis import given, settings
from hypothesis import strategies as st

from lossmith.errors import ExpressionError
from lossmith.losses.expression import (
    Apply,
    Node,
    Number,
    Symbol,
    fold,
    from_postfix,
    replace_args,
    replace_subtree,
    substitute,
    subtree,
    symbols,
    to_postfix,
    transform,
    walk,
)
from lossmith.losses.parser import parse


def chain(length: int) -> Node:
    node: Node = Symbol("p")
    for _ in range(length):
        node = Apply("tanh", (node,))
    return node


def test_size_counts_nodes_and_height_edges() -> None:
    tree = parse("-t*log(p)")  # mul(neg(t), log(p))
    assert (tree.size, tree.height) == (5, 2)
    assert (Symbol("p").size, Symbol("p").height) == (1, 0)


@settings(deadline=None)
@given(trees())
def test_walk_visits_every_node_parents_first(tree: Node) -> None:
    nodes = list(walk(tree))
    assert len(nodes) == tree.size
    assert nodes[0] is tree
    assert [subtree(tree, i) for i in range(tree.size)] == nodes
    depth = {0: 0}
    for i, node in enumerate(nodes):
        place = i + 1
        for arg in node.args:
            depth[place] = depth[i] + 1
            place += arg.size
    assert max(depth.values()) == tree.height


@settings(deadline=None)
@given(trees(), st.data())
def test_replacing_a_subtree_changes_that_place_only(tree: Node, data: st.DataObject) -> None:
    index = data.draw(st.integers(0, tree.size - 1))
    new = parse("t/n + 1")
    old = subtree(tree, index)
    changed = replace_subtree(tree, index, new)
    assert subtree(changed, index) == new
    assert changed.size == tree.size - old.size + new.size
    assert replace_subtree(changed, index, old) == tree


def test_places_outside_a_tree() -> None:
    for index in (-1, 2):
        with pytest.raises(IndexError, match="has no node"):
            replace_subtree(parse("-p"), index, Symbol("t"))
    with pytest.raises(IndexError, match="has no node"):
        subtree(parse("-p"), 2)


@settings(deadline=None)
@given(trees())
def test_equality_hash_pickle_copy_and_postfix(tree: Node) -> None:
    twins = [
        pickle.loads(pickle.dumps(tree)),
        copy.deepcopy(tree),
        from_postfix(to_postfix(tree)),
        transform(tree, lambda node: node),
    ]
    for twin in twins:
        assert twin == tree
        assert hash(twin) == hash(tree)
        assert (twin.size, twin.height) == (tree.size, tree.height)
    assert Apply("neg", (tree,)) != tree


def test_the_hash_does_not_travel() -> None:
    # Python hashes strings differently in every process; a hash that came along would make equal trees unequal.
    tree = parse("-t*log(p)")
    object.__setattr__(tree, "_hash", hash(tree) + 1)  # as if made in another process
    arrived = pickle.loads(pickle.dumps(tree))
    assert hash(arrived) == hash(parse("-t*log(p)"))
    assert arrived == parse("-t*log(p)")


def test_deep_trees_do_not_exhaust_the_stack() -> None:
    deep, twin = chain(20_000), chain(20_000)
    assert deep == twin
    assert deep.height == 20_000
    assert pickle.loads(pickle.dumps(deep)) == deep
    assert transform(deep, lambda node: node) is deep
    assert fold(deep, lambda node, args: 1 + max(args, default=0)) == 20_001
    assert symbols(deep) == {"p"}


def test_fold_visits_equal_subtrees_once() -> None:
    visited: list[Node] = []
    fold(parse("(t - p)*(t - p)"), lambda node, args: visited.append(node))
    assert len(visited) == 4  # t, p, t − p, the product


def test_substitute_takes_numbers_and_trees() -> None:
    tree = substitute(parse("a*p + b", symbols=("a", "b", "p")), {"a": -2.0, "b": parse("t/n")})
    assert tree == parse("-2*p + t/n")


def test_replace_args_keeps_identity() -> None:
    tree = parse("t - p")
    assert replace_args(tree, tree.args) is tree
    assert replace_args(tree, (Symbol("p"), Symbol("p"))) == parse("p - p")


def test_numbers() -> None:
    assert str(Number(-0.0).value) == "0.0"
    assert Number(2) == Number(2.0)  # type: ignore[arg-type]
    assert Number(1.0) != Symbol("p")
    for value in (float("nan"), float("inf"), -float("inf")):
        with pytest.raises(ExpressionError, match="must be finite"):
            Number(value)


def test_apply_checks_its_primitive() -> None:
    with pytest.raises(ExpressionError, match="there is no function 'sin'"):
        Apply("sin", (Symbol("p"),))
    with pytest.raises(ExpressionError, match="add takes 2 arguments, not 1"):
        Apply("add", (Symbol("p"),))
