"""One batch as the interpreter reads it: outputs, targets and weights as arrays of elements [C, L] (`delta_kernel`)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, NamedTuple, TypeAlias

import numpy as np
import torch
from torch import Tensor

from lossmith.losses import delta_kernel as machine
from lossmith.losses.inputs import LEAST_LOG, compute_inputs
from lossmith.losses.interpreter_kernel import LANES, NOTHING, ONES
from lossmith.losses.loss import Loss
from lossmith.losses.programs import Program
from lossmith.losses.tangents import Array, along, own_output, packed

Steps: TypeAlias = tuple[int, int, int]

_IN_SLOTS = {"p": machine.P, "log_p": machine.LOG_P, "log_1mp": machine.LOG_1MP, "inv_p": machine.INV_P,
             "r": machine.R, "z": machine.Z}  # fmt: skip
APART = ("log_1mp", "z")
"""Inputs that need a run of their own under softmax: δ has the pole p/(1 − p) in the slope along log p of the first,
which cancels against 1 − p only in exact arithmetic, and the second follows one output alone."""


@dataclass(frozen=True)
class Layout:
    """Where a population's inputs are under softmax.

    Attributes:
        slots: what `delta_kernel` calls slots; `p` is the first of them. rows: of x.
        channels: the directions to differentiate along, "" the main one, and for each the tangents `along` them.
    """

    slots: Array
    p: int
    rows: int
    channels: tuple[tuple[str, Array], ...]


@lru_cache(maxsize=256)
def _layout(population: Program) -> Layout:
    names = population.reads[: population.moving]
    rows = (
        list(names) + [name for name in ("p", "log_p") if name not in names] + ["slope of inv_p"] * ("inv_p" in names)
    )
    slots = [rows.index(name) if name in rows else -1 for name in _IN_SLOTS]
    slots.append(rows.index("slope of inv_p") if "inv_p" in names else -1)
    tangents = {"log_1mp": NOTHING, "z": NOTHING, "log_p": ONES, "p": slots[0], "r": slots[0], "inv_p": slots[-1]}
    main = [("", np.array([tangents[name] for name in names], np.int64))]
    apart = [
        (channel, np.array([ONES if name == channel else NOTHING for name in names], np.int64))
        for channel in APART
        if channel in names
    ]
    some = any(name not in APART for name in names)
    return Layout(np.array(slots, np.int64), slots[0], len(rows), tuple(main * some + apart))


class Elements(NamedTuple):
    """A batch under one head.

    Attributes:
        head: softmax, sigmoid or identity.
        outputs: C. lanes: L.
        x, rest: inputs with a tangent and without, [1 or P, rows, M], as `Population.run` takes them.
        named: of other heads than softmax, what `tangents.own_output` needs.
        weight: per row, [N]. share: factor of the sum over outputs. divisor: of the sum over rows.
        scalars: (n, τ).
    """

    population: Program
    head: str
    outputs: int
    lanes: int
    x: Array
    rest: Array
    named: dict[str, Array]
    weight: Array
    share: float
    divisor: float
    scalars: tuple[float, float]

    def values_and_deltas(
        self, places: Array, totals: Array, rows: Array, delta: Array, steps: Steps, phi: Array | None = None
    ) -> None:
        """Writes losses [≥ P], losses per row [≥ P, N] and ∂loss/∂output at the places of the candidates.

        Args:
            places: of the candidates in what is written.
            delta: flat, with `steps` from candidate to candidate, row to row, output to output.
            phi: loss parameters of the population, one after the other.
        """
        count, dtype = len(self.population), self.weight.dtype
        main, more, slot = None, np.empty((0, self.outputs, self.lanes), dtype), -1
        values = np.empty((count, self.x.shape[2]), dtype)
        if self.head == "softmax":
            layout = _layout(self.population)
            slot = layout.p
            for channel, tangents in layout.channels:
                slopes = np.empty_like(values)
                self._run(self.x, tangents, values, slopes, phi)
                if not channel:
                    main = slopes
                    continue
                more = more if len(more) else np.zeros((count, self.outputs, self.lanes), dtype)
                if channel == "z":
                    more += slopes.reshape(more.shape)
                else:
                    machine.through_complement(slopes.reshape(more.shape), self._by_output, layout.slots, more)
        elif self.population.moving:
            names = self.population.reads[: self.population.moving]
            main = np.empty_like(values)
            dx = packed(names, own_output(self.head, names, self.named), self._shape, dtype)
            self._run(dx, np.arange(len(names)), values, main, phi)
        if main is None:
            main = np.zeros_like(values)
            if not len(more):
                self._run(self.x, np.arange(0), values, main[:, :0], phi)
        shape = (count, values.shape[1] // max(1, self.lanes), self.lanes)
        fixed = (self._by_output, slot, self.weight, self.share, self.divisor, places)
        machine.gather(values.reshape(shape), main.reshape(shape), more, *fixed, totals, rows, delta, steps)

    def _run(self, dx: Array, tangents: Array, values: Array, slopes: Array, phi: Array | None) -> None:
        self.population.run(self.x, self.rest, dx, tangents, values, slopes, self.scalars, phi)

    def mixed(self, direction: Tensor, phi: Array | None = None) -> list[Array]:
        """∂/∂φ of the loss's slope along a direction in the outputs [P, N, C], one array [K] per loss."""
        population, dtype = self.population, self.weight.dtype
        names, count = population.reads[: population.moving], len(population)
        if self.head == "softmax":
            flat, steps = flattened(direction.detach().numpy())
            moved = np.empty((count, machine.SLOTS, self.outputs, self.lanes), dtype)
            machine.softmax_tangents(flat, steps, self.weight, self._by_output, _layout(population).slots, moved)
            dx = moved.reshape(count, machine.SLOTS, -1)
            rows = np.array([_IN_SLOTS["p" if name == "r" else name] for name in names], np.int64)
        else:
            moved = by_lanes(direction.detach().numpy(), self.weight, self.lanes)
            tangents = along(self.head, names, self.named, moved)
            dx, rows = packed(names, tangents, (count, *self._shape[1:]), dtype), np.arange(len(names))
        weight = np.zeros((1, self.x.shape[2] // max(1, self.lanes), self.lanes), dtype)
        weight[..., : len(self.weight)] = self.weight * (self.share / self.divisor)
        arrays = (self.x, self.rest, dx, rows, weight.reshape(1, -1))
        return population.run_mixed(*arrays, self.scalars, phi)

    @property
    def _by_output(self) -> Array:
        """x as [1 or P, rows, S, L]: S is C, or 2C of pairs."""
        return self.x.reshape(*self.x.shape[:2], self.x.shape[2] // max(1, self.lanes), self.lanes)

    @property
    def _shape(self) -> tuple[int, ...]:
        """Of the elements under a head other than softmax, before those of a pair are put apart."""
        shape = (self.x.shape[0], self.outputs, self.lanes)
        return (*shape, 2) if self.head == "sigmoid" else shape


def elements(
    loss: Loss,
    population: Program,
    output: Tensor,
    target: Tensor,
    weight: Tensor | None = None,
    progress: float | None = None,
    *,
    places: Array,
) -> Elements | None:
    """A batch for the interpreter, or None where `Loss.forward` would have something to say about it.

    Args:
        loss: its head, smoothing, prior and reductions count, not its kernel.
        population: says which inputs are read.
        output: [N, C], or [≥ P, N, C] for each loss of the population its own; without graph, float32 or float64 on
            the CPU.
        target, weight, progress: as for `Loss.forward`, weight [N].
        places: of the population in `output`.
    """
    n, c = output.shape[-2:]
    head, classes = str(loss.head), 2 if loss.head == "sigmoid" else c
    if c < 2 and head == "softmax":
        return None
    if ("tau" in population.scalars and progress is None) or (weight is not None and weight.shape != (n,)):
        return None
    if "prior" in population.reads and (loss.prior is None or len(loss.prior) != classes):
        return None
    z = output.numpy()
    z = z if z.ndim == 3 else z[None]
    w = _ones(n, z.dtype) if weight is None else np.ascontiguousarray(weight.detach().to(output.dtype).numpy())
    lanes = -(-n // LANES) * LANES
    t = _targets(loss, output if output.dim() == 2 else output[0], target, weight, lanes, z.dtype)
    if weight is not None and not w.all():
        # What is not computed from cannot put its NaN into the gradient: 0 · NaN is NaN.
        t[:, :n][:, w == 0] = 0
        t[:, n:] = t[:, :1]
    given: dict[str, Array] = {"t": t}
    shape: tuple[int, ...] = (1, c, lanes)
    if head == "softmax":
        layout = _layout(population)
        flat, steps = flattened(z)
        at = places if output.dim() == 3 else _FIRST
        of_outputs = np.empty((len(at), layout.rows, c, lanes), z.dtype)
        machine.softmax_inputs(flat, steps, at, w, t, layout.slots, LEAST_LOG[z.dtype == np.float32], of_outputs)
        x = of_outputs.reshape(len(at), layout.rows, c * lanes)
    else:
        given = _computed(head, population, z if output.dim() == 2 else z[places], t, w, lanes)
        shape = (*given["p"].shape[:3], 2) if head == "sigmoid" else given["p"].shape
        x = packed(population.reads[: population.moving], given, shape, z.dtype)
    names = population.reads[population.moving :]
    if "prior" in names:
        prior = np.array(loss.prior, z.dtype)
        given["prior"] = prior if head == "sigmoid" else prior[:, None]
    if "w" in names:
        padded = np.resize(w, lanes) if n else w
        given["w"] = padded[:, None] if head == "sigmoid" else padded
    only_t = names == ("t",) and head != "sigmoid"
    rest = t.reshape(1, 1, -1) if only_t else packed(names, given, (1, *shape[1:]), z.dtype)
    total = float(w.sum(dtype=np.float64)) if weight is not None else float(max(n, 1))
    share = 1.0 if loss.outputs == "sum" else 1.0 / (2 * c if head == "sigmoid" else c)
    divisor = 1.0 if loss.reduction == "sum" or total == 0 else total
    scalars = (float(classes), 0.0 if progress is None else float(progress))
    return Elements(population, head, c, lanes, x, rest, given, w, share, divisor, scalars)


_FIRST = np.zeros(1, np.int64)


@lru_cache(maxsize=16)
def _ones(count: int, dtype: np.dtype[Any]) -> Array:
    """Weights where none are given: only ever read."""
    return np.ones(count, dtype)


def _computed(head: str, population: Program, z: Array, t: Array, w: Array, lanes: int) -> dict[str, Array]:
    """What is read under sigmoid or identity, by name, [P, C, L] or [P, C, L, 2]."""
    wanted = frozenset(population.reads) - {"w", "prior"} | {"p"}
    wanted |= {"log_p"} if "inv_p" in wanted and head == "sigmoid" else set()
    computed = compute_inputs(wanted, torch.from_numpy(by_lanes(z, w, lanes)), torch.from_numpy(t), head)
    return {name: value.numpy() for name, value in computed.items() if isinstance(value, Tensor)}


def flattened(array: Array) -> tuple[Array, Steps]:
    """The numbers of an array [P, N, C] as they lie in memory, and the steps between candidates, rows and outputs."""
    if not array.flags.c_contiguous:
        order = sorted(range(3), key=array.strides.__getitem__, reverse=True)
        moved = array.transpose(order)
        if not moved.flags.c_contiguous:  # only a part of something, or the same for several
            return flattened(np.ascontiguousarray(array))
        flat, steps = moved.reshape(-1), array.strides
    else:
        flat, steps = array.reshape(-1), array.strides
    size = array.itemsize
    return flat, (steps[0] // size, steps[1] // size, steps[2] // size)


def by_lanes(array: Array, weight: Array, lanes: int) -> Array:
    """Rows [P, N, C] as [P, C, L]: zeros in rows of weight 0, rows too many as the first."""
    n = len(weight)
    found = np.empty((len(array), array.shape[2], lanes), weight.dtype)
    found[..., :n] = np.where(weight == 0, 0, array.swapaxes(1, 2))
    found[..., n:] = found[..., :1]
    return found


def _targets(loss: Loss, z: Tensor, target: Tensor, weight: Tensor | None, lanes: int, dtype: np.dtype[Any]) -> Array:
    """Targets [C, L], smoothed."""
    n, c = z.shape
    t = np.empty((c, lanes), dtype)
    labels = loss.head == "softmax" and target.dtype == torch.int64 and target.shape == (n,)
    if labels and machine.one_hot(np.ascontiguousarray(target.numpy()), t):
        if loss.smoothing:
            t *= 1 - loss.smoothing
            t += loss.smoothing / c
        return t
    encoded = loss._encode(z, target.detach(), z.shape[:-1], weight)  # with its complaints
    t[:, :n] = encoded.numpy().T
    t[:, n:] = t[:, :1]
    return t


def flat_phi(phi: Sequence[Tensor]) -> Array:
    """Loss parameters of a population, one after the other."""
    return torch.cat([part.detach().reshape(-1) for part in phi]).double().numpy() if phi else np.empty(0)
