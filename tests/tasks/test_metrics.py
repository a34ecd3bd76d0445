"""Every metric against scikit-learn on random data, its standard error, and what is refused."""

from __future__ import annotations

import math

import numpy as np
import pytest
import sklearn.metrics as sk
import torch
from metric_samples import HEADS, N, sample
from torch import Tensor

from lossmith.errors import TaskError
from lossmith.losses.inputs import Head
from lossmith.tasks import metrics
from lossmith.tasks.metrics import metric, resolve


def decided(z: Tensor, head: str) -> np.ndarray:
    if head == "softmax":
        return z.argmax(1).numpy()
    return (z > 0).long().squeeze(1).numpy() if z.shape[1] == 1 else (z > 0).long().numpy()


def per_label(score, t: np.ndarray, y: np.ndarray, w: np.ndarray) -> float:  # type: ignore[no-untyped-def]
    if t.ndim == 1:
        return float(score(t, y, sample_weight=w))
    return float(np.mean([score(t[:, c], y[:, c], sample_weight=w) for c in range(t.shape[1])]))


def sk_auc(t: np.ndarray, z: Tensor, head: str, w: np.ndarray) -> float:
    if head == "softmax" and z.shape[1] > 2:
        # scikit-learn's own one-vs-rest takes no weights, so the mean over its binary curves
        p = z.double().softmax(1).numpy()
        return float(np.mean([sk.roc_auc_score(t == c, p[:, c], sample_weight=w) for c in range(z.shape[1])]))
    score = (z[:, 1] - z[:, 0]) if head == "softmax" else z.squeeze(1)
    return per_label(sk.roc_auc_score, t, score.numpy(), w)


def sk_log_loss(t: np.ndarray, z: Tensor, head: str, w: np.ndarray) -> float:
    if head == "softmax":
        return float(sk.log_loss(t, z.double().softmax(1).numpy(), sample_weight=w, labels=range(z.shape[1])))
    return per_label(sk.log_loss, t, z.double().sigmoid().squeeze(1).numpy(), w)


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize(("head", "columns"), HEADS)
def test_classification_metrics_agree_with_scikit_learn(head: str, columns: int, weighted: bool) -> None:
    z, target, weight = sample(head, columns)
    t, y, w = target.numpy(), decided(z, head), weight.numpy() if weighted else np.ones(N)
    several = t.ndim == 2
    cost = np.array([[0, 1], [5, 0]])
    # scikit-learn 1.9
    expected = {
        "error_rate": per_label(lambda *a, **k: 1 - sk.accuracy_score(*a, **k), t, y, w),
        "accuracy": per_label(sk.accuracy_score, t, y, w),
        "balanced_error": per_label(lambda *a, **k: 1 - sk.balanced_accuracy_score(*a, **k), t, y, w),
        "macro_f1": sk.f1_score(t, y, average="macro", sample_weight=w, zero_division=0),
        "roc_auc": sk_auc(t, z, head, w),
        "log_loss": sk_log_loss(t, z, head, w),
    }
    if head == "softmax" and columns > 2:
        for k in (1, 2, 3):
            hit = sk.top_k_accuracy_score(t, z.numpy(), k=k, sample_weight=w)
            expected[f"top_k_error(k={k})"] = 1 - hit
    elif not several:
        expected["asymmetric_cost(false_negative=5, false_positive=1)"] = np.average(cost[t, y], weights=w)
    for name, value in expected.items():
        found = resolve(name).value(z, target, weight if weighted else None, head=head)
        assert found == pytest.approx(value, rel=1e-5, abs=1e-7), name


def test_multiclass_auc_is_scikit_learns_one_vs_rest() -> None:
    z, target, _ = sample("softmax", 5)
    expected = sk.roc_auc_score(target.numpy(), z.double().softmax(1).numpy(), multi_class="ovr")  # scikit-learn 1.9
    assert metrics.roc_auc.value(z, target, head="softmax") == pytest.approx(expected, abs=1e-12)


def test_auc_counts_ties_half() -> None:
    z, t = torch.tensor([[0.0], [1.0], [1.0], [2.0]]), torch.tensor([0, 0, 1, 1])
    # by hand: pairs (pos, neg): 1>0, 1=1 (half), 2>0, 2>1 -> 3.5 of 4
    assert metrics.roc_auc.value(z, t, head="sigmoid") == 0.875


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("columns", [1, 3])
def test_regression_metrics_agree_with_scikit_learn(columns: int, weighted: bool) -> None:
    z, target, weight = sample("identity", columns)
    t, y, w = target.numpy().reshape(N, -1), z.numpy().reshape(N, -1), weight.numpy() if weighted else np.ones(N)
    # scikit-learn 1.9
    expected = {
        "mse": sk.mean_squared_error(t, y, sample_weight=w),
        "mae": sk.mean_absolute_error(t, y, sample_weight=w),
        "quantile(q=0.9)": sk.mean_pinball_loss(t, y, sample_weight=w, alpha=0.9),
        "r2": sk.r2_score(t, y, sample_weight=w),
    }
    for name, value in expected.items():
        for head in ("identity", None):
            found = resolve(name).value(z, target, weight if weighted else None, head=head)
            assert found == pytest.approx(value, rel=1e-5), name


