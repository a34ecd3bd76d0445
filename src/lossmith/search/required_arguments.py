"""A loss that does not read both prediction and target cannot teach anything (ALGORITHMS §4, "Required arguments")."""

from __future__ import annotations

import numpy as np

from lossmith.losses.expression import Apply, Node, Symbol, replace_subtree, symbols, walk
from lossmith.losses.inputs import LOWERED
from lossmith.losses.printer import to_text
from lossmith.records import OK, Status
from lossmith.search.tree_growth import Limits

PREDICTION_LIKE = frozenset({"p", "r", "z", "m", "p_t", *LOWERED})
TARGET_LIKE = frozenset({"t", "r", "m", "p_t", "log_p_t"})
JOINS = ("add", "sub", "mul", "div")
LONGEST = 60  # characters of a formula in a sentence


def required_arguments(root: Node) -> Status:
    """`OK`, or "screened:required_arguments" with a sentence that says what the tree does not read."""
    read = symbols(root)
    missing = [name for name, alike in (("prediction", PREDICTION_LIKE), ("target", TARGET_LIKE)) if not read & alike]
    if not missing:
        return OK
    text = to_text(root)
    shown = text if len(text) <= LONGEST else f"{text[:LONGEST]}…"
    return Status("screened", "required_arguments", f"{shown} does not read the {' nor the '.join(missing)}")


def with_required_arguments(generator: np.random.Generator, root: Node, limits: Limits) -> Node | None:
    """The tree with one leaf replaced by op(t, p) in random order, op one of +, −, ×, ÷.

    The leaf is uniform over those whose replacement stays within the limits; None where there is none. One replacement
    is enough, whatever the tree lacked.
    """
    if root.size + 2 > limits.size:
        return None
    leaves = [place for place, depth in enumerate(_depths(root)) if depth is not None and depth < limits.height]
    if not leaves:
        return None
    place = leaves[int(generator.integers(len(leaves)))]
    pair = (Symbol("t"), Symbol("p")) if generator.random() < 0.5 else (Symbol("p"), Symbol("t"))
    return replace_subtree(root, place, Apply(JOINS[int(generator.integers(len(JOINS)))], pair))


def _depths(root: Node) -> list[int | None]:
    """Depth of every leaf in `walk` order; None for functions."""
    depths: list[int | None] = []
    waiting = [0]
    for node in walk(root):
        depth = waiting.pop()
        depths.append(None if node.args else depth)
        waiting += [depth + 1] * len(node.args)
    return depths
