"""Every rule against the function itself, applied to one candidate after the other, with values and gradients."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from lossmith.rng import torch_global_scope
from lossmith.training.population import rules  # noqa: F401 (it registers them)
from lossmith.training.population.stacked import NotStackable, leading, stacked, stacked_images, to_images

P = 3
Case = Callable[..., Any]


def numbers(*shape: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(P, *shape, generator=generator, dtype=torch.float64)


def masked(x: Tensor) -> Tensor:
    h = x.clone()
    h[:, 1:] = x[:, :-1] * 2
    h[0] = 1.0
    h[..., -1] += x[..., 0]
    return h


def updated(x: Tensor) -> Tensor:
    h = x * 2
    h += 1
    h.mul_(x).clamp_(-1, 2)
    h -= h.mean(-1, keepdim=True)
    h[:1].zero_()
    return torch.relu_(h)


SHARED = torch.linspace(-1, 1, 4, dtype=torch.float64)
INDEX = torch.tensor([2, 0, 1, 1])
TABLE = torch.linspace(-1, 1, 20, dtype=torch.float64).view(5, 4)

# Functions of one candidate's x [2, 3, 4], y [3, 4] and w [5, 4].
LEADING: dict[str, Case] = {
    "arithmetic": lambda x, y, w: (2 - x) * y / (y.square() + 1) + SHARED**2 - x**2 + 2**x,
    "broadcast": lambda x, y, w: x[:, :1] + y - y.sum() * x.mean((0, 1)),
    "compare": lambda x, y, w: torch.where((x > y) | (x < 0), x, y * 2) + (x >= SHARED).double() * x,
    "where scalar": lambda x, y, w: (
        torch.where(x > 0, 1.0, x) + torch.maximum(x, y) + torch.clamp(x, min=-0.5, max=0.5)
    ),
    "clamp tensor": lambda x, y, w: torch.clamp(x, y - 1, y + 1).lerp(x, 0.3) + torch.addcmul(x, y, SHARED, value=0.5),
    "pointwise": lambda x, y, w: F.gelu(x) + F.silu(x) + F.elu(x) + F.softplus(x) + F.mish(x) + F.hardtanh(x) + x.sin(),
    "pointwise more": lambda x, y, w: F.leaky_relu(x, 0.1) + F.logsigmoid(x) + F.relu6(x) + F.tanhshrink(x) + x.erf(),
    "prelu": lambda x, y, w: F.prelu(x, y[:, 0]) + F.prelu(x, y[0, :1]),
    "softmax": lambda x, y, w: F.softmax(x, -1) + torch.log_softmax(x, 1) + x.softmax(0) + F.softmin(x, 2),
    "reduce": lambda x, y, w: x.sum() + x.mean(1) + x.amax((0, 1)) + x.prod(1) + x.logsumexp(1, keepdim=False),
    "keepdim": lambda x, y, w: x.sum(-1, keepdim=True) * x.std(1, keepdim=True) + x.var((0, 1), unbiased=False),
    "extremes": lambda x, y, w: (
        x.max(1)[0] + x.min(dim=-1, keepdim=True).values.sum(1) + x.max() * x.min() + torch.max(x, y)[0, 0]
    ),
    "norms": lambda x, y, w: (
        x.norm(dim=-1).sum() + F.normalize(x, dim=-1) + torch.linalg.vector_norm(x, dim=1, keepdim=True)
    ),
    "cumulative": lambda x, y, w: x.cumsum(1) + torch.cumprod(x, -1) + x.flip(0) + torch.roll(x, 1, 2) + x.tril(),
    "sort": lambda x, y, w: x.sort(-1).values + torch.topk(x, 4, -1).values + x.argmax(1, keepdim=True),
    "views": lambda x, y, w: x.view(2, -1).reshape(6, 4).unflatten(0, (2, 3)).flatten(1).unsqueeze(-1).squeeze(-1),
    "axes": lambda x, y, w: x.transpose(0, -1).permute(2, 0, 1).movedim(0, 1).mT.contiguous().view(-1),
    "parts": lambda x, y, w: (
        torch.cat([a * (i + 1) for i, a in enumerate(x.chunk(2, -1))], -1) + torch.stack(x.unbind(0))
    ),
    "split": lambda x, y, w: torch.cat([*x.split([1, 3], 2), *torch.split(x, 2, -1)], 2) + torch.stack(list(y)).sum(),
    "shared cat": lambda x, y, w: torch.cat([x, SHARED.expand(2, 1, 4)], 1) + torch.stack([y[0], SHARED]).sum(0),
    "index": lambda x, y, w: (
        x[:, 1] + x[..., INDEX, :].sum(-2) + x[0, None, :, 1:3].sum() + x[:, [0, 2]].sum(1) + x[-1, -1]
    ),
    "index twice": lambda x, y, w: x[torch.tensor([0, 1]), :, torch.tensor([1, 3])] + x[INDEX % 2, INDEX % 3].sum(),
    "index mask": lambda x, y, w: y[:, SHARED > 0].sum() + y[torch.tensor([True, False, True])],
    "own index": lambda x, y, w: x.gather(1, x.argsort(1)) + torch.take_along_dim(y, y.argmax(0, keepdim=True), 0),
    "select": lambda x, y, w: x.select(1, -1) + x.narrow(1, 0, 1).squeeze(1) + x.index_select(1, INDEX).sum(1),
    "expand": lambda x, y, w: (
        y.expand(2, -1, -1) + y[:, :1].expand_as(x) + y.repeat(2, 1, 1) + y.repeat_interleave(1, 0)
    ),
    "pad": lambda x, y, w: F.pad(x, (1, 0, 0, 2), value=0.5) + F.pad(x, (1, 0), mode="replicate").sum(),
    "in place": lambda x, y, w: updated(x),
    "set item": lambda x, y, w: masked(x),
    "masked": lambda x, y, w: x.masked_fill(x < 0, 0.5) + y.masked_fill(SHARED > 0, -1.0) + x.masked_fill(y > 0, 2.0),
    "scatter": lambda x, y, w: (
        x.scatter_add(1, torch.zeros(2, 3, 4, dtype=torch.long), x) + x.index_add(1, INDEX[:2], x[:, :2])
    ),
    "copy": lambda x, y, w: torch.empty_like(x).copy_(y) * x + torch.zeros_like(x).add_(x) + x.new_zeros(4).fill_(2),
    "linear": lambda x, y, w: F.linear(x, w) + F.linear(SHARED.expand(3, 4), w, w[:, 0]) + F.linear(y[0], w),
    "linear shared": lambda x, y, w: F.linear(x, TABLE, w[:, 1]) + F.linear(x, w, TABLE[:, 0]),
    "vectors": lambda x, y, w: (y @ SHARED).sum() + (SHARED @ y.T) @ y + torch.dot(y[0], y[1]) + y @ w[0] @ y,
    "matmul": lambda x, y, w: x @ w.T + (y @ w.T) * torch.matmul(x, y.mT).sum(),
    "shared matmul": lambda x, y, w: (
        (TABLE[:3] @ y.T) @ x + torch.bmm(x, x.mT).sum() + torch.addmm(y, y @ y.T, y, beta=0.5)
    ),
    "einsum": lambda x, y, w: (
        torch.einsum("bij,oj->bio", x, w) + torch.einsum("...j,oj", x, TABLE) * torch.einsum("ij,ij", y, y)
    ),
    "layer norm": lambda x, y, w: (
        F.layer_norm(x, (4,), w[0], w[1]) + F.layer_norm(x, (3, 4)) + F.layer_norm(TABLE[:3], (4,), w[0])
    ),
    "embedding": lambda x, y, w: (
        F.embedding(INDEX, w, padding_idx=1).sum(0) + F.embedding(y.argmax(0), w) + F.embedding(y.argmax(0), TABLE)
    ),
    "attention": lambda x, y, w: F.scaled_dot_product_attention(
        x[None], x[None] * 2, y[None, None].expand(1, 2, 3, 4), is_causal=True
    ),
    "attention mask": lambda x, y, w: F.scaled_dot_product_attention(
        x[None], x[None], x[None], attn_mask=(x @ x.mT > -9)[None]
    ),
    "attention 3": lambda x, y, w: F.scaled_dot_product_attention(x, x, x, attn_mask=torch.ones(3, 3).tril().double()),
    "bilinear": lambda x, y, w: F.bilinear(x, y.expand(2, 3, 4), w.reshape(5, 2, 2).repeat(1, 2, 2), w[:, 0]),
    "distances": lambda x, y, w: torch.cdist(x, y.expand(2, 3, 4)) + F.cosine_similarity(x, y, -1).sum(),
    "losses": lambda x, y, w: (
        F.cross_entropy(y, INDEX[:3]) + F.mse_loss(x, y.expand(2, 3, 4)) + F.smooth_l1_loss(x, x * 0)
    ),
    "solve": lambda x, y, w: torch.linalg.solve(y @ y.T + 3 * torch.eye(3), y) + torch.linalg.matrix_norm(x).sum(),
    "types": lambda x, y, w: x.float().double() + x.to(y) + x.long().type_as(y) + (x > 0).sum() * y.to(torch.float64),
    "small types": lambda x, y, w: x.float() * y.sum().detach() + (SHARED.float() * y.sum().float()).double(),
    "glu": lambda x, y, w: F.glu(x, -1) + F.glu(x),
    "pools of series": lambda x, y, w: F.avg_pool1d(x, 2) + F.max_pool1d(x, 2) + F.adaptive_avg_pool1d(x, 2),
    "meshes": lambda x, y, w: torch.meshgrid(y[0], y[1], indexing="ij")[0] + torch.outer(y[0], y[1]) + torch.diag(y[0]),
    "triangle": lambda x, y, w: torch.triu(y) + torch.diagonal(y).sum() + y.trace() + torch.kron(y[:1, :1], y),
}


def interleaved(x: Tensor) -> Tensor:
    h = x * 2
    h += x
    h -= VECTOR[:, None, None]
    F.relu(h, inplace=True)
    g = h.clone()
    g[:, 0] = 1.0
    g += x.mean(1, keepdim=True)
    return g * h


# Functions of one candidate's images x [2, 4, 6, 6], kernels k [4, 4, 3, 3], vector v [4].
IMAGE: dict[str, Case] = {
    "convolution": lambda x, k, v: (
        F.conv2d(x, k, v, padding=1, stride=2) + F.conv2d(x, k[:, :1], groups=4)[:, :, :3, :3]
    ),
    "shared images": lambda x, k, v: (
        F.conv2d(PICTURE, k, v, padding="same") + F.conv2d(PICTURE, k[:, :2], v, 1, 1, 1, 2) + x
    ),
    "frozen kernel": lambda x, k, v: F.conv2d(x, KERNEL, v, dilation=2) + F.conv2d(x, k, VECTOR)[:, :, :2, :2],
    "transposed": lambda x, k, v: F.conv_transpose2d(x, k, v, 2) + F.conv_transpose2d(PICTURE, k, v, stride=2),
    "one image": lambda x, k, v: F.conv2d(x[0], k, v) + F.max_pool2d(x[1], 3, 1),
    "flat": lambda x, k, v: F.conv1d(x.flatten(2), k[:, :, 0], v) + F.conv1d(x[:, :, 0], k[:, :, 0]).sum(),
    "volume": lambda x, k, v: F.conv3d(x[:, :, None], k[:, :, None], v) + F.avg_pool3d(x[:, :, None], (1, 3, 3), 1),
    "pools": lambda x, k, v: (
        F.max_pool2d(x, 2) + F.avg_pool2d(x, 2) + F.adaptive_avg_pool2d(x, 3) + F.adaptive_max_pool2d(x, 3)
    ),
    "lp pool": lambda x, k, v: F.lp_pool2d(x.abs() + 1, 2, 2) + F.max_pool2d(x, 2, return_indices=True)[0],
    "channels": lambda x, k, v: (
        x * v[:, None, None] + VECTOR[:, None, None] + x * x.mean((2, 3), keepdim=True) + v.sum() * x
    ),
    "one channel": lambda x, k, v: x * x.mean(1, keepdim=True) + x[:, :1] * x + PICTURE * x + PICTURE[:, :1] - x,
    "rows": lambda x, k, v: (
        x - x[:1] + x * x[:, :, :1] + x[:, 1:3].repeat(1, 2, 1, 1) + x.amax((2, 3))[:, :, None, None]
    ),
    "slices": lambda x, k, v: x[:, :, ::2, 1:4] + F.pad(x[:, :2, ::2, ::2], (0, 0, 0, 0, 1, 1)) + x[..., :3, :3],
    "pads": lambda x, k, v: (
        F.pad(x, (1, 2, 0, 0), "reflect") + F.pad(x, (3, 0, 0, 0)) + F.pad(x, (0, 3), "constant", 2.0)
    ),
    "cat": lambda x, k, v: (
        torch.cat([x, x[:, :2] * 2, F.relu(x)], 1)[:, 2:6]
        + torch.cat([x, x * 2])[1:3]
        + torch.cat([x, PICTURE], 1)[:, 3:7]
    ),
    "batch norm": lambda x, k, v: (
        F.batch_norm(x, None, None, v, v * 2, True) + F.batch_norm(PICTURE, None, None, v, None, True)
    ),
    "evaluated norm": lambda x, k, v: F.batch_norm(x, v.detach(), v.detach().square() + 1, None, VECTOR, False),
    "series norm": lambda x, k, v: (
        F.batch_norm(x.flatten(2), None, None, v, v, True)
        + F.batch_norm(x.flatten(2)[:, :, 0], None, None, v, v, True).sum()
    ),
    "group norm": lambda x, k, v: F.group_norm(x, 2, v, v) + F.instance_norm(x, weight=v) + F.group_norm(x, 1),
    "flatten": lambda x, k, v: (
        F.linear(x.flatten(1), torch.ones(1, 144, dtype=torch.float64)) + x.mean((2, 3)).view(2, -1).sum()
    ),
    "resize": lambda x, k, v: F.interpolate(x, scale_factor=2) + F.interpolate(x, (12, 12), mode="bilinear"),
    "shuffle": lambda x, k, v: (
        F.pixel_shuffle(x, 2) + F.unfold(x, 3).sum() + F.channel_shuffle(x, 2).sum((1, 2, 3))[:, None, None, None]
    ),
    "in place": lambda x, k, v: interleaved(x),
    "layout": lambda x, k, v: x.permute(0, 2, 3, 1).contiguous() @ k[0, :, 0] + x.contiguous().sum() + x.clone().sum(),
    "sums": lambda x, k, v: (
        x.sum(1) + x.sum((2, 3)).sum() + x.mean() + x.sum(3).mean() + x.std((2, 3)).sum() + x.softmax(1).amax(1)
    ),
}
PICTURE, KERNEL = (numbers(*shape, seed=9)[0] for shape in ((2, 4, 6, 6), (4, 4, 3, 3)))
VECTOR = numbers(4, seed=8)[0]


def check(function: Case, raws: list[Tensor], images: bool) -> None:
    mine, theirs = ([raw.clone().requires_grad_() for raw in raws] for _ in range(2))
    first = stacked_images(to_images(mine[0]), P) if images else stacked(mine[0])
    found = leading(function(first, *map(stacked, mine[1:])))
    expected = torch.stack([function(*(raw[place] for raw in theirs)) for place in range(P)])
    torch.testing.assert_close(found, expected, rtol=1e-11, atol=1e-12)
    if expected.requires_grad:
        weight = torch.linspace(1, 2, expected.numel(), dtype=expected.dtype).view(expected.shape)
        gradients = [
            torch.autograd.grad((out * weight).sum(), raw, allow_unused=True, materialize_grads=True)
            for out, raw in ((found, mine), (expected, theirs))
        ]
        torch.testing.assert_close(*gradients, rtol=1e-10, atol=1e-11)


@pytest.mark.parametrize("name", LEADING)
def test_tensors(name: str) -> None:
    check(LEADING[name], [numbers(2, 3, 4), numbers(3, 4, seed=1), numbers(5, 4, seed=2)], images=False)


@pytest.mark.parametrize("name", IMAGE)
@pytest.mark.parametrize("images", [True, False])
def test_images(name: str, images: bool) -> None:
    check(IMAGE[name], [numbers(2, 4, 6, 6), numbers(4, 4, 3, 3, seed=1), numbers(4, seed=2)], images)


DRAWN: dict[str, Case] = {
    "dropout": lambda x: F.dropout(x, 0.3) + F.dropout(x.transpose(0, 1), 0.6).transpose(0, 1),
    "in place": lambda x: F.dropout(x * 2, 0.3, inplace=True),
    "channels": lambda x: F.dropout2d(x[None], 0.4)[0] + F.dropout1d(x, 0.4),
    "alpha": lambda x: F.alpha_dropout(x, 0.3, True) + F.feature_alpha_dropout(x, 0.4, True),
    "noise": lambda x: x + torch.randn_like(x) * torch.rand_like(x[0]) + torch.empty_like(x).uniform_(-1, 1),
    "gumbel": lambda x: F.gumbel_softmax(x, dim=-1) + x.new_empty(4).bernoulli_(0.5),
    "attention": lambda x: F.scaled_dot_product_attention(x[None], x[None], x[None], dropout_p=0.5),
}


@pytest.mark.parametrize("name", DRAWN)
def test_draws_are_those_of_each_candidate_alone(name: str) -> None:
    x = numbers(2, 3, 4)
    with torch_global_scope(0, "dropout"):
        found = leading(DRAWN[name](stacked(x)))
        after = torch.get_rng_state()
    for place in range(P):
        with torch_global_scope(0, "dropout"):
            expected = DRAWN[name](x[place])
            assert torch.equal(after, torch.get_rng_state())
        torch.testing.assert_close(found[place], expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("last", [True, False])
def test_masks_of_images_follow_the_memory_order_of_one_candidate(last: bool) -> None:
    x = numbers(2, 3, 4, 4).float()
    order = None if last else (0, 1, 2, 3)
    with torch_global_scope(0, "dropout"):
        found = leading(F.dropout(stacked_images(to_images(x), P, order), 0.5))
    for place in range(P):
        one = x[place].contiguous(memory_format=torch.channels_last if last else torch.contiguous_format)
        with torch_global_scope(0, "dropout"):
            assert torch.equal(found[place], F.dropout(one, 0.5))


@pytest.mark.parametrize(
    ("function", "words"),
    [
        (lambda x: x.sum().item(), "item"),
        (lambda x: float(x.sum()), "float"),
        (lambda x: x if x.any() else -x, "bool"),
        (lambda x: f"{x.sum():.3f}", "format"),
        (lambda x: x.numpy(), "numpy"),
        (lambda x: torch.equal(x, x), "equal"),
        (lambda x: x[x > 0], "mask that differs"),
        (lambda x: torch.masked_select(x, x > 0), "masked_select"),
        (lambda x: torch.zeros(4, dtype=torch.float64).add_(x), "all of them share"),
        (lambda x: torch.zeros(2, 4, dtype=torch.float64).index_add_(0, torch.tensor([0]), x[:1]), "all of them share"),
        (lambda x: torch.zeros(2, 3, 4, dtype=torch.float64).__setitem__(0, x[0]), "all of them share"),
        (lambda x: torch.add(x, x, out=torch.empty(2)), "out"),
        (lambda x: F.rrelu(x, training=True), "RReLU"),
        (lambda x: torch.multinomial(x.softmax(-1)[0], 1), "multinomial"),
        (lambda x: torch.as_strided(x, (2, 2), (1, 1)), "as_strided"),
        (lambda x: torch.nn.functional.threshold(x, x, 1), "threshold"),
    ],
)
def test_what_has_no_stacked_answer(function: Callable[[Tensor], Any], words: str) -> None:
    with pytest.raises(NotStackable, match=words):
        function(stacked(numbers(3, 4)))
