from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from small_tasks import FEATURES, network, small_task
from torch import nn

from lossmith.errors import SpecError
from lossmith.evaluation import check_device, check_dtype, devices, gpus_for, make_plan
from lossmith.tasks import Task


@pytest.mark.parametrize("device", ["gpu", "meta", "cpu:x", "", "tpu"])
def test_a_device_that_does_not_exist(device: str) -> None:
    with pytest.raises(SpecError, match="use cpu, cuda, cuda:0 or mps"):
        check_device(device)


def test_a_device_that_is_not_here(monkeypatch: pytest.MonkeyPatch) -> None:
    check_device("cpu")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(SpecError, match="no CUDA device on this machine; use --device cpu"):
        check_device("cuda")
    with pytest.raises(SpecError, match="no CUDA device"):
        make_plan(small_task(), device="cuda:1")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    check_device("cuda:1")
    with pytest.raises(SpecError, match="this machine has cuda:0 to cuda:1"):
        check_device("cuda:2")
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    with pytest.raises(SpecError, match="no Apple GPU"):
        check_device("mps")


def test_bfloat16_where_torch_can() -> None:
    assert devices.has_bfloat16("cpu")
    for dtype in ("float32", "bfloat16"):
        assert make_plan(small_task(), engine="sequential", dtype=dtype).dtype == dtype


def test_bfloat16_where_torch_cannot(monkeypatch: pytest.MonkeyPatch) -> None:
    class Off:
        """What autocast is where a device has no bfloat16: it does nothing."""

        def __init__(self, *arguments: object, **keywords: object) -> None: ...

        def __enter__(self) -> None: ...

        def __exit__(self, *_: object) -> None: ...

    monkeypatch.setattr(torch, "autocast", Off)
    with pytest.raises(SpecError, match="no bfloat16 autocast on cpu here; leave out --dtype"):
        make_plan(small_task(), dtype="bfloat16")
    make_plan(small_task(), engine="sequential")  # float32 does not ask


def test_bfloat16_of_what_autocast_leaves_alone() -> None:
    def double(seed: int) -> nn.Module:
        return network(seed).double()

    x, y = torch.zeros(30, FEATURES, dtype=torch.float64), torch.arange(30) % 3
    task = small_task(model=double, train=(x, y), valid=(x, y), selection=(x, y), test=None)
    with pytest.raises(SpecError, match=r"computes in float64.*leave out --dtype"):
        make_plan(task, dtype="bfloat16")
    check_dtype("float32", "cpu", task)
    function = Task.from_function(lambda loss, trial: 0.5, outputs=3)
    with pytest.raises(SpecError, match="chooses its own number format"):
        make_plan(function, dtype="bfloat16")


@pytest.mark.parametrize("dtype", ["float16", "half", "", "bf16"])
def test_a_number_format_that_does_not_exist(dtype: str) -> None:
    with pytest.raises(SpecError, match="use float32 or bfloat16"):
        make_plan(small_task(), dtype=dtype)


@pytest.mark.parametrize(("device", "gpus"), [("cpu", 0), ("cuda", 3), ("cuda:1", 1), ("mps", 1)])
def test_how_many_gpus_workers_are_spread_over(monkeypatch: pytest.MonkeyPatch, device: str, gpus: int) -> None:
    count: Callable[[], int] = lambda: 3  # noqa: E731
    monkeypatch.setattr(torch.cuda, "device_count", count)
    assert gpus_for(device) == gpus
