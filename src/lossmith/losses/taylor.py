"""The Taylor loss family (ALGORITHMS §2).

Gonzalez & Miikkulainen, *Optimizing Loss Functions Through Multivariate Taylor Polynomial Parameterization*, GECCO
2021, arXiv 2002.00059. A loss is −f, where f is a polynomial of total degree ≤ k in centred input variables:

    f = Σ_e φ_e · Π_v (x_v − c_v)^{e_v}        e over the kept exponent vectors

Kept are the e in which some *prediction-like* variable (prediction, logits, residual) occurs; the others cannot
influence training. The genome is φ in multi-index order, then the centres c in variable order, with the factorials of
Taylor's formula absorbed in φ, as in the authors' code; for (target, prediction) and k = 3 it reads
[θ2, θ3, θ4, θ5, θ6, θ7, θ0, θ1].
"""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache, reduce
from typing import Any, ClassVar, TypeAlias, TypeVar

import numpy as np
from torch import Tensor

from lossmith.errors import LossError
from lossmith.losses.codec import register
from lossmith.losses.expression import Apply, Node, Number, Symbol
from lossmith.losses.family import Kernel, Setting
from lossmith.losses.identifiability import AXES, TAU, Effective, P, T, Z, effective, effective_key
from lossmith.losses.inputs import Inputs
from lossmith.losses.polynomial import Exponents, Polynomial, add_scaled, linear, multi_indices, multiply, powers
from lossmith.losses.printer import to_text

SYMBOLS = {"target": "t", "prediction": "p", "logits": "z", "residual": "r", "progress": "tau"}
PREDICTION_LIKE = frozenset({"prediction", "logits", "residual"})
_NESTING = ("prediction", "logits", "residual", "target", "progress")  # outermost first in Horner's scheme

Scalar: TypeAlias = float | Tensor
Term = TypeVar("Term")  # a Scalar, or a node
Plan: TypeAlias = "int | tuple[Plan | None, ...]"


@lru_cache(maxsize=256)
def kept_terms(order: int, variables: tuple[str, ...]) -> tuple[Exponents, ...]:
    """The exponent vectors that can influence training, in genome order.

    >>> kept_terms(3, ("target", "prediction"))
    ((0, 1), (0, 2), (0, 3), (1, 1), (1, 2), (2, 1))
    """
    like = [i for i, name in enumerate(variables) if name in PREDICTION_LIKE]
    return tuple(e for e in multi_indices(order, len(variables)) if any(e[i] for i in like))


def genome_size(order: int, variables: tuple[str, ...]) -> int:
    """Length of one loss's genome: kept coefficients plus centres."""
    return len(kept_terms(order, variables)) + len(variables)


def checked_shape(order: object, variables: object) -> tuple[int, tuple[str, ...]]:
    """Order and variables as plain values; LossError says which of them is wrong and what fits."""
    if isinstance(order, bool) or not isinstance(order, int) or order < 1:
        raise LossError(f"taylor order = {order!r}: the order is a whole number >= 1.")
    names = tuple(variables) if isinstance(variables, Iterable) and not isinstance(variables, str) else ()
    if not names or any(names.count(n) > 1 or n not in tuple(SYMBOLS) for n in names):
        raise LossError(f"taylor variables = {variables!r}: distinct names out of {', '.join(SYMBOLS)}.")
    if not PREDICTION_LIKE & set(names):
        raise LossError(f"taylor variables = {variables!r}: one of {', '.join(sorted(PREDICTION_LIKE))} is needed.")
    return order, names


