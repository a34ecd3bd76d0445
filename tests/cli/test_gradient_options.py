"""Methods that go by meta-steps on the command line, and what is said to whoever asks them for generations."""

from __future__ import annotations

import json
import shlex
from collections.abc import Callable
from pathlib import Path

import pytest
from commands import Command, snapshot

QUICK = shlex.split("--steps 20 --partial 5 --finalists 1 --finalist-seeds 1 --workers 0")
ML3 = ["search", "--method", "ml3", "--task", "digits/mlp", *QUICK]


@pytest.fixture
def refused(lossmith: Command, here: Path) -> Callable[..., str]:
    """Calls a command that must be refused; gives the one sentence."""

    def call(*arguments: str) -> str:
        before = snapshot(here)
        said = lossmith(*arguments)
        assert said.code == 2, said
        sentence = said.err.strip()
        assert sentence.startswith("error: ")
        assert "\n" not in sentence
        assert snapshot(here) == before
        return sentence

    return call


def test_a_search_by_gradient_from_option_to_report(lossmith: Command, here: Path) -> None:
    said = lossmith(*ML3, "--meta-steps", "60", "--hypergradient", "implicit", "--set", "terms=3", "--run", "runs/m")
    assert said.code == 0, said.err
    assert "meta-step 50/60" in said.err
    assert "meta-step 60/60" in said.err
    assert "60 of 60 meta-steps" in said.out
    shown = lossmith("show", "runs/m")
    assert "block" in shown.out
    assert "network(2-50-50-1, softplus)" in shown.out
    document = json.loads(lossmith("show", "runs/m", "--json").out)
    assert document["meta_steps"] == [60, 60]
    assert document["generations"] == 2
    spec = (here / "runs" / "m" / "spec.toml").read_text()
    assert "meta_steps = 60" in spec
    assert 'hypergradient = "implicit"' in spec
    assert "terms = 3" in spec
    assert lossmith("report", "runs/m").code == 0
    # a stored spec says generations too; it can be given as it is, and with other meta-steps
    again = lossmith("plan", "runs/m/spec.toml", "--workers", "0", "--meta-steps", "110", "--json", "--seeds", "2")
    assert again.code == 0, again.err
    parts = {part["what"]: part for part in json.loads(again.out)["parts"]}
    assert parts["tuning loss parameters"]["trainings"] == 3
    other = (here / "runs" / "m" / "spec.toml").read_text().replace("generations = 2", "generations = 20")
    (here / "changed.toml").write_text(other)
    said = lossmith("plan", "changed.toml")
    assert said.code == 2
    assert "changed.toml: search.generations = 20: ml3 goes by meta-steps" in said.err


@pytest.mark.parametrize("method", ["ml3", "adalfl", "taylor_unroll"])
def test_generations_are_answered_with_meta_steps(refused: Callable[..., str], method: str) -> None:
    for command in ("search", "plan"):
        sentence = refused(command, "--method", method, "--task", "digits/mlp", "--generations", "5")
        assert f"--generations: {method} goes by meta-steps, not by generations: give --meta-steps N" in sentence


@pytest.mark.parametrize(
    ("method", "own"),
    [("taylorglo", "--set tune=N"), ("evomal", "--set meta_steps=N"), ("glo", None), ("random", None)],
)
def test_meta_steps_are_answered_with_generations(refused: Callable[..., str], method: str, own: str | None) -> None:
    for command in ("search", "plan"):
        sentence = refused(command, "--method", method, "--task", "digits/mlp", "--meta-steps", "50")
        assert f"--meta-steps: {method} goes by generations, not by meta-steps: give --generations N" in sentence
        assert (own in sentence) if own else ("--set" not in sentence)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--meta-steps", "0"], ["ml3.meta_steps = 0", "from 1"]),
        (["--meta-steps", "many"], ["--meta-steps", "valid integer"]),
        (["--hypergradient", "exact"], ["ml3.hypergradient = 'exact'", "unroll, implicit"]),
        (["--meta-steps", "5", "--set", "meta_steps=6"], ["--meta-steps and --set meta_steps say the same"]),
        (["--hypergradient", "unroll", "--set", "hypergradient=unroll"], ["say the same"]),
        (["--set", "truncation=3"], ["truncation = 3", "unroll_length = 1"]),
        (["--set", "task_loss=error_rate"], ["'error_rate' is a metric", "cross_entropy"]),
        (["--start-from", "baikal"], ["ml3 starts from drawn weights", "baikal"]),
    ],
)
def test_bad_values(refused: Callable[..., str], options: list[str], words: list[str]) -> None:
    sentence = refused(*ML3, *options)
    for word in words:
        assert word in sentence


def test_a_hypergradient_of_a_method_that_takes_none(refused: Callable[..., str]) -> None:
    sentence = refused("search", "--method", "glo", "--task", "digits/mlp", "--hypergradient", "implicit")
    assert (
        "--hypergradient: glo tunes no loss parameters by gradient; taylorglo, evomal, taylor_unroll, ml3" in sentence
    )


def test_a_method_of_the_command_line_wins_over_the_generations_of_a_file(lossmith: Command, here: Path) -> None:
    (here / "experiment.toml").write_text(
        '[search]\nmethod = "taylorglo"\ngenerations = 7\n[task]\nreference = "digits/mlp"\nsteps = 20\n'
    )
    said = lossmith("plan", "experiment.toml", "--method", "ml3", "--partial", "5", "--workers", "0", "--json")
    assert said.code == 0, said.err
    parts = {part["what"]: part for part in json.loads(said.out)["parts"]}
    assert parts["tuning loss parameters"]["trainings"] == 5  # 250 meta-steps


def test_methods_are_listed_with_their_settings(lossmith: Command) -> None:
    listed = {entry["name"]: entry for entry in json.loads(lossmith("methods", "--json").out)}
    for name in ("ml3", "adalfl", "taylor_unroll"):
        settings = {setting["name"] for setting in listed[name]["settings"]}
        assert {"meta_steps", "hypergradient", "truncation", "reinitialise", "task_loss"} <= settings
        assert "arXiv" in listed[name]["reference"]
