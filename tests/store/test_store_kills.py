"""A run that is killed at any commit, or at any moment, ends with the rows of an undisturbed one."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import store_scenario as scenario

from lossmith.errors import RunError
from lossmith.store import RunStore, comparable_rows, fault_injection


def python(code: str, path: Path | str) -> subprocess.Popen[str]:
    """A process that runs `code` with the path as its argument, and knows the ground floor and the store."""
    return subprocess.Popen(
        [sys.executable, "-c", f"import ground_only\n{code}", str(path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        env={"PYTHONPATH": str(Path(__file__).parent), "PATH": "/usr/bin:/bin"},
    )


@pytest.fixture
def undisturbed(tmp_path: Path) -> dict[str, list[tuple[object, ...]]]:
    scenario.play(tmp_path / "undisturbed")
    return comparable_rows(tmp_path / "undisturbed")  # type: ignore[return-value]


def test_sigkill_at_every_commit_then_resume_ends_with_the_same_rows(
    tmp_path: Path, undisturbed: dict[str, list[tuple[object, ...]]]
) -> None:
    seen: list[tuple[str, str]] = []
    with fault_injection(lambda name, moment: seen.append((name, moment))):
        scenario.play(tmp_path / "watched")
    assert {name for name, _ in seen} >= {
        "create",
        "session",
        "generation",
        "record",
        "tell",
        "checkpoint",
        "event",
        "state",
    }

    (tmp_path / "killed").mkdir()
    child = python("import sys, store_scenario; store_scenario.main(sys.argv[1])", tmp_path / "killed")
    assert int(child.communicate(timeout=300)[0]) == len(seen)
    killed_with_log = 0
    for moment, (name, when) in enumerate(seen):
        path = tmp_path / "killed" / str(moment)
        if (name, when) == ("create", "before"):
            assert not path.exists()
        else:
            log = path / "lossmith.db-wal"
            killed_with_log += log.exists() and log.stat().st_size > 0
            left = {p.name: p.read_bytes() for p in path.iterdir()}
            with RunStore.open(path) as store:  # a reader sees what was committed and leaves everything as it is
                rows = store.comparable_rows()
            assert {p.name: p.read_bytes() for p in path.iterdir()} == left
            assert len(rows["run"]) == 1
            assert len(rows["evaluation"]) <= len(undisturbed["evaluation"])
            assert set(rows["evaluation"]) <= set(undisturbed["evaluation"])
        scenario.play(path, worker="second")
        assert comparable_rows(path) == undisturbed, f"killed {when} {name}"
    assert killed_with_log > 10  # else nothing was tested
    assert not [p for p in (tmp_path / "killed").iterdir() if p.name.startswith(".")]  # swept by the next creation


@pytest.mark.parametrize("name", ["create", "session", "generation", "record", "tell", "checkpoint", "event", "state"])
@pytest.mark.parametrize("moment", ["before", "after"])
def test_an_exception_at_a_commit_then_resume_ends_with_the_same_rows(
    tmp_path: Path, undisturbed: dict[str, list[tuple[object, ...]]], name: str, moment: str
) -> None:
    def hook(at: str, when: str) -> None:
        if (at, when) == (name, moment):
            raise OSError("injected")

    with fault_injection(hook), pytest.raises((OSError, RunError), match=r"injected|cannot be created"):
        scenario.play(tmp_path / "run")
    scenario.play(tmp_path / "run")
    assert comparable_rows(tmp_path / "run") == undisturbed


def test_before_a_commit_nothing_of_it_is_visible_and_after_it_all(tmp_path: Path) -> None:
    with scenario.create(tmp_path / "run") as store:
        proposed, requests = scenario.candidates(0)
        store.add_generation(0, proposed, requests)
        seen: dict[tuple[str, str], list[object]] = {}

        def hook(name: str, moment: str) -> None:
            with RunStore.open(store.path) as reader:
                seen[name, moment] = [reader.generations()[0].told, reader.checkpoint(), reader.candidates()[0].fitness]

        with fault_injection(hook):
            store.tell(0, [0.5, None, None, None], {"ok": 1}, checkpoint={"m": 1})
        nothing = [False, None, None]
        assert seen == {
            ("checkpoint", "before"): nothing,
            ("checkpoint", "after"): nothing,
            ("tell", "before"): nothing,
            ("tell", "after"): [True, store.checkpoint(), 0.5],
        }


WRITER = """
import sys
from pathlib import Path
import store_scenario as scenario
from lossmith.records import Request
store = scenario.create(Path(sys.argv[1]))
store.begin_session()
print("ready", flush=True)
for number in range({chunks}):
    requests = [Request(str(number), seed=s) for s in range(5)]
    store.record([(r, scenario.result(r)) for r in requests], purpose="search")
{then}
"""


def started(path: Path, chunks: int, then: str = "store.close()") -> subprocess.Popen[str]:
    child = python(WRITER.format(chunks=chunks, then=then), path)
    assert child.stdout is not None
    assert child.stdout.readline() == "ready\n"
    return child


@pytest.mark.parametrize("delay", [0.0, 0.003, 0.01, 0.03, 0.06, 0.1])
def test_sigkill_at_any_moment_leaves_whole_chunks_in_order(tmp_path: Path, delay: float) -> None:
    child = started(tmp_path / "run", 100_000)
    time.sleep(delay)
    child.kill()
    child.communicate()
    with RunStore.open(tmp_path / "run", write=True) as store:
        chunks = {int(row.request.loss) for row in store.evaluations()}
        assert chunks == set(range(len(chunks)))
        assert len(store.evaluations()) == 5 * len(chunks)
        store.begin_session()
        assert store.run().attempts[0].end == "killed"


def test_readers_follow_a_run_while_it_is_written(tmp_path: Path) -> None:
    child = started(tmp_path / "run", 120)
    sizes = []
    early = RunStore.open(tmp_path / "run")
    while child.poll() is None:
        with RunStore.open(tmp_path / "run") as late:
            sizes += [len(early.evaluations()), len(late.evaluations())]
    assert sizes == sorted(sizes)
    assert all(size % 5 == 0 for size in sizes)  # never half a chunk
    assert len(set(sizes)) > 3  # else nothing was concurrent
    assert child.communicate()[0] == ""
    assert child.returncode == 0
    with early, RunStore.open(tmp_path / "run") as late:
        assert len(early.evaluations()) == len(late.evaluations()) == 600


def test_a_reader_of_an_idle_run_notices_that_it_goes_on(tmp_path: Path) -> None:
    scenario.create(tmp_path / "run").close()
    with RunStore.open(tmp_path / "run") as reader:
        assert reader.run().state == "running"
        with RunStore.open(tmp_path / "run", write=True) as store:
            store.set_state("paused")
            assert reader.run().state == "paused"
            store.set_state("finished")
        assert reader.run().state == "finished"


def test_a_second_writer_is_told_who_writes(tmp_path: Path) -> None:
    child = started(tmp_path / "run", 1, then="input()")
    child.poll()
    with pytest.raises(
        RunError, match=rf"is being written by process {child.pid} on .* since 2.*`lossmith show .*` works"
    ):
        RunStore.open(tmp_path / "run", write=True)
    child.kill()
    child.communicate()
    with RunStore.open(tmp_path / "run", write=True) as store:  # the dead one's lock is gone with it
        with pytest.raises(RunError, match=r"is being written by process \d+ \(this one"):
            RunStore.open(tmp_path / "run", write=True)  # also within one process
        for file in (tmp_path / "run").iterdir():
            file.read_bytes()  # closing a handle of a locked file must not unlock it
        other = python(SECOND, store.path)
        assert "is being written by process" in other.communicate()[0]


SECOND = """
import sys
from lossmith.errors import RunError
from lossmith.store import RunStore
try:
    RunStore.open(sys.argv[1], write=True)
