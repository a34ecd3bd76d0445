"""Random losses over the published primitive sets, for the tests of the interpreter."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.random import Generator

from lossmith.losses import Tree
from lossmith.losses.expression import Apply, Node, symbols
from lossmith.losses.primitive_sets import PrimitiveSet
from lossmith.losses.primitives import PRIMITIVES


def random_root(generator: Generator, primitives: PrimitiveSet, height: int) -> Node:
    """A tree of functions down to depth 2, then of functions and leaves mixed, of at most this height."""
    functions, terminals = primitives.functions, primitives.terminals

    def choose(weighted: tuple[tuple[object, float], ...]) -> object:
        weights = np.array([weight for _, weight in weighted])
        return weighted[generator.choice(len(weighted), p=weights / weights.sum())][0]

    def grown(depth: int) -> Node:
        if depth == height or (depth >= 2 and generator.random() < 0.25):
            return choose(terminals)  # type: ignore[return-value]
        op = str(choose(functions))
        return Apply(op, tuple(grown(depth + 1) for _ in range(PRIMITIVES[op].arity)))

    return grown(0)


def random_trees(
    primitives: PrimitiveSet, count: int, seed: int, *, height: int = 6, weighted: bool = False
) -> Iterator[Tree]:
    """Trees that read the prediction, of heights 1 to `height`; with edge weights N(1, 0.1²) if `weighted`."""
    generator = np.random.default_rng(seed)
    while count:
        root = random_root(generator, primitives, int(generator.integers(1, height + 1)))
        weights = tuple(generator.normal(1, 0.1, root.size - 1).tolist()) if weighted else ()
        if "p" in symbols(root) and root.size > 1:
            count -= 1
            yield Tree(root, weights)
