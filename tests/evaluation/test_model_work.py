from __future__ import annotations

from collections.abc import Callable

import torch
from small_tasks import small_task
from torch import nn

from lossmith.evaluation.model_work import model_work
from lossmith.tasks import SGD, Adam, Task
from lossmith.tasks.zoo import lenet5, preresnet20


def images(model: Callable[[], nn.Module], channels: int, side: int) -> Task:
    x, y = torch.zeros(20, channels, side, side), torch.arange(20) % 10
    rows = {"train": (x, y), "valid": (x, y), "selection": (x, y), "test": None}
    return small_task(model=lambda seed: model(), batch_size=4, **rows)


def test_a_perceptron_is_counted_by_hand() -> None:
    found = model_work(small_task(batch_size=16))  # 6-8-3
    assert found.parameters == 6 * 8 + 8 + 8 * 3 + 3
    assert found.flops == 2 * (6 * 8 + 8 * 3)  # a multiply-add is two; biases and ReLU are not counted
    assert found.convolution_flops == 0
    assert found.state_bytes == 2 * 4 * found.parameters  # itself and its gradient
    # kept for the backward pass: the batch [16, 6] and the hidden layer [16, 8] after its ReLU
    assert found.activation_bytes == 4 * 16 * (6 + 8)
    assert found.bytes == found.state_bytes + 2 * found.activation_bytes


def test_what_the_optimiser_keeps() -> None:
    plain = model_work(small_task()).state_bytes
    assert model_work(small_task(optimizer=SGD(lr=0.1, momentum=0.9))).state_bytes == plain * 3 // 2
    assert model_work(small_task(optimizer=Adam(lr=0.1))).state_bytes == plain * 2
    own = small_task(optimizer=lambda params, lr: torch.optim.RMSprop(params, lr), lr=0.1)
    assert model_work(own).state_bytes == plain * 2  # taken to be like Adam


def test_convolutions_by_hand() -> None:
    """LeNet-5: 6 maps of 28², 16 of 10² behind six, then 400-120-84-10."""
    found = model_work(images(lenet5, 1, 28))
    convolutions = 2 * (28 * 28 * 25 * 6 + 10 * 10 * 25 * 6 * 16)
    assert found.convolution_flops == convolutions
    assert found.flops == convolutions + 2 * (400 * 120 + 120 * 84 + 84 * 10)
    large = model_work(images(preresnet20, 3, 32), channels_last=True)
    assert 80e6 < large.flops < 84e6  # DESIGN §4
    assert large.convolution_flops / large.flops > 0.99


def test_counting_leaves_no_trace() -> None:
    task = small_task()
    before = torch.get_rng_state()
    assert model_work(task) == model_work(task)
    assert torch.equal(before, torch.get_rng_state())
    assert torch.get_num_threads() == 1
