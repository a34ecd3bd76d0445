"""`--task A,B`: several tasks wherever one is named."""

from __future__ import annotations

import json
import shlex
import tomllib
from pathlib import Path

import pytest
from commands import Command

from lossmith.cli.experiment_file import read_experiment
from lossmith.cli.options import SearchOptions

WAVES = "sine/mlp,sine/mlp@wave=1"
SMALL = shlex.split("--generations 1 --population 2 --finalists 1 --finalist-seeds 1 --workers 0")


def test_a_search_on_several_tasks_and_what_follows(lossmith: Command, here: Path) -> None:
    how = ["--method", "random", *SMALL, "--start-from", "mse", "--steps", "20", "--partial", "10"]
    said = lossmith("search", "--task", WAVES, *how, "--run", "runs/m", "--json")
    assert said.code == 0, said.err
    found = json.loads(said.out)
    assert (found["task"], found["reference"], found["steps_in_full"]) == ("sine/mlp + sine/mlp@wave=1", WAVES, 20)
    shown = lossmith("show", "runs/m")
    assert "sine/mlp + sine/mlp@wave=1" in shown.out
    assert lossmith("resume", "runs/m", "--workers", "0").code == 0
    again = lossmith("search", "runs/m/spec.toml", "--run", "runs/again", "--workers", "0", "--json")
    assert again.code == 0, again.err
    assert json.loads(again.out)["best"] == found["best"]
    first, second = (tomllib.loads((here / f"runs/{name}/spec.toml").read_text()) for name in ("m", "again"))
    assert first["task"] == second["task"] == {"name": found["task"], "reference": WAVES, "steps": 40, "each": [20, 20]}
    assert first["search"] == second["search"]
    judged = lossmith("evaluate", "runs/m", "--seeds", "2", "--controls", "task", "--workers", "0", "--json")
    assert judged.code == 0, judged.err
    report = lossmith("report", "runs/m")
    assert report.code == 0, report.err


def test_what_it_would_cost(lossmith: Command) -> None:
    said = lossmith("plan", "--method", "random", "--task", WAVES, *SMALL, "--partial", "0.5", "--json")
    assert said.code == 0, said.err
    found = json.loads(said.out)
    assert next(part for part in found["parts"] if part["what"] == "candidates")["steps"] == 100
    assert len(found["plan"]["members"]) == 2


def test_losses_side_by_side_on_several_tasks(lossmith: Command) -> None:
    said = lossmith(
        "compare", "mse", "mae", "--task", "sine/mlp@wave=0-1", "--steps", "10", "--seeds", "2", "--workers", "0"
    )
    assert said.code == 0, said.err
    assert "mae" in said.out


@pytest.mark.parametrize(
    ("task", "words"),
    [
        ("sine/mlp,digits/mlp", "their heads are identity and softmax"),
        ("sine/mlp,sine/mpl", "'sine/mpl'"),
        ("sine/mlp,sine/mlp", "given twice"),
        ("sine/mlp@wave=5-2", "names no task"),
        ("digits/mlp@wave=5", "digits/mlp has no waves"),
        ("digits/mlp,mine", "'mine'"),
        ("sine/mlp,", "between two commas"),
    ],
)
def test_a_slip_is_one_sentence(lossmith: Command, here: Path, task: str, words: str) -> None:
    said = lossmith("search", "--method", "random", "--task", task, *SMALL)
    assert said.code == 2
    assert words in " ".join(said.err.split())
    assert "Traceback" not in said.err
    assert list(here.iterdir()) == []


def test_the_catalogue_says_how(lossmith: Command) -> None:
    said = lossmith("tasks")
    assert "sine/mlp@wave=3" in said.out
    assert "digits/mlp,digits/mlp2" in said.out
    found = json.loads(lossmith("tasks", "--json").out)["tasks"]
    assert {one["name"]: one["found"] for one in found}["sine/mlp"] == "made, not read"


FILE = """
[task]
reference = "sine/mlp,sine/mlp@wave=1"
steps = 60
each = [40, 20]
[search]
method = "random"
[plan]
engine = "population"
[[plan.members]]
engine = "population"
[[plan.members]]
engine = "sequential"
"""


def test_a_file_keeps_what_is_different_between_the_tasks(here: Path) -> None:
    Path("x.toml").write_text(FILE)
    read = read_experiment(SearchOptions(experiment=Path("x.toml")))
    assert (read.steps, read.engine) == ((40, 20), "rule")
    assert read_experiment(SearchOptions(experiment=Path("x.toml"), steps=7, engine="sequential")).steps == 7
    assert read_experiment(SearchOptions(experiment=Path("x.toml"), task="sine/mlp")).steps is None
