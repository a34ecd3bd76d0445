from __future__ import annotations

import dataclasses
import math
import pickle
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from torch import Tensor

from lossmith.errors import ExpressionError
from lossmith.losses import Loss, Tree, algebraic_form, from_json, readable, to_json
from lossmith.losses.export import export
from lossmith.losses.expression import Apply, Number
from lossmith.losses.lowering import evaluate, lower
from lossmith.losses.parser import parse
from lossmith.losses.primitive_check import check_primitive
from lossmith.losses.primitives import PRIMITIVES, Primitive
from lossmith.losses.printer import to_latex, to_text
from lossmith.losses.registration import register_primitive, unregister_primitive

OUTPUT = torch.tensor([[2.0, 0.5, -1.0], [0.1, 0.2, 0.3]], dtype=torch.float64)
TARGET = torch.tensor([0, 2])


def softsign(a: Tensor) -> Tensor:
    return a / (1 + a.abs())


def mean_of_two(a: Tensor, b: Tensor) -> Tensor:
    return (a + b) / 2


HELPER = "def _softsign(a):\n    return a / (1 + a.abs())\n"
SOFTSIGN = Primitive("softsign", 1, softsign, r"\mathrm{{softsign}}\left({0}\right)", "_softsign({0})", helper=HELPER)
HALFWAY = Primitive(
    "halfway", 2, mean_of_two, r"h\left({0}, {1}\right)", "(({0}) + ({1})) / 2", commutative=True, summary="the mean"
)


@pytest.fixture(autouse=True)
def the_table_comes_out_as_it_went_in() -> Iterator[None]:
    before = dict(PRIMITIVES)
    yield
    leaked = PRIMITIVES.keys() - before
    for name in leaked:
        unregister_primitive(name)
    assert not leaked
    assert before == PRIMITIVES


@contextmanager
def registered(*primitives: Primitive) -> Iterator[None]:
    for primitive in primitives:
        register_primitive(primitive)
    try:
        yield
    finally:
        for primitive in primitives:
            unregister_primitive(primitive.name)


def made(function: Callable[..., Any], arity: int = 1, **more: Any) -> Primitive:
    places = ", ".join(f"{{{place}}}" for place in range(arity))
    return Primitive("mine", arity, function, f"m({places})", f"torch.maximum({places})", **more)


@pytest.mark.parametrize("primitive", PRIMITIVES.values(), ids=lambda p: p.name)
def test_the_built_in_ones_pass_the_same_check(primitive: Primitive) -> None:
    check_primitive(primitive)


def test_which_built_in_ones_could_not_do_without_a_domain() -> None:
    need_one = set()
    for primitive in PRIMITIVES.values():
        try:
            check_primitive(dataclasses.replace(primitive, domain=""))
        except ExpressionError:
            need_one.add(primitive.name)
    assert need_one == {"exp", "pow"}  # they overflow at 1000; log, sqrt and div are protected everywhere
    assert all(PRIMITIVES[name].domain for name in need_one)


def test_a_registered_primitive_is_as_good_as_a_built_in_one() -> None:
    with registered(SOFTSIGN, HALFWAY):
        text = "-t*log(p)*softsign(t - p) + halfway(p, 0.25)"
        root = parse(text)
        assert to_text(root) == text
        assert r"\mathrm{softsign}\left(t - p\right)" in to_latex(root)
        assert pickle.loads(pickle.dumps(root)) == root
        kernel = Tree(root)
        assert from_json(to_json(Loss(kernel))).kernel == kernel
        assert kernel.reads == {"t", "log_p", "p"}

        p, t = OUTPUT.softmax(-1), torch.eye(3, dtype=torch.float64)[TARGET]
        expected = -t * p.log() * ((t - p) / (1 + (t - p).abs())) + (p + 0.25) / 2
        torch.testing.assert_close(Loss(kernel)(OUTPUT, TARGET), expected.sum(1).mean())
        exported: dict[str, Any] = {}
        exec(compile(export(Loss(kernel)), "exported", "exec"), exported)
        torch.testing.assert_close(exported["loss"](OUTPUT, TARGET), Loss(kernel)(OUTPUT, TARGET))
        weighted = kernel.with_phi([1.1] * (root.size - 1))
        torch.testing.assert_close(Loss(weighted)(OUTPUT, TARGET), Loss(Tree(weighted.expression()))(OUTPUT, TARGET))

        assert algebraic_form(parse("halfway(t, p) - halfway(p, t)")) == Number(0.0)  # it is commutative
        assert algebraic_form(parse("softsign(t - p)")) != algebraic_form(parse("-softsign(p - t)"))  # nobody said odd
        assert readable(parse("softsign(p + p)")) == "softsign(2*p)"
    assert "softsign" not in PRIMITIVES
    with pytest.raises(ExpressionError, match="unknown function 'softsign'"):
        parse(text)


def test_numbers_are_computed_with_it_as_with_tensors() -> None:
    def tensors_only(a: Tensor) -> Tensor:
        return a.sin().exp()  # a float has no such method

    with registered(made(tensors_only)):
        assert lower(parse("mine(2) + p")) == Apply("add", (Number(math.exp(math.sin(2.0))), parse("p")))
        value = evaluate(parse("mine(n)"), {"n": 10.0})
        assert isinstance(value, float)
        assert value == pytest.approx(math.exp(math.sin(10.0)), rel=1e-15)


