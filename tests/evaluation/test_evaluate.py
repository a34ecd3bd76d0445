"""One request in, one evaluation out, whatever happens in between."""

from __future__ import annotations

import math
import sys
import threading
from typing import Any

import pytest
import torch
from small_tasks import rows, small_task
from torch import Tensor, nn

from lossmith.evaluation import Plan, evaluate, evaluate_chunk
from lossmith.evaluation.evaluate import steps_of
from lossmith.losses import Loss, LossSet, Ratio, Tree, loss, to_json
from lossmith.losses.parser import parse
from lossmith.records import Evaluation, Request
from lossmith.tasks import FunctionTask, Task, Terms, Trial
from lossmith.training import Training, train

CE = to_json(loss("cross_entropy"))
PLAN = Plan()


def text(expression: str) -> str:
    return to_json(loss(expression))


def test_it_trains_as_requested() -> None:
    task = small_task(steps=40)
    request = Request(CE, 7, budget=0.5, lr_scale=2.0, data_fraction=0.5, splits=("selection", "test"), curve=2)
    found = evaluate(task, request, PLAN)
    how = Training(seed=7, steps=20, lr_scale=2.0, data_fraction=0.5, splits=("selection", "test"), curve=2)
    expected = train(task, loss("cross_entropy"), how)
    assert found.status.ok
    assert found.metrics == expected.metrics
    assert found.curve == expected.curve
    assert found.steps == 20
    assert (found.request, found.worker, found.attempt) == (request.key, "", 1)
    assert found.seconds > 0


def test_every_part_of_a_request_matters() -> None:
    task = small_task(steps=40)
    base = {"loss": CE, "seed": 0}
    values = {
        name: evaluate(task, Request(**{**base, **change}), PLAN).metrics["fitness"]  # type: ignore[arg-type]
        for name, change in {
            "base": {},
            "again": {},
            "loss": {"loss": text("baikal")},
            "seed": {"seed": 1},
            "budget": {"budget": 0.05},
            "lr_scale": {"lr_scale": 0.01},
            "data_fraction": {"data_fraction": 0.1},
        }.items()
    }
    assert values["base"] == values["again"]
    assert len({values[name] for name in values if name != "again"}) >= 5  # of 6 error rates on 30 rows


def test_steps_of_a_budget() -> None:
    assert steps_of(small_task(steps=40), 0.5) == 20
    assert steps_of(small_task(steps=40), 1e-9) == 1
    function = Task.from_function(lambda loss, trial: 0.5, outputs=3)
    assert steps_of(function, 0.25) == 250  # thousandths where the steps are not known


@pytest.mark.parametrize(
    ("request_", "kind", "sentence"),
    [
        (Request("{", 0), "crashed", "this is not a loss in JSON"),
        (Request(CE, 0, data_fraction=2.0), "crashed", "fraction"),
        (Request(CE, 0, splits=("fitness", "train", "future")), "crashed", "the task has no future split"),  # type: ignore[arg-type]
        (Request(text("-t*log(p)*z^2*z^2"), 0, lr_scale=1e9), "diverged", "non-finite"),
        (Request(to_json(loss("mse", head="softmax")).replace("softmax", "custom"), 0), "crashed", "head=function"),
    ],
)
def test_failures_are_statuses(request_: Request, kind: str, sentence: str) -> None:
    found = evaluate(small_task(), request_, PLAN)
    assert found.status.kind == kind
    assert sentence in found.status.sentence
    assert found.metrics == {}
    assert "Error" not in found.status.sentence  # Lossmith's own sentences stand alone


def breaking(problem: BaseException) -> Task:
    def forward(model: nn.Module, batch: Any) -> Terms:
        raise problem

    return small_task(forward=forward)


