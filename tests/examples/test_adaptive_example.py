"""The example of a loss that adapts in a loop of one's own: it learns, and a kill leaves no trace."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
from pathlib import Path

EXAMPLE = Path(__file__).parents[2] / "examples" / "adaptive_loss.py"
PATIENCE = 240.0


def begun(folder: Path) -> subprocess.Popen[str]:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "OMP_NUM_THREADS": "1"}
    words = [sys.executable, str(EXAMPLE), str(folder)]
    return subprocess.Popen(words, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def output_of(process: subprocess.Popen[str]) -> str:
    output, errors = process.communicate(timeout=PATIENCE)
    assert process.returncode == 0, errors
    return output


def test_it_learns_and_goes_on_exactly_where_it_was_killed(tmp_path: Path) -> None:
    whole = output_of(begun(tmp_path / "whole"))
    found = re.search(r"after (\d+) steps: ([0-9.]+)", whole)
    assert found is not None
    assert found[1] == "200"
    assert float(found[2]) < 0.3
    process = begun(tmp_path / "killed")
    deadline = time.monotonic() + PATIENCE
    while process.poll() is None and not (tmp_path / "killed" / "checkpoint.pt").exists():
        assert time.monotonic() < deadline
        time.sleep(0.01)
    process.kill()
    process.communicate(timeout=PATIENCE)
    assert output_of(begun(tmp_path / "killed")) == whole
