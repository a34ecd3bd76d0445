"""How many workers fit into memory: said before they are started, because a machine that swaps does nothing else."""

from __future__ import annotations

from contextlib import suppress
from typing import Literal, TypeAlias

from lossmith.errors import SpecError
from lossmith.evaluation.devices import gpus_for
from lossmith.evaluation.machine import available_memory, usable_cores
from lossmith.evaluation.model_work import model_work
from lossmith.evaluation.plan import Plan
from lossmith.evaluation.several import members_with_plans
from lossmith.tasks import AnyTask, Task

AllCores: TypeAlias = Literal["all"]

MIB = 2**20
# A worker that has trained one small network, measured on Linux with torch 2.13: 310 MiB of its own and its share of
# the libraries. CUDA brings libraries and a context of its own (as NVIDIA's manuals have it, not measured here).
BASE = 400 * MIB
CUDA_BASE = 1500 * MIB


def worker_bytes(task: AnyTask, plan: Plan, packed: int) -> int:
    """Memory one worker will take, roughly: interpreter and libraries, the task, one chunk in training.

    What a training function of floor A takes while it runs is not known. Of several tasks one is trained at a time, so
    the largest counts.

    Args:
        packed: size of the task as it travels; a worker that starts holds it once as bytes and once as objects.
    """
    on_cpu = plan.device == "cpu"
    found = 2 * packed + (BASE if on_cpu else BASE + CUDA_BASE)
    return found + max(_training_bytes(one, its) for one, its in members_with_plans(task, plan)) if on_cpu else found


def _training_bytes(task: AnyTask, plan: Plan) -> int:
    """Of one chunk in training on the CPU, as far as it is known."""
    if isinstance(task, Task):
        with suppress(Exception):  # a model that does not run is told about where it is tried
            return plan.chunk * model_work(task, channels_last=plan.channels_last).bytes
    return 0


def count_workers(wanted: int | AllCores, task: AnyTask, plan: Plan, packed: int) -> int:
    """How many workers to start.

    Args:
        wanted: a number, or "all": one per usable core, or per GPU where the plan computes on them, as far as memory
            allows.

    Raises:
        SpecError: so many do not fit into memory; the sentence names the number that does.
    """
    each, free = worker_bytes(task, plan, packed), available_memory()
    fit = free // each
    if wanted == "all":
        return max(1, min(gpus_for(plan.device) or usable_cores(), fit))
    if wanted > fit:
        instead = f"use --workers {fit}" if fit else "use --workers 0, which trains in this process"
        raise SpecError(
            f"workers = {wanted}: each takes about {each / MIB:,.0f} MiB (interpreter, data, a chunk of candidates), "
            f"{free / MIB:,.0f} MiB are available, and {fit} fit{'s' * (fit == 1)}: {instead}."
        )
    return wanted
