"""A recorded pass gives the products with the Jacobian that automatic differentiation gives, candidates together."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from lossmith.errors import TaskError
from lossmith.rng import torch_global_scope
from lossmith.tasks import Terms, supervised
from lossmith.training.functional_network import Network
from lossmith.training.linearised.node import Node
from lossmith.training.linearised.record import NotRecordable, Record
from lossmith.training.linearised.simple_nodes import Opaque

CANDIDATES = 3


class Residual(nn.Module):
    """Sums in place, a convolution used twice, and a mean over space."""

    def __init__(self, inplace: bool = True) -> None:
        super().__init__()
        self.first, self.twice = nn.Conv2d(2, 4, 3, padding=1), nn.Conv2d(4, 4, 3, padding="same", bias=False)
        self.norm, self.act, self.out = nn.BatchNorm2d(4), nn.ReLU(inplace=inplace), nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        h = self.first(x)
        change = self.twice(self.act(self.norm(h)))
        change += h
        change = 2 - self.twice(torch.tanh(change)) - change
        return self.out(change.mean((2, 3)))


class Attention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed, self.norm = nn.Linear(64, 8), nn.LayerNorm(8)
        self.attention, self.out = nn.MultiheadAttention(8, 2, batch_first=True), nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        h = self.embed(x.flatten(2))  # [N, tokens, 8]
        h = h + self.attention(self.norm(h), h, h, need_weights=False)[0]
        return self.out(h.mean(1))


class Recurrent(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.cell, self.out = nn.GRU(64, 5, batch_first=True), nn.Linear(5, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(self.cell(x.flatten(2))[0][:, -1])


class Tied(nn.Module):
    """One weight in two layers, a frozen layer, and a parameter nothing depends on."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.out = nn.Linear(128, 128), nn.Linear(128, 128), nn.Linear(128, 3)
        self.b.weight = self.a.weight
        self.frozen = nn.Linear(128, 128).requires_grad_(False)
        self.unused = nn.Parameter(torch.ones(3))

    def forward(self, x: Tensor) -> Tensor:
        h = self.frozen(F.silu(self.a(x.flatten(1)), inplace=True))
        with torch.no_grad():
            size = h.abs().mean()
        return self.out(torch.tanh(self.b(h)) / size + h.detach())


def sequential(layers: Callable[[], tuple[nn.Module, ...]]) -> Callable[[], nn.Module]:
    return lambda: nn.Sequential(*layers(), nn.Flatten(), nn.LazyLinear(3))


