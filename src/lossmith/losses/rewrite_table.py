"""The rewrites of the algebraic normal form by name, each with an example; the tests verify every one numerically."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Rewrite:
    """A rewrite: `before` and `after` have one algebraic form, and one value and gradient in p, clamps included.

    With `kinks_apart`, the gradient may be another subgradient where arguments tie exactly.
    """

    name: str
    before: str
    after: str
    kinks_apart: bool = False


REWRITES: tuple[Rewrite, ...] = (
    # sums
    Rewrite("a difference is a sum", "t - (p - t)", "t + t + -p"),
    Rewrite("sums are flat and sorted", "(tanh(p) + t) + (p + 1)", "1 + (p + (tanh(p) + t))"),
    Rewrite("equal terms are collected", "p*t + tanh(p) + t*p", "2*t*p + tanh(p)"),
    Rewrite("opposite terms cancel", "tanh(p) + t - tanh(p)", "t"),
    Rewrite("zero is no term", "p + 0", "0 + p*1 - 0"),
    Rewrite("a number times a sum goes into its terms", "2*(t - p) + p", "2*t - p"),
    Rewrite("the residual is a difference", "r*tanh(p)", "(p - t)*tanh(p)"),
    # products
    Rewrite("products are flat and sorted", "(t*tanh(p))*(p*2)", "2*(p*(t*tanh(p)))"),
    Rewrite("one is no factor", "1*p*1", "p"),
    Rewrite("zero takes all", "0*tanh(p) + t*p*0", "0"),
    Rewrite("equal factors are a power", "tanh(p)*t*tanh(p)", "t*square(tanh(p))"),
    Rewrite("whole powers multiply", "square(p^3)*p", "p^7"),
    Rewrite("the power of a product", "square(2*t*p)", "4*square(t)*square(p)"),
    Rewrite("trivial powers", "tanh(p)^1 + tanh(t)^0", "tanh(p) + 1"),
    Rewrite("signs come out of a product", "(-t)*(-(-p))", "-(t*p)"),
    Rewrite("a factor is scaled to the leading coefficient 1", "(2*p - 4*t)*tanh(p)", "2*(p - 2*t)*tanh(p)"),
    Rewrite("a sum and its negative are one factor", "(p - t)*tanh(p)", "-(t - p)*tanh(p)"),
    Rewrite("the square of a difference", "square(p - t)", "square(t - p)"),
    # quotients: 1/b is an atom, because it is clamped
    Rewrite("division by a number", "tanh(p)/4", "0.25*tanh(p)"),
    Rewrite("a quotient is a product with 1/b", "t*(p/tanh(p))", "(t*p)/tanh(p)"),
    Rewrite("repeated quotients are sorted", "p/tanh(p)/t", "p/t/tanh(p)"),
    Rewrite("a sign comes out of the numerator", "(-t)/tanh(p)", "-(t/tanh(p))"),
    Rewrite("negative whole powers are quotients", "t*tanh(p)^-2", "t/tanh(p)^2"),
    Rewrite("1/b to an even power is even", "square(t/(-p + 0.5))", "square(t/(p - 0.5))"),
    Rewrite("analytic quotients are products with 1/sqrt(1 + b^2)", "aq(t*p, 2*p)*t", "t*t*aq(p, p + p)"),
    Rewrite("the analytic quotient is even in its divisor", "aq(p, t - p)", "aq(p, abs(p - t))"),
    Rewrite("the analytic quotient is odd in its numerator", "aq(-t, p)", "-aq(t, p)"),
    Rewrite("analytic quotient by a number", "aq(t*p, 0)", "t*p"),
    # functions
    Rewrite("numbers are computed", "tanh(2 - 2)*p + exp(p - p) + t", "1 + t"),
    Rewrite("abs is even", "abs(-p + 0.5)", "abs(p - 0.5)"),
    Rewrite("abs of a product", "abs(-2*tanh(p)*t)", "2*abs(t)*abs(tanh(p))"),
    Rewrite("abs of what is never negative", "abs(abs(p - 0.5) + square(t))", "abs(p - 0.5) + square(t)"),
    Rewrite("even powers of abs", "abs(p - 0.5)^3", "square(p - 0.5)*abs(p - 0.5)"),
    Rewrite("abs of a reciprocal", "abs(t/(p - 0.5))", "abs(t)/abs(p - 0.5)"),
    Rewrite("abs of a sign", "abs(sign(p - 0.5))", "square(sign(p - 0.5))"),
    Rewrite("sign is odd", "sign(0.5 - p)", "-sign(p - 0.5)"),
    Rewrite("sign of a multiple", "sign(3*p - 1.5)", "sign(p - 0.5)"),
    Rewrite("sign of a sign and of tanh", "sign(sign(p - 0.5)) + sign(tanh(p - 0.5))", "2*sign(p - 0.5)"),
    Rewrite("powers of a sign", "sign(p - 0.5)^5", "sign(p - 0.5)"),
    Rewrite("sign of what is above zero", "sign(1 + abs(p) + square(t)) - sign(-sqrt(p))", "2"),
    Rewrite("tanh is odd", "tanh(t - p)", "-tanh(p - t)"),
    Rewrite("the logarithm is even", "log(0.5 - p)", "log(abs(p - 0.5))"),
    Rewrite("what is clamped of log is the protected log", "log(t*p)", "protected_log(p*t)"),
    Rewrite("what is exact of log is an input", "log(2*p) + t/p", "0.6931471805599453 + log_p + t*inv_p"),
    Rewrite("the square root is even", "sqrt(-t*abs(p))", "sqrt(t*p)"),
    Rewrite("half a power is a square root", "(p + 0)^0.5", "sqrt(p)"),
    Rewrite("broken powers are even", "(0.5 - p)^1.5", "abs(p - 0.5)^1.5"),
    # min and max
    Rewrite("min and max are sorted", "min(p, t) + max(t, p)", "max(p, t) + min(t, p)"),
    Rewrite("min and max are flat", "min(min(p, t), 0.5)", "min(p, min(0.5, t))", kinks_apart=True),
    Rewrite("min of equals", "min(p, min(t, p))", "min(t, p)", kinks_apart=True),
    Rewrite("min of numbers", "min(0.5, min(p, 0.25))", "min(p, 0.25)"),
    Rewrite("min of negatives is a max", "min(-p, -t)", "-max(p, t)"),
    Rewrite("max of opposites", "max(p - 0.5, 0.5 - p)", "abs(p - 0.5)"),
)
