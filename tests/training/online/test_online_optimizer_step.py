"""How a real optimiser step depends on the gradient it is given."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from lossmith.errors import TaskError
from lossmith.training.online.optimizer_step import OptimizerStep

OPTIMIZERS = {
    "sgd": lambda p: torch.optim.SGD(p, lr=0.1),
    "sgd decay": lambda p: torch.optim.SGD(p, lr=0.1, weight_decay=0.3),
    "momentum": lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9, weight_decay=0.3),
    "dampening": lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9, dampening=0.4),
    "nesterov": lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.7, nesterov=True),
    "maximize": lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.7, maximize=True),
    "adam": lambda p: torch.optim.Adam(p, lr=0.1),
    "adam decay": lambda p: torch.optim.Adam(p, lr=0.1, betas=(0.5, 0.7), eps=1e-3, weight_decay=0.4),
    "amsgrad": lambda p: torch.optim.Adam(p, lr=0.1, betas=(0.5, 0.2), eps=1e-3, amsgrad=True),
    "adam maximize": lambda p: torch.optim.Adam(p, lr=0.1, weight_decay=0.4, maximize=True),
    "adamw": lambda p: torch.optim.AdamW(p, lr=0.1, weight_decay=0.4),
    "adamw fused": lambda p: torch.optim.AdamW(p, lr=0.1, weight_decay=0.4, fused=True),
    "groups": lambda p: torch.optim.SGD([{"params": p[:1], "lr": 0.3}, {"params": p[1:], "momentum": 0.5}], lr=0.1),
}


@pytest.mark.parametrize("clip", [None, 0.5, 100.0], ids=["free", "clipped", "within the limit"])
@pytest.mark.parametrize("name", OPTIMIZERS)
@pytest.mark.parametrize("warm", [0, 3], ids=["first step", "fourth step"])
def test_the_direction_is_what_finite_differences_say(name: str, warm: int, clip: float | None) -> None:
    generator = torch.Generator().manual_seed(0)

    def drawn() -> list[Tensor]:
        return [torch.randn(s, dtype=torch.float64, generator=generator) for s in shapes]

    shapes = [(3, 2), (2,), (4,)]
    start, v, *gradients = [drawn() for _ in range(warm + 3)]

    def stepped(last: list[Tensor], watch: bool = False) -> tuple[list[Tensor], list[Tensor]]:
        parameters = [nn.Parameter(p.clone()) for p in start]
        optimizer = OPTIMIZERS[name](parameters)
        for given in [*gradients[:warm], last]:
            for p, g in zip(parameters, given, strict=True):
                p.grad = g.clone()
            step = OptimizerStep(optimizer, clip)
            step.complete()
            if clip is not None:
                nn.utils.clip_grad_norm_(parameters, clip)
            step.before()
            optimizer.step()
        return [p.detach() for p in parameters], step.direction(v) if watch else []

    _, w = stepped(gradients[-1], watch=True)

    def along(last: list[Tensor]) -> float:
        moved, _ = stepped(last)
        return float(sum((a * b).sum() for a, b in zip(moved, v, strict=True)))

    eps = 1e-6
    for at, shape in enumerate(shapes):
        for place in range(torch.Size(shape).numel()):
            values = []
            for sign in (1, -1):
                other = [g.clone() for g in gradients[-1]]
                other[at].view(-1)[place] += sign * eps
                values.append(along(other))
            assert w[at].view(-1)[place].item() == pytest.approx(
                (values[0] - values[1]) / (2 * eps), rel=1e-6, abs=1e-8
            )


def test_a_gradient_that_is_exactly_zero_has_a_finite_slope() -> None:
    p = nn.Parameter(torch.zeros(2))
    optimizer = torch.optim.Adam([p], lr=0.1, eps=1e-4)
    p.grad = torch.tensor([0.0, 1.0])
    step = OptimizerStep(optimizer)
    step.before()
    optimizer.step()
    (w,) = step.direction([torch.ones(2)])
    # the first step moves by lr·g/(|g| + ε): at 0 with the slope lr/ε
    assert w[0].item() == pytest.approx(-0.1 / 1e-4, rel=1e-4)
    assert torch.isfinite(w).all()


def test_parameters_without_a_gradient_take_no_part() -> None:
    used, unused = nn.Parameter(torch.ones(2)), nn.Parameter(torch.ones(3))
    step = OptimizerStep(torch.optim.SGD([unused, used], lr=0.5))
    used.grad = torch.ones(2)
    step.before()
    assert [p is used for p in step.moved] == [True]
    assert step.direction([torch.tensor([1.0, 2.0])])[0].tolist() == [-0.5, -1.0]


@pytest.mark.parametrize("kind", [torch.optim.RMSprop, torch.optim.Adagrad, torch.optim.NAdam])
def test_another_optimiser_is_answered_with_those_that_go(kind: type[torch.optim.Optimizer]) -> None:
    with pytest.raises(TaskError, match=rf"{kind.__name__} is not supported: use torch.optim.SGD, Adam or AdamW"):
        OptimizerStep(kind([nn.Parameter(torch.ones(1))], lr=0.1))  # type: ignore[call-arg]
