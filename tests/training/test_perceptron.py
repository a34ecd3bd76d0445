"""The road of explicit matrices against the one that knows nothing of the network."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from unrolled_by_hand import KERNELS, STEPS, double_task, how, losses

from lossmith.tasks import Terms, supervised
from lossmith.training import perceptron_step
from lossmith.training.closed_form import closed_form
from lossmith.training.meta_gradient import Road, draw
from lossmith.training.moved_layer import Form
from lossmith.training.perceptron import layers_of
from lossmith.training.tunable import Tunable

MODELS: dict[str, Any] = {
    "one layer": lambda seed: nn.Sequential(nn.Linear(6, 3)),
    "no bias": lambda seed: nn.Sequential(nn.Linear(6, 4, bias=False), nn.ReLU(), nn.Linear(4, 3, bias=False)),
    "flatten": lambda seed: nn.Sequential(nn.Flatten(), nn.Linear(6, 4), nn.ReLU(inplace=True), nn.Linear(4, 3)),
    "two activations": lambda seed: nn.Sequential(nn.Linear(6, 4), nn.Tanh(), nn.Softplus(), nn.Linear(4, 3)),
    "activated output": lambda seed: nn.Sequential(nn.Linear(6, 4), nn.SiLU(), nn.Linear(4, 3), nn.Tanh()),
    "three layers": lambda seed: nn.Sequential(
        nn.Linear(6, 5), nn.GELU(), nn.Linear(5, 4), nn.ELU(), nn.Linear(4, 3), nn.Identity()
    ),
    "leaky": lambda seed: nn.Sequential(
        nn.Linear(6, 5), nn.LeakyReLU(), nn.Linear(5, 4), nn.Sigmoid(), nn.Linear(4, 3)
    ),
}


def doubled(build: Any) -> Any:
    return lambda seed: build(seed).double()


@pytest.mark.parametrize("jacobians", [True, False])
@pytest.mark.parametrize("form", [Form(True, False), Form(True, True), Form(False, True)], ids=str)
@pytest.mark.parametrize("build", MODELS.values(), ids=MODELS)
def test_both_roads_agree(build: Any, form: Form, jacobians: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Form, "cheapest", lambda *sizes, first: form)
    monkeypatch.setattr(perceptron_step, "_pays", lambda outputs, width: jacobians)
    step = STEPS["nesterov"]
    task = double_task(step, model=doubled(build))
    candidates = [Tunable.of(one, task) for one in losses(*KERNELS)]
    phis = [candidate.phi for candidate in candidates]
    plain, layers = (
        closed_form(how(task, step, 1, len(phis), road), draw(task, 4, 0, 1), candidates, phis)
        for road in (Road("alone"), Road("layers", 2))
    )
    for i in range(len(phis)):
        size = np.abs(plain[i].gradient).max()
        assert size > 1e-6
        assert np.abs(layers[i].gradient - plain[i].gradient).max() < 1e-11 * size
        assert layers[i].value == pytest.approx(plain[i].value, rel=1e-12)
        assert layers[i].inner == pytest.approx(plain[i].inner, rel=1e-12)


def hooked(seed: int) -> nn.Module:
    model = nn.Sequential(nn.Linear(6, 3))
    model[0].register_forward_hook(lambda module, inputs, output: 2 * output)
    return model


def frozen(seed: int) -> nn.Module:
    model = nn.Sequential(nn.Linear(6, 4), nn.ReLU(), nn.Linear(4, 3))
    model[0].bias.requires_grad_(False)
    return model


def shared(seed: int) -> nn.Module:
    layer = nn.Linear(6, 6)
    return nn.Sequential(layer, nn.ReLU(), layer, nn.ReLU(), nn.Linear(6, 3))


class Doubling(nn.Linear):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return 2 * super().forward(x)


@pytest.mark.parametrize(
    "build",
    [
        hooked,
        frozen,
        shared,
        lambda seed: nn.Sequential(Doubling(6, 3)),
        lambda seed: nn.Sequential(nn.ReLU(), nn.Linear(6, 3)),
        lambda seed: nn.Sequential(nn.Linear(6, 3), nn.Dropout(0.5)),
        lambda seed: nn.Sequential(nn.utils.parametrizations.weight_norm(nn.Linear(6, 3))),
        lambda seed: nn.Sequential(nn.Sequential(nn.Linear(6, 3))),
        lambda seed: nn.Sequential(nn.Linear(6, 4), nn.ELU(inplace=True), nn.Linear(4, 3)),
        lambda seed: nn.Linear(6, 3),
        lambda seed: nn.Sequential(),
    ],
)
def test_whatever_is_no_plain_perceptron_is_not_taken_for_one(build: Any) -> None:
    task = double_task(STEPS["plain"], model=build)
    assert layers_of(task, task.build_model(0)) == ()


def test_a_forward_function_of_its_own_may_do_anything() -> None:
    def forward(model: nn.Module, batch: Any) -> Terms:
        return Terms(2 * model(batch[0]), batch[1])

    for function, count in ((forward, 0), (supervised, 1)):
        task = double_task(STEPS["plain"], model=MODELS["one layer"], forward=function)
        assert len(layers_of(task, task.build_model(0))) == count
