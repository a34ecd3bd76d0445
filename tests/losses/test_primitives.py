from __future__ import annotations

import itertools
import math

import pytest
import torch

from lossmith.losses.primitives import PRIMITIVES, Primitive

POINTS = (0.0, 1.0, -1.0, 1e-7, -1e-7, 1e3, -1e3)
EVERYWHERE = [primitive for primitive in PRIMITIVES.values() if not primitive.domain]


def ids(primitive: Primitive) -> str:
    return primitive.name


def arguments(primitive: Primitive) -> list[tuple[float, ...]]:
    return list(itertools.product(POINTS, repeat=primitive.arity))


@pytest.mark.parametrize("primitive", EVERYWHERE, ids=ids)
def test_value_first_and_second_derivative_are_finite_in_float32(primitive: Primitive) -> None:
    for point in arguments(primitive):
        args = [torch.tensor(x, requires_grad=True) for x in point]
        value = primitive.function(*args)
        first = torch.autograd.grad(value, args, create_graph=True, materialize_grads=True)
        assert torch.isfinite(value), point
        for g in first:
            assert torch.isfinite(g), point
            if g.requires_grad:
                second = torch.autograd.grad(g, args, retain_graph=True, materialize_grads=True)
                assert all(torch.isfinite(s) for s in second), point


@pytest.mark.parametrize("primitive", PRIMITIVES.values(), ids=ids)
def test_floats_tensors_and_mixtures_agree(primitive: Primitive) -> None:
    for point in arguments(primitive):
        expected = primitive.function(*point)
        assert isinstance(expected, float)
        for as_tensor in itertools.product((True, False), repeat=primitive.arity):
            if not any(as_tensor):
                continue
            args = [torch.tensor(x, dtype=torch.float64) if yes else x for x, yes in zip(point, as_tensor, strict=True)]
            value = primitive.function(*args)
            if primitive.name == "pow" and as_tensor[1]:
                continue  # a tensor exponent is never taken as a whole number; its own test is below
            torch.testing.assert_close(value, torch.tensor(expected, dtype=torch.float64), rtol=1e-14, atol=0.0)


@pytest.mark.parametrize("primitive", [p for p in PRIMITIVES.values() if p.arity == 2], ids=ids)
def test_commutative_means_value_and_gradient_do_not_depend_on_the_order(primitive: Primitive) -> None:
    same = True
    for point in arguments(primitive):
        a, b = (torch.tensor(x, dtype=torch.float64, requires_grad=True) for x in point)
        one, other = primitive.function(a, b), primitive.function(b, a)
        grads = [torch.stack(torch.autograd.grad(value, (a, b), materialize_grads=True)) for value in (one, other)]
        same = same and bool(torch.equal(one, other) and torch.equal(*grads))
    assert same == primitive.commutative


def test_clamps_keep_their_definition() -> None:
    log, sqrt, div, power = (PRIMITIVES[name].function for name in ("log", "sqrt", "div", "pow"))
    x = torch.tensor([0.0, -1e-9, 1e-9, -2.0], dtype=torch.float64)
    # log max(|x|, 1e-7) and √max(|x|, 1e-7), ALGORITHMS §4
    assert log(x).tolist() == pytest.approx([math.log(1e-7)] * 3 + [math.log(2.0)], rel=1e-15)
    assert sqrt(x).tolist() == pytest.approx([math.sqrt(1e-7)] * 3 + [math.sqrt(2.0)], rel=1e-15)
    # a denominator keeps its sign and at least 1e-7; zero counts as positive
    assert div(1.0, x).tolist() == pytest.approx([1e7, -1e7, 1e7, -0.5], rel=1e-15)
    assert power(x, 2.0).tolist() == [0.0, 1e-18, 1e-18, 4.0]
    assert power(x, -1.0).tolist() == div(1.0, x).tolist()
    assert power(x, 0.5).tolist() == pytest.approx(sqrt(x).tolist(), rel=1e-15)
    assert power(-2.0, 3.0) == -8.0
    assert power(x, 0.0).tolist() == [1.0] * 4
    torch.testing.assert_close(power(2.0, x), 2.0**x)


def test_float_overflow_is_infinite_as_in_tensors() -> None:
    power, exp = PRIMITIVES["pow"].function, PRIMITIVES["exp"].function
    assert power(-1e200, 3.0) == -math.inf
    assert power(1e200, 2.5) == math.inf
    assert exp(1e4) == math.inf


def test_analytic_quotient() -> None:
    assert PRIMITIVES["aq"].function(3.0, 2.0) == 3.0 / math.sqrt(5.0)  # a / √(1 + b²), ALGORITHMS §4


def test_evomal_and_glo_find_their_primitives() -> None:
    # ALGORITHMS §4 and §1
    evomal = "add sub mul aq sign square abs protected_log sqrt tanh min max"
    glo = "log square sqrt add sub mul div"
    assert set(evomal.split()) | set(glo.split()) <= PRIMITIVES.keys()


def test_one_without_a_domain_is_finite_and_one_with_a_domain_says_where() -> None:
    everywhere = {primitive.name for primitive in EVERYWHERE}
    assert everywhere == {"add", "sub", "mul", "neg", "square", "abs", "sign", "tanh", "min", "max", "aq"}
    assert all(primitive.domain for name, primitive in PRIMITIVES.items() if name not in everywhere)


def test_names_are_those_of_the_table_and_every_row_is_described() -> None:
    for name, primitive in PRIMITIVES.items():
        assert name == primitive.name
        assert primitive.summary
        assert all(f"{{{place}}}" in primitive.latex for place in range(primitive.arity))
