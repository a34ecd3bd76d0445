"""Whether the steps of a task's stack can be compiled, or recorded as CUDA graphs: found out by doing a few."""

from __future__ import annotations

from dataclasses import replace

import torch

from lossmith.tasks import Task
from lossmith.training.population.check_trial import trial_losses
from lossmith.training.population.fallback import gist
from lossmith.training.population.graphs import WARM_UP
from lossmith.training.population.inductor import why_no_compiler
from lossmith.training.population.training import train_population
from lossmith.training.run_record import Trained, Training

STEPS = WARM_UP + 3  # so that some are replayed
_SCALES = (1e-2, 3e-2)  # on the learning rate: small steps, whose differences do not grow


def why_not_compiled(task: Task, how: Training) -> str:
    """Why the steps of stacked base models cannot be compiled here, one sentence; "" where they can.

    Compiles them, so that they are ready in this process and soon in others.

    Args:
        how: the trainings, on the CPU; its steps, splits and measurements do not count.
    """
    return why_no_compiler() or _tried(task, replace(how, compile=True, graph=False), STEPS)


def why_not_captured(task: Task, how: Training) -> str:
    """Why the steps of stacked base models are not recorded as CUDA graphs here, one sentence; "" where they are.

    Args:
        how: the trainings; its steps, splits and measurements do not count. task: on the device.
    """
    return _tried(task, replace(how, compile=False, graph=True), STEPS)


def _tried(task: Task, how: Training, steps: int) -> str:
    plain = replace(how, steps=steps, splits=(), curve=0, chance=None, compile=False, graph=False)
    asked = replace(plain, compile=how.compile, graph=how.graph)
    losses = trial_losses(task)
    reasons: list[str] = []
    try:
        expected = train_population(task, losses, plain, _SCALES)
        found = train_population(task, losses, asked, _SCALES, say=reasons.append)
    except Exception as error:
        return f"a trial of {steps} steps fails ({gist(error)})."
    if reasons:
        return reasons[0]
    far = max(_distance(a, b) for a, b in zip(expected, found, strict=True))
    allowed = 1e-3 if how.dtype == "float32" else 3e-2
    return "" if far <= allowed else f"a trial of {steps} steps gives other parameters, {far:.1g} of their size apart."


def _distance(a: Trained, b: Trained) -> float:
    """Of the parameters and buffers of two trained models, relative to their size."""
    if a.model is None or b.model is None or a.status != b.status:
        return float("inf")
    pairs = zip(a.model.state_dict().values(), b.model.state_dict().values(), strict=True)
    parts = [(x.double(), y.double()) for x, y in pairs]
    size = torch.stack([x.norm() for x, _ in parts]).norm()
    return float(torch.stack([(x - y).norm() for x, y in parts]).norm() / size.clamp(min=1e-30))