def test_an_exception_of_the_task_is_a_crash_with_its_name() -> None:
    found = evaluate(breaking(ZeroDivisionError("division by zero")), Request(CE, 0), PLAN)
    assert str(found.status) == "crashed"
    assert found.status.sentence == "ZeroDivisionError: division by zero"
    assert len(evaluate(breaking(ValueError("x" * 10_000)), Request(CE, 0), PLAN).status.sentence) <= 500
    assert evaluate(breaking(SystemExit(3)), Request(CE, 0), PLAN).status.sentence == "SystemExit: 3"


def test_an_interruption_is_not_the_candidates_doing() -> None:
    with pytest.raises(KeyboardInterrupt):
        evaluate(breaking(KeyboardInterrupt()), Request(CE, 0), PLAN)


def test_a_wrong_model_is_said_in_a_sentence() -> None:
    task = small_task(model=lambda seed: nn.Linear(6, 2))  # three classes
    found = evaluate(task, Request(CE, 0), PLAN)
    assert found.status.kind == "crashed"
    assert "outside the classes 0…1" in found.status.sentence


def test_at_chance_obeys_the_plan() -> None:
    task = small_task(steps=100)
    wrong = Request(text("t*log(p)"), 0, stop_at_chance=True)
    plan = Plan(chance_step=4, chance_value=2 / 3)
    stopped = evaluate(task, wrong, plan)
    assert str(stopped.status) == "at_chance"
    assert stopped.steps == 10  # not before a tenth of its training, DESIGN §4
    assert evaluate(task, wrong, Plan(chance_step=20, chance_value=2 / 3)).steps == 20
    assert evaluate(task, wrong, Plan()).status.ok
    assert evaluate(task, Request(text("t*log(p)"), 0), plan).status.ok  # not asked for
    assert evaluate(task, Request(CE, 0, stop_at_chance=True), plan).status.ok


def test_the_prior_comes_from_the_task() -> None:
    x, y = rows(90, 0)
    few = (y != 2) | (torch.arange(90) % 6 == 2)
    task = small_task(train=(x[few], y[few]))
    prior = task.prior()
    assert prior is not None
    assert prior.tolist() == pytest.approx([30 / 75, 30 / 75, 15 / 75])
    bare, given_ = loss("-t*log(p)/prior"), loss("-t*log(p)/prior", prior=prior.tolist())
    one, other = (evaluate(task, Request(to_json(c), 0), PLAN) for c in (bare, given_))
    assert one.status.ok
    assert one.metrics == other.metrics
    ratio = Loss(Tree(parse("2*p*t")), aggregation=Ratio(Tree(parse("(p + t)*prior"))))
    for criterion in (ratio, LossSet([loss("cross_entropy"), bare])):
        assert evaluate(task, Request(to_json(criterion), 0), PLAN).status.ok


def test_a_head_of_the_tasks_own() -> None:
    def head(z: Tensor) -> Tensor:
        return torch.softmax(3 * z, -1)

    def forward(model: nn.Module, batch: Any) -> Terms:
        x, y = batch
        return Terms(model(x), torch.nn.functional.one_hot(y, 3).float())

    task = small_task(head=head, forward=forward)
    stored = to_json(loss("brier", head=head))
    found = evaluate(task, Request(stored, 0), PLAN)
    assert found.status.ok
    assert found.metrics != evaluate(small_task(), Request(text("brier"), 0), PLAN).metrics


def test_a_chunk_is_answered_in_order() -> None:
    requests = [Request(CE, seed, budget=0.1) for seed in range(3)]
    found = evaluate_chunk(small_task(), requests, PLAN)
    assert [e.request for e in found] == [r.key for r in requests]


def test_data_is_moved_to_the_plans_device_once(monkeypatch: pytest.MonkeyPatch) -> None:
    task = small_task()
    moves: list[str] = []

    original = Task.to_device

    def to_device(self: Task, device: str) -> Task:
        moves.append(device)
        return original(self, device)

    monkeypatch.setattr(Task, "to_device", to_device)
    for device in ("cpu", "cpu:0"):
        assert evaluate(task, Request(CE, 0, budget=0.1), Plan(device=device)).status.ok
    assert moves == []
    for _ in range(3):
        evaluate(task, Request(CE, 0, budget=0.1), Plan(device="meta"))
    assert moves == ["meta"]


