"""From names, functions and objects to metrics; directions, names and pickling."""

from __future__ import annotations

import json
import pickle
import warnings

import cloudpickle
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from metric_samples import sample
from torch import Tensor

from lossmith.errors import TaskError, UnknownNameError
from lossmith.tasks import metrics
from lossmith.tasks.metrics import Metric, metric, resolve

# direction, records, names -----------------------------------------------------------------------------------------


def test_direction_lives_in_the_metric() -> None:
    assert metrics.error_rate.fitness(0.2) == 0.2
    assert metrics.accuracy.fitness(0.2) == -0.2
    assert metrics.error_rate.better(0.1, 0.2)
    assert metrics.accuracy.better(0.2, 0.1)
    assert not metrics.accuracy.better(0.2, 0.2)


EXAMPLES = (
    *(n for n, m in metrics.METRICS.items() if isinstance(m, Metric)),
    "top_k_error(k=3)",
    "quantile(q=0.9)",
    "asymmetric_cost([[0, 1], [5, 0]])",
)


def test_every_metric_has_an_example_here() -> None:
    assert {e.partition("(")[0] for e in EXAMPLES} == set(metrics.METRICS)


@pytest.mark.parametrize("text", EXAMPLES)
def test_a_metric_survives_its_name_and_pickling(text: str) -> None:
    m = resolve(text)
    assert resolve(m.name) == m
    assert str(m) == m.name == text
    assert cloudpickle.loads(cloudpickle.dumps(m)) == m
    assert pickle.loads(pickle.dumps(m)) == m
    assert m.direction in repr(m)
    assert json.loads(json.dumps(m.describe()))["name"] == text


def test_user_functions_pickle_with_cloudpickle() -> None:
    factor = 2.0
    m = metric(lambda z, t: factor * float((z.argmax(1) != t).float().mean()), direction="min")
    z, t, _ = sample("softmax", 5)
    assert cloudpickle.loads(cloudpickle.dumps(m)).value(z, t) == m.value(z, t) > 0


@pytest.mark.parametrize(
    ("text", "same"),
    [
        ("top_k_error", "top_k_error(k=5)"),
        ("top_k_error(3)", "top_k_error(k=3)"),
        (" top_k_error( k = 3 ) ", "top_k_error(k=3)"),
        ("quantile(0.9)", "quantile(q=0.9)"),
        ("asymmetric_cost(5, 1)", "asymmetric_cost([[0, 1], [5, 0]])"),
        ("asymmetric_cost(false_negative=5, false_positive=1)", "asymmetric_cost([[0, 1], [5, 0]])"),
        ("asymmetric_cost([[0,1],[5.5,0]])", "asymmetric_cost([[0, 1], [5.5, 0]])"),
    ],
)
def test_ways_to_write_a_metric(text: str, same: str) -> None:
    assert resolve(text) == resolve(same)


@given(st.floats(0.01, 0.99), st.integers(1, 50))
def test_parameters_survive_their_text(q: float, k: int) -> None:
    assert resolve(metrics.quantile(q).name).name == metrics.quantile(q).name
    assert resolve(metrics.top_k_error(k).name) == metrics.top_k_error(k)


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("top_k_error(k=0)", r"top_k_error.k is 0: it must be a whole number"),
        ("top_k_error(k=three)", r"'k=three' are no numbers"),
        ("top_k_error(3, 4)", "its parameters are k"),
        ("top_k_error(j=3)", "its parameters are k"),
        ("quantile", "missing a required argument: 'q'"),
        ("quantile(q=1.5)", r"quantile.q is 1.5"),
        ("asymmetric_cost", "false_negative=5"),
        ("asymmetric_cost([[0, 1], [5]])", "square"),
        ("asymmetric_cost(NaN, 1)", "finite|number"),
        ("error_rate(3)", "no parameters"),
    ],
)
def test_malformed_names_are_refused_with_a_sentence(text: str, sentence: str) -> None:
    with pytest.raises(TaskError, match=sentence):
        resolve(text)


def test_unknown_names_get_the_nearest() -> None:
    with pytest.raises(UnknownNameError, match="error_rate"):
        resolve("eror_rate")
    with pytest.raises(UnknownNameError):
        resolve("error_rate); import os; (")


# functions and objects ---------------------------------------------------------------------------------------------


