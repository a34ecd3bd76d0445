"""Optimiser records against the update rules written out by hand and against plain torch."""

from __future__ import annotations

import pickle

import pytest
import torch
from torch import Tensor, nn

from lossmith.errors import TaskError
from lossmith.tasks.optimizers import SGD, Adam, AdamW, can_fuse


def trajectory(make, steps: int, lr: float) -> list[Tensor]:  # type: ignore[no-untyped-def]
    """Minimise ½‖θ − 1‖² in float64 from a fixed start; the positions after each step."""
    theta = nn.Parameter(torch.tensor([3.0, -2.0], dtype=torch.float64))
    optimizer = make([theta], lr)
    places = []
    for _ in range(steps):
        optimizer.zero_grad()
        (0.5 * (theta - 1).square().sum()).backward()
        optimizer.step()
        places.append(theta.detach().clone())
    return places


@pytest.mark.parametrize("nesterov", [False, True])
def test_sgd_is_the_rule_on_paper(nesterov: bool) -> None:
    found = trajectory(SGD(0.1, momentum=0.9, nesterov=nesterov, weight_decay=0.01), 5, 0.1)
    theta, buffer = torch.tensor([3.0, -2.0], dtype=torch.float64), torch.zeros(2, dtype=torch.float64)
    for place in found:  # torch.optim.SGD, documentation: g += λθ; b = μb + g; g = g + μb (Nesterov) or b; θ −= lr·g
        gradient = theta - 1 + 0.01 * theta
        buffer = 0.9 * buffer + gradient
        theta = theta - 0.1 * (gradient + 0.9 * buffer if nesterov else buffer)
        torch.testing.assert_close(place, theta)


@pytest.mark.parametrize(
    ("record", "plain"),
    [
        (Adam(betas=(0.8, 0.9), eps=1e-6, weight_decay=0.1), torch.optim.Adam),
        (AdamW(betas=(0.8, 0.9), eps=1e-6, weight_decay=0.1), torch.optim.AdamW),
    ],
)
def test_adam_is_torchs_own_unfused(record, plain) -> None:  # type: ignore[no-untyped-def]
    ours = trajectory(record, 5, 0.3)
    theirs = trajectory(
        lambda params, lr: plain(params, lr=lr, betas=(0.8, 0.9), eps=1e-6, weight_decay=0.1, foreach=False), 5, 0.3
    )
    torch.testing.assert_close(ours, theirs)
    assert (ours[0] - torch.tensor([3.0, -2.0])).abs().min() > 0.1  # it moved at all


def test_the_given_learning_rate_counts_not_the_records() -> None:
    assert SGD(0.01)([nn.Parameter(torch.zeros(1))], 0.5).param_groups[0]["lr"] == 0.5


def test_fused_where_torch_can() -> None:
    parameter = nn.Parameter(torch.zeros(1))
    assert SGD(0.01)([parameter], 0.1).param_groups[0]["fused"] is True
    assert not can_fuse([nn.Parameter(torch.zeros(1, device="meta"))])


def test_params_may_be_a_generator() -> None:
    parameters = (nn.Parameter(torch.zeros(i)) for i in (1, 2))
    assert len(Adam()(parameters, 0.1).param_groups[0]["params"]) == 2


@pytest.mark.parametrize("record", [SGD(0.1, 0.9, True, 1e-4), Adam(), AdamW(1e-2)], ids=repr)
def test_a_record_is_a_value(record: object) -> None:
    assert pickle.loads(pickle.dumps(record)) == record
    assert repr(record).startswith(type(record).__name__)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: SGD(0), ["SGD.lr", "0", "(0, inf)"]),
        (lambda: SGD(0.1, momentum=1), ["SGD.momentum", "1", "[0, 1)"]),
        (lambda: SGD(0.1, nesterov=True), ["nesterov", "momentum"]),
        (lambda: SGD(0.1, weight_decay=-1), ["SGD.weight_decay", "-1"]),
        (lambda: Adam(lr="fast"), ["Adam.lr", "'fast'"]),
        (lambda: Adam(betas=(0.9, 1.0)), ["Adam.betas", "1.0", "[0, 1)"]),
        (lambda: Adam(betas=0.9), ["Adam.betas", "0.9", "pair"]),
        (lambda: AdamW(eps=0), ["AdamW.eps", "0"]),
    ],
)
def test_bad_arguments_name_field_value_and_range(make, words) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(TaskError) as caught:
        make()
    for word in words:
        assert word in str(caught.value)
