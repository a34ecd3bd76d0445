# mypy: allow-untyped-defs
"""Products with the rows' own Jacobians ∂z_n/∂a_n, which candidates share: derivatives down to a layer, tangents up.

Compiled (numba) on the CPU: as a batch of products over rows the candidates would be one axis of them, and their number
would decide how sums are rounded.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numba
import torch
from torch import Tensor


def _compiled(function: Callable[..., Any]) -> Any:
    # Sums in whatever order is fastest, the same for every candidate; what is not finite is left to IEEE.
    options: dict[str, Any] = {"nogil": True, "error_model": "numpy", "fastmath": {"reassoc", "contract", "nsz"}}
    try:
        return numba.njit(function, cache=True, **options)
    except RuntimeError:  # no folder for the cache: compiled anew in every process
        return numba.njit(function, **options)


def pulled(delta: Tensor, jacobian: Tensor, out: Tensor) -> Tensor:
    """Σ_c δ_nc · ∂z_nc/∂a_no of each candidate.

    Args:
        delta: [P, N, C]. jacobian: [N, C, O]. out: [P, N, O], contiguous, written to.
    """
    if not _by_hand(delta):
        return out.copy_(torch.einsum("pnc,nco->pno", delta, jacobian))
    _pull(delta.contiguous().numpy(), jacobian.numpy(), out.numpy())
    return out


def push(tangent: Tensor, jacobian: Tensor, into: Tensor) -> None:
    """into_nc += Σ_o ∂z_nc/∂a_no · ȧ_no of each candidate.

    Args:
        tangent: [P, N, O]. jacobian: [N, C, O]. into: [P, N, C], contiguous.
    """
    if _by_hand(tangent):
        _push(tangent.contiguous().numpy(), jacobian.numpy(), into.numpy())
    else:
        into += torch.einsum("pno,nco->pnc", tangent, jacobian)


def _by_hand(tensor: Tensor) -> bool:
    return tensor.device.type == "cpu" and tensor.dtype in (torch.float32, torch.float64)


@_compiled
def _pull(delta, jacobian, out):
    population, rows, outputs = delta.shape
    for n in range(rows):  # a row's Jacobian stays in the first-level cache
        for k in range(population):
            row, j = out[k, n], jacobian[n]
            for o in range(len(row)):
                row[o] = delta[k, n, 0] * j[0, o]
            c = 1
            while c + 2 < outputs:
                x, y, z = delta[k, n, c], delta[k, n, c + 1], delta[k, n, c + 2]
                for o in range(len(row)):
                    row[o] += x * j[c, o] + y * j[c + 1, o] + z * j[c + 2, o]
                c += 3
            while c < outputs:
                x = delta[k, n, c]
                for o in range(len(row)):
                    row[o] += x * j[c, o]
                c += 1


@_compiled
def _push(tangent, jacobian, into):
    population, rows, outputs = into.shape
    zero = tangent.dtype.type(0)
    for n in range(rows):
        for k in range(population):
            row, j = tangent[k, n], jacobian[n]
            c = 0
            while c + 1 < outputs:
                x, y = zero, zero
                for o in range(len(row)):
                    x += row[o] * j[c, o]
                    y += row[o] * j[c + 1, o]
                into[k, n, c] += x
                into[k, n, c + 1] += y
                c += 2
            if c < outputs:
                x = zero
                for o in range(len(row)):
                    x += row[o] * j[c, o]
                into[k, n, c] += x
