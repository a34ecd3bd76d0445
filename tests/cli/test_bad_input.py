"""Bad input: exit code 2, one sentence that says what to type next, no traceback, and nothing on disk changed."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest
from commands import SMALL, Command, snapshot

NEW = [*SMALL, "--run", "runs/new"]
SEARCH = ["search", "--method", "taylorglo", "--task", "digits/mlp", *NEW]


@pytest.fixture
def refused(lossmith: Command, here: Path) -> Callable[..., str]:
    """Calls a command that must be refused; gives the one sentence."""

    def call(*arguments: str) -> str:
        before = snapshot(here)
        said = lossmith(*arguments)
        assert said.code == 2, said
        assert said.out == ""
        sentence = said.err.strip()
        assert sentence.startswith("error: "), said.err
        assert sentence.count("error: ") == 1
        assert "Traceback" not in sentence
        assert snapshot(here) == before
        return sentence

    return call


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["search", "--method", "taylorgol", "--task", "digits/mlp"], ["unknown method 'taylorgol'", "'taylorglo'"]),
        (["search", "--method", "random", "--task", "digit/mlp"], ["unknown task", "'digits/mlp'", "lossmith tasks"]),
        (["plan", "--method", "random", "--task", "digits/mlp@nois=.4"], ["unknown modifier 'nois'", "'noise'"]),
        (["shelf", "--task", "digits/mlp@noise=4"], ["noise", "4", "[0, 1]"]),
        (["export", "bakal"], ["unknown loss 'bakal'", "'baikal'", "lossmith losses"]),
        (["export", "focal(gama=2)"], ["focal", "gama", "gamma"]),
        (["export", "-t*log(p"], ["character 9", "-t*log(p\n"]),
        (["export", "baikal", "--to", "tensorflow"], ["tensorflow", "torch, latex, json"]),
        (["compare", "cross_entropy", "bakal", "--task", "digits/mlp"], ["unknown loss 'bakal'", "'baikal'"]),
        (["evaluate", "bakal", "--task", "digits/mlp"], ["unknown loss 'bakal'", "'baikal'"]),
        (["evaluate", "baikal", "--task", "digits/mlp", "--controls", "tunde"], ["tunde", "task, tuned, shelf"]),
        (["evaluate", "baikal", "--task", "digits/mlp", "--seeds", "1"], ["seeds 1", "at least 2"]),
        (["compare", "mse", "mae", "--task", "digits/mlp", "--tune-lr", "maee"], ["maee", "mae"]),
        ([*SEARCH, "--start-from", "mse,bakal"], ["unknown loss 'bakal'", "'baikal'"]),
        (["data", "fetch", "mnits"], ["unknown data set 'mnits'", "'mnist'"]),
        (["serach"], ["serach", "search", "lossmith --help"]),
        (["search", "--metod", "random"], ["--metod", "--method", "lossmith search --help"]),
        (["show"], ["RUN", "lossmith show --help"]),
        (["search", "--generations", "many"], ["--generations", "valid integer"]),
    ],
)
def test_a_name_that_does_not_exist_is_answered_with_the_nearest(
    refused: Callable[..., str], arguments: list[str], words: list[str]
) -> None:
    sentence = refused(*arguments)
    for word in words:
        assert word in sentence


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--generations", "0"], ["generations = 0", "greater than or equal to 1"]),
        (["--partial", "0"], ["partial = 0", "(0, 1]"]),
        (["--partial", "21"], ["partial = 21", "20"]),
        (["--partial", "inf"], ["partial = inf"]),
        (["--partial", "nan"], ["partial = nan"]),
        (["--steps", "0"], ["steps is 0", "[1, inf)"]),
        (["--seed", "-1"], ["seed = -1", "greater than or equal to 0"]),
        (["--workers", "-1"], ["workers = -1"]),
        (["--finalists", "0"], ["finalists = 0", "greater than or equal to 1"]),
        (["--elites", "101"], ["elites = 101", "less than or equal to 100"]),
        (["--fidelity", "rows"], ["fidelity = 'rows'", "'steps' or 'data'"]),
        (["--device", "gpu"], ["'gpu'", "cpu"]),
        (["--engine", "warp"], ["'warp'", "rule", "auto", "population"]),
        (["--dtype", "half"], ["'half'", "float32", "bfloat16"]),
        (["--workers", "1000000"], ["workers = 1000000", "MiB are available", "fit: use --workers"]),
        (["--deadline", "0"], ["deadline 0", "above 0"]),
        (["--set", "order=22"], ["taylorglo.order = 22", "from 2 to 9"]),
        (["--set", "ordr=3"], ["'ordr'", "'order'"]),
        (["--set", "order"], ["--set key=value"]),
        (["--set", "sigma=wide"], ["taylorglo.sigma = 'wide'", "above 0"]),
        (["--set", "population=3"], ["--population"]),
        (["--shelf", "runs/none"], ["runs/none"]),
    ],
)
def test_a_value_out_of_range_is_named_with_its_range(
    refused: Callable[..., str], options: list[str], words: list[str]
) -> None:
    sentence = refused(*SEARCH, *options)
    for word in words:
        assert word in sentence


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("seed = ", ["experiment.toml", "not valid TOML", "end of document"]),
        ("sed = 1", ["'sed'", "'seed'"]),
        ("generations = 3", ["'generations'", "[search]"]),
        ("[search]\ngeneration = 3", ["'search.generation'", "'generations'"]),
        ("[search]\nmethod = 3", ["search.method = 3", "method's name"]),
        ("[search]\nsettings = 3", ["search.settings = 3", "table"]),
        ("[search]\ngenerations = 'many'", ["generations = 'many'", "integer"]),
        ("[search]\nstart_from = 3", ["search.start_from = 3", "list"]),
        ("[search]\nbudget = 0.1\npartial = 5", ["search.partial", "search.budget"]),
        ("[search]\nbudget = 1.5", ["1.5"]),
        ("[plan]\ndevise = 'cpu'", ["'plan.devise'", "'device'"]),
        ("seed = true", ["seed = True", "whole number"]),
        ("seed = 1.5", ["seed = 1.5", "whole number"]),
        ("task = 'digits/mlp'", ["task = 'digits/mlp'", "[task]"]),
        ("format = 99", ["format 99", "upgrade"]),
        ("kind = 'compare'", ["compare", "search"]),
    ],
)
def test_a_malformed_experiment_file_is_named_with_field_and_value(
    refused: Callable[..., str], here: Path, text: str, words: list[str]
) -> None:
    (here / "experiment.toml").write_text(text)
    sentence = refused("search", "experiment.toml", "--method", "random", "--task", "digits/mlp", "--run", "runs/new")
    for word in words:
        assert word in sentence


def test_an_experiment_that_leaves_the_question_open_is_refused(refused: Callable[..., str], here: Path) -> None:
    assert "--method" in refused("search", "--task", "digits/mlp")
    assert "--task" in refused("search", "--method", "random")
    assert "no file none.toml" in refused("search", "none.toml")
    (here / "built.toml").write_text('[task]\nname = "mine"\n')
    assert "built in Python" in refused("search", "built.toml", "--method", "random")


def test_missing_data_says_where_to_get_it(refused: Callable[..., str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pooch.os_cache", lambda name: Path("no-cache"))
    sentence = refused("search", "--method", "taylorglo", "--task", "mnist/cnn", "--run", "runs/new")
    for word in ("train-images-idx3-ubyte.gz", "lossmith data fetch mnist", "https://", "LOSSMITH_DATA"):
        assert word in sentence


@pytest.mark.parametrize("command", ["search", "shelf", "compare"])
def test_a_folder_that_exists_is_never_written_to(refused: Callable[..., str], a_run: str, command: str) -> None:
    what = {"search": ["--method", "random"], "shelf": [], "compare": ["mse", "mae"]}[command]
    sentence = refused(command, *what, "--task", "digits/mlp", "--workers", "0", "--run", a_run)
    assert "runs/m exists already" in sentence
    assert "lossmith resume runs/m" in sentence


def test_a_folder_that_is_no_run_is_refused(refused: Callable[..., str], here: Path) -> None:
    (here / "notes").mkdir()
    (here / "notes" / "a.txt").write_text("mine")
    assert "notes exists already" in refused(*SEARCH[:-1], "notes")
    for command in ("show", "resume", "report"):
        assert "notes" in refused(command, "notes")
        assert "missing" in refused(command, "runs/none")


READERS = [["show"], ["resume"], ["report"], ["export"], ["evaluate", "--workers", "0"]]


@pytest.mark.parametrize("command", READERS, ids=lambda command: command[0])
def test_a_run_of_a_newer_format_asks_for_an_upgrade(
    refused: Callable[..., str], here: Path, a_run: str, command: list[str]
) -> None:
    with closing(sqlite3.connect(here / a_run / "lossmith.db")) as connection:
        connection.execute("PRAGMA journal_mode = DELETE")
        connection.execute("UPDATE run SET format = 99")
        connection.commit()
    sentence = refused(*command, a_run)
    assert "format 99" in sentence
    assert "upgrade" in sentence


@pytest.mark.parametrize("command", READERS, ids=lambda command: command[0])
@pytest.mark.parametrize("damage", ["truncated", "overwritten", "empty"])
def test_a_damaged_database_is_refused_and_left_as_it_is(
    refused: Callable[..., str], here: Path, a_run: str, command: list[str], damage: str
) -> None:
    file = here / a_run / "lossmith.db"
    whole = file.read_bytes()
    middle = len(whole) // 2
    damaged = {"truncated": whole[:middle], "empty": b"", "overwritten": whole[:5000] + b"\xaa" * (len(whole) - 5000)}
    file.write_bytes(damaged[damage])
    sentence = refused(*command, a_run)
    assert "runs/m" in sentence
    assert "damaged" in sentence or "not written by Lossmith" in sentence


def test_a_candidate_that_does_not_exist_is_refused(refused: Callable[..., str], a_run: str) -> None:
    assert "generations 0 to 0" in refused("export", f"{a_run}:7.0")
    assert "positions 0 to" in refused("export", f"{a_run}:0.999")
    assert "runs/none is missing" in refused("export", "runs/none:0.0")


PARTS = """
import torch
import lossmith as lm

