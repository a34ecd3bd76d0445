"""Which models can be stacked, and the sentence about each that cannot."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from small_tasks import CLASSES, FEATURES, dropout_network, network, small_task
from stacked_models import MODELS, batch_of
from torch import Tensor, nn

from lossmith.rng import torch_global_scope
from lossmith.tasks import Terms
from lossmith.training.population import why_not_stacked


class Layers(nn.Module):
    """Two layers with something done in between."""

    def __init__(self, between: Callable[[Tensor], Tensor] | None = None) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(FEATURES, 8), nn.Linear(8, CLASSES)
        self.between = between or self.inside

    def inside(self, h: Tensor) -> Tensor:
        return h

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.between(self.first(x)))  # type: ignore[no-any-return]


class Cached(Layers):
    """Keeps a copy of its parameters where the optimiser does not see it, and looks at it."""

    def __init__(self) -> None:
        super().__init__()
        self.copy = self.first.weight.detach()  # the same memory as the parameter

    def inside(self, h: Tensor) -> Tensor:
        return h * self.copy.sum()


class Closed(Layers):
    """Its function holds on to the layer itself, so that a copy of the model uses the original's."""

    def __init__(self) -> None:
        super().__init__()
        middle = nn.Linear(8, 8)
        self.middle = middle
        self.between = lambda h: F.linear(h, middle.weight)


