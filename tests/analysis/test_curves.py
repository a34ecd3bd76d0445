"""Curves against closed forms of the pull, histories against counting by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest
from numpy.testing import assert_allclose

from lossmith.analysis import Scored, history, loss_curve
from lossmith.errors import LossError
from lossmith.losses import Loss, Pairwise
from lossmith.losses.parser import parse
from lossmith.losses.tree import Tree


def loss(text: str, name: str | None = None, **options: object) -> Loss:
    return Loss(Tree(parse(text)), name=name, **options)  # type: ignore[arg-type]


CE = loss("-t*log(p)", "cross_entropy")
BAIKAL = loss("t/p - log(p)", "baikal")


def test_cross_entropy_pulls_by_what_is_missing() -> None:
    curve = loss_curve(CE, CE, classes=10)
    p = np.array(curve.prediction)
    true, false = curve.of("loss")
    assert (true.role, false.role) == ("true class", "false class")
    assert_allclose(true.pull, 1 - p, atol=1e-12)  # −∂CE/∂z_j = t_j − p_j
    assert_allclose(false.pull, -p, atol=1e-12)
    assert_allclose(true.value, -np.log(p) - math.log(10), atol=1e-12)  # 0 where p = 1/10
    assert_allclose(false.value, -np.log((1 - p) / 9) - math.log(10), atol=1e-9)
    assert curve.scale == 1.0


def test_baikal_is_scaled_to_the_same_pull_at_the_start() -> None:
    # ALGORITHMS §3 at p = 1/n: p(γ_T − Σγp) = (1/n)(n + n² − 2n) = n − 1 for Baikal, 1 − 1/n for CE: factor 1/n
    curve = loss_curve(BAIKAL, CE, classes=10)
    assert_allclose(curve.scale, 0.1, rtol=1e-9)
    p = np.array(curve.prediction)
    # and everywhere: γ_T = 1/p + 1/p², Σγ_k p_k = n + 1/p, so the pull on the target is p(γ_T − Σγp) = 1/p − np
    assert_allclose(curve.of("loss")[0].pull, 1 / p - 10 * p, rtol=1e-9, atol=1e-9)


def test_sigmoid_is_read_as_a_pair() -> None:
    ce = loss("-t*log(p)", head="sigmoid")
    curve = loss_curve(ce, ce, classes=1)
    p = np.array(curve.prediction)
    assert_allclose(curve.of("loss")[0].pull, 1 - p, atol=1e-12)
    assert_allclose(curve.of("loss")[1].pull, -p, atol=1e-12)


def test_regression_is_shown_over_the_residual() -> None:
    mse = loss("(t-p)^2", "mse", head="identity")
    curve = loss_curve(mse, mse, classes=1)
    assert [line.role for line in curve.of("loss")] == ["target 0"]  # other targets look the same
    assert_allclose(curve.of("loss")[0].pull, -2 * np.array(curve.x), atol=1e-12)
    assert_allclose(curve.of("loss")[0].value, np.array(curve.x) ** 2, atol=1e-12)
    uneven = loss_curve(loss("(1 + t^2)*(t-p)^2", head="identity"), mse, classes=1)
    assert [line.role for line in uneven.of("loss")] == ["target 0", "target −1", "target +1"]
    assert len(uneven.of("reference")) == 1


def test_losses_that_use_progress_are_taken_at_one() -> None:
    curve = loss_curve(loss("-t*log(p)*tau"), CE, classes=5, progress=0.25)
    assert curve.progress == 0.25
    assert_allclose(curve.scale, 4.0, rtol=1e-9)
    assert loss_curve(CE, CE, classes=5).progress is None


def test_a_loss_that_pulls_at_nothing_has_a_curve_too() -> None:
    curve = loss_curve(loss("t"), CE, classes=3)
    assert set(curve.of("loss")[0].pull) == {0.0}
    assert curve.scale == 1.0


def test_overflow_is_a_gap_not_a_number() -> None:
    curve = loss_curve(loss("exp(exp(z))*t"), CE, classes=3)
    assert any(math.isnan(v) for v in curve.of("loss")[0].value)
    assert not any(math.isinf(v) for line in curve.lines for v in line.value + line.pull)


def test_what_has_no_curve_says_so() -> None:
    with pytest.raises(LossError, match="use one head"):
        loss_curve(CE, loss("(t-p)^2", head="identity"), classes=3)
    with pytest.raises(LossError, match="no value per row"):
        loss_curve(loss("-z", aggregation=Pairwise()), CE, classes=3)
    with pytest.raises(LossError, match="softmax, sigmoid or identity"):
        loss_curve(loss("t*p", head=lambda z: z), CE, classes=3)


ROWS = [
    Scored(1, "ok", 0.2),
    Scored(0, "ok", 0.3),
    Scored(0, "screened:exact"),
    Scored(1, "ok", 0.4),
    Scored(0, "at_chance", 0.1),  # a value, but not one to be ranked
    Scored(2, "diverged"),
    Scored(2, "duplicate_of:77", 0.2),
    Scored(3, "ok", 0.25),
    Scored(3, "ok", float("nan")),
]


def test_history_by_hand() -> None:
    h = history(ROWS, metric="error_rate", direction="min")
    assert h.generations == (0, 1, 2, 3)
    assert h.best == (0.3, 0.2, None, 0.25)
    assert h.mean == (0.3, pytest.approx(0.3), None, 0.25)
    assert h.best_so_far == (0.3, 0.2, 0.2, 0.2)
    assert h.statuses == ("ok", "at_chance", "diverged", "duplicate_of", "screened:exact")
    assert h.counts[0] == (1, 1, 0, 0, 1)
    assert h.total("ok") == 5
    assert h.total("crashed") == 0


def test_history_of_a_metric_to_be_maximised() -> None:
    h = history(ROWS, metric="accuracy", direction="max")
    assert h.best == (0.3, 0.4, None, 0.25)
    assert h.best_so_far == (0.3, 0.4, 0.4, 0.4)


def test_history_of_nothing() -> None:
    h = history([], metric="error_rate", direction="min")
    assert h.generations == h.statuses == ()
