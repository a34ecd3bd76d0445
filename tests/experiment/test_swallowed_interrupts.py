"""Training code that catches an interrupt does not keep a run from ending, and what it then returns is not stored."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from torch import nn

import lossmith as lm
from lossmith.store import RunStore

Ending = Callable[[], float]


@pytest.fixture(autouse=True)
def ctrl_c_interrupts() -> Iterator[None]:
    """As in a terminal; where tests run in the background, SIGINT is ignored."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def give_up() -> float:
    raise SystemExit(1)  # as Lightning's Trainer does


def return_what_there_is() -> float:
    return 0.25


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize("ending", [give_up, return_what_there_is])
def test_a_swallowed_interrupt_ends_the_run(tmp_path: Path, number: signal.Signals, ending: Ending) -> None:
    trainings: list[float] = []
    patient = False

    def train(loss: nn.Module, trial: lm.Trial) -> float:
        loss(torch.zeros(2, 3), torch.tensor([0, 1]))
        trainings.append(trial.budget)
        try:
            if len(trainings) == 4 and not patient:  # after the check, the pilot, and a candidate that is stored
                os.kill(os.getpid(), number)
        except KeyboardInterrupt:
            signal.signal(signal.SIGINT, signal.SIG_IGN)  # as Lightning does
            return ending()
        return 0.5

    task = lm.Task.from_function(train, outputs=3)
    method, path = lm.RandomSearch(population=3), tmp_path / "run"
    with pytest.raises(lm.errors.Interrupted, match="lossmith resume"):
        lm.search(method, task, generations=2, path=path, finalists=1, finalist_seeds=1)
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler  # put back, whatever the training left
    with RunStore.open(path) as store:
        assert [row.evaluation.metrics for row in store.evaluations()] == [{"fitness": 0.5}]
        assert store.run().attempts[-1].end == "interrupted"
    patient = True
    run = lm.resume(path, task=task)
    assert isinstance(run, lm.Run)
    assert run.finished
    assert len(run.evaluations) >= 4
    assert {str(row.evaluation.status) for row in run.evaluations} == {"ok"}