MODELS: dict[str, Callable[[], nn.Module]] = {
    "lenet": sequential(
        lambda: (nn.Conv2d(2, 3, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(3, 4, 2, bias=False), nn.Tanh())
    ),
    "one channel": sequential(lambda: (nn.Conv2d(2, 1, 3, padding=1), nn.ReLU(), nn.MaxPool2d(3), nn.Conv2d(1, 2, 2))),
    "strides": sequential(
        lambda: (nn.Conv2d(2, 3, 3, stride=2, padding=2, dilation=(1, 2)), nn.ELU(), nn.MaxPool2d(2, 1, padding=1))
    ),
    "averages": sequential(
        lambda: (nn.Conv2d(2, 3, 2), nn.AvgPool2d(2, ceil_mode=True), nn.GELU(), nn.AdaptiveAvgPool2d(2))
    ),
    "lines": sequential(
        lambda: (nn.Flatten(2), nn.Conv1d(2, 3, 3), nn.BatchNorm1d(3, affine=False), nn.Tanh(), nn.AvgPool1d(2))
    ),
    "groups": sequential(
        lambda: (nn.Conv2d(2, 4, 3, groups=2), nn.Softplus(), nn.ConvTranspose2d(4, 2, 2), nn.LayerNorm(7))
    ),
    "dropout": sequential(
        lambda: (nn.Conv2d(2, 3, 3), nn.Dropout(0.4), nn.Dropout2d(0.3), nn.Flatten(), nn.BatchNorm1d(108))
    ),
    "residual": Residual,
    "attention": Attention,
    "recurrent": Recurrent,
    "tied": Tied,
}


def batch(rows: int = 6) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    return torch.randn(rows, 2, 8, 8, generator=generator, dtype=torch.float64), torch.arange(rows) % 3


def built(make: Callable[[], nn.Module]) -> nn.Module:
    with torch_global_scope(0, "init"):
        model = make().double()
        model(batch()[0])  # so that a lazy layer knows its size
    return model


def noise(shape: Any, seed: int = 2) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def recorded(model: nn.Module, forward: Any = supervised) -> Record:
    with torch_global_scope(0, "dropout"):
        return Record(model, forward, batch())


def largest_error(found: Tensor, expected: Tensor) -> float:
    return float((found - expected).detach().abs().max() / expected.detach().abs().max())


@pytest.mark.parametrize("name", MODELS)
@sdpa_kernel([SDPBackend.MATH])  # fused attention has no second derivative
def test_products_are_those_of_automatic_differentiation(name: str) -> None:
    model = built(MODELS[name])
    plain = copy.deepcopy(model)
    start = Network(plain, supervised).start(batch(), lambda: torch_global_scope(0, "dropout"))
    record = recorded(model)
    assert largest_error(record.terms[0].output, start.terms[0].output) < 1e-13
    deltas = noise((CANDIDATES, *start.terms[0].output.shape))
    pulled = record.pull([deltas])
    directions = {key: noise(part.shape, place) for place, (key, part) in enumerate(pulled.items())}
    (pushed,) = record.push(directions)
    for place in range(CANDIDATES):
        here = slice(place, place + 1)
        expected = start.pull([deltas[here]])
        assert expected.keys() == {f"model.{key}" for key in pulled}
        largest = max(float(part.abs().max()) for part in expected.values())
        for key, part in pulled.items():
            assert float((part[here] - expected[f"model.{key}"]).abs().max()) < 1e-12 * largest
        (along,) = start.push({f"model.{key}": part[here] for key, part in directions.items()})
        assert largest_error(pushed[here], along) < 1e-11
    for (_, mine), (_, theirs) in zip(model.named_buffers(), plain.named_buffers(), strict=True):
        assert torch.allclose(mine, theirs, rtol=1e-12)


@pytest.mark.parametrize("name", ["lenet", "strides", "averages", "lines", "dropout"])
def test_layers_over_images_have_nodes_of_their_own(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(self: Node, *_: Any) -> None:
        raise AssertionError("differentiated automatically")

    monkeypatch.setattr(Opaque, "__init__", refused)
    assert recorded(built(MODELS[name])).terms[0].output.shape == (6, 3)


def test_a_candidate_does_not_see_its_company() -> None:
    model = built(MODELS["lenet"]).float()
    x, y = batch(16)
    record = Record(model, supervised, (x.float(), y))
    deltas = noise((8, 16, 3)).float()
    all_pulled = record.pull([deltas])
    (all_pushed,) = record.push(all_pulled)
    for count in (2, 3, 5):
        pulled = record.pull([deltas[:count]])
        assert all(part.equal(all_pulled[key][:count]) for key, part in pulled.items())
        assert record.push(pulled)[0].equal(all_pushed[:count])


def test_several_outputs() -> None:
    def forward(model: Any, batch: Any) -> tuple[Terms, Terms]:
        h = model[0](batch[0])
        seen = h.mean((2, 3))
        return Terms(seen, batch[1]), Terms(model[1:](h), (seen.detach()[:, 0] > 0).long())

    record = recorded(built(MODELS["lenet"]), forward)
    start = Network(built(MODELS["lenet"]), forward).start(batch(), lambda: torch_global_scope(0, "dropout"))
    deltas = [noise((1, *term.output.shape)) for term in start.terms]
    pulled, expected = record.pull(deltas), start.pull(deltas)
    assert all(largest_error(part, expected[f"model.{key}"]) < 1e-12 for key, part in pulled.items())
    found, along = record.push(pulled), start.push(expected)
    assert all(largest_error(a, b) < 1e-12 for a, b in zip(found, along, strict=True))


class Doubled(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return 2 * x

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Tensor:  # type: ignore[override]
        return 2 * g


class PastTorch(nn.Linear):
    def forward(self, x: Tensor) -> Tensor:
        return Doubled.apply(super().forward(x.flatten(1))).tanh()


def test_what_goes_past_torch_functions_is_noticed() -> None:
    with pytest.raises(NotRecordable, match="past torch"):
        recorded(built(lambda: PastTorch(128, 3)))


def test_an_output_without_gradient() -> None:
    with pytest.raises(TaskError, match="carries no gradient"):
        recorded(built(MODELS["lenet"]), lambda model, batch: Terms(model(batch[0]).detach(), batch[1]))
