"""A killed and resumed search ends with the rows of an undisturbed one (DESIGN §4, Promise)."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from lossmith.experiment.run import Run
from lossmith.rng import stream
from lossmith.store import RunStore, comparable_rows

PROGRAM = Path(__file__).with_name("searched.py")
PATIENCE = 240.0  # seconds; a loaded machine takes long to start a process


def start(folder: Path, *arguments: str) -> subprocess.Popen[bytes]:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    return subprocess.Popen(
        [sys.executable, str(PROGRAM), str(folder), *arguments], env=environment, stderr=subprocess.PIPE
    )


def committed(folder: Path) -> int:
    """Evaluations stored so far."""
    if not (folder / "lossmith.db").exists():
        return 0
    with RunStore.open(folder) as store:
        return len(store.evaluations())


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[tuple[object, ...]]]:
    folder = tmp_path_factory.mktemp("runs") / "undisturbed"
    process = start(folder)
    _, errors = process.communicate(timeout=PATIENCE)
    assert process.returncode == 0, errors.decode()
    rows = comparable_rows(folder)
    assert len(rows["evaluation"]) >= 30
    assert Run(folder).winner is not None
    return rows


def test_ten_sigkills_leave_no_trace(tmp_path: Path, undisturbed: dict[str, list[tuple[object, ...]]]) -> None:
    folder = tmp_path / "run"
    total = len(undisturbed["evaluation"])
    # Not in the last ten: finalists are one chunk, after which the run is over sooner than it can be looked at.
    moments = sorted(int(m) for m in stream(0, "moments of death").choice(range(1, total - 10), size=10, replace=False))
    kills = 0
    for moment in moments:
        process = start(folder, "2" if kills % 3 == 2 else "0")
        deadline = time.monotonic() + PATIENCE
        while process.poll() is None and committed(folder) < moment:
            assert time.monotonic() < deadline, f"no {moment} evaluations after {PATIENCE} s"
            time.sleep(0.02)
        if process.poll() is None:
            process.send_signal(signal.SIGKILL)
            kills += 1
        process.communicate(timeout=PATIENCE)
        assert committed(folder) < total, "the run was over before it could be killed"
    assert kills == 10
    assert committed(folder) >= 1
    last = start(folder)
    _, errors = last.communicate(timeout=PATIENCE)
    assert last.returncode == 0, errors.decode()
    assert comparable_rows(folder) == undisturbed


@pytest.mark.parametrize("fault", ["ask", "evaluate", "record", "tell", "checkpoint"])
def test_a_fault_at_every_stage_leaves_no_trace(
    tmp_path: Path, undisturbed: dict[str, list[tuple[object, ...]]], fault: str
) -> None:
    folder = tmp_path / "run"
    broken = start(folder, "0", fault)
    _, errors = broken.communicate(timeout=PATIENCE)
    assert broken.returncode != 0
    assert b"InjectedFault" in errors, errors.decode()
    assert 1 <= committed(folder) < len(undisturbed["evaluation"])
    again = start(folder)
    _, errors = again.communicate(timeout=PATIENCE)
    assert again.returncode == 0, errors.decode()
    assert comparable_rows(folder) == undisturbed


def test_sigterm_ends_cleanly_and_says_how_to_go_on(
    tmp_path: Path, undisturbed: dict[str, list[tuple[object, ...]]]
) -> None:
    folder = tmp_path / "run"
    process = start(folder, "1")
    deadline = time.monotonic() + PATIENCE
    while committed(folder) < 3 and process.poll() is None:
        assert time.monotonic() < deadline
        time.sleep(0.02)
    process.send_signal(signal.SIGTERM)
    _, errors = process.communicate(timeout=PATIENCE)
    assert f"lossmith resume {folder}" in errors.decode()
    with RunStore.open(folder) as store:
        assert store.run().attempts[-1].end == "interrupted"
    again = start(folder, "2")
    again.communicate(timeout=PATIENCE)
    assert comparable_rows(folder) == undisturbed