def test_a_domain_lets_it_overflow_but_never_be_nan() -> None:
    steep = made(lambda a: torch.exp(a * a), domain="|x| < 9 in float32")
    with registered(steep):
        assert "mine" in PRIMITIVES
    with pytest.raises(ExpressionError, match=r"the value of mine\(1000\) is not finite .* declare the domain"):
        register_primitive(dataclasses.replace(steep, domain=""))
    with pytest.raises(ExpressionError, match=r"mine\(-1\) is nan: protect it \(a clamp\)"):
        register_primitive(made(torch.sqrt, domain="x >= 0"))
    with pytest.raises(ExpressionError, match="its domain holds none of them"):
        register_primitive(made(lambda a: a * 0.0 + torch.inf, domain="nowhere"))


@pytest.mark.parametrize(
    ("function", "sentence"),
    [
        (lambda a: 1 / a, r"the value of mine\(0\) is not finite in float32: protect it, or declare"),
        (lambda a: a.abs().clamp(min=1e-20).sqrt().sqrt(), None),
        (lambda a: a.abs().sqrt(), r"the first derivative of mine\(0\) is not finite"),
        (lambda a: a.abs() ** 1.5, r"the second derivative of mine\(0\) is not finite"),
        (lambda a: a.softmax(-1), r"mine\(0\) is 1 alone and .* inside a tensor: a primitive is elementwise"),
        (lambda a: a - a.mean(), r"a primitive is elementwise"),
        (lambda a: a.sum(), r"turned tensors of shape \(7,\) into \(\)"),
        (lambda a: a.detach().tanh(), r"has a value that moves and no gradient"),
        (lambda a: a.float().tanh(), r"is torch.float32 of shape .* keeps the type"),
        (lambda a: 1.0, r"mine of tensors is a float: a tensor was expected"),
        (lambda a: a.tanhh(), r"cannot be called with tensors of shape \(7,\): AttributeError"),
        (lambda a: torch.where(a > 0, 1.0, -1.0).to(a.dtype), None),  # a step has no gradient to miss
    ],
)
def test_meaning_is_checked_on_the_spot(function: Callable[..., Any], sentence: str | None) -> None:
    if sentence is None:
        with registered(made(function)):
            assert "mine" in PRIMITIVES
        return
    with pytest.raises(ExpressionError, match=sentence):
        register_primitive(made(function))
    assert "mine" not in PRIMITIVES


def test_of_two_arguments_every_pair_is_tried() -> None:
    with pytest.raises(ExpressionError, match=r"the value of mine\(1, 0\) is not finite|mine\(0, 0\) is nan"):
        register_primitive(made(lambda a, b: a / b, 2))
    with pytest.raises(ExpressionError, match=r"mine\(0, 1\) changes with the order of its arguments"):
        register_primitive(made(lambda a, b: a - b, 2, commutative=True))
    with pytest.raises(ExpressionError, match=r"mine cannot be called with tensors of shape \(49,\), \(49,\): TypeErr"):
        register_primitive(made(lambda a: a, 2))


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"name": "soft sign"}, "cannot be called 'soft sign': its name is a Python identifier"),
        ({"name": "lambda"}, "cannot be called 'lambda'"),
        ({"name": "tanh"}, "the name 'tanh' is taken by a primitive"),
        ({"name": "p_t"}, "the name 'p_t' is taken by a loss input"),
        ({"name": "log_1mp"}, "the name 'log_1mp' is taken by a loss input"),
        ({"name": "focal"}, "the name 'focal' is taken by a published loss"),
        ({"name": "w12"}, "the name 'w12' is that of a tree's weight"),
        ({"arity": 3}, "takes 3 arguments: a primitive takes 1 or 2"),
        ({"arity": 2}, r"the latex template .* must hold \{0\} and \{1\} and no other place"),
        ({"infix": "%"}, "has an operator sign"),
        ({"commutative": True}, "only a primitive of two can be commutative"),
        ({"latex": "s"}, r"the latex template 's' of softsign must hold \{0\} and no other"),
        ({"latex": "{0}{1}"}, "and no other place"),
        ({"latex": "{0"}, "the latex template '{0' of softsign cannot be filled in"),
        ({"torch": "softsign"}, "the torch template 'softsign' of softsign must hold"),
        ({"torch": "_softsign({0}"}, "is not Python"),
        ({"torch": "_sofsign({0})"}, "uses _sofsign, which nothing defines"),
        ({"torch": "torch.sofsign({0})"}, "uses torch.sofsign, which nothing defines"),
        ({"helper": "def softsign(a): return a", "torch": "softsign({0})"}, "must start with an underscore"),
        (
            {"helper": "def _log(a):\n    return a\n", "torch": "_log({0})"},
            "_log of softsign is that of log",
        ),
        ({"helper": "def _softsign(a) return a"}, "is not Python"),
    ],
)
def test_names_and_templates_are_checked(change: dict[str, Any], sentence: str) -> None:
    before = dict(PRIMITIVES)
    with pytest.raises(ExpressionError, match=sentence):
        register_primitive(dataclasses.replace(SOFTSIGN, **change))
    assert before == PRIMITIVES


def test_registering_the_same_one_again_is_no_mistake() -> None:
    with registered(SOFTSIGN):
        assert register_primitive(SOFTSIGN) is PRIMITIVES["softsign"]
        with pytest.raises(ExpressionError, match="'softsign' is taken by a primitive"):
            register_primitive(dataclasses.replace(SOFTSIGN, function=torch.tanh))


def test_only_registered_ones_can_be_taken_out() -> None:
    with pytest.raises(ExpressionError, match="'log' is built in"):
        unregister_primitive("log")
    with pytest.raises(ExpressionError, match="'softsign' is not registered"):
        unregister_primitive("softsign")
