"""Whether a tuning fits into memory, asked before a search starts."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from lossmith.evaluation.machine import available_memory
from lossmith.evaluation.requested import on_device
from lossmith.losses import Loss, LossSet
from lossmith.records import Tuning
from lossmith.tasks import AnyTask, members_of
from lossmith.training.task_tuning import TaskTuning, tunable_task


def free_memory(device: str) -> int:
    """Bytes that a tuning on a device can have, as things are."""
    if torch.device(device).type != "cuda":
        return available_memory()
    free: int = torch.cuda.mem_get_info(device)[0]
    kept = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)  # by torch, for what comes
    return free + kept


def unroll_room(
    task: AnyTask, losses: Sequence[Loss | LossSet], tuning: Tuning, *, device: str = "cpu", seed: int = 0
) -> list[str]:
    """What a tuning of such losses takes, a sentence for each task whose unroll grows with K; tried with a few steps.

    Args:
        losses: of the kind that will be tuned, as many as at once.

    Raises:
        TaskError: a task that cannot be tuned on, or an unroll that needs more memory than is free; the sentence says
            how much, and what fits.
    """
    if not tuning.grows:
        return []
    said = []
    for one in members_of(task):
        here = on_device(tunable_task(one), device)
        side = TaskTuning.of(here, losses, tuning, seed=seed, memory=free_memory(device))
        assert side.measured is not None
        said.append(f"{one.name}: {side.measured.describe(tuning.unroll_length, tuning.truncation)}")
    return said
