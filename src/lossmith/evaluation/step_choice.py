"""How the steps of stacked training are carried out: compiled (CPU), recorded as CUDA graphs (GPU), or as they are.

Part of the plan, found out by trial on the task itself, and never a reason to fail: what does not work here is left
out, and the plan says why.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace

import torch

from lossmith.evaluation.engine_measurement import measured, table
from lossmith.evaluation.plan import Plan
from lossmith.evaluation.requested import on_device
from lossmith.tasks import Task
from lossmith.training import Training
from lossmith.training.population.trials import why_not_captured, why_not_compiled


def with_steps(
    task: Task, plan: Plan, *, compile: bool | None, measure: bool, say: Callable[[str], None] | None = None
) -> Plan:
    """The plan with its steps decided.

    Args:
        plan: of stacked training.
        compile: True: wanted. None: not wanted, but with `measure` it is timed, and the plan says what it would bring.
        measure: whether the clock may be asked. say: is told what was measured.
    """
    if torch.device(plan.device).type == "cuda":
        obstacle = why_not_captured(on_device(task, plan.device), _training(plan))
        plan = replace(plan, graph=not obstacle, graph_reason=obstacle or "a trial gave the same numbers")
        return replace(plan, compile_reason="steps are compiled on the CPU only") if compile else plan
    if not compile and (compile is False or not measure):
        return plan
    started = time.perf_counter()
    obstacle = why_not_compiled(task, _training(plan))
    seconds = time.perf_counter() - started
    if obstacle:
        return replace(plan, compile_reason=obstacle.rstrip("."))
    compiled = replace(plan, compile=True, compile_reason="asked for")
    return compiled if compile else _timed(task, plan, compiled, seconds, say)


def _timed(task: Task, plan: Plan, compiled: Plan, seconds: float, say: Callable[[str], None] | None) -> Plan:
    """The uncompiled plan, which says from which length of a search on compiling wins; it does not know the length."""
    found = measured(task, [plan, compiled])
    if say is not None:
        say(table(found))
    plain, other = (one.seconds for one in found)
    numbers = f"ms per training step of a candidate: compiled {other * 1000:.3g}, else {plain * 1000:.3g}"
    gain = plain - other
    worth = f"won back after {seconds / gain:.2g} of them: ask for it with --compile" if gain > 0 else "never won back"
    return replace(plan, compile_reason=f"measured, {numbers}; compiling took {seconds:.2g} s per process, {worth}")


def _training(plan: Plan) -> Training:
    return Training(seed=0, steps=1, threads=plan.threads, channels_last=plan.channels_last, dtype=plan.dtype)
