"""What φ is tuned for: the task's own loss or another by its name, and what has no gradient is refused."""

from __future__ import annotations

import numpy as np
import pytest
from small_tasks import rows, small_task
from torch import nn
from unrolled_by_hand import losses, phi

from lossmith.errors import LossError, TaskError
from lossmith.losses import Loss, loss
from lossmith.records import Tuning
from lossmith.tasks import Task, metrics
from lossmith.training import tune
from lossmith.training.tuned_for import fitting, tuned_for


def regression() -> Task:
    x, _ = rows(90, 0)
    data = (x, x[:, :1])
    return small_task(
        model=lambda seed: nn.Linear(6, 1), train=data, valid=data, selection=data, test=None, head="identity"
    )


def test_it_is_the_tasks_own_unless_one_is_named() -> None:
    assert str(tuned_for(small_task())) == str(loss("cross_entropy"))
    assert str(tuned_for(small_task(), "focal(gamma=3)")) == "focal(gamma=3)"
    assert tuned_for(regression(), "huber").head == "identity"


def test_phi_goes_where_the_named_loss_leads() -> None:
    tuning = {"meta_steps": 4, "meta_lr": 0.05}
    own, same, other = (
        tune(small_task(), losses("tanh"), Tuning(**tuning, task_loss=name), seed=0)[0]
        for name in ("", "cross_entropy", "brier")
    )
    assert phi(own).tolist() == phi(same).tolist()
    assert np.abs(phi(own) - phi(other)).max() > 1e-4
    assert own.history[0][1] != other.history[0][1]


@pytest.mark.parametrize("name", ["error_rate", "top_k_error(k=2)", "macro_f1"])
def test_a_metric_is_answered_with_losses_that_fit(name: str) -> None:
    with pytest.raises(
        TaskError, match=r"is a metric, which has no gradient that φ could follow: losses that"
    ) as error:
        tuned_for(small_task(), name)
    assert "fit softmax outputs are cross_entropy" in str(error.value)
    for named in fitting("softmax"):
        assert named in str(error.value)
    with pytest.raises(TaskError, match="fit identity outputs are mse") as error:
        tuned_for(regression(), "r2")
    assert "cross_entropy" not in str(error.value)


def test_the_tasks_own_metric_by_its_name() -> None:
    mine = metrics.metric(lambda output, target: 0.5, "min", name="mine")
    with pytest.raises(TaskError, match="task_loss = 'mine' is a metric"):
        tuned_for(small_task(metric=mine), "mine")


@pytest.mark.parametrize("text", ["sign(p - t)*t", "t + 1", "abs(t)*0*p"])
def test_what_has_no_gradient_is_refused(text: str) -> None:
    with pytest.raises((TaskError, LossError), match=r"has no gradient by the outputs|does not depend|no prediction"):
        tuned_for(small_task(), text)


def test_what_is_no_loss_or_does_not_fit_is_said_by_the_losses() -> None:
    with pytest.raises(Exception, match="cross_entrpy"):
        tuned_for(small_task(), "cross_entrpy")
    with pytest.raises(LossError, match="needs class probabilities"):
        tuned_for(regression(), "focal")


def test_a_loss_per_row_is_refused() -> None:
    with pytest.raises(TaskError, match="gives a number per row"):
        tuned_for(small_task(), "cross_entropy(reduction=none)")


def test_losses_that_fit_can_be_tuned_for() -> None:
    for name in fitting("softmax"):
        assert isinstance(loss(name), Loss)
