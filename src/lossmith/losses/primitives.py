"""The functions a loss expression may use, as a table of values; `registration` adds to it.

Every primitive takes torch tensors or plain floats and stays finite where mathematics is not: logarithms and roots take
max(|x|, 1e-7), a quotient's denominator keeps its sign and is at least 1e-7 away from zero. Where the logarithm or the
reciprocal *of the prediction* is meant, `lowering.lower` replaces the clamp by an exact input computed from the output.

Sources: GLO's nodes (ALGORITHMS §1), EvoMAL's primitive set (ALGORITHMS §4: analytic quotient, protected log and sqrt).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

import torch
from torch import Tensor

from lossmith.losses.inputs import PROTECTION

Operand: TypeAlias = Tensor | float

ADDITIVE, MULTIPLICATIVE, PREFIX, POWER, ATOM = 10, 20, 30, 40, 100  # how tightly an operator binds; Python's order


@dataclass(frozen=True)
class Primitive:
    """One function of the table.

    Args:
        name: the function's name in text, and `Apply.op`.
        arity: number of arguments, 1 or 2.
        function: tensors or floats in, tensor or float out; elementwise; differentiable almost everywhere.
        latex: template with {0} and {1} for the arguments.
        torch: template of the same in Python source that imports only torch.
        infix: the operator sign where the text form is an operator ("+"), else None.
        precedence: how tightly the operator binds; `ATOM` for functions.
        commutative: whether the order of the arguments does not matter.
        helper: source of a function the torch template calls, or None.
        domain: in words, where the mathematical function (without its clamp) is defined; "" means everywhere. One
            that declares no domain must have finite value, first and second derivative everywhere; one that does may
            overflow outside, but must never be NaN (`primitive_check`).
        summary: one line for people.
    """

    name: str
    arity: int
    function: Callable[..., Operand]
    latex: str
    torch: str
    infix: str | None = None
    precedence: int = ATOM
    commutative: bool = False
    helper: str | None = None
    domain: str = ""
    summary: str = ""


def add(a: Operand, b: Operand) -> Operand:
    return a + b


def sub(a: Operand, b: Operand) -> Operand:
    return a - b


def mul(a: Operand, b: Operand) -> Operand:
    return a * b


def neg(a: Operand) -> Operand:
    return -a


def div(a: Operand, b: Operand) -> Operand:
    """a / b with |b| at least 1e-7 and b's sign kept; a zero counts as positive."""
    if isinstance(b, Tensor):
        edge = torch.where(b < 0, -1.0, 1.0).to(b.dtype) * PROTECTION  # ±1 first: `where` of floats is float32
        return a / torch.where(b.abs() < PROTECTION, edge, b)
    return a / (math.copysign(PROTECTION, b + 0.0) if abs(b) < PROTECTION else b)


def power(a: Operand, b: Operand) -> Operand:
    """a^b: exact for whole exponents (negative ones through `div`), else of max(|a|, 1e-7)."""
    if isinstance(b, float) and b.is_integer():
        if b < 0:
            return div(1.0, power(a, -b))
        return torch.pow(a, b) if isinstance(a, Tensor) else _float_power(a, b)
    if isinstance(a, Tensor):
        return torch.pow(a.abs().clamp(min=PROTECTION), b)
    base = max(abs(a), PROTECTION)
    return torch.pow(base, b) if isinstance(b, Tensor) else _float_power(base, b)


def log(a: Operand) -> Operand:
    """log max(|a|, 1e-7)."""
    if isinstance(a, Tensor):
        return torch.log(a.abs().clamp(min=PROTECTION))
    return math.log(max(abs(a), PROTECTION))


def sqrt(a: Operand) -> Operand:
    """√max(|a|, 1e-7)."""
    if isinstance(a, Tensor):
        return torch.sqrt(a.abs().clamp(min=PROTECTION))
    return math.sqrt(max(abs(a), PROTECTION))


def exp(a: Operand) -> Operand:
    if isinstance(a, Tensor):
        return torch.exp(a)
    return math.exp(a) if a < 709.0 else math.inf


def square(a: Operand) -> Operand:
    return a * a


def absolute(a: Operand) -> Operand:
    return a.abs() if isinstance(a, Tensor) else abs(a)


def sign(a: Operand) -> Operand:
    return torch.sign(a) if isinstance(a, Tensor) else float((a > 0) - (a < 0))


def tanh(a: Operand) -> Operand:
    return torch.tanh(a) if isinstance(a, Tensor) else math.tanh(a)


def minimum(a: Operand, b: Operand) -> Operand:
    """The smaller; a tie shares the gradient equally, so the order of the arguments cannot matter."""
    if isinstance(a, Tensor) or isinstance(b, Tensor):
        return torch.minimum(*_both(a, b))
    return min(a, b)


def maximum(a: Operand, b: Operand) -> Operand:
    """The larger; a tie shares the gradient equally, so the order of the arguments cannot matter."""
    if isinstance(a, Tensor) or isinstance(b, Tensor):
        return torch.maximum(*_both(a, b))
    return max(a, b)


