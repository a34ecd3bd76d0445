"""Signatures: what they ignore (constants, step sizes, families), what they notice, distances and weights."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from lossmith import rng
from lossmith.errors import LossError
from lossmith.losses import Loss, Setting
from lossmith.losses.parser import parse
from lossmith.losses.signature import LOG_ODDS, Signature, distance, signature, visit_weights
from lossmith.losses.taylor import Taylor
from lossmith.losses.taylor_family import TaylorFamily
from lossmith.losses.tree import Tree


def of(text: str, classes: int = 10, **options: object) -> Signature:
    return signature(Tree(parse(text)), classes, **options)  # type: ignore[arg-type]


def test_signature_is_the_normalised_rule() -> None:
    s = of("-t*log(p)")
    p = 1 / (1 + np.exp(-np.array(LOG_ODDS)))
    gamma = np.concatenate([1 / p, np.zeros(32)])  # cross-entropy: γ = t/p (ALGORITHMS §3)
    expected = (gamma - gamma.mean()) / gamma.std()
    assert np.array(s.values) == pytest.approx(expected, rel=1e-9, abs=1e-9)
    assert (len(s.values), LOG_ODDS[0], LOG_ODDS[-1], sum(s.weights)) == (64, -8.0, 8.0, pytest.approx(1.0))


@settings(deadline=None, max_examples=50)
@given(
    st.lists(st.floats(-3, 3), min_size=8, max_size=8),
    st.floats(0.01, 100),
    st.floats(-5, 5),
    st.sampled_from([2, 3, 10]),
)
def test_constants_and_step_sizes_do_not_count(
    genome: list[float], scale: float, constant: float, classes: int
) -> None:
    kernel = Taylor(tuple(genome))
    assume(np.abs(kernel.effective_coefficients(Setting("softmax", classes))).max() > 0.1)
    moved = [scale * c for c in kernel.coefficients]
    moved[0] += constant
    twin = Taylor((*moved, *kernel.centres))
    assert distance(signature(kernel, classes), signature(twin, classes)) < 1e-6


@pytest.mark.parametrize("classes", [2, 10])
def test_losses_with_one_rule_have_one_signature_across_families(classes: int) -> None:
    square = of("(t - p)^2", classes)
    assert distance(square, signature(Taylor((0.0, -1.0, 0.0), 2, ("residual",)), classes)) < 1e-9
    assert distance(square, signature(Loss(Tree(parse("3*(p^2 - 2*t*p)")), outputs="mean"), classes)) < 1e-9
    assert distance(square, of("-(t - p)^2", classes)) == pytest.approx(2.0)  # the opposite rule
    assert distance(square, of("-t*log(p)", classes)) > 0.1


def test_two_classes_know_only_the_contrast() -> None:
    # t·log p + (1−t)·log(1−p) and 2·t·log p pull alike when p_N = 1 − p_T; with ten classes they do not.
    symmetric, target_only = "-(t*log(p) + (1 - t)*log(1 - p))", "-2*t*log(p)"
    assert distance(of(symmetric, 2), of(target_only, 2)) < 1e-9
    assert distance(of(symmetric, 10), of(target_only, 10)) > 0.1
    sigmoid = Loss(Tree(parse(symmetric)), head="sigmoid")
    assert distance(signature(sigmoid, 1), of(target_only, 2)) < 1e-9


def test_signatures_agree_exactly_where_keys_do() -> None:
    setting = Setting("softmax", 10)
    a = TaylorFamily().sample(rng.stream(0, "test"))
    t2, t3, t4, t5, t6, t7, t0, t1 = a
    twin = Taylor((t2, t3 + 3 * t4, t4, t5 + 2 * t6, t6, t7, t0, t1 + 1))  # the same effective coefficients
    assert Taylor(a).key(setting) == twin.key(setting)
    assert distance(signature(Taylor(a), 10), signature(twin, 10)) < 1e-7
    other = Taylor((t2, t3 + 0.01, *a[2:]))
    assert distance(signature(Taylor(a), 10), signature(other, 10)) > 1e-5


def test_a_loss_that_never_pulls_is_at_the_origin() -> None:
    nothing = of("t + 3*p")
    assert set(nothing.values) == {0.0}
    assert distance(nothing, of("-t*log(p)")) == pytest.approx(1.0)


def test_distance_is_a_metric_on_random_rules() -> None:
    signatures = [signature(Taylor(TaylorFamily().sample(rng.stream(i, "test"))), 10) for i in range(12)]
    for a in signatures:
        assert distance(a, a) == 0.0
        for b in signatures:
            assert distance(a, b) == distance(b, a) <= 2.0 + 1e-12
            assert all(distance(a, b) <= distance(a, c) + distance(c, b) + 1e-12 for c in signatures)


def test_weights_say_which_points_count() -> None:
    early = [1.0 if abs(x) < 3 else 0.0 for x in LOG_ODDS] * 2
    a, b = "-t*log(p)", "-t*log(p) + 1000*max(0.01 - p, 0)^2"  # differ only where p < 0.01, log-odds −4.6
    assert distance(of(a), of(b)) > 1e-4
    assert distance(of(a, weights=early), of(b, weights=early)) < 1e-12
    with pytest.raises(LossError, match="the same weights"):
        distance(of(a), of(a, weights=early))
    for wrong in ([1.0] * 63, [-1.0] + [1.0] * 63, [0.0] * 64, [float("nan")] * 64):
        with pytest.raises(LossError, match="64 non-negative numbers"):
            of(a, weights=wrong)


def test_visit_weights_count_where_predictions_were() -> None:
    predictions = np.array([[0.5, 0.3, 0.2], [1.0, 0.0, 0.0]])
    weights = np.array(visit_weights(predictions, np.array([0, 1])))
    assert weights.sum() == pytest.approx(1.0)
    assert weights[:32].sum() == pytest.approx(1 / 3)  # one target among three outputs
    assert weights[0] == pytest.approx(1 / 6)  # the target of row 2, p = 0, lands on the first point
    assert weights[63] == pytest.approx(1 / 6)
    assert distance(of("-t*log(p)", weights=weights), of("-t*log(p)", weights=weights)) == 0.0


def test_signature_refuses_what_it_cannot_describe() -> None:
    with pytest.raises(LossError, match="at least 2 classes"):
        of("-t*log(p)", 1)
    with pytest.raises(LossError, match="not finite everywhere"):
        of("exp(1/p)")
