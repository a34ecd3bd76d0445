"""Which compiled program can stand in for autograd: the interpreter of expressions, or that of network losses."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from typing import TypeAlias

from lossmith.losses.family import Kernel
from lossmith.losses.interpreter import Population, supported
from lossmith.losses.network_program import NetworkPopulation, architecture

Program: TypeAlias = Population | NetworkPopulation


def program_kind(kernel: Kernel, *, tunable: bool = False) -> Hashable:
    """What kernels that one program can serve have in common; None where only autograd can compute a kernel.

    Args:
        tunable: with φ as parameters.
    """
    layers = architecture(kernel)
    if layers is not None:
        return layers
    return "expressions" if supported(kernel, tunable=tunable) else None


def program_of(kernels: Sequence[Kernel], *, tunable: bool = False) -> Program:
    """Kernels of one `program_kind` as one program.

    Raises:
        LossError: kernels that have none in common.
    """
    if architecture(kernels[0]) is not None:
        return NetworkPopulation.of(kernels)
    return Population.of(kernels, tunable=tunable)
