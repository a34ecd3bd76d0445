from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from lossmith.errors import LossError, UnknownNameError
from lossmith.losses.expression import Apply, Number, Symbol
from lossmith.losses.primitive_sets import (
    EVOMAL,
    GLO,
    PRIMITIVE_SETS,
    PrimitiveSet,
    primitive_set,
    register_primitive_set,
)
from lossmith.losses.primitives import PRIMITIVES

T, P = (Symbol("t"), 1.0), (Symbol("p"), 1.0)
MINE: dict[str, Any] = {"name": "mine", "functions": (("add", 1.0), ("log", 2.0)), "terminals": (T, P)}


@contextmanager
def registered(primitives: PrimitiveSet) -> Iterator[None]:
    register_primitive_set(primitives)
    try:
        yield
    finally:
        del PRIMITIVE_SETS[primitives.name]


def test_evomal_is_uniform_over_its_published_primitives() -> None:
    # ALGORITHMS §4; grow stops at a leaf with probability |terminals| / (|terminals| + |functions|) = 0.25
    names = ["add", "sub", "mul", "aq", "sign", "square", "abs", "protected_log", "sqrt", "tanh", "min", "max"]
    assert EVOMAL.functions == tuple((name, 1.0) for name in names)
    assert {leaf for leaf, _ in EVOMAL.terminals} == {Symbol("t"), Symbol("p"), Number(1.0), Number(-1.0)}
    assert {weight for _, weight in EVOMAL.terminals} == {1.0}
    assert len(EVOMAL.terminals) / (len(EVOMAL.terminals) + len(EVOMAL.functions)) == 0.25


def test_glo_prefers_log_t_and_p() -> None:
    # ALGORITHMS §1: log, t, p three times as likely, sqrt twice, the rest once
    weights = dict(GLO.functions) | {"t": 0.0}
    assert weights == {"log": 3, "sqrt": 2, "square": 1, "add": 1, "sub": 1, "mul": 1, "div": 1, "t": 0}
    assert dict(GLO.terminals) == {Symbol("t"): 3, Symbol("p"): 3, Number(1.0): 1, Number(-1.0): 1}


def test_functions_by_arity() -> None:
    assert GLO.of_arity(1) == (("log", 3.0), ("square", 1.0), ("sqrt", 2.0))
    for primitives in (GLO, EVOMAL):
        assert set(primitives.of_arity(1)) | set(primitives.of_arity(2)) == set(primitives.functions)
        assert all(PRIMITIVES[name].arity == 2 for name, _ in primitives.of_arity(2))


def test_looked_up_and_registered_by_name() -> None:
    assert primitive_set("evomal") is EVOMAL
    assert primitive_set("glo") is GLO
    with pytest.raises(UnknownNameError, match="unknown primitive set 'evomall': did you mean 'evomal'"):
        primitive_set("evomall")
    mine = PrimitiveSet(**MINE)
    with registered(mine):
        assert primitive_set("mine") == mine
        register_primitive_set(PrimitiveSet(**MINE))  # the same again
        with pytest.raises(LossError, match="there is another primitive set 'mine'"):
            register_primitive_set(PrimitiveSet(**{**MINE, "functions": (("add", 1.0),)}))
    with pytest.raises(LossError, match="there is another primitive set 'glo'"):
        register_primitive_set(PrimitiveSet(**{**MINE, "name": "glo"}))


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"functions": (("add", 1), ("tan", 1))}, r"has the unknown primitive 'tan': did you mean tanh"),
        ({"functions": (("add", 1), ("erfc", 1))}, r"unknown primitive 'erfc': there are add, sub"),
        ({"terminals": ()}, r"the primitive set 'mine' has no terminals: a tree needs leaves"),
        ({"functions": (("add", 0),)}, r"gives add the weight 0: a finite number above 0"),
        ({"functions": (("add", float("inf")),)}, r"gives add the weight inf"),
        ({"terminals": (T, (Symbol("p"), -1.0))}, r"gives p the weight -1"),
        ({"terminals": (T, (Number(1.0), 1.0))}, r"lacks the terminal p: a loss needs both t and p"),
        ({"terminals": (P,)}, r"lacks the terminal t"),
        ({"terminals": (T, P, (Symbol("q"), 1.0))}, r"has the terminal q, which is no input: use t, p"),
        ({"terminals": (T, P, (Apply("neg", (Symbol("p"),)), 1.0))}, r"has the terminal -p: a terminal is a single"),
        ({"terminals": (T, P, P)}, r"has p twice"),
        ({"functions": (("add", 1), ("add", 2))}, r"has add twice: give it once, with a larger weight"),
        ({"functions": (("log", 1),)}, r"has no function of two arguments: t and p could never meet"),
        ({"functions": ()}, r"has no function of two arguments"),
        ({"name": "my set"}, r"'my set': its name must be an identifier"),
    ],
)
def test_misuse_is_said(change: dict[str, Any], sentence: str) -> None:
    with pytest.raises(LossError, match=sentence):
        PrimitiveSet(**{**MINE, **change})
