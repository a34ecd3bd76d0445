"""Barron's general loss: every special case, its limits, φ = (α, c) by finite differences, and its two roads."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from lossmith.errors import LossError
from lossmith.losses import Barron, Loss, Tree, from_json, loss, to_json
from lossmith.losses.autograd_road import value_and_delta_by_autograd
from lossmith.losses.delta import interpreted, mixed_with_direction, population_value_and_delta, value_and_delta
from lossmith.losses.inputs import compute_inputs
from lossmith.losses.parser import parse

R = torch.cat((torch.linspace(-8, 8, 41), torch.tensor([1e-4, -1e-6, 300.0]))).double()[:, None]
ZERO = torch.zeros_like(R)
ALPHAS = (-50.0, -2.0, -0.3, 0.0, 0.4, 1.0, 1.7, 2.0, 3.0, 4.0)


def rho(alpha: float, c: float, r: Tensor = R) -> Tensor:
    """ρ of every residual."""
    kernel = loss("barron", alpha=alpha, c=c).kernel
    return kernel.value(compute_inputs(kernel.reads, r, torch.zeros_like(r), "identity"))


@pytest.mark.parametrize("c", [0.5, 1.0, 3.0])
def test_special_cases(c: float) -> None:
    s = (R / c).square()
    for alpha, expected in (
        (2.0, s / 2),  # squared error
        (1.0, (s + 1).sqrt() - 1),  # Charbonnier, pseudo-Huber
        (0.0, (s / 2 + 1).log()),  # Cauchy
        (-2.0, 2 * s / (s + 4)),  # Geman–McClure
        (-math.inf, 1 - (-s / 2).exp()),  # Welsch
        (math.inf, (s / 2).exp() - 1),
        (4.0, 0.5 * ((s / 2 + 1).square() - 1)),
    ):
        torch.testing.assert_close(rho(alpha, c), expected, rtol=1e-9, atol=1e-12, msg=f"{alpha}")


@pytest.mark.parametrize("limit", [0.0, 2.0])
def test_the_limits_are_reached_from_both_sides(limit: float) -> None:
    exact = rho(limit, 1.0)
    for step in (1e-3, 1e-5, 1e-7, 1e-9):
        below, above = rho(limit - step, 1.0), rho(limit + step, 1.0)
        assert bool((below <= exact + 1e-9 * exact).all()) and bool((exact <= above + 1e-9 * above).all())  # noqa: PT018
        torch.testing.assert_close(below, exact, rtol=40 * step + 1e-10, atol=1e-12)
        torch.testing.assert_close(above, exact, rtol=40 * step + 1e-10, atol=1e-12)


def test_low_shapes_approach_welsch() -> None:
    torch.testing.assert_close(rho(-1e8, 1.0), rho(-math.inf, 1.0), rtol=1e-6, atol=1e-9)


def test_it_is_the_formula_in_the_paper() -> None:
    for alpha in (-3.3, -0.4, 0.7, 1.5, 2.6):
        b = abs(alpha - 2)
        expected = b / alpha * (((R / 0.7).square() / b + 1) ** (alpha / 2) - 1)  # eq. 13
        torch.testing.assert_close(rho(alpha, 0.7), expected, rtol=1e-11, atol=1e-13)
        # eq. 14: its slope
        r = R.clone().requires_grad_()
        (slope,) = torch.autograd.grad(rho(alpha, 0.7, r).sum(), r)
        torch.testing.assert_close(slope, R / 0.49 * ((R / 0.7).square() / b + 1) ** (alpha / 2 - 1), rtol=1e-8, atol=0)


@pytest.mark.parametrize("alpha", ALPHAS)
def test_derivatives_by_shape_and_scale(alpha: float) -> None:
    kernel, c, step = Barron(alpha, 0.8), 0.8, 1e-8 if alpha == 2 else 1e-6
    for place in (0, 1):
        phi = torch.tensor([alpha, c], dtype=torch.float64, requires_grad=True)
        for row in (R[3:4], R[20:21] + 0.1, R[30:31]):
            (slope,) = torch.autograd.grad(kernel.value({"r": row}, phi).sum(), phi)
            ends = []
            for sign in (1, -1):
                moved = [alpha, c]
                moved[place] += sign * step
                ends.append(float(kernel.value({"r": row}, moved)))
            expected = (ends[0] - ends[1]) / (2 * step)
            assert float(slope[place]) == pytest.approx(expected, rel=2e-5 if alpha == 2 else 1e-6, abs=1e-7)
        assert math.isfinite(float(slope[place]))


@pytest.mark.parametrize("alpha", ALPHAS)
def test_both_roads_and_the_mixed_derivative(alpha: float) -> None:
    criterion = loss("barron", head="identity", alpha=alpha, c=0.8)
    z, target = torch.randn(12, 3, generator=torch.Generator().manual_seed(0)).double() * 2, torch.zeros(12, 3).double()
    assert interpreted(criterion)  # as it stands it is an expression
    assert not interpreted(criterion, tunable=True)  # its φ is no edge weight
    found, expected = value_and_delta(criterion, z, target), value_and_delta_by_autograd(criterion, z, target)
    torch.testing.assert_close(found, expected, rtol=1e-8, atol=1e-10)
    single = value_and_delta(criterion, z.float(), target.float())
    torch.testing.assert_close(single[1].double(), expected[1], rtol=2e-4, atol=1e-6)
    direction = torch.randn(1, 12, 3, generator=torch.Generator().manual_seed(1)).double()
    (mixed,) = mixed_with_direction([criterion], z, target, direction)
    for place in (0, 1):
        ends, step = [], 1e-8 if alpha == 2 else 1e-5
        for sign in (1, -1):
            phi = torch.tensor(criterion.kernel.phi, dtype=torch.float64)
            phi[place] += sign * step
            _, delta = population_value_and_delta([criterion], z, target, phi=[phi])
            ends.append(float((delta * direction).sum()))
        expected_mixed = (ends[0] - ends[1]) / (2 * step)
        assert float(mixed[place]) == pytest.approx(expected_mixed, rel=1e-3 if alpha == 2 else 1e-6, abs=1e-8)


def test_a_batch_of_parameters() -> None:
    phi = torch.tensor([[1.0, 1.0], [2.0, 0.5], [-2.0, 3.0]], dtype=torch.float64)
    found = Barron().value({"r": R}, phi)
    assert found.shape == (3, *R.shape)
    for row, (alpha, c) in zip(found, phi.tolist(), strict=True):
        torch.testing.assert_close(row, rho(alpha, c), rtol=1e-12, atol=1e-14)


def test_large_residuals_stay_numbers() -> None:
    for dtype in (torch.float32, torch.float64):
        r = torch.tensor([[0.0], [1e5], [-1e15], [3e30]], dtype=dtype, requires_grad=True)
        for alpha in (-10.0, -2.0, 0.0, 1.0, 2.0):
            value = Barron(alpha, 0.1).value({"r": r}, torch.tensor([alpha, 0.1], dtype=dtype))
            (slope,) = torch.autograd.grad(value.sum(), r)
            assert torch.isfinite(value[:3]).all()
            assert torch.isfinite(slope).all()
            assert not value.isnan().any()


def test_expression_document_and_names() -> None:
    assert str(loss("barron").kernel) == "(square(r) + 1)^0.5 - 1"
    assert str(Barron(2.0, 0.5)) == "square(r/0.5)/2"
    assert str(Barron(0.0)) == "log(square(r)/2 + 1)"
    assert str(loss("barron(alpha=-inf)").kernel) == "1 - exp(-square(r)/2)"
    assert str(loss("barron(alpha=-2, c=3)")) == "barron(alpha=-2, c=3)"
    for alpha in ALPHAS:
        kernel = Barron(alpha, 0.7)
        torch.testing.assert_close(
            Tree(kernel.expression()).value({"r": R}), kernel.value({"r": R}), rtol=1e-9, atol=1e-12
        )
        again = from_json(to_json(Loss(kernel, head="identity")))
        assert isinstance(again, Loss)
        assert again.kernel == kernel
    assert Barron(1.0, -3.0) == Barron(1.0, 3.0)  # only c² matters
    assert Barron().with_phi((0.5, 2.0)).phi == (0.5, 2.0)
    assert parse("square(r)/2") == Barron(2.0).expression()


@pytest.mark.parametrize(
    ("alpha", "c", "message"),
    [
        (math.nan, 1.0, "alpha = nan must be a finite number"),
        (math.inf, 1.0, "alpha = inf must be a finite number"),
        (1.0, 0.0, "the scale c must not be 0"),
        (1.0, "1", "c = '1' must be a finite number"),
    ],
)
def test_what_is_no_shape(alpha: float, c: float, message: str) -> None:
    with pytest.raises(LossError, match=message):
        Barron(alpha, c)


def test_phi_of_another_length() -> None:
    with pytest.raises(LossError, match="phi has 3 numbers; barron has 2, alpha and c"):
        Barron().value({"r": R}, [1.0, 2.0, 3.0])
    with pytest.raises(LossError, match="phi has 1 numbers; barron has 2"):
        Barron().with_phi(np.ones(1).tolist())
