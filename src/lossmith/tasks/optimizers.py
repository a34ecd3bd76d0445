"""Optimisers as frozen records: called with parameters and a learning rate they make a torch optimiser.

Being data, they print, pickle and enter a task's fingerprint. Any callable `(params, lr) -> torch.optim.Optimizer`
serves in their place when the recipe is given its `lr`.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from lossmith.errors import TaskError
from lossmith.tasks.ranges import check_number


class OptimizerFactory(Protocol):
    """What a recipe needs of an optimiser."""

    def __call__(self, params: Iterable[Tensor], lr: float) -> torch.optim.Optimizer: ...


def can_fuse(params: Iterable[Tensor]) -> bool:
    """Whether torch has a fused step for these parameters: floating point, on a CPU or CUDA device."""
    return all(p.is_floating_point() and p.device.type in ("cpu", "cuda") for p in params)


@dataclass(frozen=True)
class SGD:
    """Stochastic gradient descent as `torch.optim.SGD` defines it (fused where possible).

    Args:
        lr: > 0.
        momentum: in [0, 1).
        nesterov: Nesterov's momentum; needs momentum > 0.
        weight_decay: ≥ 0, the L2 form: added to the gradient.

    Raises:
        TaskError: an argument out of its range.
    """

    lr: float
    momentum: float = 0.0
    nesterov: bool = False
    weight_decay: float = 0.0

    def __post_init__(self) -> None:
        check_number("SGD.lr", self.lr, above=0)
        check_number("SGD.momentum", self.momentum, least=0, below=1)
        check_number("SGD.weight_decay", self.weight_decay, least=0)
        if self.nesterov and self.momentum == 0:
            raise TaskError("SGD.nesterov is True but SGD.momentum is 0: give a momentum in (0, 1), e.g. 0.9.")

    def __call__(self, params: Iterable[Tensor], lr: float) -> torch.optim.SGD:
        params = list(params)
        return torch.optim.SGD(
            params,
            lr=lr,
            momentum=self.momentum,
            nesterov=self.nesterov,
            weight_decay=self.weight_decay,
            fused=can_fuse(params),
        )


def _check_adam(name: str, record: Adam | AdamW) -> None:
    check_number(f"{name}.lr", record.lr, above=0)
    if not (isinstance(record.betas, tuple) and len(record.betas) == 2):
        raise TaskError(f"{name}.betas is {record.betas!r}: it must be a pair of numbers in [0, 1), e.g. (0.9, 0.999).")
    for beta in record.betas:
        check_number(f"a member of {name}.betas", beta, least=0, below=1)
    check_number(f"{name}.eps", record.eps, above=0)
    check_number(f"{name}.weight_decay", record.weight_decay, least=0)


@dataclass(frozen=True)
class Adam:
    """Adam (Kingma & Ba, arXiv 1412.6980) as `torch.optim.Adam` defines it (fused where possible).

    Args:
        lr: > 0.
        betas: decay of the two running means, each in [0, 1).
        eps: > 0.
        weight_decay: ≥ 0, the L2 form.

    Raises:
        TaskError: an argument out of its range.
    """

    lr: float = 1e-3
    betas: tuple[float, float] = (0.9, 0.999)
    eps: float = 1e-8
    weight_decay: float = 0.0

    def __post_init__(self) -> None:
        _check_adam("Adam", self)

    def __call__(self, params: Iterable[Tensor], lr: float) -> torch.optim.Adam:
        params = list(params)
        return torch.optim.Adam(
            params, lr=lr, betas=self.betas, eps=self.eps, weight_decay=self.weight_decay, fused=can_fuse(params)
        )


@dataclass(frozen=True)
class AdamW:
    """Adam with decoupled weight decay (Loshchilov & Hutter, arXiv 1711.05101) as `torch.optim.AdamW` defines it.

    Args:
        lr: > 0.
        betas: decay of the two running means, each in [0, 1).
        eps: > 0.
        weight_decay: ≥ 0, decoupled: parameters shrink by lr · weight_decay per step.

    Raises:
        TaskError: an argument out of its range.
    """

    lr: float = 1e-3
    betas: tuple[float, float] = (0.9, 0.999)
    eps: float = 1e-8
    weight_decay: float = 1e-2

    def __post_init__(self) -> None:
        _check_adam("AdamW", self)

    def __call__(self, params: Iterable[Tensor], lr: float) -> torch.optim.AdamW:
        params = list(params)
        return torch.optim.AdamW(
            params, lr=lr, betas=self.betas, eps=self.eps, weight_decay=self.weight_decay, fused=can_fuse(params)
        )
