"""Every example is short, finds a loss, and goes on where it was when it is killed and started again."""

from __future__ import annotations

import importlib.util
import os
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from pathlib import Path
from types import ModuleType

import pytest
import torch
from code_lines import code_lines, model_lines

import lossmith as lm
from lossmith.evaluation import make_plan
from lossmith.experiment import Run
from lossmith.experiment.pilot import run_pilot
from lossmith.store import RunStore, comparable_rows
from lossmith.training import predict

EXAMPLES = Path(__file__).parents[2] / "examples"
PATIENCE = 600.0  # seconds; a loaded machine takes long to start a process
COMMITTED = 5  # trainings in the store before an example is killed


Process = subprocess.Popen[str]
Start = Callable[[str, Path], Process]


@pytest.fixture
def start() -> Iterator[Start]:
    """Starts an example in a process of its own; none outlives the test."""
    with ExitStack() as processes:

        def process(name: str, folder: Path) -> Process:
            environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "OMP_NUM_THREADS": "1"}
            words = [sys.executable, str(EXAMPLES / f"{name}.py"), str(folder)]
            begun = subprocess.Popen(words, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
            processes.enter_context(begun)
            processes.callback(begun.kill)
            return begun

        yield process


def output_of(process: Process) -> str:
    output, errors = process.communicate(timeout=PATIENCE)
    assert process.returncode == 0, errors
    return output


def trainings(folder: Path) -> int:
    """How many are stored by now."""
    database = folder / "lossmith.db"
    if not database.exists():
        return 0
    with closing(sqlite3.connect(f"{database.as_uri()}?mode=ro", uri=True)) as connection:
        return int(connection.execute("SELECT count(*) FROM evaluation").fetchone()[0])


def stop(process: Process, folder: Path, number: signal.Signals) -> str:
    """Stop an example once it has stored a few trainings; returns what it wrote to standard error."""
    deadline = time.monotonic() + PATIENCE
    while process.poll() is None and trainings(folder) < COMMITTED:
        assert time.monotonic() < deadline, f"no {COMMITTED} trainings after {PATIENCE} s"
        time.sleep(0.01)
    process.send_signal(number)
    _, errors = process.communicate(timeout=PATIENCE)
    if "import lightning" in errors and "Error" in errors.splitlines()[-1]:
        pytest.skip(f"lightning cannot be imported: {errors.splitlines()[-1]}")
    assert process.returncode not in (0, None), "the example was over before it could be stopped"
    return errors


def resumed(start: Start, name: str, folder: Path) -> str:
    """Start a stopped example again; returns what it printed."""
    before = trainings(folder)
    output = output_of(start(name, folder))
    run = Run(folder)
    assert COMMITTED <= before < len(run.evaluations)
    assert run.finished
    assert run.row.attempts[0].end in ("killed", "interrupted")
    assert run.verdict is not None
    assert str(run.best.loss) in output
    assert run.verdict.sentence in output
    return output


@pytest.mark.parametrize("name", ["plain_pytorch", "lightning_loop", "masked_sequence"])
def test_an_example_is_short(name: str) -> None:
    source = (EXAMPLES / f"{name}.py").read_text()
    lines, model = code_lines(source), model_lines(source)
    assert source.count("\n") < 60
    assert model
    assert len(lines - model) < 30


SOURCE = '''"""Doc."""

import a  # why


class Net:
    """Doc
    strings."""

    b = (
        1,
    )
# end
'''


def test_lines_are_counted() -> None:
    assert code_lines(SOURCE) == {3, 6, 10, 11, 12}
    assert model_lines(SOURCE) == {6, 10, 11, 12}


def test_a_killed_and_resumed_plain_loop_ends_with_the_rows_of_an_undisturbed_one(start: Start, tmp_path: Path) -> None:
    killed, undisturbed = (start("plain_pytorch", tmp_path / name) for name in ("killed", "undisturbed"))
    stop(killed, tmp_path / "killed", signal.SIGKILL)
    printed = resumed(start, "plain_pytorch", tmp_path / "killed")
    assert printed == output_of(undisturbed)
    assert comparable_rows(tmp_path / "killed") == comparable_rows(tmp_path / "undisturbed")


def test_a_killed_masked_sequence_task_is_resumed(start: Start, tmp_path: Path) -> None:
    folder = tmp_path / "runs" / "mine"
    stop(start("masked_sequence", folder), folder, signal.SIGKILL)
    resumed(start, "masked_sequence", folder)


def test_a_terminated_lightning_loop_is_resumed(start: Start, tmp_path: Path) -> None:
    if importlib.util.find_spec("lightning") is None:
        pytest.skip("lightning is not installed")
    folder = tmp_path / "run"
    errors = stop(start("lightning_loop", folder), folder, signal.SIGTERM)
    assert f"lossmith resume {folder}" in errors
    with RunStore.open(folder) as store:
        assert store.run().attempts[-1].end == "interrupted"
        assert all(row.evaluation.status.ok for row in store.evaluations())
    resumed(start, "lightning_loop", folder)


def test_padding_counts_neither_in_the_metric_nor_in_the_loss() -> None:
    task = masked_task()
    rows = task.data["test"].batch(torch.arange(300))
    model = task.build_model(0)
    seen = predict(task, model, "test")
    counted = rows["tags"][rows["mask"]]  # by hand: only real tokens
    with torch.no_grad():
        output = model(rows["tokens"])[rows["mask"]]
    assert int((rows["tags"] == -100).sum()) == int((~rows["mask"]).sum()) > 300  # there is padding
    wrong = (output.argmax(1) != counted).double().mean().item()
    assert task.metric.value(seen.output, seen.target, seen.weight, task.head) == pytest.approx(wrong, abs=1e-12)
    value = lm.loss("cross_entropy")(seen.output, seen.target, weight=seen.weight).item()
    assert value == pytest.approx(torch.nn.functional.cross_entropy(output, counted).item(), rel=1e-5)


@pytest.mark.parametrize("tag", [-100, 0])
def test_padding_does_not_move_the_level_of_chance(tag: int) -> None:
    task = masked_task(tag)
    pilot = run_pilot(task, make_plan(task), budget=0.1)
    rows = task.data["fitness"].batch(torch.arange(len(task.data["fitness"])))
    share = rows["tags"][rows["mask"]].bincount().max() / rows["mask"].sum()  # of the most frequent tag
    assert pilot.chance_value == pytest.approx(1 - share.item(), abs=1e-6)


def masked_task(padding: int = -100) -> lm.Task:
    """The task of the example, its padding tagged in some way."""
    example = load("masked_sequence")

    def make_rows(name: str) -> dict[str, torch.Tensor]:
        rows: dict[str, torch.Tensor] = example.make_rows(name, 0.4)
        return {**rows, "tags": rows["tags"].masked_fill(~rows["mask"], padding)}

    return lm.Task(
        model=lambda seed: example.Tagger(),
        train=make_rows("train"),
        valid=make_rows("valid"),
        test=make_rows("test"),
        forward=example.forward,
        recipe=lm.Recipe(steps=20),
    )


def load(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, EXAMPLES / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
