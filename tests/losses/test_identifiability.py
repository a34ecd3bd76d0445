"""What is identifiable: the ranks of ALGORITHMS §2 on two roads, and keys that are equal exactly when gradients are."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch import Tensor

from lossmith import rng
from lossmith.losses import Setting
from lossmith.losses.identifiability import effective
from lossmith.losses.inputs import compute_inputs
from lossmith.losses.taylor import Taylor, expanded
from lossmith.losses.taylor_family import TaylorFamily

PLAIN = ("target", "prediction")
SOFTMAX = Setting("softmax", 10)
PAIR = Setting("softmax", 2)

# (order, variables, head, outputs, hard targets, rank)
RANKS = [
    *[(k, PLAIN, "softmax", 4, True, 2 * k - 2) for k in (2, 3, 4, 5)],  # derived in ALGORITHMS §2
    *[(k, PLAIN, "softmax", 2, True, rank) for k, rank in zip((2, 3, 4, 5), (2, 2, 4, 4), strict=True)],  # the same
    *[(k, PLAIN, "softmax", 4, False, rank) for k, rank in zip((3, 4, 5), (5, 9, 14), strict=True)],  # the same
    # One logit is read as the pair (1−p, p): the ranks of two classes.
    *[(k, PLAIN, "sigmoid", 1, True, rank) for k, rank in zip((2, 3, 4, 5), (2, 2, 4, 4), strict=True)],
    # Without a softmax every term of ∂f/∂p counts: p, tp and p² for k = 2, six coefficients for k = 3.
    (2, PLAIN, "identity", 2, False, 3),
    (3, PLAIN, "identity", 2, False, 6),
    (3, ("residual",), "softmax", 4, True, None),  # no number in ALGORITHMS: the two roads must agree
    (4, ("residual",), "softmax", 4, True, None),
    (3, ("residual",), "softmax", 4, False, None),
    (3, ("residual",), "softmax", 2, True, None),
    (3, ("residual",), "identity", 1, False, None),
    (3, (*PLAIN, "progress"), "softmax", 4, True, None),
    (3, (*PLAIN, "logits"), "softmax", 4, True, None),
    (3, (*PLAIN, "logits"), "softmax", 2, True, None),
    (3, (*PLAIN, "logits"), "softmax", 2, False, None),
    (3, (*PLAIN, "logits"), "sigmoid", 1, True, None),
    (2, (*PLAIN, "logits"), "identity", 2, False, None),
    (2, ("target", "prediction", "logits", "residual", "progress"), "softmax", 3, True, None),
    (2, ("target", "prediction", "logits", "residual", "progress"), "softmax", 3, False, None),
    (3, PLAIN, "softmax", 2, False, None),
    (4, PLAIN, "softmax", 2, False, None),
    (4, PLAIN, "sigmoid", 1, False, None),
]


def gradients(kernel: Taylor, phi: Tensor, setting: Setting, rows: int = 60) -> Tensor:
    """∂loss/∂output of random rows as a function of the genome, [rows · C]."""
    generator = rng.torch_stream(0, "test", "rows")
    outputs = 1 if setting.head == "sigmoid" else setting.classes
    z = 1.5 * torch.randn(rows, outputs, generator=generator, dtype=torch.float64)
    if setting.head == "identity":
        t = torch.randn(rows, outputs, generator=generator, dtype=torch.float64)
    elif setting.hard_targets:
        labels = torch.randint(max(2, outputs), (rows, 1), generator=generator)
        t = torch.zeros(rows, max(2, outputs), dtype=torch.float64).scatter(1, labels, 1.0)[:, -outputs:]
    else:
        noise = torch.randn(rows, max(2, outputs), generator=generator, dtype=torch.float64)
        t = torch.softmax(noise, -1)[:, -outputs:]
    progress = torch.rand(
        rows, *[1] * (2 if setting.head == "sigmoid" else 1), generator=generator, dtype=torch.float64
    )
    z.requires_grad_()
    x = compute_inputs(kernel.reads, z, t, setting.head, progress=progress)
    (gradient,) = torch.autograd.grad(kernel.value(x, phi).sum(), z, create_graph=True)
    return gradient.flatten()


def rank(matrix: np.ndarray) -> int:
    singular = np.linalg.svd(matrix / np.abs(matrix).max(), compute_uv=False)
    return int((singular > 1e-9 * singular[0]).sum())


@pytest.mark.parametrize(("order", "variables", "head", "outputs", "hard", "expected"), RANKS)
def test_rank_of_the_gradient_is_the_rank_of_the_effective_coefficients(
    order: int, variables: tuple[str, ...], head: str, outputs: int, hard: bool, expected: int | None
) -> None:
    setting = Setting(head, outputs, hard)
    genome = TaylorFamily(order, variables).sample(rng.stream(1, "test"), sigma=0.7)
    kernel = Taylor(genome, order, variables)
    phi = torch.tensor(genome, dtype=torch.float64)
    by_gradient = torch.autograd.functional.jacobian(
        lambda phi: gradients(kernel, phi, setting), phi, vectorize=True
    ).numpy()
    # Second road: the polynomial algebra on complex numbers (complex-step derivative, exact in float64).
    columns = []
    for i in range(len(genome)):
        moved = [complex(g, 1e-30 if i == j else 0.0) for j, g in enumerate(genome)]
        coefficients = effective(expanded(moved, order, variables, head), setting)  # type: ignore[arg-type]
        columns.append([complex(c).imag / 1e-30 for c in coefficients.values()])
    by_algebra = np.array(columns).T
    assert rank(by_gradient) == rank(by_algebra)
    # … and the two have the same null space: stacking them adds nothing.
    stacked = np.vstack([by_gradient / np.abs(by_gradient).max(), by_algebra / np.abs(by_algebra).max()])
    assert rank(stacked) == rank(by_gradient)
    if expected is not None:
        assert rank(by_gradient) == expected


def test_effective_coefficients_at_order_three_are_those_of_the_paper() -> None:
    _, t3, t4, t5, t6, t7, t0, t1 = genome = TaylorFamily().sample(rng.stream(2, "test"))
    ch, chh, chy = 2 * t3 - 2 * t6 * t0 - 6 * t4 * t1, 3 * t4, 2 * t6  # ALGORITHMS §3
    cy, cyy = -2 * t1 * t6 + t5 - 2 * t7 * t0, t7
    coefficients = Taylor(genome).effective_coefficients(SOFTMAX)
    assert sorted(coefficients) == pytest.approx(sorted([ch, chh, chy, cy + cyy]), rel=1e-12)


genomes = st.lists(st.floats(-3, 3).map(lambda g: round(g, 3)), min_size=8, max_size=8)


@settings(deadline=None)
@given(genomes, st.sampled_from([SOFTMAX, Setting("softmax", 3), PAIR, Setting("sigmoid", 1)]), st.floats(-2, 2))
def test_genomes_with_equal_effective_coefficients_are_one_candidate(
    genome: list[float], setting: Setting, moved: float
) -> None:
    first = Taylor(tuple(genome))
    twin = Taylor(tuple(twin_of(genome, moved)))
    assume(np.abs(first.effective_coefficients(setting)).max() > 1e-2)
    assert first.effective_coefficients(setting) == pytest.approx(twin.effective_coefficients(setting), abs=1e-9)
    a, b = (gradients(k, torch.tensor(k.genome, dtype=torch.float64), setting) for k in (first, twin))
    torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-9)


def twin_of(genome: list[float], moved: float) -> list[float]:
    """Another genome with the same (ch, chh, chy, cy + cyy): the centre of p moves, θ3 and θ5 make up for it."""
    t2, t3, t4, t5, t6, t7, t0, t1 = genome
    return [t2 - 7.0, t3 + 3 * t4 * moved, t4, t5 + 2 * t6 * moved, t6, t7, t0, t1 + moved]


def test_twins_share_their_key_and_neighbours_do_not() -> None:
    shared = 0
    for i in range(200):
        genome = list(TaylorFamily().sample(rng.stream(i, "test")))
        first = Taylor(tuple(genome))
        shared += first.key(SOFTMAX) == Taylor(tuple(twin_of(genome, 0.37))).key(SOFTMAX)
        for place in range(6):
            other = list(genome)
            other[place] *= 1 + 1e-4
            same_pull = place == 0  # θ2 is a constant in γ, which no softmax gradient shows
            assert (Taylor(tuple(other)).key(SOFTMAX) == first.key(SOFTMAX)) == same_pull
    assert shared >= 195  # float noise at a rounding boundary may split a few: they are then trained twice, no harm


@settings(deadline=None)
@given(
    genomes,
    genomes,
    st.sampled_from([SOFTMAX, PAIR, Setting("softmax", 4, hard_targets=False), Setting("identity", 1)]),
)
def test_keys_differ_where_gradients_do(one: list[float], other: list[float], setting: Setting) -> None:
    first, second = Taylor(tuple(one)), Taylor(tuple(other))
    a, b = (gradients(k, torch.tensor(k.genome, dtype=torch.float64), setting) for k in (first, second))
    a, b = a.detach(), b.detach()
    scale = float(torch.maximum(a.abs().max(), b.abs().max()))
    if float((a - b).abs().max()) > 1e-6 * scale + 1e-12:  # two rules that do not pull at all differ by rounding only
        assert first.key(setting) != second.key(setting)


def test_one_loss_has_one_key_in_whichever_family_it_is_written() -> None:
    in_residual = Taylor((0.0, -1.0, 0.0), 2, ("residual",))  # f = −(p − t)²
    in_both = Taylor((0.0, -1.0, 2.0, 0.0, 0.0), 2, PLAIN)  # f = −p² + 2tp
    higher = Taylor((0.0, -1.0, 0.0, 2.0, 0.0, 0.0, 0.0, 0.0), 3, PLAIN)
    for setting in (SOFTMAX, PAIR, Setting("sigmoid", 1), Setting("identity", 1), Setting("softmax", 5, False)):
        assert in_residual.key(setting) == in_both.key(setting) == higher.key(setting)
    doubled = Taylor((0.0, -2.0, 4.0, 0.0, 0.0), 2, PLAIN)
    assert doubled.key(SOFTMAX) != in_both.key(SOFTMAX)  # the step size is part of a loss


def test_a_loss_without_any_pull_and_one_that_overflows_still_have_keys() -> None:
    nothing = Taylor((0.0,) * 8)
    assert nothing.key(SOFTMAX) == Taylor((3.0, *[0.0] * 7)).key(SOFTMAX)
    huge = Taylor((1.0, 1.0, 1e300, 1.0, 1.0, 1.0, 1e200, 1e200))
    assert huge.key(SOFTMAX) == Taylor(huge.genome).key(SOFTMAX) != nothing.key(SOFTMAX)
