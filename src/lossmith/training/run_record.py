"""What one training run depends on, and what comes of it: the same records for one base model and for many."""

from __future__ import annotations

from dataclasses import dataclass, field

from torch import nn

from lossmith.errors import SpecError
from lossmith.records import Split, Status
from lossmith.training.precision import DTYPES


@dataclass(frozen=True)
class Training:
    """What one training run depends on.

    Args:
        seed: evaluation seed: initial θ, batches and dropout masks, the same for every candidate.
        steps: training steps to do; the schedule and τ run over the task's full number of steps.
        lr_scale: factor on the recipe's learning rate.
        data_fraction: share of the training rows used.
        splits: where the metric is measured at the end.
        curve: at how many equally spaced points it is also measured on the first of `splits`.
        chance: (step, metric value): a model that at this step is not better than the value by two standard errors on
            the fitness split is stopped.
        threads, channels_last, dtype: from the evaluation plan.
        compile, graph: whether steps of a population are compiled by torch, or recorded as CUDA graphs, where they can
            be; from the plan as well.

    Raises:
        SpecError: a dtype that is not offered.
    """

    seed: int
    steps: int
    lr_scale: float = 1.0
    data_fraction: float = 1.0
    splits: tuple[Split, ...] = ("fitness",)
    curve: int = 0
    chance: tuple[int, float] | None = None
    threads: int = 1
    channels_last: bool = False
    dtype: str = "float32"
    compile: bool = False
    graph: bool = False

    def __post_init__(self) -> None:
        if self.dtype not in DTYPES:
            raise SpecError(f"dtype {self.dtype!r}: use {' or '.join(DTYPES)}.")


@dataclass(frozen=True)
class Trained:
    """What came of a training run; `model` is there whenever training ended, whatever the status.

    `product` is what it made besides metrics, as `Evaluation.product` carries it.
    """

    status: Status
    steps: int
    metrics: dict[str, float] = field(default_factory=dict)
    curve: tuple[tuple[int, float], ...] = ()
    model: nn.Module | None = None
    product: str = ""
