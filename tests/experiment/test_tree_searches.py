"""Searches over trees from their first generation to their winner: screens, tuning, kills, and what they say."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from searched import SETTINGS, begin_or_resume
from small_tasks import small_task

import lossmith as lm
from lossmith.errors import UsageError
from lossmith.experiment import Note
from lossmith.experiment.cost import estimate
from lossmith.experiment.preparation import Stages
from lossmith.experiment.reporting import report_data
from lossmith.experiment.spec import SearchSection
from lossmith.losses import Ratio, Tree
from lossmith.losses.parser import parse
from lossmith.losses.simplify import simplified
from lossmith.records import OK, Candidate, Evaluation, Preparation, Request, Screening, Status, Tuning, canonical_json
from lossmith.store import RunStore, comparable_rows

PROGRAM = Path(__file__).with_name("searched.py")
TREES = [name for name in SETTINGS if name != "taylorglo"]
PATIENCE = 240.0
QUICK: dict[str, Any] = {"partial": 0.2, "finalists": 1, "finalist_seeds": 1}


def committed(folder: Path) -> int:
    if not (folder / "lossmith.db").exists():
        return 0
    with RunStore.open(folder) as store:
        return len(store.evaluations())


@pytest.mark.parametrize("method", TREES)
def test_a_kill_leaves_no_trace(method: str, tmp_path: Path) -> None:
    undisturbed, folder = tmp_path / "undisturbed", tmp_path / "killed"
    begin_or_resume(undisturbed, 0, method)
    rows = comparable_rows(undisturbed)
    command = [sys.executable, str(PROGRAM), str(folder), "2", "none", method]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    process = subprocess.Popen(command, env=environment, stderr=subprocess.PIPE)
    deadline = time.monotonic() + PATIENCE
    while process.poll() is None and committed(folder) < len(rows["evaluation"]) // 2:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    _, said = process.communicate(timeout=PATIENCE)
    assert process.returncode == -signal.SIGKILL, said.decode()
    assert not lm.Run(folder).finished
    assert begin_or_resume(folder, 0, method).finished
    assert comparable_rows(folder) == rows


@pytest.fixture(scope="module")
def evomal(tmp_path_factory: pytest.TempPathFactory) -> lm.Run:
    return begin_or_resume(tmp_path_factory.mktemp("runs") / "evomal", 0, "evomal")


def test_the_tuned_loss_is_what_is_trained_and_found(evomal: lm.Run) -> None:
    trained = {row.request.loss for row in evomal.evaluations if row.request.work == "train"}
    with_number = [row for row in evomal.candidates if row.fitness is not None and row.candidate.status.ok]
    assert with_number
    for row in with_number:
        assert row.tuned is not None
        assert row.tuned in trained
        assert row.candidate.loss not in trained
        asked, tuned = (lm.from_json(text) for text in (row.candidate.loss, row.tuned))
        assert isinstance(asked, lm.Loss)
        assert isinstance(tuned, lm.Loss)
        assert isinstance(asked.kernel, Tree)
        assert isinstance(tuned.kernel, Tree)
        assert asked.kernel.root == tuned.kernel.root
        assert asked.kernel.weights != tuned.kernel.weights
    assert evomal.winner is not None
    assert evomal.winner.loss in {row.tuned for row in with_number}
    name = f"{evomal.path}:{evomal.winner.position}"
    from lossmith.cli.naming import named

    assert lm.to_json(named(name, "softmax").loss) == evomal.winner.loss


def test_every_screen_is_counted_per_generation(evomal: lm.Run) -> None:
    for generation in evomal.generations:
        rows = [row for row in evomal.candidates if row.generation == generation.number]
        statuses = (
            "duplicate_of" if r.candidate.status.kind == "duplicate_of" else str(r.candidate.status) for r in rows
        )
        assert generation.counts == Counter(statuses)
    total = evomal.counts()
    assert total.get("screened:required_arguments", 0) > 0
    assert total["ok"] > 0
    work = Counter(row.request.work for row in evomal.evaluations)
    asked = [row for row in evomal.candidates if row.request is not None]
    assert work["screen"] == len({row.request for row in asked})
    assert 0 < work["tune"] <= work["screen"]


def answers(**product: str) -> Any:
    """Stands for the evaluations: the screen signs every loss by `product[loss]`, tuning appends a mark."""

    def answer(requests: list[Request], purpose: str) -> list[Evaluation]:
        made = []
        for request in requests:
            if purpose == "screen":
                signature = product[request.loss]
                status = Status("screened", "rejection_protocol", "no") if signature == "bad" else OK
                made.append(Evaluation(request.key, status, product=canonical_json({"gradients": signature})))
            elif request.loss == "worse":
                made.append(Evaluation(request.key, Status("screened", "rejection_protocol", "no"), steps=3))
            else:
                made.append(
                    Evaluation(request.key, OK, steps=3, product=canonical_json({"loss": f"{request.loss} tuned"}))
                )
        return made

    return answer


def test_equal_gradients_share_a_result_across_generations() -> None:
    stages = Stages(Preparation(Screening(), Tuning(meta_steps=3)), 0)
    answer = answers(a="1", b="2", c="1", d="bad", e="2", worse="3")
    first = {(0, i): Candidate(loss, loss) for i, loss in enumerate("abc")}
    found = stages.run(first, answer)
    assert [one.status.ok for one in found.values()] == [True, True, False]
    assert found[0, 2].like == (0, 0)
    assert str(found[0, 2].status) == "screened:gradient_equivalence"
    assert found[0, 0].candidate.loss == "a tuned"
    assert (found[0, 0].steps, found[0, 2].steps) == (3, 0)
    later = {(1, i): Candidate(loss, loss) for i, loss in enumerate(("d", "e", "worse"))}
    found = stages.run(later, answer)
    assert [str(one.status) for one in found.values()] == [
        "screened:rejection_protocol",
        "screened:gradient_equivalence",
        "screened:rejection_protocol_after_tuning",
    ]
    assert found[1, 1].like == (0, 1)
    # another learning rate is another training, whatever the gradients
    other = stages.run({(2, 0): replace(first[0, 0], lr_scale=3.0)}, answer)
    assert other[2, 0].like is None


def test_a_training_function_cannot_be_unrolled(formula_task: Any, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"by its parts, lm\.Task\(.*search with random, .*taylorglo.*gplfl"):
        lm.search("evomal", formula_task, generations=1, path=tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_training_function_is_searched_without_screens(formula_task: Any, tmp_path: Path) -> None:
    said: list[str] = []
    run = lm.search(
        "gplfl", formula_task, generations=2, path=tmp_path / "run", settings={"population": 4}, **QUICK,
        listeners=[lambda event: said.append(event.text) if isinstance(event, Note) else None],
    )  # fmt: skip
    assert run.finished
    assert any("rejection protocol" in text for text in said)
    assert {row.request.work for row in run.evaluations} == {"train"}


def test_a_generation_that_is_rejected_whole_is_followed_by_fresh_trees(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_stages = Stages.run

    def refuse(self: Stages, candidates: Any, answer: Any) -> Any:
        found = run_stages(self, candidates, answer)
        if all(generation == 0 for generation, _ in candidates):
            return {p: replace(one, status=Status("screened", "rejection_protocol", "no")) for p, one in found.items()}
        return found

    monkeypatch.setattr(Stages, "run", refuse)
    said: list[str] = []
    run = lm.search(
        "gplfl", small_task(), generations=3, path=tmp_path / "run", **QUICK,
        settings={"population": 6, "rejection_steps": 10},
        listeners=[lambda event: said.append(event.text) if isinstance(event, Note) else None],
    )  # fmt: skip
    assert any("generation 1: no candidate gave a number" in text for text in said)
    kinds = [{r.candidate.loss for r in run.candidates if r.generation == g} for g in (0, 1)]
    assert len(kinds[1] - kinds[0]) >= 5
    assert run.generations[0].counts.get("ok", 0) == 0


@pytest.mark.parametrize("method", ["glo", "gplfl", "evomal", "taylorglo", "random"])
def test_start_from_known_losses(method: str, tmp_path: Path) -> None:
    starts = ["cross_entropy", "baikal", "-t*log(p)"]
    settings = {"population": 4, **({"meta_steps": 2, "rejection_steps": 5} if method == "evomal" else {})}
    run = lm.search(
        method, small_task(), generations=2, path=tmp_path / "run", start_from=starts, settings=settings, **QUICK
    )
    origins = [row.candidate.origin for row in run.candidates if row.generation == 0]
    assert [o for o in origins if o.startswith("start: ")][:2] == ["start: cross_entropy", "start: baikal"]


def test_start_from_what_a_tree_cannot_hold(tmp_path: Path) -> None:
    ratio = lm.Loss(Tree(parse("t*p")), aggregation=Ratio(Tree(parse("t + p"))))
    for start, why in ((ratio, "is a ratio loss"), ("-log(p)", "so it cannot train anything")):
        with pytest.raises(lm.errors.LossError, match=f"gplfl cannot start from .*{why}"):
            lm.search("gplfl", small_task(), path=tmp_path / "run", start_from=start)
        assert not (tmp_path / "run").exists()


def test_the_plan_counts_screening_and_tuning() -> None:
    method = lm.EvoMAL(population=4, meta_steps=30, rejection_steps=10)
    section = SearchSection(method="evomal", generations=3, budget=0.2, finalists=1, finalist_seeds=1)
    parts = {part.what: part for part in estimate(small_task(), method, section, shelf=False).parts}
    assert [*parts][:3] == ["screening", "tuning loss parameters", "candidates"]
    assert (parts["tuning loss parameters"].trainings, parts["tuning loss parameters"].steps) == (12, 30)
    assert all(part.seconds > 0 for part in parts.values())


def test_the_report_draws_the_simplified_formula(evomal: lm.Run) -> None:
    found = lm.Loss(Tree(parse("p - p + t*p*1 + t*p")))
    assert str(simplified(found).kernel) == "2*t*p"
    named = lm.loss("baikal")
    assert isinstance(named, lm.Loss)
    assert simplified(named) is named
    assert report_data(evomal).loss_latex.startswith(r"\ell")
