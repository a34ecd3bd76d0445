"""The best predictor that ignores its input, against constants known by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest
import sklearn.metrics as sk
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from metric_samples import sample
from torch import Tensor

from lossmith.errors import TaskError
from lossmith.rng import stream
from lossmith.tasks import metrics
from lossmith.tasks.metrics import best_constant, metric


def test_best_constant_of_classes() -> None:
    train = torch.tensor([0] * 50 + [1] * 30 + [2] * 20)
    target = torch.tensor([0] * 40 + [1] * 40 + [2] * 20)
    find = {"head": "softmax", "train_target": train, "target": target, "outputs": 3}
    # by hand: always one of the two classes with 40 of 100 rows
    value, error = best_constant(metrics.error_rate, **find)  # type: ignore[arg-type]
    assert value == pytest.approx(0.6)
    assert error == pytest.approx(math.sqrt(0.6 * 0.4 / 99))
    assert best_constant(metrics.accuracy, **find)[0] == pytest.approx(0.4)  # type: ignore[arg-type]
    assert best_constant(metrics.balanced_error, **find)[0] == pytest.approx(2 / 3)  # type: ignore[arg-type]
    assert best_constant(metrics.roc_auc, **find)[0] == pytest.approx(0.5)  # type: ignore[arg-type]
    assert best_constant(metrics.top_k_error(2), **find)[0] == pytest.approx(0.2)  # type: ignore[arg-type]
    # by hand: cross-entropy of the training prior on the target
    prior = -(0.4 * math.log(0.5) + 0.4 * math.log(0.3) + 0.2 * math.log(0.2))
    assert best_constant(metrics.log_loss, **find)[0] == pytest.approx(prior, rel=1e-6)  # type: ignore[arg-type]


def test_best_constant_of_costs_is_the_cheap_decision() -> None:
    t = torch.tensor([0] * 80 + [1] * 20)
    for head, outputs in (("sigmoid", 1), ("softmax", 2)):
        # by hand: always 1 costs 0.8 * 1, always 0 costs 0.2 * 10
        value, _ = best_constant(metrics.asymmetric_cost((10, 1)), head=head, train_target=t, target=t, outputs=outputs)
        assert value == pytest.approx(0.8)


@settings(deadline=None, max_examples=25)
@given(st.integers(0, 10**6), st.sampled_from([0.05, 0.3, 0.5, 0.9]))
def test_best_constant_of_values_is_near_the_optimum(seed: int, q: float) -> None:
    y = torch.from_numpy(stream(seed, "test").gamma(2.0, size=500))
    found = {
        m.name: best_constant(m, head="identity", train_target=y, target=y, outputs=1)[0]
        for m in (metrics.mse, metrics.mae, metrics.quantile(q), metrics.r2)
    }
    # the optimal constants: the mean, the median, the q-quantile
    assert found["mse"] == pytest.approx(float(y.var(correction=0)), rel=1e-6)
    assert found["mae"] == pytest.approx(float((y - y.quantile(0.5)).abs().mean()), rel=1e-6)
    pinball = sk.mean_pinball_loss(y.numpy(), np.full(500, np.quantile(y.numpy(), q)), alpha=q)
    assert found[f"quantile(q={q:g})"] == pytest.approx(pinball, rel=1e-5)
    assert found["r2"] == pytest.approx(0, abs=1e-6)


def test_best_constant_of_vectors_labels_and_sequences() -> None:
    _, t, _ = sample("identity", 3)
    assert best_constant(metrics.r2, head="identity", train_target=t, target=t, outputs=3)[0] == pytest.approx(
        0, abs=1e-6
    )
    _, labels, _ = sample("sigmoid", 4)
    error, _ = best_constant(metrics.error_rate, head="sigmoid", train_target=labels, target=labels, outputs=4)
    assert error == pytest.approx(float(labels.float().mean()))  # all off, as each label is on in fewer than half
    tokens = torch.tensor([[0, 1, 1], [1, 1, 2]])
    assert best_constant(metrics.error_rate, head="softmax", train_target=tokens, target=tokens, outputs=3)[
        0
    ] == pytest.approx(1 / 3)


def test_best_constant_where_none_has_a_value() -> None:
    def correlation(output: Tensor, target: Tensor) -> float:
        if bool((output == output[0]).all()):
            return math.nan
        x = output[:, 0] - output[:, 0].mean()
        return float((x * (target - target.mean())).sum() / (x.norm() * target.norm()))

    y = torch.linspace(0, 1, 50)
    m = metric(correlation, direction="max")
    assert best_constant(m, head="identity", train_target=y, target=y, outputs=1) == (-math.inf, 0.0)


def test_best_constant_needs_rows_and_proper_labels() -> None:
    t = torch.tensor([0, 1, 2])
    with pytest.raises(TaskError, match="no rows"):
        best_constant(metrics.error_rate, head="softmax", train_target=t[:0], target=t, outputs=3)
    with pytest.raises(TaskError, match="0 to 2 for 2 classes"):
        best_constant(metrics.error_rate, head="softmax", train_target=t, target=t, outputs=2)
