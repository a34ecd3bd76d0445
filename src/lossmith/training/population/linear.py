"""Linear layers of a population: each of the three products of a step in the orientation in which it is fastest.

Stacked, the layer and its derivatives are products of P pairs of matrices. On the CPU a product with few columns runs
at a quarter of the speed of its transpose, and the gradient of the weights is only contiguous, as optimisers want it,
when it is computed as gᵀ·x. Autograd would choose otherwise.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from lossmith.training.population.stacked import Stacked, leading, rule, stacked

THIN = 32  # outputs of a layer up to which its transposed product is the faster one on the CPU


class _Linear(torch.autograd.Function):
    """x [P, N, I], weight [P, O, I], bias [P, O] or None → x·weightᵀ + bias, [P, N, O].

    Of the older kind, whose forward gets ctx: torch looks up the signature of the newer at each call, which takes as
    long as the products of eight small candidates. Transforms of torch.func need the newer: `linear` does without.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, thin: bool) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.save_for_forward(x, weight)
        ctx.thin, ctx.biased = thin, bias is not None
        return _product(x, weight, bias, thin)

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor | None, ...]:
        x, weight = ctx.saved_tensors
        g = g.contiguous()  # in another order of memory sums are rounded by how many candidates there are
        gx = torch.bmm(g, weight) if ctx.needs_input_grad[0] else None
        gw = torch.bmm(g.transpose(1, 2), x) if ctx.needs_input_grad[1] else None
        gb = g.sum(1) if ctx.biased and ctx.needs_input_grad[2] else None
        return gx, gw, gb, None

    @staticmethod
    def jvp(ctx: Any, *tangents: Any) -> Tensor | None:
        x, weight = ctx.saved_tensors
        tx, tw, tb, _ = tangents
        found = None if tx is None else _product(tx, weight, None, ctx.thin)
        if tw is not None:
            moved = _product(x, tw, None, ctx.thin)
            found = moved if found is None else found + moved
        if tb is not None:
            moved = tb.unsqueeze(1).expand(-1, x.shape[1], -1)
            found = moved.clone() if found is None else found + moved
        return found


def _product(x: Tensor, weight: Tensor, bias: Tensor | None, thin: bool) -> Tensor:
    if thin:
        turned = x.transpose(1, 2)  # [P, I, N]
        found = torch.bmm(weight, turned) if bias is None else torch.baddbmm(bias.unsqueeze(2), weight, turned)
        return found.transpose(1, 2)
    turned = weight.transpose(1, 2)
    return torch.bmm(x, turned) if bias is None else torch.baddbmm(bias.unsqueeze(1), x, turned)


@rule(F.linear)
def linear(x: Any, weight: Any, bias: Any = None) -> Stacked:
    """`F.linear` of a shared or stacked input."""
    if not isinstance(weight, Stacked):
        if isinstance(bias, Stacked):
            found: Stacked = linear(x, weight) + bias
            return found
        return stacked(F.linear(leading(x), weight, bias))
    w, count = leading(weight), weight.count
    if weight.dim() == 1:  # F.linear knows it: a product with a vector
        found = x @ weight
        return found if bias is None else found + bias
    b = leading(bias) if isinstance(bias, Stacked) else None if bias is None else bias.expand(count, -1)
    if isinstance(x, Stacked):
        raw = leading(x)
        rows = raw.shape[1:-1]
        flat = raw.reshape(count, -1, raw.shape[-1]) if raw.dim() != 3 else raw
    else:
        rows = x.shape[:-1]
        flat = (x.reshape(-1, x.shape[-1]) if x.dim() != 2 else x).expand(count, -1, -1)
    device = flat.device.type
    if torch.is_autocast_enabled(device) and w.dtype != torch.float64:  # autocast leaves these alone
        # Here and not in the products, so that the backward pass, which autocast does not reach, has equal types.
        kind = torch.get_autocast_dtype(device)
        flat, w, b = flat.to(kind), w.to(kind), None if b is None else b.to(kind)
    thin = device == "cpu" and w.shape[1] <= THIN
    product: Any = _product if torch._C._are_functorch_transforms_active() else _Linear.apply
    out = product(flat, w, b, thin)
    if len(rows) != 1:
        out = out.reshape(count, *rows, out.shape[-1]) if rows else out.squeeze(1)
    return stacked(out, tuple(range(out.dim() - 1)) if thin else None)
