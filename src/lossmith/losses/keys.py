"""When two expressions are the same loss: structural and algebraic normal forms, and keys made of them.

*Structural*: only the order of the arguments of commutative primitives is put in order. For trees whose weights or
coefficients are tuned: p − p, p·1 and folded numbers are no equalities once edges carry weights (ALGORITHMS §4).
*Algebraic*: everything in `REWRITES`. For losses as they are: equal keys train once (ALGORITHMS §1).
"""

from __future__ import annotations

from lossmith.losses.algebra import NoNormalFormError
from lossmith.losses.expression import Apply, Node, fold
from lossmith.losses.lowering import lower
from lossmith.losses.primitives import PRIMITIVES
from lossmith.losses.printer import to_text
from lossmith.losses.rewrite_table import REWRITES, Rewrite
from lossmith.losses.rewrites import Rules
from lossmith.records import content_hash

__all__ = ["REWRITES", "Rewrite", "algebraic_form", "algebraic_key", "structural_form", "structural_key"]


def structural_form(root: Node) -> Node:
    """The tree with the arguments of commutative primitives in canonical order, and nothing else changed.

    >>> from lossmith.losses.parser import parse
    >>> print(to_text(structural_form(parse("p*t + 1*p"))), "|", to_text(structural_form(parse("p*1 + t*p"))))
    p*1 + p*t | p*1 + p*t
    """

    def visit(node: Node, args: tuple[tuple[str, Node], ...]) -> tuple[str, Node]:
        if not isinstance(node, Apply):
            return to_text(node), node
        if PRIMITIVES[node.op].commutative:
            args = tuple(sorted(args, key=lambda arg: arg[0]))
        text = f"{node.op}({','.join(arg[0] for arg in args)})"
        return text, Apply(node.op, tuple(arg[1] for arg in args))

    return fold(root, visit)[1]


def structural_key(root: Node) -> str:
    """Trees with one key differ at most in the order of commutative arguments; 16 hex digits."""
    return content_hash({"structural": to_text(structural_form(root))})


def algebraic_form(root: Node) -> Node:
    """The normal form under all rewrites: deterministic, idempotent, and the same loss to rounding.

    Its logarithms and reciprocals of the prediction are the exact inputs (`lowering.lower`); the logarithms and
    quotients that are clamped stay so: `protected_log`, and p + 0 as a divisor. An expression whose coefficients
    leave the floats keeps its structural form.

    >>> from lossmith.losses.parser import parse
    >>> print(to_text(algebraic_form(parse("-(2*t*log(p) - t*log(p)) + p - p"))))
    -t*log_p
    """
    try:
        rules = Rules()
        return rules.tree(
            fold(
                lower(root), lambda node, args: rules.apply(node, args) if isinstance(node, Apply) else rules.leaf(node)
            )
        )
    except (NoNormalFormError, OverflowError):
        return structural_form(root)


def algebraic_key(root: Node) -> str:
    """Expressions with one key are the same loss; 16 hex digits."""
    return content_hash({"algebraic": to_text(algebraic_form(root))})
