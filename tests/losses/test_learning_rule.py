"""Learning rules: γ on two roads, logit dynamics, null-epoch invariants, attraction to zero training error."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from lossmith import rng
from lossmith.errors import LossError
from lossmith.losses import Kernel, Loss, Pairwise, Setting
from lossmith.losses.learning_rule import (
    attraction,
    attracts_zero_error,
    check_invariant,
    logit_step,
    null_epoch,
    pull,
)
from lossmith.losses.parser import parse
from lossmith.losses.taylor import Taylor
from lossmith.losses.taylor_family import TaylorFamily
from lossmith.losses.tree import Tree

EVOLVED_1 = Taylor((1.5742, -1.4446, 2.3616, -0.6632, -2.8569, -1.1313, 0.8439, 1.4872))
EVOLVED_2 = Taylor((8.2896, 0.2415, 7.8726, 8.9666, 2.0184, 7.0513, -10.9408, 7.5216))
CROSS_ENTROPY = Tree(parse("-t*log(p)"))
BAIKAL = Tree(parse("-log(p) + t/p"))
SOFTMAX = Setting("softmax", 10)


def rows(classes: int = 4, count: int = 6) -> tuple[torch.Tensor, torch.Tensor]:
    """Random logits [N, C] and one-hot targets [N, C]."""
    generator = rng.torch_stream(0, "test", "rows")
    z = 2 * torch.randn(count, classes, generator=generator, dtype=torch.float64)
    labels = torch.randint(classes, (count, 1), generator=generator)
    return z, torch.zeros_like(z).scatter(1, labels, 1.0)


def coefficients(genome: tuple[float, ...] | np.ndarray) -> tuple[np.ndarray, ...]:
    """c1, ch, chh, chy, cy, cyy of ALGORITHMS §3, the second road to γ of a third-order Taylor loss."""
    t2, t3, t4, t5, t6, t7, t0, t1 = np.moveaxis(np.asarray(genome), -1, 0)
    c1 = -2 * t1 * t3 + 2 * t0 * t1 * t6 + t2 - t5 * t0 + t7 * t0**2 + 3 * t4 * t1**2
    ch = 2 * t3 - 2 * t6 * t0 - 6 * t4 * t1
    return c1, ch, 3 * t4, 2 * t6, -2 * t1 * t6 + t5 - 2 * t7 * t0, t7


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("(t - p)^2", lambda t, p: 2 * (t - p)),  # the table of ALGORITHMS §3
        ("-t*log(p)", lambda t, p: t / p),
        ("-log(p) + t/p", lambda t, p: 1 / p + t / p**2),
    ],
)
def test_pulls_of_the_published_rules(text: str, expected) -> None:  # type: ignore[no-untyped-def]
    z, t = rows()
    p = torch.softmax(z, -1)
    torch.testing.assert_close(pull(Tree(parse(text)), p, t), expected(t, p), rtol=1e-12, atol=1e-12)


def test_pull_of_label_smoothing_and_of_the_mean_over_outputs() -> None:
    z, t = rows()
    p = torch.softmax(z, -1)
    smoothed = pull(Loss(CROSS_ENTROPY, smoothing=0.2, outputs="mean"), p, t)
    torch.testing.assert_close(smoothed, (0.8 * t + 0.2 / 4) / p / 4)


def test_pull_of_a_third_order_taylor_loss_on_two_roads() -> None:
    z, t = rows()
    p = torch.softmax(z, -1)
    for i in range(20):
        genome = TaylorFamily().sample(rng.stream(i, "test"))
        c1, ch, chh, chy, cy, cyy = coefficients(genome)
        by_hand = c1 + ch * p + chh * p**2 + chy * p * t + cy * t + cyy * t**2
        torch.testing.assert_close(pull(Taylor(genome), p, t), by_hand, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize(
    "kernel",
    [CROSS_ENTROPY, BAIKAL, EVOLVED_1, Tree(parse("t*(1 - p_t^0.7)/0.7")), Tree(parse("(t - p)^2 + 0.1*max(p, 0.2)"))],
    ids=str,
)
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_logit_dynamics_are_the_gradient_of_the_loss(kernel: Kernel, smoothing: float) -> None:
    z, t = rows()
    loss = Loss(kernel, reduction="sum", smoothing=smoothing)
    z.requires_grad_()
    (gradient,) = torch.autograd.grad(loss(z, t), z)
    p = torch.softmax(z.detach(), -1)
    torch.testing.assert_close(logit_step(p, pull(loss, p, t)), -gradient, rtol=1e-9, atol=1e-9)


def test_pull_reads_progress_prior_and_survives_losses_without_any_prediction() -> None:
    z, t = rows()
    p = torch.softmax(z, -1)
    torch.testing.assert_close(pull(Tree(parse("-tau*t*log(p)")), p, t, progress=0.25), 0.25 * t / p)
    torch.testing.assert_close(pull(Tree(parse("-prior*t*log(p)")), p, t), 0.25 * t / p)  # uniform prior of 4 classes
    uneven = Loss(Tree(parse("-prior*t*log(p)")), prior=[0.1, 0.2, 0.3, 0.4])
    torch.testing.assert_close(pull(uneven, p, t), torch.tensor([0.1, 0.2, 0.3, 0.4]).double() * t / p)
    assert (pull(Tree(parse("t")), p, t) == 0).all()
    with pytest.raises(LossError, match="pairwise loss"):
        pull(Loss(Tree(parse("(t - z)^2")), aggregation=Pairwise()), p, t)


def test_null_epoch_is_the_pull_where_all_predictions_are_equal() -> None:
    assert null_epoch(CROSS_ENTROPY, 10) == pytest.approx((10.0, 0.0))
    assert null_epoch(BAIKAL, 10) == pytest.approx((110.0, 10.0))  # 1/p + t/p² at p = 1/10


def test_the_two_invariants_are_their_closed_forms() -> None:
    for n in (2, 3, 10, 100):
        for i in range(60):
            genome = TaylorFamily().sample(rng.stream(i, "test", n))
            c1, ch, chh, chy, cy, cyy = coefficients(genome)
            contrast = cy + cyy + chy / n
            paper = contrast >= (n - 2) * (c1 + ch / n + chh / n**2)  # ALGORITHMS §3
            setting = Setting("softmax", n)
            assert check_invariant(Taylor(genome), setting, "exact").ok == (contrast > 0)
            if n > 2:  # at n = 2 the paper's right side is 0 and rounding decides
                assert check_invariant(Taylor(genome), setting, "paper").ok == paper
            assert check_invariant(Taylor(genome), setting, "off").ok


def test_paper_and_exact_invariant_agree_only_about_half_the_time() -> None:
    genomes = 1.2 * rng.stream(0, "test").standard_normal((200_000, 8))
    c1, ch, chh, chy, cy, cyy = coefficients(genomes)
    contrast = cy + cyy + chy / 10
    agree = (contrast > 0) == (contrast >= 8 * (c1 + ch / 10 + chh / 100))
    assert agree.mean() == pytest.approx(0.53, abs=0.01)  # derived in ALGORITHMS §3


@pytest.mark.parametrize("evolved", [EVOLVED_1, EVOLVED_2], ids=["evolved 1", "evolved 2"])
def test_both_evolved_losses_violate_the_published_invariant(evolved: Taylor) -> None:
    status = check_invariant(evolved, SOFTMAX, "paper")  # derived in ALGORITHMS §3
    assert str(status) == "screened:invariant"
    assert status.sentence.startswith("while every prediction is 1/10, the pull is")
    assert status.sentence.endswith("the paper's invariant asks 9 times as much")


def test_exact_invariant_tells_which_way_the_first_step_goes() -> None:
    for i in range(40):
        kernel = Taylor(TaylorFamily().sample(rng.stream(i, "test")))
        z = torch.zeros(1, 10, dtype=torch.float64, requires_grad=True)
        (gradient,) = torch.autograd.grad(Loss(kernel)(z, torch.tensor([3])), z)
        after = torch.softmax(z.detach() - 1e-4 * gradient, -1)[0, 3]
        status = check_invariant(kernel, SOFTMAX, "exact")
        assert status.ok == bool(after > 0.1)
        assert status.ok or "moving away from the target" in status.sentence


def test_invariants_under_other_heads() -> None:
    square, backwards = Tree(parse("(t - p)^2")), Tree(parse("-(t - p)^2"))
    for head, classes in (("sigmoid", 1), ("identity", 1), ("identity", 3), ("softmax", 3)):
        setting = Setting(head, classes)
        assert check_invariant(Loss(square, head=head), setting).ok
        assert str(check_invariant(Loss(backwards, head=head), setting)) == "screened:invariant"
    one_sided = check_invariant(Tree(parse("exp(-p)")), Setting("identity", 1))
    assert one_sided.sentence == "at output 0 the pull is 1 on the target 1 and 1 on the target -1: not towards both"
    assert check_invariant(backwards, Setting("custom", 3)).ok
    assert check_invariant(square, Setting("sigmoid", 1), "paper").ok
    with pytest.raises(LossError, match="class probabilities, not the identity head"):
        check_invariant(square, Setting("identity", 1), "paper")
    with pytest.raises(LossError, match="one of paper, exact, off"):
        check_invariant(square, SOFTMAX, "strict")  # type: ignore[arg-type]


def test_a_pull_that_is_not_finite_is_screened() -> None:
    huge = Taylor((1.0, 1.0, 1e300, 1.0, 1.0, 1e300, 1e200, 1e200))
    assert check_invariant(huge, SOFTMAX).sentence.endswith("not finite")


@pytest.mark.parametrize("epsilon", [0.9, 0.5, 0.1, 1e-3])
@pytest.mark.parametrize("kernel", [CROSS_ENTROPY, BAIKAL, EVOLVED_1, EVOLVED_2], ids=["ce", "baikal", "e1", "e2"])
def test_attraction_is_one_logit_step(kernel: Kernel, epsilon: float) -> None:
    n = 5
    p = torch.full((1, n), epsilon / (n - 1), dtype=torch.float64)
    p[0, 0] = 1 - epsilon
    t = torch.eye(n, dtype=torch.float64)[:1]
    after = torch.softmax(p.log() + logit_step(p, pull(kernel, p, t)), -1)
    assert attraction(kernel, n, epsilon) == pytest.approx(float((after - p)[0, 0]), rel=1e-9, abs=1e-14)


def test_cross_entropy_always_pulls_to_zero_error() -> None:
    for n in (2, 10, 1000):
        assert all(attraction(CROSS_ENTROPY, n, epsilon) > 0 for epsilon in (0.9, 0.5, 0.1, 1e-2, 1e-4, 1e-6))
        assert attracts_zero_error(CROSS_ENTROPY, n)


@pytest.mark.parametrize("n", [2, 10, 100])
def test_baikal_balances_at_one_over_the_root_of_n(n: int) -> None:
    balance = 1 - 1 / math.sqrt(n)  # derived in ALGORITHMS §1: p_T = 1/√n
    assert attraction(BAIKAL, n, balance) == pytest.approx(0.0, abs=1e-9)
    assert attraction(BAIKAL, n, balance + 0.01) > 0 > attraction(BAIKAL, n, balance - 0.01)
    assert not attracts_zero_error(BAIKAL, n)


def test_attraction_refuses_what_is_no_error_rate() -> None:
    with pytest.raises(LossError, match="strictly between 0 and 1"):
        attraction(BAIKAL, 10, 0.0)
    with pytest.raises(LossError, match="at least 2"):
        attraction(BAIKAL, 1, 0.1)
