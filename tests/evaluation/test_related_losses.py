"""Related losses as candidates: trained on both engines, screened, tuned, and completed by what only the task knows."""

from __future__ import annotations

import json

import pytest
import torch
from small_tasks import CLASSES, rows, small_task

from lossmith.evaluation import Plan, evaluate, evaluate_chunk
from lossmith.losses import Barron, Loss, from_json, loss, to_json
from lossmith.losses.class_prior_losses import ClassBalanced
from lossmith.losses.related import RELATED
from lossmith.records import Request, Screening, Tuning
from lossmith.tasks import Task
from lossmith.training.tunable import with_class_prior

NAMES = [entry.name for entry in RELATED]
PRIOR = ("logit_adjustment", "class_balanced", "ldam")


def long_tail() -> Task:
    """Class 2 has a quarter of the rows of the others."""
    x, y = rows(90, 0)
    kept = (y != 2) | (torch.arange(90) % 12 == 2)
    return small_task(train=(x[kept], y[kept]), steps=20)


def multi_label() -> Task:
    def labelled(count: int, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
        x, y = rows(count, seed)
        return x, torch.nn.functional.one_hot(y, CLASSES).float()

    parts = {name: labelled(30, seed) for seed, name in enumerate(("valid", "selection", "test"), 1)}
    return small_task(head="sigmoid", train=labelled(90, 0), steps=10, **parts)


def test_every_one_trains_alone_and_in_company() -> None:
    task = long_tail()
    requests = [Request(to_json(loss(name)), 3, curve=2) for name in [*NAMES, "cross_entropy"]]
    alone, stacked = (evaluate_chunk(task, requests, Plan(engine=engine)) for engine in ("sequential", "population"))
    for name, one, other in zip([*NAMES, "cross_entropy"], alone, stacked, strict=True):
        assert one.status.ok, (name, one.status.sentence)
        assert other.status.ok, (name, other.status.sentence)
        assert one.metrics["fitness"] == pytest.approx(other.metrics["fitness"], abs=2 / 30), name  # of 30 rows
    curves = {tuple(one.curve) for one in alone}
    assert len(curves) >= 5  # they are not all the same loss


def test_progress_and_the_batch_reach_a_training() -> None:
    task = small_task(steps=30)
    outcomes = [
        evaluate(task, Request(to_json(loss(text)), 0, splits=("fitness", "test"), curve=10), Plan()).curve
        for text in ("cross_entropy", "dynamical_cross_entropy(amplitude=1)", "dynamical_cross_entropy(rounds=2)")
    ]
    assert outcomes[0] == outcomes[1] != outcomes[2]
    kept = [
        evaluate(task, Request(to_json(loss(text)), 0, curve=10), Plan()).curve
        for text in ("cross_entropy", "trimmed_cross_entropy(keep=1)", "trimmed_cross_entropy(keep=0.3)")
    ]
    assert kept[0] == kept[1] != kept[2]


@pytest.mark.parametrize("name", PRIOR)
def test_prior_and_rows_come_from_the_task(name: str) -> None:
    task = long_tail()
    prior = task.prior()
    assert prior is not None
    count = len(task.data["train"])
    given = loss(name, prior=prior.tolist(), **({"rows": count} if name == "class_balanced" else {}))
    bare = loss(name)
    assert bare.prior is None
    completed = with_class_prior(bare, task)
    assert completed.prior == given.prior
    assert completed.kernel == given.kernel
    assert bare.prior is None  # what was given is not written to
    one, other = (evaluate(task, Request(to_json(each), 0), Plan()) for each in (bare, given))
    assert one.status.ok
    assert one.metrics == other.metrics
    own = with_class_prior(loss(name, prior=(0.2, 0.3, 0.5)), task)
    assert own.prior == (0.2, 0.3, 0.5)
    if name == "class_balanced":
        assert isinstance(own.kernel, ClassBalanced)
        assert own.kernel.rows == count
        assert with_class_prior(loss("class_balanced(rows=7)"), task).kernel == ClassBalanced(rows=7)


@pytest.mark.parametrize("name", PRIOR)
def test_without_a_prior_there_is_one_sentence(name: str) -> None:
    found = evaluate(multi_label(), Request(to_json(loss(name, head="sigmoid")), 0), Plan())
    assert found.status.kind == "crashed"
    assert found.status.sentence.startswith("this loss uses the class prior: build it with prior=")


def test_those_that_need_none_train_under_sigmoid_and_identity() -> None:
    task = multi_label()
    for entry in RELATED:
        if entry.name not in PRIOR:
            found = evaluate(task, Request(to_json(loss(entry.name, head="sigmoid")), 0), Plan())
            assert found.status.ok, (entry.name, found.status.sentence)
    x = rows(90, 0)[0]
    y = x[:, :1] - 2 * x[:, 1:2]
    y[::9] += 40.0  # outliers
    regression = small_task(
        head="identity", model=lambda seed: torch.nn.Linear(6, 1), train=(x, y), valid=(x, x[:, :1] - 2 * x[:, 1:2]),
        selection=None, test=None, steps=60, lr=0.05,
    )  # fmt: skip
    error = {
        name: evaluate(regression, Request(to_json(loss(name, head="identity")), 0), Plan()).metrics["fitness"]
        for name in ("mse", "trimmed_mse(keep=0.8)", "barron(alpha=-2)", "barron(alpha=2)")
    }
    assert error["trimmed_mse(keep=0.8)"] < error["mse"] / 5  # what each is for
    assert error["barron(alpha=-2)"] < error["barron(alpha=2)"] / 2


def test_every_one_can_be_screened() -> None:
    task = long_tail()
    settings = Screening().to_settings()
    for name in NAMES:
        found = evaluate(task, Request(to_json(loss(name)), 0, work="screen", settings=settings), Plan())
        assert found.status.kind in ("ok", "screened"), (name, found.status.sentence)


@pytest.mark.parametrize("unroll_length", [1, 2])
@pytest.mark.parametrize("alpha", [0.0, 1.0, 2.0])
def test_shape_and_scale_of_barron_are_tuned(alpha: float, unroll_length: int) -> None:
    settings = Tuning(meta_steps=3, unroll_length=unroll_length, meta_lr=0.01, screen_after=None).to_settings()
    request = Request(to_json(loss("barron", alpha=alpha)), 0, work="tune", settings=settings)
    found = evaluate(small_task(), request, Plan())
    assert found.status.ok, found.status.sentence
    tuned = from_json(json.loads(found.product)["loss"])
    assert isinstance(tuned, Loss)
    assert isinstance(tuned.kernel, Barron)
    moved = [abs(after - before) for after, before in zip(tuned.kernel.phi, (alpha, 1.0), strict=True)]
    assert min(moved) > 1e-3  # by Adam both move at about its learning rate