except RunError as error:
    print(error)
"""


FORKER = """
import os, sys, time
from pathlib import Path
import store_scenario as scenario
store = scenario.create(Path(sys.argv[1]))
if os.fork() == 0:
    try:
        store.set_state("mine")
    except RuntimeError as error:
        print("refused", flush=True)
    store.close()
    store.__dict__.clear()  # also the garbage collector must leave the host's file alone
    print(os.getpid(), flush=True)
    time.sleep(60)
input()
store.set_state("goes on")
print("written", flush=True)
input()
"""


def test_a_forked_worker_cannot_write_and_does_not_keep_a_killed_hosts_lock(tmp_path: Path) -> None:
    host = python(FORKER, tmp_path / "run")
    assert host.stdout is not None
    assert host.stdout.readline() == "refused\n"
    worker = int(host.stdout.readline())
    try:
        with pytest.raises(RunError, match=f"process {host.pid}"):
            RunStore.open(tmp_path / "run", write=True)  # what the worker closed was not the host's
        assert host.stdin is not None
        host.stdin.write("\n")
        host.stdin.flush()
        assert host.stdout.readline() == "written\n"
        host.kill()
        host.wait()
        with RunStore.open(tmp_path / "run", write=True) as store:
            assert store.run().state == "goes on"
    finally:
        os.kill(worker, signal.SIGKILL)
        host.stdout.close()
        host.stdin.close()


def test_a_store_that_was_forgotten_lets_go(tmp_path: Path) -> None:
    store = scenario.create(tmp_path / "run")
    store.set_state("finished")
    del store
    RunStore.open(tmp_path / "run", write=True).close()
