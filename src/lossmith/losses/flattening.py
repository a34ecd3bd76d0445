"""From an expression program to the integer arrays that the interpreter runs.

Leaves come first, then one instruction per step: (opcode, which arguments have a slope, place of a, place of b, which
arguments depend on φ). What depends on numbers, φ, n and τ only is *uniform*: the same for every element, so its
instructions come first and are run once.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import TypeAlias

from lossmith.errors import LossError
from lossmith.losses import interpreter_kernel as machine
from lossmith.losses.expression import Symbol
from lossmith.losses.family import Kernel
from lossmith.losses.lowering import Program, lower
from lossmith.losses.primitives import PRIMITIVES
from lossmith.losses.tree import Tree, weight_names

MOVING = ("p", "log_p", "log_1mp", "inv_p", "r", "z")
"""Elementwise inputs that follow the output, so they have a slope."""
RESTING = ("t", "w", "prior")
"""Elementwise inputs that do not."""
SCALARS = ("n", "tau")
"""Inputs that are one number for all elements."""

OPCODES = {
    "add": machine.ADD,
    "sub": machine.SUB,
    "mul": machine.MUL,
    "div": machine.DIV,
    "neg": machine.NEG,
    "pow": machine.POW,
    "log": machine.LOG,
    "protected_log": machine.LOG,
    "sqrt": machine.SQRT,
    "exp": machine.EXP,
    "square": machine.SQUARE,
    "abs": machine.ABS,
    "sign": machine.SIGN,
    "tanh": machine.TANH,
    "min": machine.MIN,
    "max": machine.MAX,
    "aq": machine.AQ,
}
"""The built-in primitives; a registered one is known to torch only."""

Instruction: TypeAlias = tuple[int, int, int, int, int]
Leaf: TypeAlias = float | str | int  # a constant, an input's name, a parameter's place in φ


@dataclass(frozen=True)
class Flat:
    """One program: leaves, instructions (the first `uniform` of them uniform), place of the result, whether that has a
    slope, number of φ."""

    leaves: tuple[Leaf, ...]
    code: tuple[Instruction, ...]
    uniform: int
    root: int
    sloped: bool
    parameters: int

    @property
    def reads(self) -> frozenset[str]:
        """Names of the inputs that are read, scalars included."""
        return frozenset(leaf for leaf in self.leaves if isinstance(leaf, str))


def flatten(kernel: Kernel, *, tunable: bool = False) -> Flat | None:
    """A kernel as a flat program, or None where only autograd can compute it.

    Args:
        kernel: any kernel that has an expression.
        tunable: keep φ as parameters instead of numbers.
    """
    try:
        if isinstance(kernel, Tree):
            names = weight_names(len(kernel.weights))
            program = (
                kernel.program if tunable else bound(kernel.program, dict(zip(names, kernel.weights, strict=True)))
            )
            return _flat(program, names if tunable else ())
        if tunable and kernel.phi:
            names = weight_names(len(kernel.phi))
            root = kernel.expression_in([Symbol(name) for name in names])
            return _flat(Program.of(lower(root, parameters=frozenset(names))), names)
        return _flat(Program.of(lower(kernel.expression())), ())
    except LossError:
        return None


def bound(program: Program, values: Mapping[str, float]) -> Program:
    """The program with numbers for some of its symbols, and with steps on numbers done, as `Program.run` does them."""
    if not values:
        return program
    leaves: list[float | str] = [values.get(leaf, leaf) if isinstance(leaf, str) else leaf for leaf in program.leaves]
    known: dict[int, float] = {i: leaf for i, leaf in enumerate(leaves) if not isinstance(leaf, str)}
    steps: list[tuple[str, tuple[int, ...]]] = []
    kept: list[int] = []
    for place, (op, args) in enumerate(program.steps, start=len(leaves)):
        if all(arg in known for arg in args):
            value = PRIMITIVES[op].function(*(known[arg] for arg in args))
            assert isinstance(value, float)
            known[place] = value
        else:
            steps.append((op, args))
            kept.append(place)
    used = {arg for _, args in steps for arg in args}
    root = len(leaves) + len(program.steps) - 1
    inner = [i for i in range(root + 1) if i not in kept and (i in used or i == root)]
    new = {old: place for place, old in enumerate([*inner, *kept])}
    return Program(
        tuple(known.get(i, leaves[i] if i < len(leaves) else 0.0) for i in inner),
        tuple((op, tuple(new[arg] for arg in args)) for op, args in steps),
    )


@lru_cache(maxsize=1024)
def _flat(program: Program, parameters: tuple[str, ...]) -> Flat | None:
    leaves: list[Leaf] = []
    uniform: list[bool] = []
    moving: list[bool] = []
    tuned: list[bool] = []
    for leaf in program.leaves:
        known = not isinstance(leaf, str) or leaf in parameters or leaf in SCALARS
        if not known and leaf not in MOVING and leaf not in RESTING:
            return None
        leaves.append(parameters.index(leaf) if isinstance(leaf, str) and leaf in parameters else leaf)
        uniform.append(known)
        moving.append(leaf in MOVING)
        tuned.append(leaf in parameters)
    code: list[Instruction] = []
    for op, args in program.steps:
        opcode = OPCODES.get(op)
        if opcode is None:
            return None
        a, b = args[0], args[-1]
        if opcode == machine.POW and uniform[b]:
            opcode = machine.TUNED if tuned[b] else machine.WHOLE
        if opcode == machine.MUL and uniform[a] != uniform[b]:
            opcode = machine.SCALE
            a, b = (b, a) if uniform[a] else (a, b)
        act = moving[a] * machine.A + (len(args) > 1 and moving[b]) * machine.B
        pulled = tuned[a] * machine.A + (len(args) > 1 and tuned[b]) * machine.B
        code.append((opcode, act, a, b, pulled))
        uniform.append(uniform[a] and uniform[b])
        moving.append(act > 0)
        tuned.append(pulled > 0)
    count = len(leaves)
    order = sorted(range(len(code)), key=lambda s: not uniform[count + s])
    places = {count + s: count + place for place, s in enumerate(order)} | {i: i for i in range(count)}
    sorted_code = tuple((op, act, places[a], places[b], pulled) for op, act, a, b, pulled in (code[s] for s in order))
    root = places[count + len(code) - 1]
    return Flat(tuple(leaves), sorted_code, sum(uniform[count:]), root, moving[-1], len(parameters))
