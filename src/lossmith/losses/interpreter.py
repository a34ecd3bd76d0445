"""A population of elementwise losses on the CPU: values, slopes and their derivatives by φ, all in one compiled call.

The second road to the numbers of `Kernel.value` and its autograd, an order of magnitude faster for expression trees:
arrays of instructions (`losses.flattening`) run by a numba kernel (`losses.interpreter_kernel`).

Derivatives are taken forward, along tangents ẋ that the caller gives: slope = Σ_i ∂ℓ/∂x_i · ẋ_i.

    >>> import numpy as np
    >>> from lossmith.losses import Tree
    >>> from lossmith.losses.parser import parse
    >>> population = Population.of((Tree(parse("p^2")), Tree(parse("3*p"))))
    >>> p = np.array([[0.5, 2.0]])  # one input, two elements; its tangent is 1 everywhere
    >>> values, slopes = population.values_and_slopes(p, np.ones_like(p))
    >>> slopes.tolist()
    [[1.0, 4.0], [3.0, 3.0]]
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise
from typing import Any, TypeAlias

import numpy as np

from lossmith.errors import LossError
from lossmith.losses import interpreter_kernel as machine
from lossmith.losses.family import Kernel
from lossmith.losses.flattening import MOVING, RESTING, SCALARS, Flat, flatten

Array: TypeAlias = np.ndarray[Any, np.dtype[Any]]


@dataclass(frozen=True, eq=False)
class Population:
    """P programs, ready to run.

    Attributes:
        reads: names of the elementwise inputs, in the order of the rows of x; those with a tangent come first.
        moving: how many of them have a tangent.
        scalars: names of the inputs that are read and are one number.
        sizes: number of loss parameters of each program.
        phi: their values where they were given as numbers, [K of all programs]; replaced by the argument `phi`.
        programs, code, leaves, constants: what `interpreter_kernel.run` takes.
    """

    reads: tuple[str, ...]
    moving: int
    scalars: frozenset[str]
    sizes: tuple[int, ...]
    phi: Array
    programs: Array
    code: Array
    leaves: Array
    constants: Array

    @classmethod
    def of(cls, kernels: Sequence[Kernel], *, tunable: bool = False) -> Population:
        """The kernels as programs.

        Args:
            kernels: each must be `supported`.
            tunable: keep φ as parameters, for `phi` and `mixed`.

        Raises:
            LossError: a kernel that only autograd can compute.
        """
        return _population(tuple(kernels), tunable)

    def __len__(self) -> int:
        return len(self.programs)

    def values(self, x: Array, scalars: tuple[float, float] = (0.0, 0.0), *, phi: Array | None = None) -> Array:
        """ℓ of every program, [P, M].

        Args:
            x: inputs [I, M], or [P, I, M] for each program its own; float32 or float64, in which ℓ is computed.
            scalars: (n, τ). phi: parameters of all programs one after the other.
        """
        moving, resting = self._parted(x)
        values = np.empty((len(self), moving.shape[2]), x.dtype)
        self.run(moving, resting, moving, self._own, values, values[:, :0], scalars, phi)
        return values

    def values_and_slopes(
        self, x: Array, dx: Array, scalars: tuple[float, float] = (0.0, 0.0), *, phi: Array | None = None
    ) -> tuple[Array, Array]:
        """ℓ and its slopes along the tangents, each [P, M].

        Args:
            x, scalars, phi: as for `values`.
            dx: tangents of the first `moving` inputs, [J, M] or [P, J, M].
        """
        (moving, resting), dx = self._parted(x), self._checked(dx, self.moving, x)
        values, slopes = np.empty((2, len(self), x.shape[-1]), x.dtype)
        self.run(moving, resting, dx, self._own, values, slopes, scalars, phi)
        return values, slopes

    def mixed(
        self, x: Array, dx: Array, weight: Array, scalars: tuple[float, float] = (0.0, 0.0), *, phi: Array | None = None
    ) -> list[Array]:
        """∂/∂φ Σ_m weight_m · slope_m, one array [K] per program.

        Args:
            x, dx, scalars, phi: as for `values_and_slopes`.
            weight: [M] or [P, M].

        Raises:
            LossError: arrays whose shapes do not fit the programs or one another.
        """
        (moving, resting), dx = self._parted(x), self._checked(dx, self.moving, x)
        weight = self._checked(np.atleast_2d(weight)[:, None], 1, x)[:, 0]
        return self.run_mixed(moving, resting, dx, self._own, weight, scalars, phi)

    @property
    def _own(self) -> Array:
        return np.arange(self.moving)

    def run(
        self,
        x: Array,
        rest: Array,
        dx: Array,
        along: Array,
        values: Array,
        slopes: Array,
        scalars: tuple[float, float],
        phi: Array | None,
    ) -> None:
        """ℓ and its slopes, written to `values` and `slopes` [P, M] (no slopes where that is [P, 0]).

        Args:
            x, rest, dx, along: as `interpreter_kernel.run` takes them, unchecked; contiguous, of one type.
            scalars, phi: as for `values`.
        """
        arrays = (self.programs, self.code, self.leaves, self.constants, scalars)
        machine.run(*arrays, self._phi(phi), x, rest, dx, along, values, slopes)

    def run_mixed(
        self,
        x: Array,
        rest: Array,
        dx: Array,
        along: Array,
        weight: Array,
        scalars: tuple[float, float],
        phi: Array | None,
    ) -> list[Array]:
        """`mixed`, of arrays as for `run`; weight: [1 or P, M]."""
        phi = self._phi(phi)
        gradient = np.empty(phi.shape, x.dtype)
        arrays = (self.programs, self.code, self.leaves, self.constants, scalars)
        machine.run_mixed(*arrays, phi, x, rest, dx, along, weight, gradient)
        ends = np.cumsum((0, *self.sizes))
        return [gradient[a:b] for a, b in pairwise(ends)]

    def _parted(self, x: Array) -> tuple[Array, Array]:
        x = self._checked(x, len(self.reads))
        return np.ascontiguousarray(x[:, : self.moving]), np.ascontiguousarray(x[:, self.moving :])

    def _checked(self, x: Array, rows: int, like: Array | None = None) -> Array:
        """An array as [1 or P, rows, M], contiguous; the compiled code looks at no shapes."""
        x = x if x.ndim == 3 else x[None]
        fits = x.ndim == 3 and x.shape[0] in (1, len(self)) and x.shape[1] == rows
        if not fits or (like is not None and (x.shape[2] != like.shape[-1] or x.dtype != like.dtype)):
            wanted = f"[{len(self)} or 1, {rows}, {'M' if like is None else like.shape[-1]}]"
            raise LossError(f"the interpreter got an array {list(x.shape)} of {x.dtype}: expected {wanted}.")
        return np.ascontiguousarray(x)

    def _phi(self, phi: Array | None) -> Array:
        if phi is None:
            return self.phi
        if phi.shape != self.phi.shape:
            raise LossError(f"phi of shape {phi.shape}: these losses have {len(self.phi)} parameters in all.")
        return np.ascontiguousarray(phi, np.float64)


def supported(kernel: Kernel, *, tunable: bool = False) -> bool:
    """Whether the interpreter can compute a kernel (with its φ as parameters): trees and everything that has an
    expression, of primitives and inputs that are functions of one element alone."""
    try:
        return _flattened(kernel, tunable) is not None
    except TypeError:  # a kernel that cannot be hashed
        return False


@lru_cache(maxsize=1024)
def _flattened(kernel: Kernel, tunable: bool) -> Flat | None:
    return flatten(kernel, tunable=tunable)


@lru_cache(maxsize=64)
def _population(kernels: tuple[Kernel, ...], tunable: bool) -> Population:
    flats: list[Flat] = []
    for kernel in kernels:
        flat = _flattened(kernel, tunable)
        if flat is None:
            raise LossError(f"{kernel}: this loss is computed by autograd only.")
        flats.append(flat)
    read = frozenset().union(*(flat.reads for flat in flats))
    moving = [name for name in MOVING if name in read]
    reads = (*moving, *(name for name in RESTING if name in read))
    programs: list[tuple[int, ...]] = []
    code: list[tuple[int, ...]] = []
    leaves: list[tuple[int, int]] = []
    constants: list[float] = []
    offset = 0
    for flat in flats:
        first, start = len(leaves), len(code)
        for leaf in flat.leaves:
            constants.append(leaf if isinstance(leaf, float) else 0.0)
            leaves.append(_leaf(leaf, reads, len(moving)))
        code.extend(flat.code)
        ends = (first, len(leaves), start, start + flat.uniform, len(code))
        programs.append((*ends, flat.root, int(flat.sloped), offset))
        offset += flat.parameters
    return Population(
        reads,
        len(moving),
        read & frozenset(SCALARS),
        tuple(flat.parameters for flat in flats),
        np.array([number for kernel in kernels for number in kernel.phi] if tunable else [], np.float64),
        np.array(programs, np.int64).reshape(-1, 8),
        np.array(code, np.int64).reshape(-1, 5),
        np.array(leaves, np.int64).reshape(-1, 2),
        np.array(constants, np.float64),
    )


def _leaf(leaf: float | str | int, reads: tuple[str, ...], moving: int) -> tuple[int, int]:
    """Kind and row of a leaf."""
    if isinstance(leaf, float):
        return machine.CONSTANT, 0
    if isinstance(leaf, int):
        return machine.PARAMETER, leaf
    if leaf in SCALARS:
        return machine.SCALAR, SCALARS.index(leaf)
    place = reads.index(leaf)
    return (machine.MOVING, place) if place < moving else (machine.RESTING, place - moving)
