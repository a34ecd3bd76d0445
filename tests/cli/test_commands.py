"""The commands themselves: what they print, as tables and as JSON, and what they leave behind."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path

import pytest
from commands import SMALL, TINY, Command

import lossmith as lm
from lossmith.experiment import Run
from lossmith.losses import PUBLISHED
from lossmith.search import METHODS
from lossmith.tasks import TASKS
from lossmith.tasks.datasets import SOURCES

COMMANDS = [
    "plan",
    "shelf",
    "search",
    "resume",
    "show",
    "evaluate",
    "compare",
    "export",
    "report",
    "losses",
    "tasks",
    "methods",
    "data",
    "data fetch",
    "version",
]


def test_alone_it_prints_help_with_every_command(lossmith: Command) -> None:
    alone, asked = lossmith(), lossmith("--help")
    assert alone.code == 0
    assert alone.out == asked.out
    for command in COMMANDS:
        assert command.split()[0] in alone.out


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_explains_itself(lossmith: Command, command: str) -> None:
    said = lossmith(*command.split(), "-h")
    assert said.code == 0
    assert f"lossmith {command}" in said.out
    assert said.err == ""


@pytest.mark.parametrize(
    ("command", "names"),
    [("losses", PUBLISHED), ("tasks", TASKS), ("methods", METHODS), ("data", SOURCES)],
)
def test_a_catalogue_names_everything_there_is(lossmith: Command, command: str, names: dict[str, object]) -> None:
    table, document = lossmith(command), lossmith(command, "--json")
    assert table.code == document.code == 0
    found = json.loads(document.out)
    entries = found["tasks"] if command == "tasks" else found
    assert [entry["name"] for entry in entries] == list(names)
    for name in names:
        assert re.search(rf"^{re.escape(name)}\b", table.out, re.MULTILINE)


def test_losses_say_formula_reference_and_heads(lossmith: Command) -> None:
    out = lossmith("losses").out
    for entry in PUBLISHED.values():
        assert entry.formula() in out
        assert entry.reference in out
        assert ", ".join(entry.heads) in out
    assert "needs the class prior" in out
    assert "needs training progress" in out


def test_methods_say_what_each_setting_may_be(lossmith: Command) -> None:
    out = lossmith("methods").out
    for method in METHODS.values():
        for setting in method.describe():
            assert setting.range in out
            assert setting.meaning in out


def test_data_says_what_is_missing_and_how_to_get_it(
    lossmith: Command, here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pooch.os_cache", lambda name: here / "cache")
    out = lossmith("data", "--data-dir", str(here)).out
    assert re.search(r"^mnist .* missing$", out, re.MULTILINE)
    assert re.search(r"^digits .* scikit-learn$", out, re.MULTILINE)
    assert "lossmith data fetch" in out
    assert str(here) in out


def test_what_ships_with_scikit_learn_needs_no_download(lossmith: Command, here: Path) -> None:
    said = lossmith("data", "fetch", "digits", "diabetes")
    assert said.code == 0
    assert said.out == "digits: ships with scikit-learn\ndiabetes: ships with scikit-learn\n"
    assert list(here.iterdir()) == []


def test_versions(lossmith: Command) -> None:
    found = json.loads(lossmith("version", "--json").out)
    assert found["lossmith"] == lm.__version__
    assert {"python", "torch", "numpy", "cma"} < found.keys()


def test_a_search_leaves_a_finished_run_and_says_what_to_type_next(lossmith: Command) -> None:
    said = lossmith("search", *TINY, "--run", "runs/m")
    assert said.code == 0
    assert "generation 1/1" in said.err
    assert "generation 1/1" not in said.out
    run = Run("runs/m")
    assert run.finished
    assert str(run.best.loss) in said.out
    assert "lossmith evaluate runs/m --seeds 10" in said.out
    assert run.spec.task.reference == "digits/mlp"


def test_json_is_all_there_is_on_standard_output(lossmith: Command) -> None:
    found = json.loads(lossmith("search", *TINY, "--run", "runs/m", "--json").out)
    assert found == json.loads(lossmith("resume", "runs/m", "--json").out)
    assert found == json.loads(lossmith("show", "runs/m", "--json").out)
    assert found["state"] == "finished"
    assert found["best"]["formula"] == str(Run("runs/m").best.loss)
    assert sum(found["counts"].values()) == sum(sum(line["counts"].values()) for line in found["history"])


def test_plan_counts_the_cost_and_writes_nothing(lossmith: Command, here: Path) -> None:
    said = lossmith("plan", *TINY, "--seeds", "3", "--generations", "4")
    assert said.code == 0
    assert list(here.iterdir()) == []
    found = json.loads(lossmith("plan", *TINY, "--seeds", "3", "--generations", "4", "--json").out)
    parts = {part["what"]: part for part in found["parts"]}
    # 4 generations × (2 candidates + 1 elite) of 5 steps; 5 arms (found, task loss, both tuned, shelf) × 3 seeds of 20
    assert (parts["candidates"]["trainings"], parts["candidates"]["steps"]) == (12, 5)
    assert (parts["verdict on test"]["trainings"], parts["verdict on test"]["steps"]) == (15, 20)
    assert found["workers"] == 1
    for part in parts:
        assert part in said.out


def test_a_shelf_is_the_bar_for_a_search_that_starts_from_it(lossmith: Command) -> None:
    options = shlex.split("--task digits/mlp --steps 20 --partial 5 --finalists 1 --finalist-seeds 1 --workers 0")
    said = lossmith("shelf", *options, "--budget-steps", "70", "--run", "runs/shelf")
    assert said.code == 0
    shelf = Run("runs/shelf")
    assert 0 < shelf.training_steps <= 70
    assert sum(shelf.counts().values()) > 1
    assert "--start-from runs/shelf" in said.out
    said = lossmith("search", *TINY, "--start-from", "runs/shelf,taylor_cross_entropy(order=3)", "--run", "runs/m")
    assert said.code == 0, said.err
    run = Run("runs/m")
    assert run.spec.search is not None
    assert run.spec.search.shelf is not None
    assert Path(run.spec.search.shelf) == Path("runs/shelf").absolute()
    assert len(run.spec.search.start_from) == len(shelf.finalist_losses()) + 1


def test_a_loss_of_another_task_or_kind_is_no_shelf(lossmith: Command, a_run: str) -> None:
    said = lossmith("search", *TINY, "--shelf", a_run, "--run", "runs/new")
    assert said.code == 2
    assert "not a shelf" in said.err


JUDGED = ["--seeds", "2", "--tune-seeds", "1", "--workers", "0"]


def test_evaluate_stores_the_verdict_in_the_run(lossmith: Command, a_run: str) -> None:
    said = lossmith("evaluate", a_run, *JUDGED, "--controls", "task")
    assert said.code == 0, said.err
    verdict = Run(a_run).verdict
    assert verdict is not None
    assert verdict.sentence in said.out
    assert [arm.name for arm in verdict.arms] == ["found", "cross_entropy"]
    shown = lossmith("show", a_run).out
    assert verdict.sentence in shown
    assert "touched 4 times" in shown  # 2 arms × 2 seeds
    again = json.loads(lossmith("evaluate", a_run, *JUDGED, "--controls", "task", "--json").out)
    assert again["outcome"] == verdict.outcome
    assert again["run"] == a_run


def test_evaluate_judges_any_loss_on_a_task(lossmith: Command) -> None:
    said = lossmith(
        *["evaluate", "-t*log(p) - p", "--task", "digits/mlp", "--steps", "20", *JUDGED, "--controls", "task"],
        *["--run", "runs/v"],
    )
    assert said.code == 0, said.err
    assert "-t*log(p) - p" in said.out
    assert "cross_entropy" in said.out
    assert Run("runs/v").kind == "compare"


def test_compare_trains_every_loss_on_the_same_seeds(lossmith: Command, a_run: str) -> None:
    candidate = f"{a_run}:0.{next(row.position for row in Run(a_run).candidates if row.candidate.status.ok)}"
    said = lossmith(
        *["compare", "cross_entropy", a_run, candidate, "baikal", "--tune-lr", "baikal", "--task", "digits/mlp"],
        *["--steps", "20", *JUDGED, "--run", "runs/c", "--json"],
    )
    assert said.code == 0, said.err
    found = json.loads(said.out)
    names = ["cross_entropy", a_run, candidate, "baikal", "baikal, tuned lr"]
    assert sorted(arm["name"] for arm in found["arms"]) == sorted(names)
    assert {tuple(arm["seeds"]) for arm in found["arms"]} == {tuple(found["seeds"])}
    shown = lossmith("show", "runs/c")
    assert shown.code == 0
    for name in names:
        assert name in shown.out
    assert found["sentence"] in shown.out
    assert lossmith("export", "runs/c").code == 2  # a comparison finds no loss
    assert lossmith("resume", "runs/c").code == 0
    assert lossmith("report", "runs/c").code == 0
    again = f"lossmith compare cross_entropy {a_run} {candidate} baikal --task digits/mlp --steps 20 --seeds 2"
    assert again in Path("runs/c/report.html").read_text()


def test_export_hands_over_what_the_library_does(lossmith: Command, a_run: str, here: Path) -> None:
    best = Run(a_run).best.loss
    for form in ("torch", "latex", "json"):
        said = lossmith("export", a_run, "--to", form)
        assert said.code == 0
        assert said.out.rstrip("\n") == lm.export(best, form).rstrip("\n")
    assert lossmith("export", a_run, "--out", "mine.py").out == "mine.py\n"
    assert (here / "mine.py").read_text() == lm.export(best)
    assert "logsigmoid" in lossmith("export", "focal(gamma=3)", "--head", "sigmoid").out
    assert lossmith("export", "baikal", "--out", "none/mine.py").code == 2


def test_export_of_a_candidate_is_that_candidate(lossmith: Command, a_run: str) -> None:
    row = Run(a_run).candidates[-1]
    said = lossmith("export", f"{a_run}:{row.generation}.{row.position}", "--to", "json")
    assert lm.to_json(lm.from_json(said.out)) == row.candidate.loss


def test_report_is_one_page_beside_the_run(lossmith: Command, a_run: str, here: Path) -> None:
    assert lossmith("report", a_run).out == "runs/m/report.html\n"
    page = (here / a_run / "report.html").read_text()
    assert "taylorglo on digits/mlp" in page
    assert "lossmith evaluate runs/m --seeds 10" in page  # there is no verdict yet
    assert "lossmith search runs/m/spec.toml" in page
    assert "Apply(" not in page
    assert lossmith("report", a_run, "--out", "page.html").out == "page.html\n"
    assert (here / "page.html").read_text() == page


def test_a_stored_spec_makes_the_run_again(lossmith: Command, a_run: str) -> None:
    said = lossmith("search", f"{a_run}/spec.toml", "--workers", "0", "--run", "runs/again")
    assert said.code == 0, said.err
    before, after = Run(a_run), Run("runs/again")
    assert after.spec.search == before.spec.search
    assert [row.fitness for row in after.candidates] == [row.fitness for row in before.candidates]
    assert after.winner == before.winner


def test_options_win_over_the_file(lossmith: Command, here: Path) -> None:
    (here / "e.toml").write_text(
        'seed = 3\nrun = "runs/file"\n[task]\nreference = "digits/mlp"\nsteps = 20\n'
        '[search]\nmethod = "random"\npartial = 5\ngenerations = 2\nfinalists = 1\nfinalist_seeds = 1\n'
        'start_from = ["taylor_cross_entropy"]\n[search.settings]\npopulation = 2\nsigma = 0.5\n'
    )
    said = lossmith("search", "e.toml", "--generations", "1", "--set", "sigma=2", "--workers", "0")
    assert said.code == 0, said.err
    run = Run("runs/file")
    search = run.spec.search
    assert search is not None
    assert run.spec.seed == 3
    assert (search.method, search.generations, search.budget) == ("random", 1, 0.25)
    assert (search.settings["population"], search.settings["sigma"]) == (2, 2.0)
    assert len(search.start_from) == 1


def test_a_task_of_ones_own_is_searched_and_shown_without_it(lossmith: Command, user_module, here: Path) -> None:  # type: ignore[no-untyped-def]
    name = user_module(
        "import lossmith as lm\n\n"
        "def train(loss, trial):\n    return 0.3 + (trial.seed % 7) / 100 + len(str(loss)) / 1e4\n\n"
        "task = lm.Task.from_function(train, metric='error_rate', outputs=3, steps=20)\n"
    )
    said = lossmith("search", "--method", "random", "--task", f"{name}:task", *SMALL, "--run", "runs/own")
    assert said.code == 0, said.err
    (here / f"{name}.py").unlink()
    shown = lossmith("show", "runs/own")
    assert shown.code == 0
    assert "finished" in shown.out
    assert lossmith("report", "runs/own").code == 0
