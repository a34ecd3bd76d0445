"""Killed in the middle of a long training: the run goes on from there, and ends with the rows of an undisturbed one."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import safetensors
import trained_long
from small_tasks import small_task

import lossmith as lm
from lossmith.errors import Interrupted
from lossmith.experiment.opening import Resources, open_session
from lossmith.rng import stream
from lossmith.store import RunStore, comparable_rows
from lossmith.training import keeping, loop
from lossmith.training.checkpoints import UnderWay

PROGRAM = Path(__file__).with_name("trained_long.py")
PATIENCE = 240.0  # seconds; a loaded machine takes long to start a process


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[tuple[object, ...]]]:
    folder = tmp_path_factory.mktemp("runs") / "undisturbed"
    trained_long.begin_or_resume(folder)
    assert not (folder / "training").exists()  # no training took a minute
    return comparable_rows(folder)


@pytest.fixture
def resumed_at(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Steps from which trainings of this process are gone on with."""
    steps: list[int] = []
    original = loop.restore

    def restore(run: UnderWay, contents: object) -> None:
        original(run, contents)  # type: ignore[arg-type]
        steps.append(run.done)

    monkeypatch.setattr(loop, "restore", restore)
    return steps


def checkpoints(folder: Path) -> dict[str, int]:
    """Files of trainings under way, and when each was written."""
    found = {}
    for path in (folder / "training").glob("*.safetensors"):
        try:
            found[path.name] = path.stat().st_mtime_ns
        except FileNotFoundError:  # its training has ended
            continue
    return found


def steps_in(path: Path) -> int:
    """Steps that were done when a checkpoint was written."""
    with safetensors.safe_open(path, framework="pt") as file:
        pairs = json.loads(file.metadata()["lossmith"])["document"]["run"][1]
    return int(next(value[1] for key, value in pairs if key == ["plain", "done"]))


def killed_after(folder: Path, written: int, *arguments: str) -> str:
    """Start the comparison, SIGKILL it once so many checkpoints have been written; what it printed."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, str(PROGRAM), str(folder), "0.01", *arguments]
    process = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    seen, deadline = checkpoints(folder), time.monotonic() + PATIENCE
    while process.poll() is None and written:
        assert time.monotonic() < deadline
        now = checkpoints(folder)
        written -= bool(now.items() - seen.items())
        seen = now
        time.sleep(0.002)
    process.send_signal(signal.SIGKILL)
    printed, errors = process.communicate(timeout=PATIENCE)
    assert process.returncode == -signal.SIGKILL, f"it ended before it could be killed: {errors.decode()}"
    return printed.decode()


def test_sigkills_in_the_middle_of_a_training_leave_no_trace(
    tmp_path: Path, undisturbed: dict[str, list[tuple[object, ...]]], resumed_at: list[int]
) -> None:
    folder = tmp_path / "run"
    killed_after(folder, 3)
    assert len(checkpoints(folder)) == 1
    trained_long.begin_or_resume(folder)
    assert comparable_rows(folder) == undisturbed
    assert len(resumed_at) == 1
    assert 0 < resumed_at[0] <= 2500
    assert not checkpoints(folder)


@pytest.mark.chaos
@pytest.mark.parametrize("workers", ["0", "2"])
def test_many_sigkills_leave_no_trace(tmp_path: Path, workers: str) -> None:
    steps = 10_000
    trained_long.begin_or_resume(tmp_path / "undisturbed", steps=steps)
    folder, gone_on = tmp_path / "run", 0
    moments = stream(0, "moments of death", workers).integers(1, 6, size=6)
    before: dict[str, int] = {}
    for moment in moments:
        killed_after(folder, int(moment), workers, str(steps))
        time.sleep(2 * int(workers))  # workers of a dead host end within a second
        now = {name: steps_in(folder / "training" / name) for name in checkpoints(folder)}
        both = before.keys() & now.keys()
        assert all(now[name] >= before[name] for name in both)  # what begins anew falls back
        gone_on += bool(both)
        before = now
    assert gone_on >= 3
    trained_long.begin_or_resume(folder, int(workers), steps)
    assert comparable_rows(folder) == comparable_rows(tmp_path / "undisturbed")
    assert not checkpoints(folder)


def test_files_that_cannot_be_gone_on_with_are_named_and_left_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, resumed_at: list[int]
) -> None:
    folder, task = tmp_path / "run", small_task(steps=50)
    monkeypatch.setattr(keeping, "EVERY", 0.0)
    written = keeping.write_checkpoint
    count = 0

    def and_stop(*arguments: object) -> None:
        nonlocal count
        written(*arguments)  # type: ignore[arg-type]
        count += 1
        if count == 70:
            raise KeyboardInterrupt

    monkeypatch.setattr(keeping, "write_checkpoint", and_stop)
    with pytest.raises(Interrupted):
        lm.compare(["cross_entropy", "brier"], task, seeds=1, path=folder, engine="sequential")
    with RunStore.open(folder) as store:
        (stored,) = store.evaluations()
    (name,) = checkpoints(folder)  # that of the first training went when it was stored
    place = folder / "training" / name
    whole = place.read_bytes()

    def opened() -> list[str]:
        said: list[str] = []
        session, _ = open_session(folder, task, Resources(listeners=[lambda event: said.append(str(event))]))
        session.executor.close()
        session.store.close()
        return [text for text in said if "training" in text and "anew" in text]

    assert opened() == []
    leftovers = [f"{stored.evaluation.request}.safetensors", f"{name}.123.unfinished"]
    for left in leftovers:
        (place.parent / left).write_bytes(b"left over")
    (place.parent / "notes.txt").write_text("mine")
    place.write_bytes(whole[:-9])
    (note,) = opened()
    assert f"{place} is damaged: that training starts anew." in note
    assert sorted(os.listdir(place.parent)) == sorted([name, "notes.txt"])
    place.write_bytes(whole)
    monkeypatch.setattr(keeping, "write_checkpoint", written)
    lm.resume(folder, task=task)
    assert resumed_at == [20]
    assert os.listdir(place.parent) == ["notes.txt"]
    place.write_bytes(whole)
    assert opened() == []  # nothing of a finished run is under way
    assert os.listdir(place.parent) == ["notes.txt"]
