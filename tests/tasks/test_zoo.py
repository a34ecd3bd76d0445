"""Shapes, exact sizes, and what makes each network that network."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from lossmith.errors import TaskError
from lossmith.rng import torch_global_scope, torch_stream
from lossmith.tasks import zoo


def built(make: Callable[[], nn.Module], seed: int = 0) -> nn.Module:
    with torch_global_scope(seed, "theta"):
        return make()


def noise(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch_stream(0, "test"))


CASES: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...], int, int]] = {
    # 64·256 + 256 + 256·10 + 10
    "mlp": (lambda: zoo.mlp((64, 256, 10)), (64,), 10, 19_210),
    # the published EvoMAL network: + 256·256 + 256
    "mlp2": (lambda: zoo.mlp((64, 256, 256, 10)), (1, 8, 8), 10, 85_002),
    # 6·25 + 6, 16·6·25 + 16, 400·120 + 120, 120·84 + 84, 84·10 + 10
    "lenet5": (lambda: zoo.lenet5(), (1, 28, 28), 10, 61_706),
    # three channels: + 6·2·25; 7 classes: − 3·85
    "lenet5 colour": (lambda: zoo.lenet5(3, 7), (3, 28, 28), 7, 61_706 + 300 - 255),
    # 32·25 + 32, 64·32·25 + 64, 3136·1024 + 1024, 1024·10 + 10
    "mnist_cnn": (lambda: zoo.mnist_cnn(), (1, 28, 28), 10, 3_274_634),
    # stem 3·16·9 = 432; stage 16: 6·16²·9 + 6·32; stage 32: (16·32 + 5·32²)·9 + 32 + 5·64, 1×1: 16·32;
    # stage 64: (32·64 + 5·64²)·9 + 64 + 5·128, 1×1: 32·64; last norm 128; 64·10 + 10   (the published 0.27 M)
    "preresnet20": (
        lambda: zoo.preresnet20(),
        (3, 32, 32),
        10,
        432 + (13_824 + 192) + (50_688 + 352 + 512) + (202_752 + 704 + 2_048) + 128 + 650,
    ),
    "preresnet20 of 100": (lambda: zoo.preresnet20(100), (3, 32, 32), 100, 272_282 + 90 * 65),
}


@pytest.mark.parametrize("name", CASES)
def test_shape_size_and_seed(name: str) -> None:
    make, shape, classes, parameters = CASES[name]
    model = built(make).eval()
    x = noise(4, *shape)
    assert model(x).shape == (4, classes)
    assert sum(p.numel() for p in model.parameters()) == parameters
    assert torch.equal(model(x), built(make).eval()(x)), "the same stream must give the same weights"
    assert not torch.equal(model(x), built(make, 1).eval()(x))


def test_preresnet20_has_the_published_size() -> None:
    assert CASES["preresnet20"][3] == 272_282


@pytest.mark.parametrize("name", CASES)
def test_every_parameter_gets_a_gradient(name: str) -> None:
    make, shape, _, _ = CASES[name]
    model = built(make)
    with torch_global_scope(0, "dropout"):
        model(noise(8, *shape)).square().sum().backward()
    assert all(p.grad is not None and bool(p.grad.abs().sum() > 0) for p in model.parameters())


def test_the_activation_of_an_mlp_is_a_choice() -> None:
    assert [type(m) for m in built(lambda: zoo.mlp((3, 4, 5, 2), nn.Tanh))] == [
        nn.Flatten, nn.Linear, nn.Tanh, nn.Linear, nn.Tanh, nn.Linear,
    ]  # fmt: skip
    with pytest.raises(TaskError, match="number of mlp sizes"):
        zoo.mlp((3,))
    with pytest.raises(TaskError, match="mlp size"):
        zoo.mlp((3, 0))


def test_dropout_acts_in_training_only() -> None:
    model = built(zoo.mnist_cnn)
    x = noise(2, 1, 28, 28)
    with torch_global_scope(0, "dropout"):
        assert not torch.equal(model(x), model(x))
    model.eval()
    assert torch.equal(model(x), model(x))


def test_a_pre_activation_block_without_its_branch_is_the_identity() -> None:
    block = built(lambda: zoo.PreActivationBlock(8, 8, 1))
    nn.init.zeros_(block.conv2.weight)  # type: ignore[arg-type]
    x = noise(2, 8, 5, 5)
    assert torch.equal(block(x), x)  # nothing is applied after the addition
    down = built(lambda: zoo.PreActivationBlock(8, 16, 2))
    assert down(x).shape == (2, 16, 3, 3)


def test_preresnet_stages_halve_the_image() -> None:
    model, x, shapes = built(zoo.preresnet20).eval(), noise(1, 3, 32, 32), []
    for layer in model:  # type: ignore[attr-defined]
        x = layer(x)
        if isinstance(layer, zoo.PreActivationBlock):
            shapes.append(tuple(x.shape[1:]))
    assert shapes == [(16, 32, 32)] * 3 + [(32, 16, 16)] * 3 + [(64, 8, 8)] * 3