def test_a_function_needs_a_direction() -> None:
    def cost(output: Tensor, target: Tensor) -> float:
        return 0.0

    with pytest.raises(TaskError, match=r'lm\.metrics\.metric\(cost, direction="min"\)'):
        resolve(cost)
    assert resolve(cost, "max").direction == "max"
    with pytest.raises(TaskError, match="direction 'up'"):
        resolve(cost, "up")  # type: ignore[arg-type]
    with pytest.raises(TaskError, match="leave it out"):
        resolve("error_rate", "max")
    with pytest.raises(TaskError, match="is no metric"):
        resolve(3)


def test_a_function_sees_what_it_asks_for() -> None:
    z, t, w = sample("softmax", 5)
    seen: list[Tensor] = []

    def spy(output: Tensor, target: Tensor) -> float:
        seen.append(output)
        return 0.0

    metric(spy, direction="min").value(z, t, head="softmax")
    metric(spy, direction="min", output_kind="prediction").value(z, t, head="softmax")
    metric(spy, direction="min").value(z, t, (w > 0).double(), head="softmax")
    assert torch.equal(seen[0], z)
    assert torch.equal(seen[1], z.softmax(1))
    assert torch.equal(seen[2], z[w > 0])  # rows of weight 0 are left out
    with pytest.raises(TaskError, match="third argument `weight`"):
        metric(spy, direction="min").value(z, t, w)
    with pytest.raises(TaskError, match="output_kind 'label'"):
        metric(spy, direction="min", output_kind="label")  # type: ignore[arg-type]


def test_a_function_may_take_the_weight() -> None:
    z, t, w = sample("softmax", 5)

    def weighted(output: Tensor, target: Tensor, weight: Tensor | None) -> float:
        wrong = (output.argmax(1) != target).double()
        return float(wrong.mean() if weight is None else (weight * wrong).sum() / weight.sum())

    m = metric(weighted, direction="min")
    assert m.value(z, t, w) == pytest.approx(metrics.error_rate.value(z, t, w))
    assert m.value(z, t) == pytest.approx(metrics.error_rate.value(z, t))


def test_a_user_metric_with_rows_is_weighted_by_them() -> None:
    z, t, w = sample("softmax", 5)
    m = Metric("mine", "min", lambda z, t: float((z.argmax(1) != t).double().mean()), lambda z, t: z.argmax(1) != t)
    assert m.value_and_error(z, t, w) == pytest.approx(metrics.error_rate.value_and_error(z, t, w))


@pytest.mark.parametrize("returned", [None, "0.5", torch.zeros(3), [1.0]])
def test_a_function_must_return_one_number(returned: object) -> None:
    with pytest.raises(TaskError, match=r"metric 'broken' returned .*: it must return one number"):
        metric(lambda z, t: returned, direction="min", name="broken").value(torch.eye(3), torch.arange(3))


class Accumulating:
    """Behaves like torchmetrics' MulticlassAccuracy; keeps its state between calls unless reset."""

    def __init__(self, higher_is_better: bool | None) -> None:
        self.higher_is_better = higher_is_better
        self.right, self.seen = 100.0, 100.0

    def reset(self) -> None:
        self.right = self.seen = 0.0

    def update(self, preds: Tensor, target: Tensor) -> None:
        assert preds.shape == target.shape or preds.ndim == target.ndim + 1
        decided = preds.argmax(1) if preds.ndim == 2 else (preds > 0.5).long()
        self.right += float((decided == target).sum())
        self.seen += len(target)

    def compute(self) -> Tensor:
        return torch.tensor(self.right / self.seen)


def test_torchmetrics_like_objects() -> None:
    theirs = Accumulating(True)
    for head, columns in (("softmax", 5), ("sigmoid", 1)):
        z, t, _ = sample(head, columns)
        m = resolve(theirs)
        assert (m.name, m.direction) == ("Accumulating", "max")
        value, error = m.value_and_error(z, t, head=head)
        assert value == pytest.approx(metrics.accuracy.value(z, t, head=head))
        assert error > 0
        assert theirs.seen == 100, "the user's own object was changed"
    with pytest.raises(TaskError, match="direction"):
        resolve(Accumulating(None))
    assert resolve(Accumulating(None), "min").direction == "min"
    with pytest.raises(TaskError, match="leave 'min' out"):
        resolve(theirs, "min")


def test_real_torchmetrics_where_installed() -> None:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            import torchmetrics
    except (ImportError, RuntimeError) as error:  # a broken torchvision breaks it with a RuntimeError
        pytest.skip(f"torchmetrics cannot be imported: {error}")
    z, t, _ = sample("softmax", 5)
    theirs = resolve(torchmetrics.classification.MulticlassAUROC(num_classes=5, average="macro"))
    assert theirs.value(z, t, head="softmax") == pytest.approx(metrics.roc_auc.value(z, t, head="softmax"), abs=1e-5)
