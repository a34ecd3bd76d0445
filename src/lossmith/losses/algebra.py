"""Products, powers and trees of sums: the arithmetic under the algebraic normal form of an expression (`losses.keys`).

An atom is what sums and products (`losses.sums`) cannot look into, in normal form itself: an input, a function of sums,
the reciprocal 1/b as `div(1, b)`, the factor 1/√(1 + b²) as `aq(1, b)`, or a whole sum that is a factor of a product,
scaled to the leading coefficient 1. Coefficients are rounded only where a sum becomes a tree again (`Algebra.tree`).

A clamped reciprocal is never split or cancelled: 1/(a·b) is not 1/a·1/b, and b·(1/b) is not 1, within 1e-7 of zero.
"""

from __future__ import annotations

from collections.abc import Iterable
from fractions import Fraction
from functools import reduce
from typing import TypeAlias

from lossmith.losses.expression import Apply, Node, Number, Symbol, substitute
from lossmith.losses.inputs import INPUTS, LOWERED
from lossmith.losses.lowering import divides_exactly, raises_exactly
from lossmith.losses.printer import to_text
from lossmith.losses.sums import Coefficient, Product, Sum, exact, magnitude, scale

Order: TypeAlias = tuple[int, int, str]

ONE = Number(1.0)
_RANK = {name: place for place, name in enumerate((*INPUTS, *LOWERED))}
_LITERAL_P, _LITERAL_P_T = (Apply("add", (Symbol(name), Number(0.0))) for name in ("p", "p_t"))
_TOO_STEEP = 1e300  # beyond it a coefficient divided by another loses digits or overflows


def reciprocal_of(atom: Node) -> Node | None:
    """b of the atom 1/b, else None."""
    return atom.args[1] if isinstance(atom, Apply) and atom.op == "div" else None


class NoNormalFormError(ArithmeticError):
    """A coefficient leaves the floats, or the expression is of a kind that has no normal form."""


