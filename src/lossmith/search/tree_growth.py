"""Random expression trees over a primitive set. The generator is always an argument.

ramped half-and-half: Koza 1992, with the leaf rule of DEAP's `genGrow`, which the published EvoMAL uses (ALGORITHMS
§4); weighted growth: GLO (ALGORITHMS §1).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np

from lossmith.losses.expression import Apply, Node
from lossmith.losses.primitive_sets import PrimitiveSet
from lossmith.losses.primitives import PRIMITIVES

T = TypeVar("T")


@dataclass(frozen=True)
class Limits:
    """The largest tree a search proposes.

    Args:
        height: edges on the longest path down. size: nodes.
    """

    height: int
    size: int

    def hold(self, root: Node) -> bool:
        """Whether a tree is within the limits."""
        return root.height <= self.height and root.size <= self.size


def pick(generator: np.random.Generator, weighted: Sequence[tuple[T, float]]) -> T:
    """One of some values, each with a probability proportional to its weight (one draw)."""
    place = generator.random() * sum(weight for _, weight in weighted)
    for value, weight in weighted:
        place -= weight
        if place < 0:
            return value
    return max(weighted, key=lambda pair: pair[1])[0]  # rounding left a crumb: never a value of weight 0


def pick_terminal(generator: np.random.Generator, primitives: PrimitiveSet) -> Node:
    """A leaf, by the set's weights."""
    return pick(generator, primitives.terminals)


def full(generator: np.random.Generator, primitives: PrimitiveSet, height: int) -> Node:
    """A tree whose leaves all have the depth `height`."""
    return _tree(generator, primitives, height, leaf_share=0.0, leaves_from=height)


def grow(generator: np.random.Generator, primitives: PrimitiveSet, height: int, leaves_from: int = 0) -> Node:
    """A tree of at most this height.

    From depth `leaves_from` on, a node is a leaf with the leaves' share of all weights of the set: |terminals| /
    (|terminals| + |functions|) where all weights are equal. Above it there are functions only, below `height` nothing.
    """
    leaves, functions = (sum(w for _, w in part) for part in (primitives.terminals, primitives.functions))
    return _tree(generator, primitives, height, leaf_share=leaves / (leaves + functions), leaves_from=leaves_from)


def weighted_growth(generator: np.random.Generator, primitives: PrimitiveSet, height: int = 2) -> Node:
    """GLO's initial tree: every node is drawn by weight from functions and leaves alike, leaves at depth `height`."""
    return grow(generator, primitives, height)


def half_and_half(generator: np.random.Generator, primitives: PrimitiveSet, low: int, high: int) -> Node:
    """One tree of a ramped half-and-half population: a height uniform from `low` to `high`, then `full` or `grow`.

    Grown trees have leaves from depth `low` on, so that every tree is at least that high.
    """
    height = int(generator.integers(low, high + 1))
    if generator.random() < 0.5:
        return full(generator, primitives, height)
    return grow(generator, primitives, height, leaves_from=low)


def largest_size(primitives: PrimitiveSet, height: int) -> int:
    """Nodes of the largest tree of a height."""
    arity = max((PRIMITIVES[op].arity for op, _ in primitives.functions), default=0)
    return sum(arity**depth for depth in range(height + 1))


def _tree(
    generator: np.random.Generator, primitives: PrimitiveSet, height: int, *, leaf_share: float, leaves_from: int
) -> Node:
    def node(depth: int) -> Node:
        if depth >= height or (depth >= leaves_from and generator.random() < leaf_share):
            return pick_terminal(generator, primitives)
        op = pick(generator, primitives.functions)
        return Apply(op, tuple(node(depth + 1) for _ in range(PRIMITIVES[op].arity)))

    return node(0)
