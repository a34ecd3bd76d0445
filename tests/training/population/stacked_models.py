"""Models for the tests of the population path, and what P of them must give: P models, one after the other."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lossmith.rng import torch_global_scope
from lossmith.tasks.terms import Forward, as_terms, supervised
from lossmith.tasks.zoo import lenet5, mlp, preresnet20
from lossmith.training.population import PopulationNetwork

CLASSES = 5


class Tied(nn.Module):
    """A language model whose decoder is its embedding."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(7, 6, padding_idx=0)
        self.hidden = nn.Linear(6, 6)
        self.decoder = nn.Linear(6, 7)
        self.decoder.weight = self.embedding.weight

    def forward(self, tokens: Tensor) -> Tensor:
        return self.decoder(torch.tanh(self.hidden(self.embedding(tokens))))  # type: ignore[no-any-return]


class Recurrent(nn.Module):
    def __init__(self, kind: Callable[..., nn.Module], **options: Any) -> None:
        super().__init__()
        self.layer = kind(3, 4, batch_first=True, **options)
        self.head = nn.Linear(8 if options.get("bidirectional") else 4, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.layer(x)[0][:, -1])  # type: ignore[no-any-return]


class Encoder(nn.Module):
    def __init__(self, **options: Any) -> None:
        super().__init__()
        layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True, **options)
        self.inside = nn.Linear(3, 8)
        self.blocks = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
        self.head = nn.Linear(8, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.blocks(self.inside(x)).mean(1))  # type: ignore[no-any-return]


