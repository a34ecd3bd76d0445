"""Primitive sets: what random trees are grown from, with the weights of the random choice.

Sources: GLO's nodes (ALGORITHMS §1: log, t and p three times as likely, sqrt twice); EvoMAL's primitive set
(ALGORITHMS §4: uniform).
"""

from __future__ import annotations

import difflib
import math
from dataclasses import dataclass

from lossmith.errors import LossError, UnknownNameError
from lossmith.losses.expression import Apply, Node, Number, Symbol
from lossmith.losses.inputs import INPUTS, LOWERED
from lossmith.losses.primitives import PRIMITIVES
from lossmith.losses.printer import to_text


@dataclass(frozen=True)
class PrimitiveSet:
    """Functions and terminals of the trees of a search.

    Args:
        name: an identifier.
        functions: (name of a primitive, weight of its choice) each; one of two arguments at least, because only it
            can bring t and p together.
        terminals: (leaf, weight of its choice) each: inputs of `losses.inputs` and numbers; t and p among them.

    Raises:
        LossError: what is missing, unknown, given twice, or has a weight that is not above 0.
    """

    name: str
    functions: tuple[tuple[str, float], ...]
    terminals: tuple[tuple[Node, float], ...]

    def __post_init__(self) -> None:
        functions = tuple((name, float(weight)) for name, weight in self.functions)
        terminals = tuple((leaf, float(weight)) for leaf, weight in self.terminals)
        object.__setattr__(self, "functions", functions)
        object.__setattr__(self, "terminals", terminals)
        where = f"the primitive set {self.name!r}"
        if not self.name.isidentifier():
            raise LossError(f"{where}: its name must be an identifier such as my_set.")
        for name, _ in functions:
            if name not in PRIMITIVES:
                near = difflib.get_close_matches(name, PRIMITIVES, n=3, cutoff=0.5)
                hint = f"did you mean {' or '.join(near)}?" if near else f"there are {', '.join(PRIMITIVES)}."
                raise LossError(f"{where} has the unknown primitive {name!r}: {hint}")
        for leaf, _ in terminals:
            if isinstance(leaf, Apply):
                raise LossError(f"{where} has the terminal {to_text(leaf)}: a terminal is a single input or number.")
            if isinstance(leaf, Symbol) and leaf.name not in (*INPUTS, *LOWERED):
                raise LossError(f"{where} has the terminal {leaf.name}, which is no input: use {', '.join(INPUTS)}.")
        named = [*functions, *((to_text(leaf), weight) for leaf, weight in terminals)]
        for name, weight in named:
            if not (math.isfinite(weight) and weight > 0):
                raise LossError(f"{where} gives {name} the weight {weight:g}: a finite number above 0 was expected.")
        for names in ([name for name, _ in functions], [to_text(leaf) for leaf, _ in terminals]):
            if twice := [name for name in names if names.count(name) > 1]:
                raise LossError(f"{where} has {twice[0]} twice: give it once, with a larger weight.")
        if not terminals:
            raise LossError(f"{where} has no terminals: a tree needs leaves, t and p among them.")
        for needed in ("t", "p"):
            if all(leaf != Symbol(needed) for leaf, _ in terminals):
                raise LossError(f"{where} lacks the terminal {needed}: a loss needs both t and p.")
        if all(PRIMITIVES[name].arity != 2 for name, _ in functions):
            raise LossError(f"{where} has no function of two arguments: t and p could never meet in one tree.")

    def of_arity(self, arity: int) -> tuple[tuple[str, float], ...]:
        """The functions with this number of arguments, with their weights."""
        return tuple((name, weight) for name, weight in self.functions if PRIMITIVES[name].arity == arity)


def _terminals(t_and_p: float) -> tuple[tuple[Node, float], ...]:
    return ((Symbol("t"), t_and_p), (Symbol("p"), t_and_p), (Number(1.0), 1.0), (Number(-1.0), 1.0))


_EVOMAL_FUNCTIONS = ("add", "sub", "mul", "aq", "sign", "square", "abs", "protected_log", "sqrt", "tanh", "min", "max")
EVOMAL = PrimitiveSet(
    "evomal",
    tuple((name, 1.0) for name in _EVOMAL_FUNCTIONS),
    _terminals(1.0),
)
GLO = PrimitiveSet(
    "glo",
    (("log", 3.0), ("square", 1.0), ("sqrt", 2.0), ("add", 1.0), ("sub", 1.0), ("mul", 1.0), ("div", 1.0)),
    _terminals(3.0),
)
PRIMITIVE_SETS: dict[str, PrimitiveSet] = {EVOMAL.name: EVOMAL, GLO.name: GLO}


def primitive_set(name: str) -> PrimitiveSet:
    """A primitive set by its name; UnknownNameError with the nearest names."""
    if name not in PRIMITIVE_SETS:
        raise UnknownNameError("primitive set", name, PRIMITIVE_SETS)
    return PRIMITIVE_SETS[name]


def register_primitive_set(primitives: PrimitiveSet) -> PrimitiveSet:
    """Make a primitive set known by its name.

    Raises:
        LossError: another set has this name.
    """
    if PRIMITIVE_SETS.get(primitives.name, primitives) != primitives:
        raise LossError(f"there is another primitive set {primitives.name!r}: give yours another name.")
    PRIMITIVE_SETS[primitives.name] = primitives
    return primitives
