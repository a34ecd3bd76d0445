"""What torch can compute on, here and now: devices, number formats on them, and how many there are."""

from __future__ import annotations

import warnings

import torch
from torch import nn

from lossmith.errors import SpecError
from lossmith.evaluation.plan import DTYPES
from lossmith.tasks import AnyTask, SeveralTasks, Task


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


def check_dtype(dtype: str, device: str, task: AnyTask) -> None:
    """SpecError unless base models of the task can compute in `dtype` on `device`, which is there."""
    if dtype not in DTYPES:
        raise SpecError(f"dtype {dtype!r}: use {' or '.join(DTYPES)}.")
    if dtype != "bfloat16":
        return
    if isinstance(task, SeveralTasks):
        for one in task.tasks:
            check_dtype(dtype, device, one)
        return
    if not isinstance(task, Task):
        raise SpecError(
            "dtype bfloat16: a training function chooses its own number format; use autocast inside it, and leave "
            "out --dtype."
        )
    if _computes_in_float64(task.build_model(0)):
        raise SpecError(
            "dtype bfloat16: the model computes in float64, which autocast leaves alone; give a float32 model, or "
            "leave out --dtype."
        )
    if not has_bfloat16(device):
        raise SpecError(f"dtype bfloat16: torch has no bfloat16 autocast on {device} here; leave out --dtype.")


def has_bfloat16(device: str) -> bool:
    """Whether a matrix product under autocast really comes out in bfloat16 on `device`."""
    kind = torch.device(device).type
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # where it cannot, autocast warns and switches itself off
            with torch.autocast(kind, dtype=torch.bfloat16):
                one = torch.ones(1, 1, device=device)
                return (one @ one).dtype == torch.bfloat16
    except RuntimeError:
        return False


def gpus_for(device: str) -> int:
    """How many GPUs workers are spread over: all of them for "cuda", one for "cuda:1" or mps, none for the CPU."""
    wanted = torch.device(device)
    if wanted.type == "cpu":
        return 0
    return max(1, torch.cuda.device_count()) if wanted.type == "cuda" and wanted.index is None else 1


def _computes_in_float64(model: nn.Module) -> bool:
    return any(p.dtype == torch.float64 for p in model.parameters())
