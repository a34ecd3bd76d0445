"""Runs whose loss adapts while it trains: their stored courses, exports, reports and checkpoints."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from small_tasks import small_task
from typer.testing import CliRunner

import lossmith as lm
from lossmith.analysis import render_report
from lossmith.cli.application import app
from lossmith.errors import LossError, RunError
from lossmith.evaluation import Plan, divide
from lossmith.evaluation.evaluate import evaluate_chunk
from lossmith.experiment.reporting import report_data
from lossmith.experiment.trajectories import best_trajectory, replayed
from lossmith.losses import Loss, LossSet, OnlineRule, Replay, Taylor, to_json
from lossmith.records import Request
from lossmith.training import Training
from lossmith.training.loop import train
from lossmith.training.population.training import train_population

GENOME = (1.2, -1.1, 0.8, 0.9, -0.7, 0.3, 0.5, 0.6)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> lm.Run:
    folder = tmp_path_factory.mktemp("runs") / "adalfl"
    found = lm.search(
        "adalfl", small_task(), settings={"population": 1, "meta_steps": 50, "online_lr": 1e-2},
        path=folder, partial=0.5, finalists=1, finalist_seeds=2,
    )  # fmt: skip
    assert isinstance(found, lm.Run)
    return found


def test_the_best_of_the_longest_trainings_is_replayed(run: lm.Run) -> None:
    best = run.best
    trajectory = best_trajectory(run, to_json(best.loss))
    assert trajectory is not None
    assert trajectory.steps == 30
    assert trajectory.document["steps"][-1] == 30
    ours = [row for row in run.evaluations if row.request.loss == to_json(best.loss) and row.evaluation.steps == 30]
    assert len(ours) == 2
    assert trajectory.value == min(row.evaluation.metrics[row.request.splits[0]] for row in ours)
    found, _ = replayed(run, best.loss, to_json(best.loss))
    assert isinstance(found, Loss)
    assert isinstance(found.kernel, Replay)
    np.testing.assert_allclose(found.kernel.at(0.0).phi, best.loss.kernel.phi, rtol=1e-6)
    assert not np.allclose(found.kernel.at(1.0).phi, best.loss.kernel.phi, rtol=1e-4)


def test_export_says_which_loss_it_gives(run: lm.Run) -> None:
    texts = {}
    for adaptive in ("initial", "replay"):
        for to in ("torch", "json"):
            result = CliRunner().invoke(app, ["export", run.path, "--to", to, "--adaptive", adaptive])
            assert result.exit_code == 0, result.output
            expected = "before training, φ0" if adaptive == "initial" else "replays a training of 30 steps"
            assert expected in " ".join(result.stderr.split())
            texts[adaptive, to] = result.stdout
    z, y = torch.randn(5, 3, generator=torch.Generator().manual_seed(0)), torch.tensor([0, 1, 2, 0, 1])
    best = run.best.loss
    for adaptive, arguments in (("initial", {}), ("replay", {"progress": 0.9})):
        space: dict[str, Any] = {}
        exec(texts[adaptive, "torch"], space)
        stored = lm.from_json(texts[adaptive, "json"])
        torch.testing.assert_close(space["loss"](z, y, **arguments), stored(z, y, **arguments))
    assert json.loads(texts["initial", "json"])["online"]["lr"] == 1e-2
    assert "online" not in json.loads(texts["replay", "json"])
    torch.testing.assert_close(lm.from_json(texts["initial", "json"])(z, y), best(z, y))


def test_export_answers_what_cannot_be(run: lm.Run, tmp_path: Path) -> None:
    stored = tmp_path / "mine.json"
    stored.write_text(to_json(run.best.loss))
    for words, sentence in (
        ([run.path, "--adaptive", "both"], "use initial or replay"),
        (["baikal", "--adaptive", "replay"], "baikal does not adapt"),
        ([str(stored), "--adaptive", "replay"], "name the run that trained it"),
    ):
        result = CliRunner().invoke(app, ["export", *words])
        assert result.exit_code != 0
        assert sentence in " ".join(str(result.exception or result.output).split())
    with pytest.raises(RunError, match="no finished training in which this loss adapted"):
        replayed(run, run.best.loss, "{}")


def test_the_report_draws_how_it_adapted(run: lm.Run) -> None:
    data = report_data(run)
    assert data.adaptation is not None
    assert len(data.adaptation.at_target) == len(data.adaptation.steps) <= 11
    assert data.adaptation.moved[0] == 0 < data.adaptation.moved[-1]
    page = render_report(data)
    assert "While it trains" in page
    assert "a training of 30 steps" in page


def request(online: bool, seed: int = 0) -> Request:
    return Request(
        to_json(Loss(Taylor(GENOME), online=OnlineRule(lr=0.01) if online else None, name='"online":')), seed
    )


def test_adaptive_losses_are_trained_one_by_one_and_others_are_not() -> None:
    plan = Plan(engine="population", chunk=8)
    requests = [request(True), request(False), request(True, seed=1), request(False)]
    assert [len(chunk) for chunk in divide(requests, plan)] == [1, 2, 1]
    task = small_task()
    found = evaluate_chunk(task, [request(True), request(False)], plan)
    assert [one.status.ok for one in found] == [True, True]
    assert [bool(one.product) for one in found] == [True, False]
    alone = train(task, Loss(Taylor(GENOME), online=OnlineRule(lr=0.01)), Training(seed=0, steps=30))
    assert found[0].product == alone.product
    loss = Loss(Taylor(GENOME), online=OnlineRule())
    with pytest.raises(LossError, match="adapts while it trains"):
        train_population(task, [loss, LossSet([loss])], Training(seed=0, steps=2), [1.0, 1.0])


def test_a_training_function_cannot_adapt_a_loss() -> None:
    def own(loss: Any, trial: Any) -> float:
        return 0.5

    task = lm.Task.from_function(own, head="softmax", metric="error_rate")
    (found,) = evaluate_chunk(task, [request(True)], Plan())
    assert found.status.kind == "crashed"
    assert "lm.online.AdaptiveLoss" in found.status.sentence
