"""The command line as a process: exit codes, signals, pipes, and how soon it answers."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from commands import TINY

import lossmith as lm
from lossmith.experiment import Run

SOURCE = Path(lm.__file__).parents[1]
PATIENCE = 120.0  # seconds for a process to get going on a loaded machine

# The package's own __init__ imports torch for `import lossmith as lm`; what the command line itself imports is seen
# with an empty one in its place.
WITHOUT_LIBRARY = f"""
import sys, types
package = types.ModuleType("lossmith")
package.__path__ = [{str(SOURCE / "lossmith")!r}]
sys.modules["lossmith"] = package
from lossmith.cli import main
code = main(["--help"]) + main(["search", "--help"]) + main(["data", "fetch", "-h"])
heavy = sorted({{"torch", "numpy", "scipy", "matplotlib", "sklearn"}} & sys.modules.keys())
sys.exit(f"exit code {{code}}, imported {{heavy}}" if code or heavy else 0)
"""


def started(*arguments: str, cwd: Path) -> subprocess.Popen[str]:
    environment = {**os.environ, "PYTHONPATH": str(SOURCE), "PYTHONDONTWRITEBYTECODE": "1"}
    command = [sys.executable, "-m", "lossmith", *arguments]
    return subprocess.Popen(
        command,
        cwd=cwd,
        env=environment,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        preexec_fn=lambda: signal.signal(
            signal.SIGINT, signal.SIG_DFL
        ),  # ignored where the tests run in the background
    )


def test_help_needs_none_of_the_heavy_libraries() -> None:
    done = subprocess.run([sys.executable, "-c", WITHOUT_LIBRARY], capture_output=True, text=True, timeout=PATIENCE)
    assert done.returncode == 0, done.stderr


def test_misuse_ends_with_2_and_one_line(here: Path) -> None:
    process = started("export", "bakal", cwd=here)
    out, err = process.communicate(timeout=PATIENCE)
    assert process.returncode == 2
    assert out == ""
    assert err.startswith("error: unknown loss 'bakal': did you mean 'baikal'")
    assert len(err.splitlines()) == 1


def test_a_reader_that_has_seen_enough_is_no_error(here: Path) -> None:
    process = started("losses", "--json", cwd=here)
    assert process.stdout is not None
    process.stdout.close()
    assert process.stderr is not None
    assert process.stderr.read() == ""
    process.stderr.close()
    assert process.wait(PATIENCE) == 1


@pytest.mark.parametrize(("sent", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_ends_a_search_that_can_go_on(here: Path, sent: signal.Signals, code: int) -> None:
    process = started("search", *TINY, "--generations", "5000", "--run", "runs/m", cwd=here)
    deadline = time.monotonic() + PATIENCE
    while not (here / "runs" / "m" / "lossmith.db").exists() and time.monotonic() < deadline:
        assert process.poll() is None, process.communicate()
        time.sleep(0.01)
    time.sleep(0.2)
    process.send_signal(sent)
    out, err = process.communicate(timeout=PATIENCE)
    assert process.returncode == code
    assert out == ""
    assert "Traceback" not in err
    assert err.rstrip().endswith("`lossmith resume runs/m` goes on.")
    assert Run("runs/m").row.attempts[-1].end == "interrupted"