# Floor A: a training function


def function(train_: Any, **options: Any) -> FunctionTask:
    return Task.from_function(train_, **{"outputs": 3, "metric": ("error", "min"), **options})


def test_a_function_is_called_for_every_split() -> None:
    trials: list[Trial] = []

    def train_(loss: nn.Module, trial: Trial) -> float:
        assert str(loss) == "cross_entropy"
        trials.append(trial)
        return {"fitness": 0.25, "test": 0.5}[trial.split]

    request = Request(CE, 4, budget=0.5, lr_scale=3.0, splits=("fitness", "test"))
    found = evaluate(function(train_, steps=80), request, Plan(device="cpu"))
    assert found.metrics == {"fitness": 0.25, "test": 0.5}
    assert [(t.seed, t.budget, t.lr_scale, t.split, t.steps) for t in trials] == [
        (4, 0.5, 3.0, "fitness", 40),
        (4, 0.5, 3.0, "test", 40),
    ]
    assert found.steps == 80  # two trainings of 40


def test_what_a_function_reports() -> None:
    def train_(loss: nn.Module, trial: Trial) -> float:
        trial.report(10, 0.9)
        trial.report(0.5, 0.8)  # a share of the training, here of 40 steps
        trial.report(40, 0.4)
        return 0.4

    task = function(train_, steps=40)
    assert evaluate(task, Request(CE, 0, curve=3), PLAN).curve == ((10, 0.9), (20, 0.8), (40, 0.4))
    assert evaluate(task, Request(CE, 0), PLAN).curve == ()
    stopped = evaluate(function(train_, steps=40, chance=(0.85, 0.25)), Request(CE, 0), PLAN)
    assert str(stopped.status) == "at_chance"
    assert stopped.steps == 10


@pytest.mark.parametrize(
    ("returned", "kind", "sentence"),
    [
        (math.nan, "diverged", "the training function returned error = nan"),
        (None, "crashed", "the train function returned nothing"),
        ({"loss": 1.0}, "crashed", "a dict without 'error'"),
    ],
)
def test_a_function_that_fails(returned: Any, kind: str, sentence: str) -> None:
    found = evaluate(function(lambda loss, trial: returned), Request(CE, 0), PLAN)
    assert found.status.kind == kind
    assert sentence in found.status.sentence


def test_a_function_that_gives_up_by_exiting() -> None:
    found = evaluate(function(lambda loss, trial: sys.exit("no data")), Request(CE, 0), PLAN)
    assert (str(found.status), found.status.sentence) == ("crashed", "SystemExit: no data")


def test_a_function_runs_under_the_plans_numerics() -> None:
    def train_(loss: nn.Module, trial: Trial) -> float:
        flushed = (torch.full((1,), 1e-38) * 1e-3).item() == 0.0
        return torch.get_num_threads() + flushed / 2

    assert evaluate(function(train_), Request(CE, 0), Plan(threads=3)).metrics == {"fitness": 3.5}
    assert torch.get_num_threads() == 1


def test_trainings_in_threads_take_turns() -> None:
    # layers and dropout draw from torch's one global generator: interleaved trainings would disturb each other
    task = small_task(steps=60, model=lambda seed: nn.Sequential(nn.Linear(6, 8), nn.Dropout(0.5), nn.Linear(8, 3)))
    alone = [evaluate(task, Request(CE, seed), PLAN).metrics for seed in range(4)]
    found: dict[int, Evaluation] = {}

    def work(seed: int) -> None:
        found[seed] = evaluate(task, Request(CE, seed), PLAN)

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [found[seed].metrics for seed in range(4)] == alone