class Algebra:
    """One normalisation: remembers the sum behind every tree it made.

    Any method may raise OverflowError or NoNormalFormError: then the expression has no normal form.
    """

    def __init__(self) -> None:
        self.sums: dict[Node, Sum] = {}  # tree in normal form → the sum it was made from
        self._orders: dict[Node, Order] = {}

    def order(self, atom: Node) -> Order:
        """Inputs in the order of their table, then functions, small ones first."""
        found = self._orders.get(atom)
        if found is None:
            if isinstance(atom, Symbol):
                found = (0, _RANK.get(atom.name, len(_RANK)), atom.name)
            else:
                found = (1, atom.size, to_text(atom))
            self._orders[atom] = found
        return found

    def terms(self, a: Sum) -> list[tuple[Product, Coefficient]]:
        """The terms in canonical order, a number last."""
        if len(a) < 2:
            return list(a.items())
        return sorted(a.items(), key=lambda term: (not term[0], [(self.order(atom), k) for atom, k in term[0]]))

    def negative(self, a: Sum) -> bool:
        """Whether the leading coefficient is below 0: of a sum and its negative, exactly one is."""
        return bool(a) and self.terms(a)[0][1] < 0

    def factors(self, a: Sum) -> tuple[Coefficient, Product]:
        """A sum as coefficient and product: one of several terms becomes an atom with the leading coefficient 1."""
        if len(a) == 1:
            ((product, c),) = a.items()
            return c, product
        terms = self.terms(a)
        leading = terms[0][1]
        ratios = [abs(float(Fraction(c) / leading)) for _, c in terms]
        if not 1 / _TOO_STEEP < min(ratios) <= max(ratios) < _TOO_STEEP:
            leading = 1 if leading > 0 else -1
        return leading, ((self.tree({product: Fraction(c) / leading for product, c in terms}), 1),)

    def times(self, parts: Iterable[Sum]) -> Sum:
        """The product of sums; a number goes into every term, sums are not multiplied out."""
        c: Coefficient = 1
        others: list[Sum] = []
        for part in parts:
            if len(part) <= 1 and (not part or () in part):
                c *= part.get((), 0)
            else:
                others.append(part)
        if len(others) < 2 or not c:
            return scale(others[0], c) if others else scale({(): 1}, c)
        powers: dict[Node, int] = {}
        for part in others:
            k, product = self.factors(part)
            c *= k
            for atom, exponent in product:
                powers[atom] = powers.get(atom, 0) + exponent
        return self.product(c, powers)

    def power(self, a: Sum, exponent: int) -> Sum:
        """a to a whole power >= 0."""
        if exponent < 2:
            return a if exponent else {(): 1}
        if not a:
            return a
        c, product = self.factors(a)
        if abs(c) == 1:
            c = c if exponent % 2 else 1
        elif not (c := exact(float(c) ** exponent)):
            raise NoNormalFormError("a power underflows")
        return self.product(c, {atom: k * exponent for atom, k in product})

    def product(self, c: Coefficient, powers: dict[Node, int]) -> Sum:
        """c · Π atom^exponent in normal form: powers of |x|, sign(x) and 1/b reduced to what differs."""
        reduced: dict[Node, int] = {}

        def put(atom: Node, exponent: int) -> None:
            if exponent:
                reduced[atom] = reduced.get(atom, 0) + exponent

        for atom, k in powers.items():
            inside = reciprocal_of(atom)
            if isinstance(atom, Apply) and atom.op == "abs":  # |x|³ = x²·|x|
                put(atom, k % 2)
                put(atom.args[0], k - k % 2)
            elif inside is not None and k > 1:  # (1/-b)² = (1/b)²
                put(atom, k % 2)
                put(self.reciprocal(self.unsigned(self.sums[inside])), k - k % 2)
            else:
                put(atom, k)
        for atom, k in reduced.items():
            if isinstance(atom, Apply) and atom.op == "sign" and k > 2:  # sign³ = sign
                reduced[atom] = 2 - k % 2
        if len(reduced) == 1:
            ((atom, k),) = reduced.items()
            if k == 1 and isinstance(atom, Apply) and atom.op in ("add", "sub"):
                return scale(self.sums[atom], c)
        ordered = (
            sorted(reduced.items(), key=lambda factor: self.order(factor[0])) if len(reduced) > 1 else reduced.items()
        )
        return {tuple(ordered): c}

    def reciprocal(self, a: Sum) -> Apply:
        """The atom 1/a."""
        return Apply("div", (ONE, self.tree(a)))

    def unsigned(self, a: Sum) -> Sum:
        """What an even function sees: of a and −a, and of |x|·y and x·y, one."""
        if len(a) == 1:
            ((product, c),) = a.items()
            powers: dict[Node, int] = {}
            for atom, k in product:
                inside = atom.args[0] if isinstance(atom, Apply) and atom.op == "abs" else atom
                powers[inside] = powers.get(inside, 0) + k
            return self.product(magnitude(c), powers)
        return scale(a, -1) if self.negative(a) else a

    def tree(self, a: Sum) -> Node:
        """The sum as an expression, coefficients rounded to floats; a term above 0 stands first."""
        rounded: Sum = {}
        for product, c in a.items():
            rounded[product] = c if isinstance(c, int) and abs(c) <= 2**53 else exact(float(c))
            if not rounded[product]:
                raise NoNormalFormError("a coefficient underflows")
        terms = [self._term(product, c) for product, c in self.terms(rounded)]
        first = next((place for place, (below, _) in enumerate(terms) if not below), 0)
        total: Node = Number(0.0)
        for place, (below, node) in enumerate((*terms[first : first + 1], *terms[:first], *terms[first + 1 :])):
            if not place:
                total = _negated(node) if below else node
                continue
            total = Apply("sub" if below else "add", (total, node))
        self.sums[total] = rounded
        return total

    def _term(self, product: Product, c: Coefficient) -> tuple[bool, Node]:
        """Whether a term is below 0, and its tree without the sign."""
        factors: list[Node] = []
        below: list[tuple[str, Node]] = []
        for atom, k in product:
            if isinstance(atom, Apply) and atom.op in ("add", "sub"):
                inside = self.sums[atom]
                if inside.get((), 0) < 0 if k % 2 == 0 else c < 0 and min(inside.values()) < 0:
                    c, atom = c * (-1) ** k, self.tree(scale(inside, -1))  # -(p - 1)·x as (1 - p)·x
            if k == 1 and isinstance(atom, Apply) and atom.op in ("div", "aq"):
                below.append((atom.op, atom.args[1]))
            else:
                factors.append(_raised(atom, k))
        if magnitude(c) != 1 or not factors:
            factors.insert(0, Number(float(magnitude(c))))
        node = reduce(lambda a, b: Apply("mul", (a, b)), factors)
        for op, divisor in below:
            node = Apply(op, (node, guarded(divisor) if op == "div" else divisor))
        return c < 0, node


def guarded(divisor: Node) -> Node:
    """A divisor that stays clamped: where lowering would take 1/p for the exact input, p is written p + 0."""
    return substitute(divisor, {"p": _LITERAL_P}) if divides_exactly(divisor) else divisor


def guarded_base(base: Node, exponent: float) -> Node:
    """The base of a power that stays clamped, likewise."""
    return substitute(base, {"p": _LITERAL_P, "p_t": _LITERAL_P_T}) if raises_exactly(base, exponent) else base


def _raised(atom: Node, exponent: int) -> Node:
    divisor = reciprocal_of(atom)
    node = atom if divisor is None else Apply("div", (ONE, guarded(divisor)))
    if exponent == 1:
        return node
    return Apply("square", (node,)) if exponent == 2 else Apply("pow", (node, Number(float(exponent))))


def _negated(node: Node) -> Node:
    """−node: the leftmost factor takes the sign."""
    path: list[Apply] = []
    while isinstance(node, Apply) and node.op in ("mul", "div", "aq"):
        path.append(node)
        node = node.args[0]
    new: Node = Number(-node.value) if isinstance(node, Number) else Apply("neg", (node,))
    for parent in reversed(path):
        new = Apply(parent.op, (new, parent.args[1]))
    return new
