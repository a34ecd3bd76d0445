"""Genomes of one or several Taylor losses, their conversions, and the expansion of other losses (ALGORITHMS §2, §3)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import factorial, prod

import numpy as np
import torch
from torch import Tensor

from lossmith.errors import LossError
from lossmith.losses.aggregation import Pointwise
from lossmith.losses.family import Kernel
from lossmith.losses.inputs import inputs_from_prediction
from lossmith.losses.loss import Loss
from lossmith.losses.taylor import Taylor, checked_shape, genome_size, kept_terms

Genome = tuple[float, ...]

# What an expansion in (t, p) can hold; "p_t" stands for p where it is only used at the target.
_EXPANDABLE = frozenset({"t", "p", "r", "p_t", "n", "log_p", "log_1mp", "inv_p", "log_p_t"})


@dataclass(frozen=True)
class TaylorFamily:
    """Every Taylor loss of one order and one set of variables, `losses` of them side by side in one genome.

    Args:
        order: k >= 1. variables: see `Taylor`.
        losses: losses per genome (auxiliary heads; the second loss of a mixed label).

    Example:
        >>> TaylorFamily().names
        ('θ2', 'θ3', 'θ4', 'θ5', 'θ6', 'θ7', 'θ0', 'θ1')
        >>> TaylorFamily(order=2, variables=("target", "prediction", "logits")).size
        10
    """

    order: int = 3
    variables: tuple[str, ...] = ("target", "prediction")
    losses: int = 1

    def __post_init__(self) -> None:
        _, variables = checked_shape(self.order, self.variables)
        if isinstance(self.losses, bool) or not isinstance(self.losses, int) or self.losses < 1:
            raise LossError(f"taylor losses = {self.losses!r}: the number of losses is a whole number >= 1.")
        object.__setattr__(self, "variables", variables)

    @property
    def size(self) -> int:
        """Length of a genome."""
        return self.losses * genome_size(self.order, self.variables)

    @property
    def names(self) -> tuple[str, ...]:
        """θ labels in genome order: centres are θ0, θ1, …; coefficients go on counting."""
        count, centres = len(kept_terms(self.order, self.variables)), len(self.variables)
        one = [f"θ{centres + i}" for i in range(count)] + [f"θ{i}" for i in range(centres)]
        return tuple(one if self.losses == 1 else [f"{n}[{i}]" for i in range(self.losses) for n in one])

    def decode(self, genome: Sequence[float]) -> tuple[Taylor, ...]:
        """The losses of a genome [size]; LossError says which length was expected."""
        return tuple(Taylor(part, self.order, self.variables) for part in self._parts(genome))

    def encode(self, kernels: Sequence[Taylor]) -> Genome:
        """The inverse of `decode`."""
        for kernel in kernels:
            if (kernel.order, kernel.variables) != (self.order, self.variables):
                raise LossError(
                    f"a taylor loss of order {kernel.order} in ({', '.join(kernel.variables)}) is no member of the "
                    f"family of order {self.order} in ({', '.join(self.variables)}): use expand."
                )
        return self._checked([g for kernel in kernels for g in kernel.genome])

    def sample(self, rng: np.random.Generator, sigma: float = 1.2) -> Genome:
        """A random genome from N(0, σ²)."""
        return tuple((sigma * rng.standard_normal(self.size)).tolist())

    def to_paper_form(self, genome: Sequence[float]) -> Genome:
        """Stored form → the paper's θ, which Taylor's formula divides by α! (product of the exponents' factorials)."""
        return self._rescaled(genome, [float(a) for a in self._factorials()])

    def from_paper_form(self, genome: Sequence[float]) -> Genome:
        """The inverse of `to_paper_form`."""
        return self._rescaled(genome, [1.0 / a for a in self._factorials()])

    def label_smoothing(self, genome: Sequence[float], alpha: float, classes: int) -> Genome:
        """The genome whose loss on hard targets is this one's on targets smoothed to (1−α)t + α/n (ALGORITHMS §3).

        Raises:
            LossError: α outside [0, 1), or a residual variable, which mixes target and prediction.
        """
        if not 0.0 <= alpha < 1.0:
            raise LossError(f"label smoothing {alpha!r}: a number in [0, 1) was expected.")
        if "residual" in self.variables and alpha:
            raise LossError("a smoothed loss in the residual is no loss in the residual: use target and prediction.")
        if "target" not in self.variables:
            return self._checked(genome)
        place, terms = self.variables.index("target"), kept_terms(self.order, self.variables)
        smoothed: list[float] = []
        for part in self._parts(genome):
            smoothed += [c * (1 - alpha) ** e[place] for c, e in zip(part, terms, strict=False)]
            centres = list(part[len(terms) :])
            centres[place] = (centres[place] - alpha / classes) / (1 - alpha)
            smoothed += centres
        return tuple(smoothed)

    def expand(self, loss: Kernel | Loss, centre: float = 0.5, *, classes: int | None = None) -> Taylor:
        """The Taylor expansion of a pointwise loss about t = p = `centre`, in float64.

        A loss of this family (or of a lower order) is taken over exactly, centres included; further variables get
        coefficients 0. A `Loss` brings its label smoothing along; head, outputs and reduction stay with the caller.

        Args:
            classes: number of outputs, for losses that depend on it (label smoothing, input n).

        Raises:
            LossError: the loss has no such expansion here, with the reason.
        """
        kernel, smoothing = loss, 0.0
        if isinstance(loss, Loss):
            if not isinstance(loss.aggregation, Pointwise):
                raise LossError(f"{loss} is a {loss.aggregation.kind} loss: only pointwise losses can be expanded.")
            kernel, smoothing = loss.kernel, loss.smoothing
            classes = 2 if loss.head == "sigmoid" else classes
        assert isinstance(kernel, Kernel)
        genome = self._taken_over(kernel) or self._expanded(kernel, centre, classes)
        if smoothing:
            if classes is None:
                raise LossError("the expansion of a loss with label smoothing needs the number of classes: classes=….")
            genome = TaylorFamily(self.order, self.variables).label_smoothing(genome, smoothing, classes)
        return Taylor(genome, self.order, self.variables)

    def _taken_over(self, kernel: Kernel) -> Genome | None:
        if not (isinstance(kernel, Taylor) and kernel.variables == self.variables and kernel.order <= self.order):
            return None
        known = dict(zip(kernel.terms, kernel.coefficients, strict=True))
        return (*(known.get(e, 0.0) for e in kept_terms(self.order, self.variables)), *kernel.centres)

    def _expanded(self, kernel: Kernel, centre: float, classes: int | None) -> Genome:
        if not {"target", "prediction"} <= set(self.variables):
            raise LossError(
                f"{kernel} cannot be expanded in ({', '.join(self.variables)}): target and prediction are needed."
            )
        if kernel.reads - _EXPANDABLE:
            raise LossError(
                f"{kernel} cannot be expanded in target and prediction: it also reads "
                f"{', '.join(sorted(kernel.reads - _EXPANDABLE))}."
            )
        if "n" in kernel.reads and classes is None:
            raise LossError(f"{kernel} depends on the number of classes: pass classes=….")
        f = _Maximised(kernel, classes)
        derivatives = _derivatives(f, centre, self.order)
        t_place, p_place = self.variables.index("target"), self.variables.index("prediction")
        genome = []
        for e in kept_terms(self.order, self.variables):
            a, b = e[t_place], e[p_place]
            genome.append(derivatives[a, b] / (factorial(a) * factorial(b)) if a + b == sum(e) else 0.0)
        genome += [centre if name in ("target", "prediction") else 0.0 for name in self.variables]
        if not np.isfinite(genome).all():
            raise LossError(f"{kernel} cannot be expanded about t = p = {centre}: a derivative there is not finite.")
        _check_smooth(f, derivatives, centre, self.order)
        return tuple(genome)

    def _factorials(self) -> list[int]:
        return [prod(map(factorial, e)) for e in kept_terms(self.order, self.variables)]

    def _rescaled(self, genome: Sequence[float], factors: list[float]) -> Genome:
        full = [*factors, *[1.0] * len(self.variables)] * self.losses
        return tuple(g * factor for g, factor in zip(self._checked(genome), full, strict=True))

    def _parts(self, genome: Sequence[float]) -> list[Genome]:
        numbers, one = self._checked(genome), self.size // self.losses
        return [numbers[i : i + one] for i in range(0, self.size, one)]

    def _checked(self, genome: Sequence[float]) -> Genome:
        if len(genome) != self.size:
            raise LossError(
                f"the genome has {len(genome)} numbers; {self.losses} taylor loss(es) of order {self.order} in "
                f"({', '.join(self.variables)}) take {self.size}."
            )
        return tuple(float(g) for g in genome)


class _Maximised:
    """f = −ℓ as a function of scalar tensors t and p."""

    def __init__(self, kernel: Kernel, classes: int | None) -> None:
        self.kernel, self.classes = kernel, classes

    def __call__(self, t: Tensor, p: Tensor, p_target: Tensor | None = None) -> Tensor:
        x = inputs_from_prediction(self.kernel.reads, p.reshape(1, 1), t.reshape(1, 1))
        if "n" in x:
            x["n"] = float(self.classes or 0)
        of_target = (p if p_target is None else p_target).reshape(1, 1)
        x |= {name: value for name, value in (("p_t", of_target), ("log_p_t", of_target.log())) if name in x}
        return -self.kernel.value(x).sum()


def _scalar(value: float) -> Tensor:
    return torch.tensor(value, dtype=torch.float64)


def _derivatives(f: _Maximised, centre: float, order: int) -> dict[tuple[int, int], float]:
    """∂^{a+b} f / ∂t^a ∂p^b at t = p = centre, for a + b ≤ order."""
    t, p = _scalar(centre).requires_grad_(), _scalar(centre).requires_grad_()
    result: dict[tuple[int, int], float] = {}
    along_t = f(t, p)
    for a in range(order + 1):
        along_p = along_t
        for b in range(order + 1 - a):
            result[a, b] = float(along_p.detach())
            along_p = _derivative(along_p, p)
        along_t = _derivative(along_t, t)
    return result


def _derivative(y: Tensor, x: Tensor) -> Tensor:
    if not y.requires_grad:
        return torch.zeros_like(x)
    (slope,) = torch.autograd.grad(y, x, create_graph=True, allow_unused=True)
    return torch.zeros_like(x) if slope is None else slope


def _check_smooth(f: _Maximised, derivatives: dict[tuple[int, int], float], centre: float, order: int) -> None:
    """Autograd differentiates past a kink without a word; the polynomial then misses the loss beside the centre."""

    def rise(h: float, dt: int, dp: int) -> float:
        t = _scalar(centre + h * dt)
        return float(f(t, _scalar(centre + h * dp)) - f(t, _scalar(centre)))

    near, far, directions = 1e-4, 0.1, ((0, 1), (0, -1), (1, 1), (-1, 1))
    slope = max(abs(rise(far, *direction)) for direction in directions) / far
    for dt, dp in directions:
        polynomial = sum(
            value / (factorial(a) * factorial(b)) * (near * dt) ** a * (near * dp) ** b
            for (a, b), value in derivatives.items()
            if b
        )
        if not abs(rise(near, dt, dp) - polynomial) <= 1e-2 * near * slope:
            raise LossError(f"{f.kernel} has a kink at t = p = {centre}: it has no expansion of order {order} there.")
    if f.kernel.reads & {"p_t", "log_p_t"}:
        off_target = [float(f(_scalar(0.0), _scalar(centre), _scalar(q))) for q in (0.2, 0.7)]
        if off_target[0] != off_target[1]:
            raise LossError(f"{f.kernel} reads p_t at outputs other than the target: no loss in t and p can do that.")