class Counting(Layers):
    """Decides by a tensor that all candidates share."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("calls", torch.zeros((), dtype=torch.long))

    def inside(self, h: Tensor) -> Tensor:
        self.calls += 1
        return h if self.calls.item() % 2 else h.relu()


class Straight(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, h: Tensor) -> Tensor:
        return h.sign()

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Tensor:  # type: ignore[override]
        return g


class Narrow(Layers):
    """Computes in float32 whatever it is given."""

    def forward(self, x: Tensor) -> Tensor:
        weight = self.first.weight
        assert weight.dtype == torch.float32, "only float32"
        return super().forward(x)


class Remote(Layers):
    def __init__(self) -> None:
        super().__init__()
        self.total = torch.zeros(8)

    def inside(self, h: Tensor) -> Tensor:
        self.total.add_(h.detach().mean(0))
        return h


def hooked(kind: str) -> nn.Module:
    model = network(0)
    if kind == "values":
        model[0].register_forward_hook(lambda module, args, output: output * output.detach().abs().max().item())
    elif kind == "gradient":
        model[0].weight.register_hook(lambda gradient: gradient.clamp(-100, 100))
    else:
        model[0].register_full_backward_hook(lambda module, before, after: None)
    return model


def mixed() -> nn.Module:
    model = network(0)
    model[2].double()
    return nn.Sequential(model[0], model[1], Cast(), model[2])


class Cast(nn.Module):
    def forward(self, h: Tensor) -> Tensor:
        return h.double()


def between(function: Callable[[Tensor], Tensor]) -> Callable[[int], nn.Module]:
    return lambda seed: Layers(function)


REFUSED: dict[str, tuple[Callable[[int], nn.Module], str]] = {
    "momentum": (lambda s: nn.Sequential(nn.Linear(6, 3), nn.BatchNorm1d(3, momentum=None)), "momentum=None"),
    "rrelu": (lambda s: nn.Sequential(nn.Linear(6, 3), nn.RReLU()), "RReLU draws"),
    "rrelu function": (between(lambda h: F.rrelu(h, training=True)), "RReLU draws"),
    "item": (between(lambda h: h / h.abs().max().item()), "reads numbers of a tensor (item)"),
    "tolist": (between(lambda h: h * sum(h[0].tolist())), "reads numbers of a tensor (tolist)"),
    "branch": (between(lambda h: h if h.sum() > 0 else -h), "reads numbers of a tensor (bool)"),
    "mask": (between(lambda h: h.masked_fill(h == h[h > 0].mean(), 0)), "mask that differs"),
    "nonzero": (between(lambda h: h + torch.nonzero(h > 0).sum()), "nonzero"),
    "numpy": (between(lambda h: h + torch.from_numpy(np.asarray(h.detach()))), "reads numbers"),
    "cached": (lambda s: Cached(), "outputs of stacked candidates differ"),
    "closed": (lambda s: Closed(), "outputs of stacked candidates differ"),
    "straight": (between(Straight.apply), "gradients of stacked candidates differ"),
    "remote": (lambda s: Remote(), "one tensor that all of them share"),
    "own draws": (between(lambda h: torch.bernoulli(torch.sigmoid(h)) + h), "bernoulli draws"),
    "mixed": (lambda s: mixed(), "torch.float32 and torch.float64"),
    "lazy": (lambda s: nn.Sequential(nn.LazyLinear(3)), "has no shape before the first batch"),
    "hook on values": (lambda s: hooked("values"), "reads numbers of a tensor (item)"),
    "hook on gradient": (lambda s: hooked("gradient"), "hook on its gradient"),
    "hook on backward": (lambda s: hooked("backward"), "hook on its backward pass"),
    "frozen": (lambda s: network(0).requires_grad_(False), "no parameter to train"),
    "unique": (between(lambda h: h * len(torch.unique(h))), "unique"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_stacked_says_why(name: str) -> None:
    model, wanted = REFUSED[name]
    reason = why_not_stacked(small_task(model=model))
    assert wanted in reason
    assert reason.endswith(".")
    assert "\n" not in reason


@pytest.mark.parametrize(
    "model",
    [network, dropout_network, lambda s: Counting(), lambda s: Narrow()],
    ids=["mlp", "dropout", "count", "f32"],
)
def test_what_can(model: Callable[[int], nn.Module]) -> None:
    assert why_not_stacked(small_task(model=model)) == ""


@pytest.mark.parametrize("name", [name for name in MODELS if name != "preresnet20"])
def test_every_kind_of_model_can(name: str) -> None:
    x, y = batch_of(name, 40, torch.float32)
    task = small_task(model=lambda seed: MODELS[name][0](), train=(x, y), valid=(x, y), selection=(x, y), test=(x, y))
    assert why_not_stacked(task, channels_last=x.dim() == 4) == ""


@pytest.mark.parametrize("part", ["target", "weight", "group"])
def test_terms_of_each_candidate(part: str) -> None:
    def forward(model: nn.Module, batch: Any) -> Terms:
        x, y = batch
        output = model(x)
        own = {"target": output.detach().argmax(-1), "weight": output.detach().square().sum(-1)}
        own["group"] = own["target"]
        return Terms(output, **{"target": y, part: own[part]})

    assert f"the {part} of the loss comes from the model" in why_not_stacked(small_task(forward=forward))


def test_a_wrong_rule_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    from lossmith.training.population.stacked import RULES, alike

    monkeypatch.setitem(RULES, F.relu, lambda x, inplace=False: alike(x, x.raw.abs()))
    assert "outputs of stacked candidates differ" in why_not_stacked(small_task())


def test_a_task_that_fails_by_itself() -> None:
    task = small_task(model=lambda seed: nn.Linear(FEATURES + 1, CLASSES))
    assert "one base model by itself cannot be trained" in why_not_stacked(task)


def test_nothing_is_changed() -> None:
    with torch_global_scope(0, "theta"):
        shared = network(0)
    task = small_task(model=lambda seed: shared)
    before = {name: p.clone() for name, p in shared.state_dict().items()}
    states = [np.random.get_state()[1].copy(), random.getstate(), torch.get_rng_state()]  # noqa: NPY002
    assert why_not_stacked(task) == ""
    after = shared.state_dict()
    assert all(torch.equal(before[name], p) and p.dtype == before[name].dtype for name, p in after.items())
    assert np.array_equal(states[0], np.random.get_state()[1])  # noqa: NPY002
    assert random.getstate() == states[1]
    assert torch.equal(states[2], torch.get_rng_state())
