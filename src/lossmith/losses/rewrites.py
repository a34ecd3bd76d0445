"""What the algebraic normal form knows of each primitive (`rewrite_table` lists the rules with examples).

A rule may only be here if it holds for *these* primitives, clamps included, in value and in gradient, to rounding.
(Where numbers overflow or underflow the two sides may differ, and where three arguments of min or max tie at a kink
both give a subgradient, but another one.) So √x² is not |x|, log x² not 2·log x, x/x not 1, and t/(−p) not −t/p: a
clamped divisor of zero counts as positive.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from fractions import Fraction
from functools import reduce

from lossmith.losses.algebra import ONE, Algebra, NoNormalFormError, Order, guarded_base, reciprocal_of
from lossmith.losses.expression import Apply, Node, Number, Symbol
from lossmith.losses.inputs import PROTECTION
from lossmith.losses.primitives import PRIMITIVES
from lossmith.losses.sums import Sum, constant, exact, magnitude, number, plus, scale

_RESIDUAL: Sum = {((Symbol("p"), 1),): 1, ((Symbol("t"), 1),): -1}
_ABOVE_ZERO = (Symbol("n"), Symbol("prior"))  # inputs that are above 0 under every head
_OPPOSITE = {"min": "max", "max": "min"}


class Rules(Algebra):
    """The sum of every node, from the sums of its arguments."""

    def __init__(self) -> None:
        super().__init__()
        self._extrema: dict[Node, list[Sum]] = {}  # min or max → what it is taken over

    def leaf(self, node: Node) -> Sum:
        if isinstance(node, Number):
            return number(node.value)
        return _RESIDUAL if node == Symbol("r") else {((node, 1),): 1}

    def apply(self, node: Apply, args: tuple[Sum, ...]) -> Sum:
        """The sum of `node` with its arguments given as sums."""
        a, b = args[0], args[-1]
        match node.op:
            case "add":
                return plus(a, b)
            case "sub":
                return plus(a, b, -1)
            case "neg":
                return scale(a, -1)
            case "mul":
                return self.times((a, b))
            case "square":
                return self.power(a, 2)
            case "div":
                return self.times((a, self._reciprocal(b)))
            case "aq":
                return self.times((a, self._inverse_root(b)))
            case "pow":
                return self._pow(a, node.args[1], b)
            case "abs":
                return self._abs(a)
            case "sign":
                return self._sign(a)
            case "tanh":
                below = self.negative(a)
                return scale(self._function("tanh", (scale(a, -1) if below else a,)), -1 if below else 1)
            case "log" | "protected_log":
                return self._function("protected_log", (self.unsigned(a),))  # what lowering left of log is clamped
            case "sqrt":
                return self._function("sqrt", (self.unsigned(a),))
            case "min" | "max":
                return self._extremum(node.op, args)
        return self._function(node.op, args)

    def _function(self, op: str, args: Sequence[Sum]) -> Sum:
        """A function as an atom, or as a number where it is one."""
        trees = [self.tree(arg) for arg in args]
        if PRIMITIVES[op].commutative:
            trees.sort(key=lambda tree: (isinstance(tree, Number), self.order(tree)))
        numbers = [tree.value for tree in trees if isinstance(tree, Number)]
        if len(numbers) == len(trees):
            value = PRIMITIVES[op].function(*numbers)
            if isinstance(value, float) and math.isfinite(value):
                return number(value)
        return {((Apply(op, tuple(trees)), 1),): 1}

    def _reciprocal(self, b: Sum) -> Sum:
        value = constant(b)
        if value is None:
            return {((self.reciprocal(b), 1),): 1}
        protected = math.copysign(PROTECTION, value + 0.0) if abs(value) < PROTECTION else value
        return {(): Fraction(1) / exact(protected)}

    def _inverse_root(self, b: Sum) -> Sum:
        b = self.unsigned(b)
        value = constant(b)
        if value is None:
            return {((Apply("aq", (ONE, self.tree(b))), 1),): 1}
        return number(1.0 / math.sqrt(1.0 + value * value))

    def _pow(self, base: Sum, exponent: Node, as_sum: Sum) -> Sum:
        if not isinstance(exponent, Number):
            if constant(as_sum) is not None:  # pow(x, t - t + 2) is clamped, x^2 is not
                raise NoNormalFormError("an exponent that is a number in disguise")
            return {((Apply("pow", (self.tree(base), self.tree(as_sum))), 1),): 1}
        k = exponent.value
        if k.is_integer():
            return self.power(base, int(k)) if k >= 0 else self._reciprocal(self.power(base, -int(k)))
        if k == 0.5:
            return self._function("sqrt", (self.unsigned(base),))
        tree = guarded_base(self.tree(self.unsigned(base)), k)
        value = PRIMITIVES["pow"].function(tree.value, k) if isinstance(tree, Number) else None
        if isinstance(value, float) and math.isfinite(value):
            return number(value)
        return {((Apply("pow", (tree, exponent)), 1),): 1}

    def _abs(self, a: Sum) -> Sum:
        if not a:
            return a
        c, product = self.factors(a)
        parts: list[Sum] = [{(): magnitude(c)}]
        for atom, k in product:
            parts.append({((atom, k - k % 2),): 1} if k > 1 else {(): 1})
            if k % 2:
                parts.append(self._abs_atom(atom))
        return self.times(parts)

    def _abs_atom(self, atom: Node) -> Sum:
        divisor = reciprocal_of(atom)
        if self._not_negative_atom(atom):
            return self.product(1, {atom: 1})
        if divisor is not None:
            return self._reciprocal(self._abs(self.sums[divisor]))
        if isinstance(atom, Apply) and atom.op == "sign":
            return {((atom, 2),): 1}
        return {((Apply("abs", (atom,)), 1),): 1}

    def _sign(self, a: Sum) -> Sum:
        if not a:
            return a
        if self.negative(a):
            return scale(self._sign(scale(a, -1)), -1)
        if self._positive(a):
            return {(): 1}
        _, product = self.factors(a)
        inside = self.product(1, dict(product))
        if len(product) == 1 and product[0][1] == 1 and isinstance(atom := product[0][0], Apply):
            if atom.op == "tanh":
                return self._sign(self.sums[atom.args[0]])
            if atom.op == "sign":
                return inside
        return self._function("sign", (inside,))

    def _extremum(self, op: str, args: tuple[Sum, ...]) -> Sum:
        """min or max over all that nested ones are taken over; the leading coefficient of the first is above 0."""
        items: dict[Node, Sum] = {}
        numbers: list[float] = []
        for arg in args:
            for item in self._flattened(op, arg):
                value = constant(item)
                if value is None:
                    items.setdefault(self.tree(item), item)
                else:
                    numbers.append(value)
        while pair := next((x for x in items.values() if self.tree(scale(x, -1)) in items), None):  # max(x, -x) is |x|
            del items[self.tree(pair)], items[self.tree(scale(pair, -1))]
            size = scale(self._abs(pair), 1 if op == "max" else -1)
            items.setdefault(self.tree(size), size)
        if numbers:
            items[Number(1.0)] = number(min(numbers) if op == "min" else max(numbers))
        if len(items) == 1:
            return next(iter(items.values()))
        ordered = sorted(items.values(), key=self._extremum_order)
        sign = 1
        if self.negative(ordered[0]):
            op, ordered, sign = _OPPOSITE[op], [scale(item, -1) for item in ordered], -1
        atom = reduce(lambda a, b: Apply(op, (a, b)), map(self.tree, ordered))
        self._extrema[atom] = ordered
        return {((atom, 1),): sign}

    def _extremum_order(self, a: Sum) -> tuple[bool, Order]:
        """Numbers last; the same for a sum and its negative."""
        return constant(a) is not None, self.order(self.tree(scale(a, -1) if self.negative(a) else a))

    def _flattened(self, op: str, a: Sum) -> list[Sum]:
        if len(a) == 1:
            ((product, c),) = a.items()
            if len(product) == 1 and product[0][1] == 1 and abs(c) == 1:
                atom = product[0][0]
                if isinstance(atom, Apply) and atom.op == (op if c > 0 else _OPPOSITE[op]):
                    return [scale(item, c) for item in self._extrema[atom]]
        return [a]

    def _not_negative(self, a: Sum) -> bool:
        return all(
            c > 0 and all(k % 2 == 0 or self._not_negative_atom(x) for x, k in product) for product, c in a.items()
        )

    def _not_negative_atom(self, atom: Node) -> bool:
        if not isinstance(atom, Apply):
            return atom in _ABOVE_ZERO
        if atom.op in ("abs", "sqrt", "exp", "aq"):
            return True
        if atom.op == "pow":
            return isinstance(atom.args[1], Number)  # a broken power
        if atom.op in ("add", "sub", "div"):
            return self._not_negative(self.sums[atom.args[1] if atom.op == "div" else atom])
        if atom.op in _OPPOSITE:
            return (all if atom.op == "min" else any)(map(self._not_negative, self._extrema[atom]))
        return False

    def _positive(self, a: Sum) -> bool:
        """Whether a sum is above 0 by more than rounding can take away."""
        if not self._not_negative(a):
            return False
        return any(
            not product or (len(product) == 1 and product[0][1] == 1 and self._positive_atom(product[0][0]))
            for product in a
        )

    def _positive_atom(self, atom: Node) -> bool:
        return atom in _ABOVE_ZERO or (isinstance(atom, Apply) and atom.op == "sqrt")