@register
@dataclass(frozen=True)
class Taylor(Kernel):
    """One loss of the Taylor family.

    Args:
        genome: kept coefficients in multi-index order (factorials absorbed), then one centre per variable.
        order: k >= 1.
        variables: distinct names out of target, prediction, logits, residual, progress.

    Attributes:
        terms: exponents per variable of each coefficient, in genome order.
        plan: the order of evaluation (see `_plan`).

    Raises:
        LossError: a genome of the wrong length or with a number that is not finite; an impossible order or variable.

    Example:
        >>> print(Taylor((1.0, -1.0, 0.0, 2.0, 0.0, 0.0, 0.5, 0.5)))
        -(p - 0.5) + (p - 0.5)^2 - 2*(t - 0.5)*(p - 0.5)
    """

    family: ClassVar[str] = "taylor"
    genome: tuple[float, ...]
    order: int = 3
    variables: tuple[str, ...] = ("target", "prediction")
    terms: tuple[Exponents, ...] = field(init=False, repr=False, compare=False)
    plan: Plan = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        order, variables = checked_shape(self.order, self.variables)
        try:
            genome = tuple(float(g) + 0.0 for g in self.genome)  # minus zero becomes zero
        except (TypeError, ValueError):
            raise LossError(f"taylor genome = {self.genome!r}: a list of numbers was expected.") from None
        expected = genome_size(order, variables)
        if len(genome) != expected:
            raise LossError(
                f"taylor genome has {len(genome)} numbers; order {order} in ({', '.join(variables)}) takes {expected}: "
                f"{expected - len(variables)} coefficients, then {len(variables)} centres."
            )
        for i, number in enumerate(genome):
            if not math.isfinite(number):
                raise LossError(f"taylor genome[{i}] = {number}: every number must be finite.")
        object.__setattr__(self, "genome", genome)
        object.__setattr__(self, "variables", variables)
        # Kept here because torch.compile cannot look into the caches that make them.
        object.__setattr__(self, "terms", kept_terms(order, variables))
        object.__setattr__(self, "plan", _plan(order, variables))

    @property
    def coefficients(self) -> tuple[float, ...]:
        """Coefficients of f (maximised), in genome order."""
        return self.genome[: len(self.terms)]

    @property
    def centres(self) -> tuple[float, ...]:
        """Centres, in variable order."""
        return self.genome[len(self.terms) :]

    @property
    def reads(self) -> frozenset[str]:
        return frozenset(SYMBOLS[name] for name in self.variables)

    @property
    def phi(self) -> tuple[float, ...]:
        return self.genome

    def value(self, x: Inputs, phi: Sequence[float] | Tensor | None = None) -> Tensor:
        """ℓ = −f elementwise.

        Args:
            x: the inputs of `reads`, each broadcastable to [N, C].
            phi: another genome: K numbers, a tensor [K], or a tensor [P, K] for P losses at once.

        Returns:
            [N, C], or [P, N, C].
        """
        count = len(self.terms)
        genome: Sequence[Scalar] = self.genome if phi is None else _unpacked(phi, len(self.genome))
        inputs = dict(zip(self.variables, genome[count:], strict=True))
        names = [name for name in _NESTING if name in inputs]
        centred = [x[SYMBOLS[name]] - inputs[name] for name in names]
        value = _horner(self.plan, centred, _minimised(genome[:count]))
        assert isinstance(value, Tensor)
        return value

    def with_phi(self, phi: Sequence[float]) -> Taylor:
        return Taylor(tuple(phi), self.order, self.variables)

    def expression(self) -> Node:
        return self._expression(self.genome)

    def expression_in(self, phi: Sequence[Node]) -> Node:
        """ℓ by Horner's scheme, in the order of `value`."""
        count = len(self.terms)
        centres = dict(zip(self.variables, phi[count:], strict=True))
        names = [name for name in _NESTING if name in centres]
        centred = [Apply("sub", (Symbol(SYMBOLS[name]), centres[name])) for name in names]
        coefficients = _minimised(phi[:count], _node("neg"))
        return _horner(self.plan, centred, coefficients, _node("add"), _node("mul"))

    def __str__(self) -> str:
        return to_text(self._expression([float(f"{g:.4g}") for g in self.genome]))

    def _expression(self, genome: Sequence[float]) -> Node:
        count = len(self.terms)
        offsets = [_offset(SYMBOLS[name], c) for name, c in zip(self.variables, genome[count:], strict=True)]
        total: Node | None = None
        for exponents, c in zip(self.terms, _minimised(genome[:count]), strict=True):
            assert isinstance(c, float)
            if c == 0.0:
                continue
            used = [(offset, e) for offset, e in zip(offsets, exponents, strict=True) if e]
            factors = [offset if e == 1 else Apply("pow", (offset, Number(e))) for offset, e in used]
            if abs(c) != 1.0:
                factors.insert(0, Number(c if total is None else abs(c)))
            product: Node = reduce(lambda a, b: Apply("mul", (a, b)), factors)
            if total is None:
                total = Apply("neg", (product,)) if c == -1.0 else product
            else:
                total = Apply("sub" if c < 0 else "add", (total, product))
        return Number(0.0) if total is None else total

    def document(self) -> dict[str, Any]:
        return {"order": self.order, "variables": list(self.variables), "genome": list(self.genome)}

    @classmethod
    def from_document(cls, document: Mapping[str, Any]) -> Taylor:
        for name in ("order", "variables", "genome"):
            if name not in document:
                raise LossError(f"the taylor loss lacks the field {name!r}.")
        genome, variables = document["genome"], document["variables"]
        for name, value in (("genome", genome), ("variables", variables)):
            if not isinstance(value, list | tuple):
                raise LossError(f"taylor {name} = {value!r}: a list was expected.")
        if not all(isinstance(g, int | float) and not isinstance(g, bool) for g in genome):
            raise LossError(f"taylor genome = {genome!r}: a list of numbers was expected.")
        return cls(tuple(genome), document["order"], tuple(variables))

    def effective_coefficients(self, setting: Setting) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
        """The coefficients training can see, [M]; M and their order depend on order, variables and setting only."""
        return np.array(list(self._effective(setting).values()), dtype=np.float64)

    def key(self, setting: Setting) -> str:
        """Losses with the same effective coefficients are duplicates (ALGORITHMS §2)."""
        coefficients = self._effective(setting)
        if not all(map(math.isfinite, coefficients.values())):
            return super().key(setting)  # the expansion overflows: identical genomes only
        return effective_key(coefficients)

    def _effective(self, setting: Setting) -> Effective:
        return effective(expanded(self.genome, self.order, self.variables, setting.head), setting)