def analytic_quotient(a: Operand, b: Operand) -> Operand:
    """a / √(1 + b²): a quotient without a pole (EvoMAL)."""
    root = torch.sqrt(1 + b * b) if isinstance(b, Tensor) else math.sqrt(1 + b * b)
    return a / root


def _float_power(a: float, b: float) -> float:
    try:
        return float(a**b)
    except OverflowError:  # tensors overflow to infinity; plain floats raise
        return -math.inf if a < 0 and b % 2 else math.inf


def _both(a: Operand, b: Operand) -> tuple[Tensor, Tensor]:
    if not isinstance(a, Tensor):
        assert isinstance(b, Tensor)
        return torch.full_like(b, a), b
    return a, b if isinstance(b, Tensor) else torch.full_like(a, b)


_DIV = """\
def _div(a, b):
    b = torch.as_tensor(b)
    edge = torch.where(b < 0, -1.0, 1.0).to(b.dtype) * 1e-7
    return a / torch.where(b.abs() < 1e-7, edge, b)
"""
_LOG = """\
def _log(a):
    return torch.log(a.abs().clamp(min=1e-7))
"""
_SQRT = """\
def _sqrt(a):
    return torch.sqrt(a.abs().clamp(min=1e-7))
"""
_POW = """\
def _pow(a, b):
    base = torch.as_tensor(a, dtype=torch.float64 if isinstance(a, float) else None).abs().clamp(min=1e-7)
    return torch.pow(base, b)
"""
_AQ = """\
def _aq(a, b):
    return a / torch.sqrt(1 + torch.as_tensor(b) ** 2)
"""

PRIMITIVES: dict[str, Primitive] = {
    primitive.name: primitive
    for primitive in (
        Primitive("add", 2, add, "{0} + {1}", "{0} + {1}", "+", ADDITIVE, True, summary="sum"),
        Primitive("sub", 2, sub, "{0} - {1}", "{0} - {1}", "-", ADDITIVE, summary="difference"),
        Primitive("mul", 2, mul, r"{0} \, {1}", "{0} * {1}", "*", MULTIPLICATIVE, True, summary="product"),
        Primitive(
            "div",
            2,
            div,
            r"\frac{{{0}}}{{{1}}}",
            "_div({0}, {1})",
            "/",
            MULTIPLICATIVE,
            helper=_DIV,
            domain="denominator ≠ 0",
            summary="quotient; the denominator keeps its sign and at least 1e-7",
        ),
        Primitive("neg", 1, neg, "-{0}", "-{0}", "-", PREFIX, summary="change of sign"),
        Primitive(
            "pow",
            2,
            power,
            "{0}^{{{1}}}",
            "_pow({0}, {1})",
            "^",
            POWER,
            helper=_POW,
            domain="base > 0 unless the exponent is a whole number >= 0",
            summary="power; of max(|x|, 1e-7) unless the exponent is a whole number",
        ),
        Primitive(
            "log",
            1,
            log,
            r"\log\left({0}\right)",
            "_log({0})",
            helper=_LOG,
            domain="x > 0",
            summary="natural logarithm; exact for p and 1 - p, elsewhere of max(|x|, 1e-7)",
        ),
        Primitive(
            "protected_log",
            1,
            log,
            r"\log\left({0}\right)",
            "_log({0})",
            helper=_LOG,
            domain="x > 0",
            summary="log max(|x|, 1e-7), for p too: EvoMAL's definition",
        ),
        Primitive(
            "sqrt",
            1,
            sqrt,
            r"\sqrt{{{0}}}",
            "_sqrt({0})",
            helper=_SQRT,
            domain="x > 0",
            summary="square root of max(|x|, 1e-7)",
        ),
        Primitive(
            "exp", 1, exp, r"\exp\left({0}\right)", "torch.exp({0})", domain="x < 88 in float32", summary="exponential"
        ),
        Primitive("square", 1, square, "{0}^{{2}}", "torch.square({0})", summary="x²"),
        Primitive("abs", 1, absolute, r"\left|{0}\right|", "torch.abs({0})", summary="absolute value"),
        Primitive("sign", 1, sign, r"\mathrm{{sign}}\left({0}\right)", "torch.sign({0})", summary="-1, 0 or 1"),
        Primitive("tanh", 1, tanh, r"\tanh\left({0}\right)", "torch.tanh({0})", summary="hyperbolic tangent"),
        Primitive(
            "min",
            2,
            minimum,
            r"\min\left({0}, {1}\right)",
            "torch.minimum({0}, {1})",
            commutative=True,
            summary="the smaller of two",
        ),
        Primitive(
            "max",
            2,
            maximum,
            r"\max\left({0}, {1}\right)",
            "torch.maximum({0}, {1})",
            commutative=True,
            summary="the larger of two",
        ),
        Primitive(
            "aq",
            2,
            analytic_quotient,
            r"\frac{{{0}}}{{\sqrt{{1 + {1}^{{2}}}}}}",
            "_aq({0}, {1})",
            helper=_AQ,
            summary="analytic quotient a / sqrt(1 + b^2)",
        ),
    )
}
