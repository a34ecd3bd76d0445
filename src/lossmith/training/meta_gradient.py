"""What one meta-step of tuning draws, how it is computed, and what comes out of it."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import torch
from torch import nn

from lossmith.losses import Loss
from lossmith.records import Implicit, Split
from lossmith.rng import derive_seed, torch_global_scope
from lossmith.tasks import Task
from lossmith.training.base_models import BaseModels
from lossmith.training.batches import batch_indices
from lossmith.training.functional_sgd import Descent
from lossmith.training.kept import Kept
from lossmith.training.meta_adam import Vector


@dataclass(frozen=True)
class Road:
    """By what means meta-gradients are computed; all give the same numbers, up to rounding.

    Args:
        kind: "layers": explicit matrices of a plain perceptron, K = 1 only. "recorded": any model, the pass at θ0
            recorded once and its Jacobian applied to all candidates; K = 1 only. "stacked": any model, candidates
            together by vmap. "alone": any model, one candidate at a time. "forward": the same with products J·v by
            forward differentiation, which for convolutions takes half the time; K = 1 only.
        chunk: how many candidates are computed together at most.
        why: why they are computed one at a time.
    """

    kind: Literal["layers", "recorded", "stacked", "alone", "forward"] = "alone"
    chunk: int = 1
    why: str = ""

    def __str__(self) -> str:
        how = {"layers": "layer by layer", "stacked": "stacked", "recorded": "recorded"}.get(self.kind, "one at a time")
        return f"{how}: {self.why}" if self.why else how

    def chunks(self, count: int) -> tuple[tuple[int, ...], ...]:
        """Candidates in order, in as few chunks as there can be, as equal as can be."""
        parts = -(-count // self.chunk)
        ends = [count * part // parts for part in range(parts + 1)] if parts else [0]
        return tuple(tuple(range(start, end)) for start, end in itertools.pairwise(ends))


@dataclass(frozen=True)
class Unroll:
    """How meta-gradients are computed, the same at every meta-step.

    Args:
        task: its parts. task_loss: what φ is tuned for, on fitness rows.
        descent: the base model's step. length: how many of them, K.
        road: by what means.
        chunks: which candidates are computed together, at most `road.chunk`.
        dtype: "bfloat16": the candidates' products of a perceptron in float32 are taken in it; losses and φ never are.
        kept: memory, from one meta-step to the next.
        truncation: only the last so many steps are differentiated through; 0 stands for all of them.
        implicit: how the gradient is taken at θ_K instead of through the steps, or None.
        carried: the base models of each chunk at the end of the meta-step before, written to by this one; where a chunk
            is missing, it starts from the draw. None where every meta-step does.
    """

    task: Task
    task_loss: Loss
    descent: Descent
    length: int
    road: Road = Road()
    chunks: tuple[tuple[int, ...], ...] = ()
    dtype: str = "float32"
    kept: Kept = field(default_factory=Kept, repr=False, compare=False)
    truncation: int = 0
    implicit: Implicit | None = None
    carried: dict[tuple[int, ...], BaseModels] | None = field(default=None, repr=False, compare=False)

    @property
    def closed(self) -> bool:
        """Whether the closed form serves: one step, from a θ0 that all candidates share."""
        return self.length == 1 and self.carried is None and self.implicit is None


@dataclass(frozen=True)
class Draw:
    """What all candidates share in one meta-step.

    Args:
        seed: of this meta-step; names the streams of dropout masks.
        model: θ0. train: one batch per step. fitness: the batch the task loss is taken on.
    """

    seed: int
    model: nn.Module
    train: tuple[Any, ...]
    fitness: Any


@dataclass(frozen=True)
class MetaGradient:
    """What a meta-step says about one candidate.

    Args:
        value: task loss of θ_K.
        inner: sum of the training losses on the way there.
        gradient: of `value` by φ, [K].
        note: what is worth knowing about how it was come by, a clause for people; "" for nothing.
    """

    value: float
    inner: float
    gradient: Vector
    note: str = ""

    @property
    def finite(self) -> bool:
        return math.isfinite(self.value) and math.isfinite(self.inner) and bool(np.isfinite(self.gradient).all())


def draw(task: Task, seed: int, meta_step: int, length: int) -> Draw:
    """θ0 and batches of a meta-step; a function of the seed and its number, and of nothing else."""
    own = derive_seed(seed, "tune", meta_step)
    model = task.build_model(own).to(task.device)
    with torch_global_scope(own, "data", device=task.device):  # augmentations draw from it
        train = tuple(_batches(task, "train", length, own))
        (fitness,) = _batches(task, "fitness", 1, derive_seed(own, "fitness"))
    return Draw(own, model, train, fitness)


def _batches(task: Task, split: Split, count: int, seed: int) -> Sequence[Any]:
    data = task.data[split]
    # A judging split smaller than a batch is taken whole: drawing some of its rows twice would only add noise.
    size = task.recipe.batch_size if split == "train" else min(task.recipe.batch_size, len(data))
    indices = batch_indices(torch.arange(len(data)), size, seed=seed)
    return [data.batch(index) for index in itertools.islice(indices, count)]
