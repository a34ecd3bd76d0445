"""One batch as the interpreter reads it: outputs, targets and weights as arrays of elements."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from lossmith.losses import delta_kernel as machine
from lossmith.losses.inputs import LEAST_LOG, compute_inputs
from lossmith.losses.interpreter import Population
from lossmith.losses.loss import Loss
from lossmith.losses.tangents import Array, channels, packed, tangents, tangents_along, through_complement

_HEADS = {"softmax": machine.SOFTMAX, "sigmoid": machine.SIGMOID, "identity": machine.IDENTITY}
_silently = np.errstate(all="ignore")  # what is not finite is a result like any other: the caller looks at it
_LOGS = frozenset({"p", "log_p", "log_1mp", "inv_p"})


@dataclass(frozen=True)
class Elements:
    """A batch under one head.

    Attributes:
        head: softmax, sigmoid or identity.
        shape: [1 or P, N, C], or [1 or P, N, C, 2] under sigmoid.
        x: inputs by name, each broadcastable to `shape`.
        weight: per row, [N]. share: factor of the sum over outputs. divisor: of the sum over rows.
        scalars: (n, τ).
    """

    head: str
    shape: tuple[int, ...]
    x: dict[str, Array]
    weight: Array
    share: float
    divisor: float
    scalars: tuple[float, float]

    def rows(self, population: Population) -> Array:
        """The inputs of a population, [1 or P, I, M]."""
        return packed(population.reads, self.x, self.shape, self.weight.dtype)

    @_silently
    def values_and_deltas(self, population: Population, phi: Array | None = None) -> tuple[Array, Array, Array]:
        """Losses [P], losses per row [P, N] and ∂loss/∂output [P, N, C]."""
        count, dtype = len(population), self.weight.dtype
        names, x = population.reads[: population.moving], self.rows(population)
        slopes: dict[str, Array] = {}
        for channel in channels(self.head, names):
            along = tangents(self.head, names, self.x, channel)
            dx = packed(names, along, self.shape, dtype)
            values, slopes[channel] = population.values_and_slopes(x, dx, self.scalars, phi=phi)
        if not slopes:
            values = population.values(x, self.scalars, phi=phi)
        n, c = self.shape[1:3]
        totals, rows, delta = np.empty(count, dtype), np.empty((count, n), dtype), np.empty((count, n, c), dtype)
        main = slopes[""] if "" in slopes else np.zeros(values.shape, dtype)
        p = self.x["p"] if self.head == "softmax" else delta
        machine.gather(_HEADS[self.head], values, main, p, self.weight, self.share, self.divisor, totals, rows, delta)
        for channel in slopes.keys() - {""}:
            more = slopes[channel].reshape(count, n, c)
            more = more if channel == "z" else through_complement(more, self.x)
            more = (self.weight * (self.share / self.divisor))[:, None] * more
            delta += np.where(self.weight[:, None] == 0, 0, more)
        return totals, rows, delta

    @_silently
    def mixed(self, population: Population, direction: Array, phi: Array | None = None) -> list[Array]:
        """∂/∂φ of the loss's slope along a direction in the outputs [P, N, C], one array [K] per loss."""
        dtype, names = self.weight.dtype, population.reads[: population.moving]
        direction = np.where(self.weight[:, None] == 0, 0, direction)
        along = tangents_along(self.head, names, self.x, direction)
        dx = packed(names, along, (len(population), *self.shape[1:]), dtype)
        factor = self.weight * (self.share / self.divisor)
        weight = np.repeat(factor, math.prod(self.shape[2:]))
        return population.mixed(self.rows(population), dx, weight.astype(dtype, copy=False), self.scalars, phi=phi)


