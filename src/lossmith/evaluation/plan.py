"""The evaluation plan: everything about *how* candidates are evaluated that could change a bit of the result.

Decided once when a run is created, written to its spec, reused by every resume (DESIGN §4). The same spec on the same
machine and versions gives the same bits at any worker count and after any interruption.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import nn

from lossmith.errors import SpecError
from lossmith.records import Work
from lossmith.tasks import AnyTask, Task

ENGINES = ("sequential",)


@dataclass(frozen=True)
class Plan:
    """How candidates are evaluated.

    Args:
        engine: "sequential": one base model at a time.
        reason: why this engine, for people.
        device: torch device text.
        dtype: of the base model; float32 is the only one so far.
        threads: intra-op threads per training.
        channels_last: memory order of images.
        chunk, screen_chunk, tune_chunk: requests per transaction and per piece of work: trainings are done one by one,
            the screens of a chunk at once, and so its tunings.
        chance_step: step of a partial training from which a candidate at chance is stopped; 0 never.
        chance_value: metric of the best constant predictor on the fitness split.
        deadline: seconds per request of a chunk, after which it is given up as timed out (by `Workers` only); 0 never.
    """

    engine: str = "sequential"
    reason: str = ""
    device: str = "cpu"
    dtype: str = "float32"
    threads: int = 1
    channels_last: bool = False
    chunk: int = 1
    chance_step: int = 0
    chance_value: float = 0.0
    deadline: float = 0.0
    screen_chunk: int = 64
    tune_chunk: int = 8

    def to_dict(self) -> dict[str, Any]:
        """Plain values for the spec."""
        return asdict(self)

    def chunk_of(self, work: Work) -> int:
        """Requests per chunk of a kind of work."""
        return {"train": self.chunk, "screen": self.screen_chunk, "tune": self.tune_chunk}[work]


def make_plan(task: AnyTask, *, engine: str = "auto", device: str = "cpu", deadline: float | None = None) -> Plan:
    """The plan for a task by rule.

    Floor B trains on one thread, which is fastest for small networks and leaves the cores to workers; a training
    function of floor A keeps the number of threads it finds here.

    Raises:
        SpecError: an engine that does not exist, a device that is not there.
    """
    if engine not in ("auto", *ENGINES):
        raise SpecError(f'engine {engine!r}: use "auto" or "sequential".')
    check_device(device)
    if not (deadline is None or deadline > 0):
        raise SpecError(f"deadline {deadline!r}: seconds per candidate, a number above 0.")
    images = isinstance(task, Task) and any(isinstance(m, nn.Conv2d) for m in task.build_model(0).modules())
    reason = "one base model at a time is the only engine so far"
    return Plan(
        reason=reason,
        device=device,
        threads=1 if isinstance(task, Task) else torch.get_num_threads(),
        channels_last=images and device == "cpu",
        deadline=float(deadline or 0.0),
    )


def check_device(device: str) -> None:
    """SpecError unless torch can compute on `device` here."""
    try:
        kind, index = torch.device(device).type, torch.device(device).index
    except RuntimeError:
        kind, index = "", None
    if kind not in ("cpu", "cuda", "mps"):
        raise SpecError(f"device {device!r}: use cpu, cuda, cuda:0 or mps.")
    if kind == "cuda" and not torch.cuda.is_available():
        raise SpecError(f"device {device!r}: torch finds no CUDA device on this machine; use --device cpu.")
    if kind == "mps" and not torch.backends.mps.is_available():
        raise SpecError(f"device {device!r}: torch finds no Apple GPU on this machine; use --device cpu.")
    if kind == "cuda" and index is not None and index >= torch.cuda.device_count():
        raise SpecError(f"device {device!r}: this machine has cuda:0 to cuda:{torch.cuda.device_count() - 1}.")
