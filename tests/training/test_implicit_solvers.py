"""Solving with products only: against torch.linalg, and what happens where curvature is not positive."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from lossmith.records import Implicit
from lossmith.training.solvers import RAISES, Solution, solve

N = 8
EIGENVALUES = torch.logspace(-2, 0.5, N, dtype=torch.float64)
CG, SERIES = Implicit("cg", terms=40, damping=1e-9), Implicit("neumann", terms=20_000, damping=1e-9)


def symmetric(eigenvalues: Tensor, seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    q, _ = torch.linalg.qr(torch.randn(len(eigenvalues), len(eigenvalues), generator=generator, dtype=torch.float64))
    return q @ eigenvalues.diag() @ q.T


def right_sides(count: int) -> Tensor:
    return torch.randn(count, N, generator=torch.Generator().manual_seed(9), dtype=torch.float64)


def solved(how: Implicit, matrices: Tensor, b: Tensor, rate: float = 0.3) -> Solution:
    return solve(how, lambda p: torch.einsum("pij,pj->pi", matrices, p), b, rate=rate)


POSITIVE = torch.stack([symmetric(EIGENVALUES, seed) for seed in range(3)])
NEGATIVE = symmetric(torch.cat([torch.tensor([-0.05], dtype=torch.float64), EIGENVALUES[1:]]), 7)


@pytest.mark.parametrize("how", [CG, SERIES], ids=["cg", "neumann"])
def test_it_solves(how: Implicit) -> None:
    b = right_sides(3)
    found = solved(how, POSITIVE, b)
    assert torch.allclose(found.x, torch.linalg.solve(POSITIVE, b), rtol=1e-5, atol=1e-5)
    assert found.raised.tolist() == [0, 0, 0]
    assert not found.failed.any()


@pytest.mark.parametrize("damping", [1e-3, 0.5])
def test_damping_is_added_to_the_curvature(damping: float) -> None:
    b = right_sides(3)
    found = solved(Implicit("cg", terms=40, damping=damping), POSITIVE, b)
    expected = torch.linalg.solve(POSITIVE + damping * torch.eye(N, dtype=torch.float64), b)
    assert torch.allclose(found.x, expected, rtol=1e-5, atol=1e-5)
    assert not torch.allclose(found.x, torch.linalg.solve(POSITIVE, b), rtol=1e-2, atol=1e-2)


@pytest.mark.parametrize("terms", [0, 1, 7])
def test_the_series_is_what_it_says(terms: int) -> None:
    b, rate = right_sides(3), 0.3
    found = solved(Implicit("neumann", terms=terms), POSITIVE, b, rate)
    factor = torch.eye(N, dtype=torch.float64) - rate * POSITIVE
    powers = sum(torch.linalg.matrix_power(factor, j) for j in range(terms + 1))
    assert torch.allclose(found.x, rate * torch.einsum("pij,pj->pi", powers, b), rtol=1e-12)


def test_conjugate_gradient_stops_after_its_terms() -> None:
    products = []

    def product(p: Tensor) -> Tensor:
        products.append(p)
        return torch.einsum("pij,pj->pi", POSITIVE, p)

    for terms, expected in ((3, 3), (40, N)):
        products.clear()
        solve(Implicit("cg", terms=terms, damping=1e-9), product, right_sides(3), rate=0.3)
        # As many iterations as there are dimensions solve exactly; rounding costs a few more.
        assert expected <= len(products) <= expected + (terms > N) * 4


@pytest.mark.parametrize("solver", ["cg", "neumann"])
def test_negative_curvature_raises_damping_of_that_candidate_only(solver: str) -> None:
    how = Implicit("cg", terms=40, damping=1e-3) if solver == "cg" else Implicit("neumann", terms=1500, damping=1e-3)
    matrices, b = torch.stack([POSITIVE[0], NEGATIVE, POSITIVE[1]]), right_sides(3)
    found, alone = solved(how, matrices, b), solved(how, POSITIVE[:2], b[[0, 2]])
    assert torch.allclose(found.x[[0, 2]], alone.x, rtol=1e-9)
    # The least eigenvalue is −0.05, so that 0.1 is the first power of ten that will do. The series starts without any.
    assert found.raised.tolist() == ([0, 2, 0] if solver == "cg" else [0, 3, 0])
    assert found.damping[1].item() == pytest.approx(0.1)
    assert not found.failed.any()
    expected = torch.linalg.solve(NEGATIVE + 0.1 * torch.eye(N, dtype=torch.float64), b[1])
    assert torch.allclose(found.x[1], expected, rtol=1e-3, atol=1e-3)


def test_more_damping_helps_the_series_where_curvature_is_too_large_for_the_step() -> None:
    b, rate = right_sides(3), 0.9  # 0.9 · 10^0.5 > 2
    found = solved(Implicit("neumann", terms=5_000, damping=1e-2), POSITIVE, b, rate)
    assert (found.raised >= 1).all()
    expected = torch.linalg.solve(POSITIVE + found.damping[:, None, None] * torch.eye(N, dtype=torch.float64), b)
    assert torch.allclose(found.x, expected, rtol=1e-6)


@pytest.mark.parametrize("solver", ["cg", "neumann"])
def test_what_no_damping_helps_fails_by_itself(solver: str) -> None:
    matrices, b = torch.stack([POSITIVE[0], -1e12 * POSITIVE[1]]), right_sides(2)
    how = Implicit("cg", terms=9, damping=1e-3) if solver == "cg" else Implicit("neumann", terms=9, damping=1e-3)
    found = solved(how, matrices, b)
    assert found.failed.tolist() == [False, True]
    assert found.raised.tolist() == [0, RAISES]
    assert found.x[1].isnan().all()
    assert torch.equal(found.x[0], solved(how, matrices[:1], b[:1]).x[0])


@pytest.mark.parametrize("how", [CG, SERIES], ids=["cg", "neumann"])
def test_what_is_not_finite_stays_with_its_candidate_and_ends_at_once(how: Implicit) -> None:
    products = []
    matrices, b = POSITIVE.clone(), right_sides(3)
    matrices[0] = torch.nan
    b[1] = torch.inf

    def product(p: Tensor) -> Tensor:
        products.append(p)
        return torch.einsum("pij,pj->pi", matrices, p)

    found = solve(how, product, b, rate=0.3)
    assert found.x.isnan().all(1).tolist() == [True, True, False]
    assert found.raised.tolist() == [0, 0, 0]
    assert torch.allclose(found.x[2], torch.linalg.solve(POSITIVE[2], b[2]), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("how", [CG, SERIES], ids=["cg", "neumann"])
def test_nothing_to_solve_is_zero_without_a_product(how: Implicit) -> None:
    found = solve(how, lambda p: pytest.fail("nobody asked"), torch.zeros(2, N), rate=0.3)
    assert torch.equal(found.x, torch.zeros(2, N))


@pytest.mark.parametrize("solver", ["cg", "neumann"])
def test_flat_directions_in_float32_are_no_growth(solver: str) -> None:
    flat = symmetric(torch.cat([torch.zeros(4, dtype=torch.float64), EIGENVALUES[4:]]), 3).float()
    how = Implicit("cg", terms=4, damping=1e-3) if solver == "cg" else Implicit("neumann", terms=300, damping=1e-3)
    found = solved(how, flat[None], right_sides(1).float())
    assert found.raised.tolist() == [0]
