"""The plan of a run: engine, chunk and number format, decided once when the run is created (DESIGN §4).

By rule ("rule", the default) the engine depends on model, batch and device, never on a clock, so that the same task
gets the same plan on machines of one kind. "auto" measures instead. Every number of the rule stands in this file;
`benchmarks/engine.py` measures them anew.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch import nn

from lossmith.errors import SpecError
from lossmith.evaluation.devices import check_device, check_dtype
from lossmith.evaluation.engine_measurement import fastest, measured, table
from lossmith.evaluation.model_work import ModelWork, model_work
from lossmith.evaluation.plan import ENGINES, Plan
from lossmith.evaluation.several import joined_plan
from lossmith.evaluation.step_choice import with_steps
from lossmith.tasks import AnyTask, SeveralTasks, Task
from lossmith.training.population.check import why_not_stacked
from lossmith.training.population.optimizers import why_no_stacked_optimizer

CHOICES = ("rule", "auto", *ENGINES)

# Convolutions on the CPU. Stacked ones are grouped convolutions, which gain where a convolution is small: forward and
# backward per candidate of 8, batch 128, one core: 1→6 channels 5×5 on 28×28 .87 ms instead of 2.0, 6→16 3.3 instead
# of 3.5; and lose where it is large: 32→64 5×5 on 14×14 52 instead of 48, 16→16 3×3 on 32×32 33 instead of 19. LeNet-5
# does .8 million operations per image (faster stacked), mnist/cnn 28 and PreResNet-20 82 (slower).
LARGE_FLOPS = 2e6  # per row of the batch
CONVOLUTION_SHARE = 0.5  # of the operations, from which convolutions decide

# Candidates at once, by trained parameters. On the CPU the gain levels off: ms per step of a candidate alone, of 8, 16,
# 32 in a 64-256-10 perceptron .73, .36, .34, .33; in 64-256-256-10 1.50, 1.14, 1.08, 1.04; in LeNet-5 alone 12.8, of 8
# 8.3, of 16 8.2 (one core, batch 128). What is not gained by a larger stack is better left to more cores as more
# chunks. On a GPU small networks wait for launches, which a larger stack shares (not measured yet).
CPU_CHUNKS = ((300_000, 16), (None, 8))
CPU_CONVOLUTION_CHUNK = 8
CUDA_CHUNKS = ((300_000, 128), (None, 32))

# What tunings share is computed once: ms per meta-step of a candidate among 8, 13, 25 in 64-256-256-10 2.6, 2.1, 2.0. A
# generation of 25 is 13 and 12, for two workers.
TUNE_CHUNK = 16

# Memory that a stack may take: on the CPU small against what a core of today's machines has, on a GPU against the
# smallest that people train on.
CPU_STACK_BYTES = 2**30
CUDA_STACK_BYTES = 6 * 2**30


def make_plan(
    task: AnyTask,
    *,
    engine: str = "rule",
    device: str = "cpu",
    dtype: str = "float32",
    deadline: float | None = None,
    compile: bool | None = None,
    say: Callable[[str], None] | None = None,
) -> Plan:
    """The plan for a task; of several, one for each and what they have in common.

    Floor B trains on one thread, which is fastest for small networks and leaves the cores to workers; a training
    function of floor A keeps the number of threads it finds here.

    Args:
        engine: "rule": by model, batch and device. "auto": both engines and several chunks are timed on the task.
            "sequential" or "population": forced; a model that cannot be stacked runs sequentially all the same, and
            the plan's reason says why.
        device: torch device. dtype: "float32" or "bfloat16" (see `Plan`).
        deadline: seconds per training after which it is given up, or None.
        compile: whether steps of stacked training are compiled by torch; None leaves them uncompiled, but has "auto"
            measure what it would bring. Where it cannot be done they run uncompiled, and the plan says why.
        say: is told what "auto" measured.

    Raises:
        SpecError: an engine that does not exist, a device that is not there, a number format it cannot compute in.
    """
    if engine not in CHOICES:
        raise SpecError(f"engine {engine!r}: use {', '.join(CHOICES[:-1])} or {CHOICES[-1]}.")
    if isinstance(task, SeveralTasks):
        how: dict[str, Any] = {"engine": engine, "device": device, "dtype": dtype, "deadline": deadline, "say": say}
        return joined_plan(task.tasks, [make_plan(one, **how, compile=compile) for one in task.tasks])
    check_device(device)
    check_dtype(dtype, device, task)
    if not (deadline is None or deadline > 0):
        raise SpecError(f"deadline {deadline!r}: seconds per candidate, a number above 0.")
    images = isinstance(task, Task) and any(isinstance(m, nn.Conv2d) for m in task.build_model(0).modules())
    plan = Plan(
        device=device,
        dtype=dtype,
        threads=1 if isinstance(task, Task) else torch.get_num_threads(),
        channels_last=images and device == "cpu",
        deadline=float(deadline or 0.0),
        tune_chunk=TUNE_CHUNK,
        compile_reason="only stacked training is compiled" if compile else "",
    )
    if engine == "sequential":
        return replace(plan, reason="asked for")
    asked = "population was asked for, but " if engine == "population" else ""
    if not isinstance(task, Task):
        return replace(plan, reason=f"{asked}a training function trains one candidate at a time")
    try:
        work = model_work(task, device=device, channels_last=plan.channels_last)
    except Exception as error:  # those who check tasks have a better sentence for it
        return replace(plan, reason=f"{asked}a forward pass failed ({type(error).__name__}: {error})"[:300])
    chunk = chunk_by_rule(work, device)
    name, reason = engine_by_rule(work, device) if engine == "rule" else ("population", "asked for")
    if name == "sequential":
        return replace(plan, reason=reason)
    obstacle = obstacle_to_stacking(task, plan)
    if obstacle:
        return replace(plan, reason=asked + obstacle)
    if engine == "auto":
        plan = _by_measurement(task, plan, chunk, say)
    else:
        plan = replace(plan, engine=name, reason=reason, chunk=chunk)
    return with_steps(task, plan, compile=compile, measure=engine == "auto", say=say) if plan.stacks else plan


def obstacle_to_stacking(task: Task, plan: Plan) -> str:
    """Why base models of the task cannot be stacked; "" if they can."""
    found = why_no_stacked_optimizer(task.recipe) or why_not_stacked(task, channels_last=plan.channels_last)
    return found.rstrip(".")


def engine_by_rule(work: ModelWork, device: str) -> tuple[str, str]:
    """(engine, reason) of a model that can be stacked."""
    kind = torch.device(device).type
    if kind == "cuda":
        return "population", "a stack shares the launches of a GPU"
    if kind != "cpu":
        return "sequential", f"stacked training has not been measured on {kind}; --engine auto measures"
    million = f"{work.flops / 1e6:.2g} million operations per row"
    if not _convolutional(work):
        return "population", f"matrix products are faster stacked; {million}"
    if work.flops >= LARGE_FLOPS:
        return "sequential", f"convolutions as large as these are no faster stacked; {million}"
    return "population", f"small convolutions are faster stacked; {million}"


def chunk_by_rule(work: ModelWork, device: str) -> int:
    """How many candidates a stack holds: by the model's size, fewer where their memory would exceed the bound."""
    on_cpu = torch.device(device).type == "cpu"
    sizes, bound = (CPU_CHUNKS, CPU_STACK_BYTES) if on_cpu else (CUDA_CHUNKS, CUDA_STACK_BYTES)
    wanted = next(chunk for limit, chunk in sizes if limit is None or work.parameters <= limit)
    if on_cpu and _convolutional(work):
        wanted = CPU_CONVOLUTION_CHUNK
    return max(1, min(wanted, bound // max(1, work.bytes)))


def _convolutional(work: ModelWork) -> bool:
    """Whether convolutions do most of the work."""
    return work.flops > 0 and work.convolution_flops >= CONVOLUTION_SHARE * work.flops


def _by_measurement(task: Task, plan: Plan, chunk: int, say: Callable[[str], None] | None) -> Plan:
    """Both engines, the population one with half the rule's chunk, once and twice, each timed on the task."""
    chunks = sorted({max(2, chunk // 2), max(2, chunk), max(2, 2 * chunk)})
    plans = [plan, *(replace(plan, engine="population", chunk=size) for size in chunks)]
    found = measured(task, plans)
    if say is not None:
        say(table(found))
    numbers = ", ".join(f"{one.name} {one.seconds * 1000:.3g}" for one in found)
    return replace(fastest(found).plan, reason=f"measured, ms per training step of a candidate: {numbers}")