def expanded(genome: Sequence[float], order: int, variables: tuple[str, ...], head: str) -> Polynomial:
    """f multiplied out on the axes (t, p, z, τ); under the identity head the output *is* the prediction."""
    terms = kept_terms(order, variables)
    axes = {
        "target": {T: 1.0},
        "prediction": {P: 1.0},
        "logits": {P if head == "identity" else Z: 1.0},
        "residual": {P: 1.0, T: -1.0},
        "progress": {TAU: 1.0},
    }
    tables = [
        powers(linear(-centre, axes[name], AXES), order)
        for name, centre in zip(variables, genome[len(terms) :], strict=True)
    ]
    total: dict[Exponents, float] = {}
    for exponents, c in zip(terms, genome, strict=False):
        product = reduce(multiply, [table[e] for table, e in zip(tables, exponents, strict=True) if e])
        add_scaled(total, product, c)
    return total


def _minimised(coefficients: Sequence[Term], neg: Callable[[Any], Any] = operator.neg) -> list[Term]:
    return [
        neg(c) for c in coefficients
    ]  # f is maximised agreement, a loss is minimised: the one place of the minus sign


def _node(op: str) -> Callable[..., Node]:
    """An operation on nodes."""
    return lambda *args: Apply(op, args)


def _unpacked(phi: Sequence[float] | Tensor, size: int) -> list[Scalar]:
    """φ as a list along its last axis; a batch of genomes [P, K] becomes tensors [P, 1, 1], to meet inputs [N, C]."""
    length = phi.shape[-1] if isinstance(phi, Tensor) else len(phi)
    if length != size:
        raise LossError(f"phi has {length} numbers; this taylor loss has {size}.")
    if not isinstance(phi, Tensor):
        return list(phi)
    batched = phi.dim() > 1
    return [part[..., None, None] if batched else part for part in phi.unbind(-1)]


@lru_cache(maxsize=256)
def _plan(order: int, variables: tuple[str, ...]) -> Plan:
    """The terms as nested lists over exponents, for `_horner`: plan[e_1][e_2]… = index of the coefficient.

    Prediction-like variables are outermost: what is inside (polynomials in target and progress) then needs no gradient,
    and a progress that is a plain number costs no tensor operation at all.
    """
    places = [variables.index(name) for name in _NESTING if name in variables]
    return _nested([(tuple(e[i] for i in places), index) for index, e in enumerate(kept_terms(order, variables))])


def _nested(terms: list[tuple[Exponents, int]]) -> Plan:
    if not terms[0][0]:
        return terms[0][1]
    groups: list[Plan | None] = []
    for exponent in range(max(e[0] for e, _ in terms) + 1):
        inside = [(e[1:], index) for e, index in terms if e[0] == exponent]
        groups.append(_nested(inside) if inside else None)
    return tuple(groups)


def _horner(
    plan: Plan,
    centred: Sequence[Term],
    coefficients: Sequence[Term],
    add: Callable[[Term, Term], Term] = operator.add,
    mul: Callable[[Term, Term], Term] = operator.mul,
) -> Term:
    if isinstance(plan, int):
        return coefficients[plan]
    u = centred[0]
    total: Term | None = None
    for group in reversed(plan):
        if total is not None:
            total = mul(total, u)
        if group is not None:
            inside = _horner(group, centred[1:], coefficients, add, mul)
            total = inside if total is None else add(total, inside)
    assert total is not None
    return total


def _offset(symbol: str, centre: float) -> Node:
    if centre == 0.0:
        return Symbol(symbol)
    return Apply("sub" if centre > 0 else "add", (Symbol(symbol), Number(abs(centre))))
