"""Operators of genetic programming on expression trees. Trees in, new trees out; the generator is always an argument.

An operator knows no limits: `within` puts the parent in the place of a child that is too tall or too large, as DEAP's
`staticLimit` does. Operators work on trees with any primitives, whatever set new nodes are drawn from.
"""

from __future__ import annotations

import numpy as np

from lossmith.losses.expression import Apply, Node, Number, replace_subtree, subtree, walk
from lossmith.losses.primitive_sets import PrimitiveSet
from lossmith.search.tree_growth import Limits, full, pick, pick_terminal, weighted_growth

INTEGER_STEP, SAME_ARITY, TO_LEAF, TO_BRANCH = 0.05, 0.05, 0.025, 0.025  # GLO's mutation (ALGORITHMS §1)


def within(limits: Limits, child: Node, parent: Node) -> Node:
    """The child, or its parent where the child is over the limits."""
    return child if limits.hold(child) else parent


def crossover(generator: np.random.Generator, parent: Node, mate: Node) -> Node:
    """One-point subtree crossover (Koza 1992): the parent with one subtree replaced by one of the mate's.

    Both subtrees are uniform over all nodes but the root; a tree that is a single leaf leaves the parent as it is.
    """
    if min(parent.size, mate.size) == 1:
        return parent
    cut = int(generator.integers(1, parent.size))
    return replace_subtree(parent, cut, subtree(mate, int(generator.integers(1, mate.size))))


def subtree_swap(generator: np.random.Generator, a: Node, b: Node) -> tuple[Node, Node]:
    """GLO's recombination: two trees exchange one subtree each, uniform over all nodes, the roots too."""
    cut_a, cut_b = int(generator.integers(a.size)), int(generator.integers(b.size))
    part_a, part_b = subtree(a, cut_a), subtree(b, cut_b)
    return replace_subtree(a, cut_a, part_b), replace_subtree(b, cut_b, part_a)


def subtree_mutation(
    generator: np.random.Generator, root: Node, primitives: PrimitiveSet, low: int = 0, high: int = 2
) -> Node:
    """A uniformly chosen node, the root too, gives way to a new full tree of a height uniform from `low` to `high`."""
    cut = int(generator.integers(root.size))
    return replace_subtree(root, cut, full(generator, primitives, int(generator.integers(low, high + 1))))


def point_mutation(generator: np.random.Generator, root: Node, primitives: PrimitiveSet) -> Node:
    """A uniformly chosen node becomes another one of the set with as many arguments; its subtrees stay."""
    cut = int(generator.integers(root.size))
    node = subtree(root, cut)
    if not isinstance(node, Apply):
        others = [(leaf, w) for leaf, w in primitives.terminals if leaf != node]
        return replace_subtree(root, cut, pick(generator, others)) if others else root
    ops = [(op, w) for op, w in primitives.of_arity(len(node.args)) if op != node.op]
    return replace_subtree(root, cut, Apply(pick(generator, ops), node.args)) if ops else root


def hoist(generator: np.random.Generator, root: Node) -> Node:
    """A uniformly chosen subtree becomes the tree (Kinnear 1993); a single leaf stays."""
    return subtree(root, int(generator.integers(1, root.size))) if root.size > 1 else root


def shrink(generator: np.random.Generator, root: Node) -> Node:
    """A uniformly chosen function gives way to one of its arguments; a single leaf stays."""
    places = [place for place, node in enumerate(walk(root)) if node.args]
    if not places:
        return root
    cut = places[int(generator.integers(len(places)))]
    args = subtree(root, cut).args
    return replace_subtree(root, cut, args[int(generator.integers(len(args)))])


def node_mutation(generator: np.random.Generator, root: Node, primitives: PrimitiveSet) -> Node:
    """GLO's mutation: every node of the tree is visited once, children first, and may change in four ways in turn.

    A whole number ±1 (p = .05) · a node drawn by weight with as many arguments (.05; it may be the same) · a function
    with all below it a leaf (.025) · a leaf an element drawn by weight, with new leaves below it (.025).
    """
    places = list(walk(root))
    built: list[Node] = []
    for node in reversed(places):  # children before parents, the first child on top of the stack
        args = tuple(built.pop() for _ in node.args)
        built.append(_mutated(generator, Apply(node.op, args) if isinstance(node, Apply) else node, primitives))
    (mutant,) = built
    return mutant


def _mutated(generator: np.random.Generator, node: Node, primitives: PrimitiveSet) -> Node:
    if isinstance(node, Number) and node.value.is_integer() and generator.random() < INTEGER_STEP:
        node = Number(node.value + (1.0 if generator.random() < 0.5 else -1.0))
    if generator.random() < SAME_ARITY:
        node = _same_arity(generator, node, primitives)
    if isinstance(node, Apply) and generator.random() < TO_LEAF:
        node = pick_terminal(generator, primitives)
    elif not isinstance(node, Apply) and generator.random() < TO_BRANCH:
        node = weighted_growth(generator, primitives, height=1)
    return node


def _same_arity(generator: np.random.Generator, node: Node, primitives: PrimitiveSet) -> Node:
    if not isinstance(node, Apply):
        return pick_terminal(generator, primitives)
    functions = primitives.of_arity(len(node.args))
    return Apply(pick(generator, functions), node.args) if functions else node
