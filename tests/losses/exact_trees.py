"""Expressions in 50-digit arithmetic with their derivative in p: a second road beside torch.

Written from the definitions of ALGORITHMS §0, §1 and §4. Where rounding could decide on which side of a jump a value
falls, 50 digits cannot settle it either; `Exact` therefore computes with a threshold below which a difference counts
as cancelled, and a result is only trusted where two thresholds agree (`settled`).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from mpmath import mp, mpf

from lossmith.losses.expression import Node, Number, Symbol, fold
from lossmith.losses.lowering import lower

CLAMP = mpf(1e-7)


class Dual(NamedTuple):
    value: mpf
    slope: mpf  # d/dp


def inputs(p: float, t: float) -> dict[str, Dual]:
    """The inputs of one output with prediction p > 0 and target t."""
    x = mpf(p)
    return {
        "p": Dual(x, mpf(1)),
        "t": Dual(mpf(t), mpf(0)),
        "n": Dual(mpf(10), mpf(0)),
        "log_p": Dual(mp.log(x), 1 / x),
        "log_1mp": Dual(mp.log(1 - x), -1 / (1 - x)),
        "inv_p": Dual(1 / x, -1 / x**2),
        "r": Dual(x - mpf(t), mpf(1)),
        "z": Dual(mpf("-1.25"), mpf("0.5")),
    }


class Exact:
    """Value and slope of an expression, as `Tree` would compute them without rounding."""

    def __init__(self, cancelled: float) -> None:
        self.cancelled = mpf(cancelled)
        self.largest = mpf(1)

    def __call__(self, root: Node, x: Mapping[str, Dual]) -> Dual:
        def visit(node: Node, args: tuple[Dual, ...]) -> Dual:
            if isinstance(node, Number):
                return Dual(mpf(node.value), mpf(0))
            if isinstance(node, Symbol):
                return x[node.name]
            found = self.apply(node.op, args, node.args)
            self.largest = max(self.largest, abs(found.value), abs(found.slope))
            return found

        return fold(lower(root), visit)

    def side(self, u: mpf) -> mpf:
        """The sign of a number, 0 where it is as good as 0."""
        return mpf(0) if abs(u) < self.cancelled else mp.sign(u)

    def plus(self, a: mpf, b: mpf) -> mpf:
        total = a + b
        return mpf(0) if abs(total) < self.cancelled * max(abs(a), abs(b)) else total

    def apply(self, op: str, args: tuple[Dual, ...], nodes: tuple[Node, ...]) -> Dual:
        (u, du), (v, dv) = args[0], args[-1]
        match op:
            case "add":
                return Dual(self.plus(u, v), self.plus(du, dv))
            case "sub":
                return Dual(self.plus(u, -v), self.plus(du, -dv))
            case "mul":
                return Dual(u * v, self.plus(du * v, u * dv))
            case "neg":
                return Dual(-u, -du)
            case "square":
                return Dual(u * u, 2 * u * du)
            case "div":
                if abs(v) < CLAMP:
                    edge = -CLAMP if self.side(v) < 0 else CLAMP
                    return Dual(u / edge, du / edge)
                return Dual(u / v, self.plus(du / v, -u * dv / v**2))
            case "aq":
                root = mp.sqrt(1 + v * v)
                return Dual(u / root, self.plus(du / root, -u * v * dv / root**3))
            case "tanh":
                return Dual(mp.tanh(u), du * mp.sech(u) ** 2)
            case "sign":
                return Dual(self.side(u), mpf(0))
            case "abs":
                return Dual(abs(u), self.side(u) * du)
            case "exp":
                return Dual(mp.exp(u), mp.exp(u) * du) if u < 700 else Dual(mp.inf, mp.inf)
            case "log" | "protected_log" | "sqrt":
                size, slope = self.clamped(u, du)
                if op == "sqrt":
                    return Dual(mp.sqrt(size), slope / (2 * mp.sqrt(size)))
                return Dual(mp.log(size), slope / size)
            case "pow":
                exponent = nodes[1]
                assert isinstance(exponent, Number), "not needed here"
                k = exponent.value
                if k.is_integer() and k >= 0:
                    return Dual(u ** int(k), k * u ** (int(k) - 1) * du if k else mpf(0))
                if k.is_integer():
                    below = self.apply("pow", args, (nodes[0], Number(-k)))
                    return self.apply("div", (Dual(mpf(1), mpf(0)), below), nodes)
                size, slope = self.clamped(u, du)
                return Dual(size ** mpf(k), mpf(k) * size ** (mpf(k) - 1) * slope)
            case "min" | "max":
                if not self.plus(u, -v):
                    return Dual(u, (du + dv) / 2)
                return min(args, key=lambda d: d.value) if op == "min" else max(args, key=lambda d: d.value)
        raise NotImplementedError(op)

    def clamped(self, u: mpf, du: mpf) -> tuple[mpf, mpf]:
        return (abs(u), self.side(u) * du) if abs(u) >= CLAMP else (CLAMP, mpf(0))


def settled(root: Node, x: Mapping[str, Dual]) -> tuple[Dual, mpf] | None:
    """Value and slope, and the largest number on the way; None where they hang on rounding."""
    fine, coarse = Exact(1e-40), Exact(1e-11)
    a, b = fine(root, x), coarse(root, x)
    scale = max(fine.largest, coarse.largest)
    if not scale < 1e300 or max(abs(a.value - b.value), abs(a.slope - b.slope)) > 1e-9 * scale:
        return None
    return a, scale


def agree(one: Node, other: Node, x: Mapping[str, Dual], rtol: float = 1e-9) -> bool | None:
    """Whether two expressions have the same value and slope, relative to the largest number on the way; None: open."""
    with mp.workdps(50):
        first, second = settled(one, x), settled(other, x)
        if first is None or second is None:
            return None
        scale = rtol * max(first[1], second[1])
        return max(abs(first[0].value - second[0].value), abs(first[0].slope - second[0].slope)) <= scale