def test_mse_under_a_softmax_head_is_the_brier_score_per_class() -> None:
    z, t, _ = sample("softmax", 5)
    p, onehot = z.softmax(1).numpy(), np.eye(5)[t.numpy()]
    assert metrics.mse.value(z, t, head="softmax") == pytest.approx(((p - onehot) ** 2).mean(), rel=1e-5)


def test_asymmetric_cost_of_three_classes_by_hand() -> None:
    cost = metrics.asymmetric_cost([[0, 1, 2], [3, 0, 4], [5, 6, 0]])
    z = torch.eye(3)[[0, 2, 1, 1]]  # decisions
    t = torch.tensor([0, 0, 1, 2])
    # by hand: 0->0 costs 0, 0->2 costs 2, 1->1 costs 0, 2->1 costs 6
    assert cost.value(z, t, head="softmax") == 2.0
    assert metrics.asymmetric_cost((5, 1)) == metrics.asymmetric_cost(false_negative=5, false_positive=1)


def test_r2_of_a_constant_target_is_scikit_learns() -> None:
    t = torch.ones(5)
    for z in (torch.ones(5, 1), torch.linspace(0, 1, 5)[:, None]):
        assert metrics.r2.value_and_error(z, t)[0] == sk.r2_score(t, z[:, 0])  # scikit-learn 1.9


def test_top_k_breaks_ties_as_argmax_does() -> None:
    z, t = torch.zeros(6, 3), torch.tensor([0, 0, 1, 1, 2, 2])
    assert metrics.top_k_error(1).value(z, t) == metrics.error_rate.value(z, t) == pytest.approx(4 / 6)
    assert metrics.top_k_error(2).value(z, t) == pytest.approx(2 / 6)


def test_soft_targets() -> None:
    z, t, _ = sample("softmax", 5)
    soft = 0.9 * torch.eye(5)[t] + 0.02
    expected = torch.nn.functional.cross_entropy(z, soft)  # torch 2.13
    assert metrics.log_loss.value(z, soft, head="softmax") == pytest.approx(float(expected), rel=1e-6)
    assert metrics.error_rate.value(z, soft, head="softmax") == metrics.error_rate.value(z, t, head="softmax")


def test_sequences_with_a_mask_equal_their_unmasked_rows() -> None:
    z, t, w = sample("softmax", 5)
    mask = (w > 0).double()
    shaped = z.reshape(20, 20, 5), t.reshape(20, 20), mask.reshape(20, 20)
    for name in ("error_rate", "macro_f1", "roc_auc"):
        m, kept = resolve(name), w > 0
        assert m.value_and_error(*shaped, head="softmax") == m.value_and_error(z[kept], t[kept], head="softmax")


def half_precision_value(dtype: torch.dtype) -> float:
    z, t, _ = sample("softmax", 5)
    return metrics.log_loss.value(z.to(dtype), t, head="softmax")


def test_half_precision_outputs_are_read() -> None:
    assert half_precision_value(torch.bfloat16) == pytest.approx(half_precision_value(torch.float32), rel=1e-2)


# standard errors ---------------------------------------------------------------------------------------------------


def test_error_of_a_mean_is_std_over_root_n() -> None:
    z, t, _ = sample("softmax", 5)
    value, error = metrics.error_rate.value_and_error(z, t, head="softmax")
    assert error == pytest.approx(math.sqrt(value * (1 - value) / (N - 1)), rel=1e-12)  # Bernoulli


@pytest.mark.parametrize("name", ["balanced_error", "roc_auc", "macro_f1", "r2", "mse"])
@pytest.mark.parametrize("weighted", [False, True])
def test_standard_errors_match_the_spread_over_fresh_samples(name: str, weighted: bool) -> None:
    regression = name in ("r2", "mse")
    head, columns = ("identity", 1) if regression else ("softmax", 3)
    m, values, errors = resolve(name), [], []
    for seed in range(60):
        z, t, w = sample(head, columns, seed, n=200)
        given = (z, t, w if weighted else None, head)
        values.append(m.value(*given))
        errors.append(m.value_and_error(*given)[1])
    # the spread of 60 values is itself uncertain by 1/sqrt(2*59) = 9 %; three of that
    assert np.mean(errors) == pytest.approx(np.std(values, ddof=1), rel=0.28)


