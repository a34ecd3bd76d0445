"""Random expression trees for the property tests of the expression language."""

from __future__ import annotations

from hypothesis import strategies as st

from lossmith.losses.expression import Apply, Node, Number, Symbol
from lossmith.losses.primitives import PRIMITIVES

SMOOTH = ("add", "sub", "mul", "neg", "square", "tanh", "aq")
"""Primitives without a kink, a pole or a clamp: their values can be compared anywhere."""


def trees(
    symbols: tuple[str, ...] = ("t", "p", "z", "n", "log_p", "p_t"),
    ops: tuple[str, ...] = tuple(PRIMITIVES),
    numbers: st.SearchStrategy[Node] | None = None,
    max_leaves: int = 25,
) -> st.SearchStrategy[Node]:
    constants = st.floats(allow_nan=False, allow_infinity=False).map(Number) if numbers is None else numbers
    leaves = st.one_of(st.sampled_from(symbols).map(Symbol), constants)

    def grow(children: st.SearchStrategy[Node]) -> st.SearchStrategy[Node]:
        def applied(op: str) -> st.SearchStrategy[Node]:
            return st.tuples(*[children] * PRIMITIVES[op].arity).map(lambda args: Apply(op, args))

        return st.sampled_from(ops).flatmap(applied)

    return st.recursive(leaves, grow, max_leaves=max_leaves)