class Handwritten(nn.Module):
    """Causal attention as it is written in tutorials."""

    def __init__(self) -> None:
        super().__init__()
        self.inside, self.qkv, self.out = nn.Linear(3, 8), nn.Linear(8, 24, bias=False), nn.Linear(8, 8)
        self.norm1, self.norm2 = nn.LayerNorm(8), nn.LayerNorm(8)
        self.mix = nn.Sequential(nn.Linear(8, 16), nn.GELU(), nn.Dropout(0.2), nn.Linear(16, 8))
        self.place = nn.Parameter(torch.linspace(-1, 1, 32).view(1, 4, 8))
        self.head = nn.Linear(8, CLASSES)
        self.register_buffer("causal", torch.tril(torch.ones(4, 4)))

    def forward(self, x: Tensor) -> Tensor:
        h = self.inside(x) + self.place[:, : x.size(1)]
        b, t, c = h.shape
        q, k, v = self.qkv(self.norm1(h)).split(c, dim=2)
        q, k, v = (one.view(b, t, 2, c // 2).transpose(1, 2) for one in (q, k, v))
        scores = (q @ k.transpose(-2, -1)) * (c // 2) ** -0.5
        scores = scores.masked_fill(self.causal[:t, :t] == 0, float("-inf"))
        y = F.softmax(scores, dim=-1) @ v
        h = h + self.out(y.transpose(1, 2).contiguous().view(b, t, c))
        h = h + self.mix(self.norm2(h))
        return self.head(h[:, -1])  # type: ignore[no-any-return]


class Fused(Handwritten):
    """The same with torch's attention."""

    def forward(self, x: Tensor) -> Tensor:
        h = self.inside(x) + self.place
        q, k, v = (one.unflatten(2, (2, 4)).transpose(1, 2) for one in self.qkv(self.norm1(h)).chunk(3, -1))
        y = F.scaled_dot_product_attention(q, k, v, dropout_p=0.3 if self.training else 0.0, is_causal=True)
        h = h + self.out(y.transpose(1, 2).flatten(2))
        return self.head(h.amax(1))  # type: ignore[no-any-return]


class OptionA(nn.Module):
    """A residual block whose shortcut drops every other pixel and pads channels with zeros (CIFAR ResNets)."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(2, 4, 3, padding=1), nn.Conv2d(4, 8, 3, 2, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(8)
        self.head = nn.Linear(8, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        h = F.relu(self.first(x), inplace=True)
        kept = F.pad(h[:, :, ::2, ::2], (0, 0, 0, 0, 2, 2), "constant", 0)
        h = F.relu(self.norm(self.second(h)) + kept)
        return self.head(h.mean((2, 3)))  # type: ignore[no-any-return]


class Dense(nn.Module):
    """Concatenated channels, a gate per channel, depthwise and transposed convolutions, group norm."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(2, 4, 3, padding=1), nn.Conv2d(4, 4, 3, padding=1, groups=4)
        self.gate = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Conv2d(8, 8, 1), nn.Sigmoid())
        self.up, self.norm = nn.ConvTranspose2d(8, 4, 2, 2), nn.GroupNorm(2, 4)
        self.scale = nn.Parameter(torch.ones(4, 1, 1))
        self.head = nn.Linear(4, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        h = F.silu(self.first(x))
        h = torch.cat([h, F.avg_pool2d(self.second(h), 3, 1, 1)], 1)
        h = h * self.gate(h)
        h = self.norm(self.up(h)) * self.scale
        return self.head(F.max_pool2d(h, 2).flatten(2).sum(2))  # type: ignore[no-any-return]


class Remembering(nn.Module):
    """Writes buffers: one in place, one by assignment."""

    def __init__(self) -> None:
        super().__init__()
        self.layer, self.head = nn.Linear(3, 4), nn.Linear(4, CLASSES)
        self.register_buffer("mean", torch.zeros(4))
        self.register_buffer("size", torch.ones(()))

    def forward(self, x: Tensor) -> Tensor:
        h = self.layer(x)
        if self.training:
            with torch.no_grad():
                self.mean.mul_(0.9).add_(h.mean(0), alpha=0.1)
            self.size = 0.9 * self.size + 0.1 * h.detach().abs().mean()
        return self.head((h - self.mean) / self.size)  # type: ignore[no-any-return]


def normed() -> nn.Sequential:
    return nn.Sequential(
        nn.Linear(3, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Dropout(0.4), nn.Linear(8, 40), nn.Dropout(0.2),
        nn.LeakyReLU(), nn.Linear(40, CLASSES),
    )  # fmt: skip


def pictured() -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(2, 6, 3, padding="same"), nn.BatchNorm2d(6), nn.ReLU(inplace=True), nn.Dropout(0.3), nn.MaxPool2d(2),
        nn.Conv2d(6, 4, 3, padding=1), nn.Dropout2d(0.3), nn.PReLU(4), nn.Flatten(), nn.Linear(64, CLASSES),
    )  # fmt: skip


def weighted() -> nn.Module:
    return nn.Sequential(nn.utils.parametrizations.weight_norm(nn.Linear(3, 8)), nn.Tanh(), nn.Linear(8, CLASSES))


def sequence() -> nn.Module:
    return nn.Sequential(
        nn.Conv1d(4, 6, 3, padding=1), nn.BatchNorm1d(6), nn.ELU(), nn.AvgPool1d(3), nn.Flatten(), nn.Linear(6, CLASSES)
    )


def frozen() -> nn.Module:
    model = nn.Sequential(nn.Linear(3, 8), nn.ReLU(), nn.Linear(8, 8), nn.Softplus(), nn.Linear(8, CLASSES))
    for parameter in model[2].parameters():
        parameter.requires_grad_(False)
    return model


VECTORS, IMAGES, TOKENS, SERIES = (3,), (2, 8, 8), (4,), (4, 3)
MODELS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "mlp": (lambda: mlp((3, 40, 8, CLASSES)), VECTORS),
    "lenet5": (lambda: lenet5(1, CLASSES), (1, 28, 28)),
    "preresnet20": (lambda: preresnet20(CLASSES), (3, 8, 8)),
    "batch norm and dropout": (normed, VECTORS),
    "images with dropout": (pictured, IMAGES),
    "option A": (OptionA, IMAGES),
    "dense": (Dense, IMAGES),
    "conv1d": (sequence, SERIES),
    "tied": (Tied, TOKENS),
    "lstm": (lambda: Recurrent(nn.LSTM), SERIES),
    "deep lstm": (lambda: Recurrent(nn.LSTM, num_layers=2, dropout=0.3, bidirectional=True), SERIES),
    "gru": (lambda: Recurrent(nn.GRU), SERIES),
    "encoder": (lambda: Encoder(dropout=0.0), SERIES),
    "encoder with dropout": (lambda: Encoder(dropout=0.2, norm_first=True, activation="gelu"), SERIES),
    "handwritten attention": (Handwritten, SERIES),
    "fused attention": (Fused, SERIES),
    "written buffers": (Remembering, VECTORS),
    "weight norm": (weighted, VECTORS),
    "frozen layer": (frozen, VECTORS),
}


def built(name: str, dtype: torch.dtype = torch.float64) -> nn.Module:
    with torch_global_scope(0, "theta"):
        return MODELS[name][0]().to(dtype)


def batch_of(name: str, rows: int = 6, dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    shape = (rows, *MODELS[name][1])
    if name == "tied":
        return torch.randint(7, shape, generator=generator), torch.randint(7, shape, generator=generator)
    return torch.randn(shape, generator=generator, dtype=dtype), torch.arange(rows) % CLASSES


def spread(network: PopulationNetwork, scale: float = 0.1) -> None:
    """Move every candidate somewhere else."""
    generator = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for raw in network.parameters.values():
            raw += scale * torch.randn(raw.shape, generator=generator, dtype=raw.dtype)


def population(name: str, count: int = 3, **options: Any) -> PopulationNetwork:
    network = PopulationNetwork(built(name), supervised, count, **options)
    spread(network)
    return network


def one_by_one(
    models: list[nn.Module], batch: Any, value: Callable[[Tensor, int], Tensor], forward: Forward = supervised
) -> list[Tensor]:
    """Outputs of models, each with the same random numbers; their gradients are left in them."""
    outputs = []
    for place, model in enumerate(models):
        with torch_global_scope(0, "dropout"):
            (term,) = as_terms(forward(model, batch))
        value(term.output, place).backward()  # type: ignore[no-untyped-call]
        outputs.append(term.output.detach())
    return outputs


def curved(output: Tensor, place: int) -> Tensor:
    """A made-up loss, another one for each candidate."""
    return (output.sin() * (1 + place) + output.square() / 2).sum()


def copied(models: list[nn.Module]) -> list[nn.Module]:
    return [copy.deepcopy(model) for model in models]
