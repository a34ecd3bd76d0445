"""Primitives of the user's own: checked once, when they are registered, and then as good as the built-in ones.

    register_primitive(Primitive("softsign", 1, torch.nn.functional.softsign,
                                 latex=r"\\mathrm{{softsign}}\\left({0}\\right)", torch="F.softsign({0})"))

The table belongs to the process: an expression carries names only, so a worker that receives one must have registered
the same primitives (put the call into the module that defines the task).
"""

from __future__ import annotations

import ast
import keyword
import re
import string
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from lossmith.errors import ExpressionError
from lossmith.losses.inputs import INPUTS, LOWERED
from lossmith.losses.primitive_check import check_primitive
from lossmith.losses.primitives import ATOM, PRIMITIVES, Operand, Primitive

_BUILT_IN = frozenset(PRIMITIVES)


def register_primitive(primitive: Primitive) -> Primitive:
    """Add a primitive to the expression language: it parses, prints, exports, evaluates and pickles by its name.

    Args:
        primitive: its `function` is only ever called with tensors (numbers arrive as tensors of no dimension). It is
            elementwise, and at 0, ±1, ±1e-7, ±1e3 (every pair of them) its value, first and second derivative are
            finite in float32. One with a declared `domain` must be so at one of these points at least, and its value
            must nowhere be NaN: outside its domain it may overflow, but it must be protected, as log and div are.
            `latex` and `torch` are templates with {0} (and {1}); `torch` may use `torch`, `F` and what `helper`
            defines.

    Returns:
        The primitive as it stands in `PRIMITIVES`.

    Raises:
        ExpressionError: what is wrong, and at which point; then nothing is registered.

    Example:
        >>> import torch, lossmith as lm
        >>> from lossmith.losses.primitives import Primitive
        >>> from lossmith.losses.registration import register_primitive
        >>> softsign = Primitive("softsign", 1, torch.nn.functional.softsign, "s({0})", "F.softsign({0})")
        >>> _ = register_primitive(softsign)
        >>> print(lm.loss("t*softsign(p)"))
        t*softsign(p)
    """
    known = PRIMITIVES.get(primitive.name)
    if known is not None and isinstance(known.function, OnTensors):
        same = replace(known, function=known.function.function) == primitive
        if same:  # the module that registers it was imported again
            return known
    _check_name(primitive)
    _check_templates(primitive)
    wrapped = replace(primitive, function=OnTensors(primitive.function))
    check_primitive(wrapped)
    PRIMITIVES[primitive.name] = wrapped
    return wrapped


def unregister_primitive(name: str) -> None:
    """Take a registered primitive out again; expressions that use it can no longer be built or evaluated.

    Raises:
        ExpressionError: it is not registered, or built in.
    """
    if name in _BUILT_IN or name not in PRIMITIVES:
        what = "is built in" if name in _BUILT_IN else "is not registered"
        raise ExpressionError(f"the primitive {name!r} {what}: only a registered one can be taken out.")
    del PRIMITIVES[name]


@dataclass(frozen=True)
class OnTensors:
    """A function of tensors that takes plain floats too, as every primitive must: all floats in, float out."""

    function: Callable[..., Operand]

    def __call__(self, *args: Operand) -> Operand:
        like = next((arg for arg in args if isinstance(arg, Tensor)), None)
        if like is None:
            return float(self.function(*(torch.tensor(arg, dtype=torch.float64) for arg in args)))
        return self.function(
            *(a if isinstance(a, Tensor) else torch.tensor(a, dtype=like.dtype, device=like.device) for a in args)
        )


def _check_name(primitive: Primitive) -> None:
    from lossmith.losses.literature import PUBLISHED  # built of expressions, which are built of this table

    name = primitive.name
    if not name.isidentifier() or keyword.iskeyword(name):
        raise ExpressionError(f"a primitive cannot be called {name!r}: its name is a Python identifier.")
    kinds = (("a primitive", PRIMITIVES), ("a loss input", (*INPUTS, *LOWERED)), ("a published loss", PUBLISHED))
    for what, names in kinds:
        if name in names:
            raise ExpressionError(f"the name {name!r} is taken by {what}: give the primitive another one.")
    if re.fullmatch(r"w\d+", name):
        raise ExpressionError(f"the name {name!r} is that of a tree's weight: give the primitive another one.")
    if primitive.arity not in (1, 2):
        raise ExpressionError(f"{name} takes {primitive.arity} arguments: a primitive takes 1 or 2.")
    if primitive.infix is not None or primitive.precedence != ATOM:
        raise ExpressionError(f"{name} has an operator sign: only the built-in + - * / ^ have one, leave it out.")
    if primitive.commutative and primitive.arity != 2:
        raise ExpressionError(f"{name} takes one argument: only a primitive of two can be commutative.")


def _check_templates(primitive: Primitive) -> None:
    name, wanted = primitive.name, {str(place) for place in range(primitive.arity)}
    for what, template in (("latex", primitive.latex), ("torch", primitive.torch)):
        try:
            found = {key for _, key, _, _ in string.Formatter().parse(template) if key is not None}
        except ValueError as error:
            raise ExpressionError(f"the {what} template {template!r} of {name} cannot be filled in: {error}.") from None
        if found != wanted:
            places = " and ".join(f"{{{place}}}" for place in sorted(wanted))
            raise ExpressionError(f"the {what} template {template!r} of {name} must hold {places} and no other place.")
    helper, source = primitive.helper or "", primitive.torch.format(*("ab"[: primitive.arity]))
    try:
        defined = {item.name for item in ast.parse(helper).body if isinstance(item, ast.FunctionDef)}
        parts = list(ast.walk(ast.parse(source, mode="eval")))
    except (SyntaxError, ValueError) as error:
        raise ExpressionError(f"the torch template or helper of {name} is not Python: {error}.") from None
    known = {*defined, "torch", "F", *"ab"[: primitive.arity]}
    unknown = sorted(part.id for part in parts if isinstance(part, ast.Name) and part.id not in known)
    modules = {"torch": torch, "F": torch.nn.functional}
    for part in parts:
        if isinstance(part, ast.Attribute) and isinstance(part.value, ast.Name):
            module = modules.get(part.value.id)
            unknown += [f"{part.value.id}.{part.attr}"] if module and not hasattr(module, part.attr) else []
    if unknown:
        raise ExpressionError(f"the torch template of {name} uses {unknown[0]}, which nothing defines.")
    for function in sorted(defined):
        if not function.startswith("_"):
            raise ExpressionError(f"the helper function {function} of {name} must start with an underscore.")
        for other in PRIMITIVES.values():
            if other.helper not in (None, primitive.helper) and f"def {function}(" in (other.helper or ""):
                raise ExpressionError(f"the helper function {function} of {name} is that of {other.name}: rename it.")