def test_rows_average_to_the_value() -> None:
    for head, columns in HEADS:
        z, t, w = sample(head, columns)
        for name in ("error_rate", "balanced_error", "roc_auc", "log_loss", "macro_f1"):
            m = resolve(name)
            assert m.value_and_error(z, t, w, head=head)[0] == m.value(z, t, w, head=head)


def test_the_bootstrap_is_seeded_and_close_to_the_formula() -> None:
    z, t, _ = sample("softmax", 5)

    def wrong(output: Tensor, target: Tensor) -> float:
        return float((output.argmax(1) != target).double().mean())

    mine = metric(wrong, direction="min")
    value, error = mine.value_and_error(z, t, head="softmax")
    assert (value, error) == mine.value_and_error(z, t, head="softmax")
    assert value == metrics.error_rate.value(z, t)
    assert error == pytest.approx(
        metrics.error_rate.value_and_error(z, t)[1], rel=0.25
    )  # 100 resamples: ± 7 %, 3 sigma


def test_resamples_that_lack_a_class_are_left_out() -> None:
    z, t = torch.randn(30, 1, generator=torch.Generator().manual_seed(0)), torch.zeros(30, dtype=torch.long)
    t[:3] = 1  # a resample has none of them with probability (27/30)**30 = 4 %

    def fussy(output: Tensor, target: Tensor) -> float:
        assert target.any(), "no positive row"
        return float(output[target == 1].mean())

    _, error = metric(fussy, direction="max").value_and_error(z, t)
    assert 0 < error < 1


def test_one_row_has_no_finite_standard_error() -> None:
    assert metrics.error_rate.value_and_error(torch.eye(3)[:1], torch.tensor([0])) == (0.0, math.inf)


# what is refused ---------------------------------------------------------------------------------------------------


def test_a_broken_model_has_no_value() -> None:
    z, t, _ = sample("softmax", 5)
    z[3, 2] = math.nan
    for name in ("error_rate", "roc_auc", "macro_f1"):
        assert math.isnan(resolve(name).value(z, t, head="softmax"))


@pytest.mark.parametrize(
    ("name", "z", "t", "w", "head", "sentence"),
    [
        ("error_rate", torch.zeros(4, 3), torch.zeros(5), None, "softmax", r"output \[4, 3\] and target \[5\]"),
        ("error_rate", torch.zeros(0, 3), torch.zeros(0), None, "softmax", "no rows"),
        ("error_rate", torch.zeros(4, 3), torch.zeros(4), torch.zeros(4), "softmax", "no rows"),
        ("error_rate", torch.zeros(4, 3), torch.zeros(4), -torch.ones(4), "softmax", "negative"),
        ("error_rate", torch.zeros(4, 3), torch.zeros(4), torch.ones(3), "softmax", "one weight per row"),
        ("error_rate", torch.zeros(2, 3), torch.tensor([0, 3]), None, "softmax", "0 to 3 for 3 classes"),
        ("error_rate", torch.zeros(2, 3), torch.tensor([0, -100]), None, "softmax", "weight 0"),
        ("error_rate", torch.zeros(2, 3), torch.tensor([0.5, 1]), None, "softmax", "no whole numbers"),
        ("error_rate", torch.zeros(2, 1), torch.tensor([0, 1]), None, "softmax", 'use head="sigmoid"'),
        ("error_rate", torch.zeros(2, 3), torch.tensor([0, 1]), None, "sigmoid", "several-label"),
        ("error_rate", torch.zeros(2, 1), torch.tensor([0, 2]), None, "sigmoid", "between 0 and 1"),
        ("log_loss", torch.zeros(2, 3), torch.tensor([0, 1]), None, "identity", "needs probabilities"),
        ("top_k_error(k=3)", torch.zeros(2, 3), torch.tensor([0, 1]), None, "softmax", "more than 3 classes"),
        ("roc_auc", torch.zeros(2, 3), torch.tensor([1, 1]), None, "softmax", "at least two classes"),
        ("asymmetric_cost(5, 1)", torch.zeros(2, 3), torch.tensor([0, 1]), None, "softmax", "2×2 matrix for 3 classes"),
    ],
)
def test_misfits_are_refused_with_a_sentence(
    name: str, z: Tensor, t: Tensor, w: Tensor | None, head: Head, sentence: str
) -> None:
    with pytest.raises(TaskError, match=sentence):
        resolve(name).value(z, t, w, head=head)
