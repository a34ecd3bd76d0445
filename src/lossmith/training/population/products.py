"""Rules for products of matrices and what is built on them: attention, embeddings."""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from lossmith.training.population.stacked import (
    NotStackable,
    Stacked,
    apart,
    count_of,
    leading,
    raw_of,
    rule,
    stacked,
)


@rule(torch.matmul, Tensor.matmul, Tensor.__matmul__, torch.mm, Tensor.mm, torch.bmm, Tensor.bmm, torch.mv, Tensor.mv)
def matmul(x: Any, y: Any) -> Any:
    """A product of matrices or vectors, each of which is shared or not."""
    row, column = x.dim() == 1, y.dim() == 1
    a = _matrix(x, 1) if row else raw_of(x)
    b = _matrix(y, -1) if column else raw_of(y)
    if isinstance(x, Stacked) and isinstance(y, Stacked):
        most = max(a.dim(), b.dim())
        a, b = _behind_first(a, most), _behind_first(b, most)
    elif isinstance(x, Stacked):
        a = _behind_first(a, b.dim() + 1)
    else:
        b = _behind_first(b, a.dim() + 1)
    out = torch.matmul(a, b)
    if row:
        out = out.squeeze(-2)
    return stacked(out.squeeze(-1) if column else out)


@rule(Tensor.__rmatmul__)
def _rmatmul(x: Any, y: Any) -> Any:
    return matmul(y, x)


@rule(torch.dot, Tensor.dot, torch.inner, Tensor.inner)
def _dot(x: Any, y: Any) -> Any:
    if x.dim() == 1 and y.dim() == 1:
        return (x * y).sum(-1)
    return matmul(x, y.mT if y.dim() > 1 else y)


@rule(torch.baddbmm, Tensor.baddbmm, torch.addmm, Tensor.addmm, torch.addmv, Tensor.addmv)
def _added(start: Any, x: Any, y: Any, *, beta: float = 1, alpha: float = 1) -> Any:
    found = matmul(x, y)
    found = found if alpha == 1 else found * alpha
    return found + (start if beta == 1 else start * beta) if beta else found


def _matrix(vector: Any, at: int) -> Tensor:
    """A vector as a matrix of one row (at=1) or one column (at=-1)."""
    return raw_of(vector).unsqueeze(-2 if at == 1 else -1)  # type: ignore[no-any-return]


def _behind_first(raw: Tensor, dims: int) -> Tensor:
    """[P, …] with axes of length 1 behind the first, so that there are `dims`."""
    missing = dims - raw.dim()
    return raw.reshape(raw.shape[0], *[1] * missing, *raw.shape[1:]) if missing > 0 else raw


@rule(F.bilinear, torch.bilinear)
def _bilinear(x: Any, y: Any, weight: Any, bias: Any = None) -> Any:
    turned = torch.einsum("...i,oij->...oj", x, weight)
    found = (turned * y.unsqueeze(-2)).sum(-1)
    return found if bias is None else found + bias


@rule(F.scaled_dot_product_attention)
def attention(
    query: Any,
    key: Any,
    value: Any,
    attn_mask: Any = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> Stacked:
    """Attention of [N, H, L, E]; candidates are more rows of it. With dropout it is written out, for the draws."""
    parts = (query, key, value)
    plain = all(part.dim() == 4 for part in parts) and not enable_gqa and dropout_p == 0
    count = count_of((*parts, attn_mask))
    if plain and not isinstance(attn_mask, Stacked):
        rows = query.shape[0]
        raws = [_rows(part, count) for part in parts]
        if attn_mask is not None and attn_mask.dim() == 4 and attn_mask.shape[0] == rows and rows > 1:
            attn_mask = attn_mask.repeat(count, 1, 1, 1)
        found = F.scaled_dot_product_attention(
            raws[0], raws[1], raws[2], attn_mask=attn_mask, is_causal=is_causal, scale=scale
        )
        return stacked(apart(found, count, 0))
    if enable_gqa:
        raise NotStackable("attention with grouped queries has no rule for stacked tensors.")
    factor = math.sqrt(1 / math.sqrt(query.shape[-1]) if scale is None else scale)
    scores = (query * factor) @ (key * factor).transpose(-2, -1)
    if is_causal:
        seen = torch.ones(scores.shape[-2:], dtype=torch.bool, device=scores.device).tril()
        scores = scores.masked_fill(~seen, -math.inf)
    if attn_mask is not None:
        scores = scores.masked_fill(~attn_mask, -math.inf) if attn_mask.dtype == torch.bool else scores + attn_mask
    share = F.dropout(torch.softmax(scores, -1), dropout_p)
    return share @ value  # type: ignore[no-any-return]


def _rows(part: Any, count: int) -> Tensor:
    """[P·N, H, L, E] of a stacked or shared [N, H, L, E]."""
    raw = leading(part) if isinstance(part, Stacked) else part.expand(count, *part.shape)
    return raw.flatten(0, 1)


@rule(F.embedding)
def embedding(
    index: Any,
    weight: Any,
    padding_idx: int | None = None,
    max_norm: float | None = None,
    norm_type: float = 2.0,
    scale_grad_by_freq: bool = False,
    sparse: bool = False,
) -> Stacked:
    """`F.embedding`: candidates' tables one below the other, each with indices of its own."""
    if max_norm is not None or scale_grad_by_freq or sparse:
        raise NotStackable("an embedding with max_norm, scale_grad_by_freq or sparse has no rule for stacked tensors.")
    if not isinstance(weight, Stacked):
        return stacked(F.embedding(leading(index), weight, padding_idx))
    table = leading(weight)
    count, size = table.shape[:2]
    raw = leading(index) if isinstance(index, Stacked) else index.expand(count, *index.shape)
    first = torch.arange(0, count * size, size, device=raw.device).reshape(count, *[1] * (raw.dim() - 1))
    found = F.embedding(raw + first, table.flatten(0, 1))
    if padding_idx is not None:  # its row gets no gradient
        found = torch.where((raw == padding_idx % size).unsqueeze(-1), found.detach(), found)
    return stacked(found)


@rule(torch.einsum, torch.functional.einsum)
def _einsum(equation: Any, *operands: Any) -> Any:
    """`einsum` with the candidates as one more axis of what is stacked."""
    if not isinstance(equation, str):
        raise NotStackable("einsum with lists of axes has no rule for stacked tensors: give it an equation.")
    parts = list(operands[0]) if len(operands) == 1 and isinstance(operands[0], list | tuple) else list(operands)
    left, arrow, right = equation.replace(" ", "").partition("->")
    free = next(letter for letter in "ZYXWVUTSRQPONMLKJIHGFEDCBA" if letter not in equation)
    if not arrow:  # every letter that appears once, in alphabetical order, behind the dots
        letters = left.replace("...", "").replace(",", "")
        right = ("..." if "..." in left else "") + "".join(sorted(a for a in set(letters) if letters.count(a) == 1))
    pairs = zip(left.split(","), parts, strict=True)
    terms = [free + term if isinstance(part, Stacked) else term for term, part in pairs]
    return stacked(torch.einsum(",".join(terms) + "->" + free + right, *(raw_of(part) for part in parts)))