@_silently
def elements(
    loss: Loss,
    population: Population,
    output: Tensor,
    target: Tensor,
    weight: Tensor | None = None,
    progress: float | None = None,
) -> Elements | None:
    """A batch for the interpreter, or None where `Loss.forward` would have something to say about it.

    Args:
        loss: its head, smoothing, prior and reductions count, not its kernel.
        population: says which inputs are read.
        output: [N, C], or [P, N, C] for each loss of the population its own; float32 or float64 on the CPU.
        target, weight, progress: as for `Loss.forward`, weight [N].
    """
    z = output.detach()
    n, c = z.shape[-2:]
    classes = 2 if loss.head == "sigmoid" else c
    if c < 2 and loss.head == "softmax":
        return None
    if ("tau" in population.scalars and progress is None) or (weight is not None and weight.shape != (n,)):
        return None
    if "prior" in population.reads and (loss.prior is None or len(loss.prior) != classes):
        return None
    array = np.ascontiguousarray(z.numpy())
    w = np.ones(n, array.dtype) if weight is None else np.ascontiguousarray(weight.detach().to(z.dtype).numpy())
    t = _targets(loss, z if z.dim() == 2 else z[0], target, weight)
    if weight is not None and not w.all():
        # What is not computed from cannot put its NaN into the gradient: 0 · NaN is NaN.
        array, t = np.where(w[:, None] == 0, 0, array), np.where(w[:, None] == 0, 0, t)
    array = array if array.ndim == 3 else array[None]
    x = _inputs(loss.head, frozenset(population.reads), array, t)
    pair = loss.head == "sigmoid"
    if "prior" in population.reads:
        x["prior"] = np.array(loss.prior, array.dtype)
    if "w" in population.reads:
        x["w"] = w[:, None, None] if pair else w[:, None]
    total = float(w.sum(dtype=np.float64)) if weight is not None else float(max(n, 1))
    return Elements(
        str(loss.head),
        (*array.shape, 2) if pair else array.shape,
        x,
        w,
        1.0 if loss.outputs == "sum" else 1.0 / (2 * c if pair else c),
        1.0 if loss.reduction == "sum" or total == 0 else total,
        (float(classes), 0.0 if progress is None else progress),
    )


def _targets(loss: Loss, z: Tensor, target: Tensor, weight: Tensor | None) -> Array:
    """Targets [N, C], smoothed."""
    n, c = z.shape
    if loss.head == "softmax" and target.dtype == torch.int64 and target.shape == (n,):
        t = np.empty((n, c), z.numpy().dtype)
        if machine.one_hot(np.ascontiguousarray(target.numpy()), t):
            if loss.smoothing:
                t *= 1 - loss.smoothing
                t += loss.smoothing / c
            return t
    encoded: Array = loss._encode(z, target.detach(), z.shape[:-1], weight).numpy()  # with its complaints
    return encoded


def _inputs(head: object, reads: frozenset[str], z: Array, t: Array) -> dict[str, Array]:
    if head != "softmax":
        wanted = reads - {"w", "prior"} | {"p"} | ({"log_p"} if "inv_p" in reads and head == "sigmoid" else set())
        computed = compute_inputs(wanted, torch.from_numpy(z), torch.from_numpy(t), str(head))
        return {name: value.numpy() for name, value in computed.items() if isinstance(value, Tensor)}
    none = np.empty((0, 0), z.dtype)
    logs = {name: np.empty_like(z) for name in ({"p", "log_p"} | (reads & _LOGS))}
    flat = {name: array.reshape(-1, z.shape[-1]) for name, array in logs.items()}
    edge = LEAST_LOG[z.dtype == np.float32]
    flat_z = z.reshape(-1, z.shape[-1])
    machine.softmax_logs(flat_z, flat["p"], flat["log_p"], flat.get("log_1mp", none), flat.get("inv_p", none), edge)
    x = {**logs, "t": t, "z": z}
    if "r" in reads:
        x["r"] = logs["p"] - t
    return x


def flat_phi(phi: Sequence[Tensor]) -> Array:
    """Loss parameters of a population, one after the other."""
    return np.concatenate([part.detach().numpy().astype(np.float64, copy=False).reshape(-1) for part in phi])
