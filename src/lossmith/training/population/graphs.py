"""Training steps of a stack as CUDA graphs: recorded once, then replayed without Python.

A small network keeps a GPU waiting for launches. So a step, from the gathering of the batch to the optimiser's update,
is done a few times as it is, then recorded, then replayed for all steps that are left. What changes from step to step
lies on the device beforehand: row indices, τ and learning rates of many steps, and a counter that the step itself moves
on. Nothing in a replayed step waits for the device or asks the host. After a stack has become smaller the step is
recorded anew. A step that cannot be recorded is done as ever, and `reason` says why.

The order of things is in `CapturedSteps`, which knows no GPU: tests give it a stand-in that calls the step again in
place of replaying it. What is CUDA's own is in `CudaCapture`; **it has not been run on a GPU yet**. A plan uses it only
where a trial on the machine itself gave the numbers of the ordinary steps (`evaluation.engine_choice`).
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Protocol

import torch
from torch import Tensor

from lossmith.tasks import Task
from lossmith.tasks.data import TensorData
from lossmith.training.population.fallback import gist
from lossmith.training.population.network import PopulationNetwork
from lossmith.training.population.slots import changed, plain_state, slots_of
from lossmith.training.steps import Step

WARM_UP = 3  # steps before recording: libraries choose kernels and allocate what they need on the first ones
BLOCK = 1024  # steps whose inputs lie on the device at a time: a megabyte for batches of 128

Number = float | Tensor
Work = Callable[[Tensor, Number, Number, bool], Tensor]
"""(rows [B], τ, learning rate, whether it is being recorded) → losses [P]; moves the parameters."""


class Capture(Protocol):
    """How steps are recorded."""

    def warm_up(self, work: Callable[[], Tensor]) -> Tensor:
        """Do a step as it is."""

    def record(self, work: Callable[[], Tensor]) -> Callable[[], Tensor]:
        """Something that does the step whenever it is called; recording does none."""


class CudaCapture:
    """Recording on a GPU. All graphs of a process share one pool of memory: only one of them is alive at a time."""

    def __init__(self, device: torch.device) -> None:
        self._stream: torch.cuda.Stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
        if device not in _POOLS:
            _POOLS[device] = torch.cuda.graph_pool_handle()
        self._pool = _POOLS[device]

    def warm_up(self, work: Callable[[], Tensor]) -> Tensor:
        """On a stream of its own, as recording will be."""
        here = torch.cuda.current_stream(self._stream.device)
        self._stream.wait_stream(here)
        with torch.cuda.stream(self._stream):
            found = work()
        here.wait_stream(self._stream)
        return found

    def record(self, work: Callable[[], Tensor]) -> Callable[[], Tensor]:
        """A graph. It draws from the device's default generator, which CUDA graphs register by themselves."""
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, pool=self._pool, stream=self._stream):
            found = work()

        def replay() -> Tensor:
            graph.replay()
            return found

        return replay


_POOLS: dict[torch.device, Any] = {}


def why_not_recorded(task: Task) -> str:
    """What can be told without trying."""
    if not isinstance(task.data["train"], TensorData):
        return "its training rows are read one by one, not gathered from tensors on the device."
    return ""


class CapturedSteps:
    """The steps of a training, each a call.

    Args:
        network: whose buffers stay in place. steps: of the training, in order. base_lr: of the recipe.
        work: one step. device: where it is done. capture: how it is recorded.

    Attributes:
        reason: why steps are not recorded; "" as long as they are.
    """

    def __init__(
        self,
        network: PopulationNetwork,
        steps: Iterator[Step],
        base_lr: float,
        work: Work,
        device: torch.device,
        capture: Capture,
    ) -> None:
        self._network, self._steps, self._base_lr, self._work = network, steps, base_lr, work
        self._capture, self._on_cpu = capture, device.type == "cpu"
        self._counter = torch.zeros(1, dtype=torch.int64, device=device)  # of the next step in the block
        self._rows = torch.empty(0, 0, dtype=torch.int64, device=device)  # [steps of the block, B]
        self._taus = self._rates = torch.empty(0, dtype=torch.float64, device=device)  # [steps of the block]
        self._left = 0
        self._replay: Callable[[], Tensor] | None = None
        self._warm = 0
        self.reason = ""

    def __call__(self) -> Tensor:
        """The next step; losses before it, [P]."""
        if not self._left:
            self._load()
        self._left -= 1
        if self._replay is None and not self.reason and self._warm >= WARM_UP:
            try:
                self._replay = self._capture.record(lambda: self._step(True))
            except Exception as error:
                self.reason = f"the step cannot be recorded ({gist(error)})."
        if self._replay is not None:
            return self._replay()
        state = plain_state(self._network)
        self._warm += 1
        found = self._capture.warm_up(lambda: self._step(False))
        self.reason = self.reason or changed(state, self._network)
        return found

    def forget(self) -> None:
        """The stack has changed: record anew, after one step as it is."""
        self._replay, self._warm = None, min(self._warm, WARM_UP - 1)

    def _step(self, recording: bool) -> Tensor:
        rows = self._rows.index_select(0, self._counter).squeeze(0)
        tau, rate = (values.index_select(0, self._counter).squeeze(0) for values in (self._taus, self._rates))
        with buffers_in_place(self._network):
            if self._on_cpu:
                found = self._work(rows, tau.item(), rate.item(), recording)
            else:
                found = self._work(rows, tau, rate, recording)
        self._counter.add_(1)
        return found

    def _load(self) -> None:
        """The inputs of the next steps, into the memory that a recorded step reads."""
        block = list(itertools.islice(self._steps, BLOCK))
        rows = torch.stack([step.rows for step in block])
        taus = torch.tensor([step.tau for step in block], dtype=torch.float64)
        rates = torch.tensor([self._base_lr * step.factor for step in block], dtype=torch.float64)
        if not self._rows.numel():  # the first block is the longest
            self._rows = torch.empty_like(rows, device=self._rows.device)
            self._taus, self._rates = (torch.empty_like(taus, device=self._rows.device) for _ in range(2))
        for there, here in ((self._rows, rows), (self._taus, taus), (self._rates, rates)):
            source = here if self._on_cpu else here.pin_memory()  # from other memory a copy would wait
            there[: len(here)].copy_(source, non_blocking=True)
        self._counter.zero_()
        self._left = len(block)


@contextmanager
def buffers_in_place(network: PopulationNetwork) -> Iterator[None]:
    """Have a model that assigns new buffers write into the old ones, which a recorded step reads again.

    Where the block raises, the old ones stand there as well: a step that was not recorded to its end was not done.
    """
    before = [(slot, slot.saved(), slot.raw) for slot in slots_of(network) if not slot.raw.requires_grad]
    done = False
    try:
        yield
        done = True
    finally:
        with torch.no_grad():
            for slot, saved, old in before:
                new = slot.raw
                if new is old or new.data_ptr() == old.data_ptr():
                    continue
                slot.restore(saved)
                if done:
                    old.copy_(new)
