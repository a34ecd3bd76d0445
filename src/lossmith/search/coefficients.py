"""Which nodes of a tree keep a coefficient of their own in GLO's second stage (ALGORITHMS §1).

Every node could multiply its value by a number. Most of these numbers repeat what others do already:
c₁·((c₂·a)·(c₃·b)) has one degree of freedom, not three. A coefficient is *absorbed*, and left at 1, where the others
give the same learning rules without it. The rules, from the root down, ask two things of every place: must the subtree
bring the scale of its value along, or does somebody above it? Is the place *open*: does what is added to its value pull
no prediction?

    ×, ÷, x², √x, |x|, −x, sign   one coefficient for the scale, none for the scales of the arguments
    a/√(1+b²)                     as a product for a; b brings its scale
    +, −, min, max                no coefficient of its own: the arguments bring their scales, the first one not where
                                  somebody above brings the scale of the whole
    log x                         one for the scale; in open places c·x adds a mere constant, so x brings no scale
    xᵏ with a number k            as a product for x; k has one
    anything else                 one for the scale, and every argument brings its own
    parts without the prediction  in open places no coefficient at all: they pull nothing
    parts of numbers only         at most one, for the scale

Open are the root and, from an open node, the arguments of +, − and sign changes, a factor whose partner does not read
the prediction, and a numerator whose denominator does not. All this holds up to the clamps of protected functions
(1e-7), and up to a sign under √, x² and |x|, which lose it anyway, and for the scale of min and max. What the rules do
not see are coincidences: p + p, t² = t of one-hot targets, a number beside a logarithm.
"""

from __future__ import annotations

from collections.abc import Sequence

from lossmith.losses.expression import Apply, Node, Number, symbols
from lossmith.losses.tree import with_weights
from lossmith.search.required_arguments import PREDICTION_LIKE

_PRODUCTS = {"mul", "div", "square", "sqrt", "abs", "neg", "sign"}
_SUMS = {"add", "sub", "min", "max"}
_LOGS = {"log", "protected_log"}
_CONSTANT = {"n"}  # inputs that are one number for a whole task


def coefficient_places(root: Node) -> tuple[int, ...]:
    """The places in `walk` order of the nodes that keep their coefficient."""
    kept: list[int] = []
    waiting: list[tuple[int, Node, bool, bool]] = [(0, root, True, True)]
    while waiting:
        place, node, scale, is_open = waiting.pop()
        if is_open and not _pulls(node):
            continue
        constant = symbols(node) <= _CONSTANT
        own = scale and (constant or not (isinstance(node, Apply) and node.op in _SUMS))
        if own:
            kept.append(place)
        if constant or not isinstance(node, Apply):
            continue
        at = place + 1
        for arg, (arg_scale, arg_open) in zip(node.args, _demands(node, scale, is_open), strict=True):
            waiting.append((at, arg, arg_scale, arg_open))
            at += arg.size
    return tuple(sorted(kept))


def with_coefficients(root: Node, places: Sequence[int], coefficients: Sequence[float]) -> Node:
    """The tree with the values of some nodes multiplied by numbers; a 1 leaves no trace."""
    numbers = [1.0] * root.size
    for place, coefficient in zip(places, coefficients, strict=True):
        numbers[place] = float(coefficient)
    whole = with_weights(root, [Number(c) for c in numbers[1:]])
    return whole if numbers[0] == 1.0 else Apply("mul", (Number(numbers[0]), whole))


def _demands(node: Apply, scale: bool, is_open: bool) -> list[tuple[bool, bool]]:
    """(must bring its scale, is open) for every argument."""
    args = node.args
    if node.op in _SUMS:
        still_open = is_open and node.op in ("add", "sub")
        demands: list[tuple[bool, bool]] = []
        free = not scale  # the scale of one argument, the first that counts, is somebody else's
        for arg in args:
            counts = not still_open or _pulls(arg)
            demands.append((not (free and counts), still_open))
            free = free and not counts
        return demands
    if node.op == "mul":
        return [(False, is_open and not _pulls(args[1])), (False, is_open and not _pulls(args[0]))]
    if node.op == "div":
        return [(False, is_open and not _pulls(args[1])), (False, False)]
    if node.op == "aq":
        return [(False, is_open and not _pulls(args[1])), (True, False)]
    if node.op == "neg":
        return [(False, is_open)]
    if node.op in _PRODUCTS:
        return [(False, False)]
    if node.op in _LOGS:
        return [(not is_open, False)]
    if node.op == "pow" and isinstance(args[1], Number):
        return [(False, False), (True, False)]
    return [(True, False)] * len(args)


def _pulls(node: Node) -> bool:
    """Whether a subtree reads the prediction."""
    return bool(symbols(node) & PREDICTION_LIKE)
