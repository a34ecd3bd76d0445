"""Workers started by what users write, scripts without a guard and code of notebooks; then interrupted or killed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

LEFT_AFTER = 20.0  # seconds in which everything that a run started must be gone


def listens_to_ctrl_c() -> None:
    """In a child before it starts: what a shell puts in the background ignores Ctrl-C, and so would its children."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


# No `if __name__ == "__main__"`, a task of this very file, and a task of code as a notebook runs it.
SCRIPT = """
import signal
import sys

print("the script begins", flush=True)

import lossmith as lm
from lossmith.evaluation import Plan, make_executor, run_requests
from lossmith.records import Request

notebook = {"__name__": "__main__"}
exec(compile('''
import torch

class Net(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = torch.nn.Linear(4, 3)
    def forward(self, x):
        return self.layer(x)

def make(seed):
    return Net()
''', "<cell 1>", "exec"), notebook)


class Scale:
    def __call__(self, error):
        return error * FACTOR


FACTOR = 0.5


def train(loss, trial):
    import time

    if trial.seed == 7:
        open(sys.argv[1], "w").write("hanging")
        time.sleep(600)
    model = notebook["make"](trial.seed)
    return Scale()(float(sum(p.numel() for p in model.parameters())))


task = lm.Task.from_function(train, outputs=3, metric=("error", "min"))
signal.signal(signal.SIGTERM, signal.getsignal(signal.SIGINT))  # as a search does
executor = make_executor(task, workers=1)
text = lm.to_json(lm.loss("cross_entropy"))
(done,) = next(iter(run_requests([Request(text, 0)], executor, Plan())))
print(done.status, done.metrics, flush=True)
print("folder", executor._folder.name, flush=True)
print("worker", done.worker, flush=True)
try:
    list(run_requests([Request(text, 7)], executor, Plan()))
except KeyboardInterrupt:
    executor.close(kill=True)
    print("interrupted", flush=True)
"""


def eventually(true: Callable[[], bool], within: float = LEFT_AFTER) -> bool:
    deadline = time.monotonic() + within
    while time.monotonic() < deadline:
        if true():
            return True
        time.sleep(0.05)
    return False


def is_gone(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    # an orphan that has ended may wait for the machine's first process to take note of it
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"


@pytest.mark.parametrize("end", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL], ids=["Ctrl-C", "SIGTERM", "SIGKILL"])
def test_a_script_without_a_guard(tmp_path: Path, end: signal.Signals) -> None:
    script, marker = tmp_path / "script.py", tmp_path / "hangs"
    script.write_text(SCRIPT)
    host = subprocess.Popen(
        [sys.executable, str(script), str(marker)],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,  # a group of its own, as a terminal gives one
        preexec_fn=listens_to_ctrl_c,
    )
    try:
        assert eventually(lambda: marker.exists() or host.poll() is not None, within=120)
        if end == signal.SIGINT:
            os.killpg(host.pid, end)  # a terminal sends Ctrl-C to the workers too
        else:
            host.send_signal(end)
        said, _ = host.communicate(timeout=60)
    finally:
        host.kill()
    assert said.count("the script begins") == 1  # not again in every worker
    assert "ok {'fitness': 7.5}" in said  # 15 numbers of Net, times FACTOR
    words = dict(line.split(maxsplit=1) for line in said.splitlines() if line.startswith(("folder", "worker")))
    if end == signal.SIGKILL:
        assert host.returncode == -signal.SIGKILL
    else:
        assert said.endswith("interrupted\n"), said
        assert host.returncode == 0
    assert eventually(lambda: is_gone(int(words["worker"])))
    assert eventually(lambda: not Path(words["folder"]).exists())