x = torch.arange(160.0).reshape(80, 2) % 7
y = torch.arange(80) % 3

def make_task():
    return lm.Task(
        model=lambda seed: torch.nn.Linear(2, 3),
        train=(x, y), valid=(x + 0.1, y), test=(x + 0.2, y),
        recipe=lm.Recipe(steps=20),
    )
"""


@pytest.mark.parametrize(
    ("wrong", "instead", "words"),
    [
        ("Linear(2, 3)", "Sequential(torch.nn.Linear(2, 3), torch.nn.Flatten(0))", ["shape", "[N, C]"]),
        ("Linear(2, 3)", "Linear(5, 3)", ["forward pass failed"]),
        ("Linear(2, 3)", "Linear(2, 2)", ["target 2", "outside the classes 0…1"]),
        ("% 3", "% 3 - 1", ["target -1", "outside the classes"]),
        ("% 7", "% 7 / 0", ["NaN or infinite inputs", "train"]),
        ("steps=20)", "steps=20), metric=lambda output, target: 0.5", ["has no direction", "lm.metrics.metric"]),
        ("def make_task():", "def other():", ["make_task"]),
        ("    return", "    raise OSError('no disk')\n    return", ["make_task", "no disk"]),
    ],
    ids=[
        "flat output",
        "wrong input",
        "too few outputs",
        "negative label",
        "infinite",
        "metric",
        "no function",
        "raises",
    ],
)
def test_a_task_of_the_users_own_is_told_what_is_wrong_with_it(
    refused: Callable[..., str], user_module: Callable[[str], str], wrong: str, instead: str, words: list[str]
) -> None:
    assert wrong in PARTS
    name = user_module(PARTS.replace(wrong, instead))
    sentence = refused("search", "--method", "taylorglo", "--task", f"{name}:make_task", *NEW)
    for word in words:
        assert word in sentence


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ("pass", ["returned nothing", "error_rate"]),
        ("return {'loss': 1.0}", ["error_rate", "loss"]),
        ("return 'good'", ["good", "number"]),
        ("raise ValueError('no GPU')", ["ValueError", "no GPU"]),
    ],
)
def test_a_train_function_that_returns_no_metric_is_refused(
    refused: Callable[..., str], user_module: Callable[[str], str], body: str, words: list[str]
) -> None:
    name = user_module(
        "import lossmith as lm\n\n"
        f"def train(loss, trial):\n    {body}\n\n"
        "task = lm.Task.from_function(train, metric='error_rate', outputs=3)\n"
    )
    options = [option if option != "5" else "0.1" for option in NEW]
    sentence = refused("search", "--method", "taylorglo", "--task", f"{name}:task", *options)
    for word in words:
        assert word in sentence
