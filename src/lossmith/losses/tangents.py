"""What the interpreter reads, from the model's output: inputs as arrays, and the directions to differentiate along.

Under the heads the inputs of one element follow its row's outputs, so ∂L/∂z needs more than one number per element.
With s = p·∂ℓ/∂p (the slope along d/d log p, which never overflows):

- softmax: δ_j = s_j − p_j·Σ_i s_i, plus ∂ℓ_j/∂z_j of losses that read z, plus what comes through log(1 − p). The last
  is kept apart because s has the pole p/(1 − p) there, which cancels against 1 − p_j only in exact arithmetic.
- sigmoid and identity: every input of an element is a function of one output, so the slope is the answer.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np

from lossmith.losses.inputs import LEAST_LOG, PROTECTION

Array: TypeAlias = np.ndarray[Any, np.dtype[Any]]

_SIDE = np.array([-1.0, 1.0])  # of the pair (1 − p, p): the second follows the output, the first runs against it
_OTHERS = ("log_1mp", "z")  # inputs that need a direction of their own under softmax


def packed(names: Sequence[str], x: Mapping[str, Array | float], shape: tuple[int, ...], dtype: np.dtype[Any]) -> Array:
    """The named arrays, broadcast to `shape` [P, N, C, ...], as [P, I, N·C…]."""
    rows = np.empty((shape[0], len(names), *shape[1:]), dtype)
    for i, name in enumerate(names):
        rows[:, i] = x[name]
    return rows.reshape(shape[0], len(names), math.prod(shape[1:]))


def channels(head: str, moving: Iterable[str]) -> list[str]:
    """The directions to differentiate along; "" is the main one."""
    if head != "softmax":
        return [""]
    return [""] * any(name not in _OTHERS for name in moving) + [name for name in _OTHERS if name in moving]


def tangents(head: str, names: Sequence[str], x: Mapping[str, Array], channel: str = "") -> dict[str, Array | float]:
    """The tangent of each named input along one channel."""
    if head != "softmax":
        return _own_output(head, names, x)
    if channel:
        return {name: float(name == channel) for name in names}
    each: dict[str, Array | float] = {"log_1mp": 0.0, "z": 0.0, "log_p": 1.0, "p": x["p"], "r": x["p"]}
    if "inv_p" in names:
        each["inv_p"] = _reciprocal_slope(x, 1.0)
    return {name: each[name] for name in names}


def tangents_along(head: str, names: Sequence[str], x: Mapping[str, Array], direction: Array) -> dict[str, Array]:
    """The tangent of each named input where the output moves along `direction` [P, N, C]."""
    if head != "softmax":
        along = direction[..., None] if head == "sigmoid" else direction
        return {name: slope * along for name, slope in _own_output(head, names, x).items()}
    p = x["p"]
    log_slope = direction - (p * direction).sum(-1, keepdims=True)
    each = {"log_p": log_slope, "p": p * log_slope, "r": p * log_slope, "z": direction}
    if "inv_p" in names:
        each["inv_p"] = _reciprocal_slope(x, log_slope)
    if "log_1mp" in names:
        largest, odds = _odds(x)
        # of the largest p of a row: log Σ of the others moves by their share-weighted mean
        index = p.argmax(-1, keepdims=True)
        shares = np.exp(x["log_p"] - np.take_along_axis(x["log_1mp"], index, -1))
        rest = np.where(largest, 0.0, shares * log_slope).sum(-1, keepdims=True)
        each["log_1mp"] = np.where(largest, rest, -odds * log_slope)
    return {name: each[name] for name in names}


def through_complement(slope: Array, x: Mapping[str, Array]) -> Array:
    """What u = ∂ℓ/∂log(1 − p) adds to ∂L/∂z under softmax, [P, N, C].

    δ_i = −u_i·p_i + p_i·Σ_{m≠i} u_m·p_m/(1 − p_m); only the largest p of a row can come near 1, so its term is taken
    as exp(log p_i − log(1 − p_m)), which is at most 1.
    """
    p, log_p = x["p"], x["log_p"]
    largest, odds = _odds(x)
    index = p.argmax(-1, keepdims=True)
    by_others = slope * odds
    by_largest = np.take_along_axis(slope * p, np.broadcast_to(index, (*slope.shape[:-1], 1)), -1)
    shares = np.exp(np.where(largest, -np.inf, log_p - np.take_along_axis(x["log_1mp"], index, -1)))
    total: Array = -slope * p + p * (by_others.sum(-1, keepdims=True) - by_others) + by_largest * shares
    return total


def _odds(x: Mapping[str, Array]) -> tuple[Array, Array]:
    """Where a row's largest p is, and p/(1 − p) of all others (0 there)."""
    largest = np.zeros(x["p"].shape, bool)
    np.put_along_axis(largest, x["p"].argmax(-1, keepdims=True), True, -1)
    return largest, np.exp(np.where(largest, -np.inf, x["log_p"] - x["log_1mp"]))


def _reciprocal_slope(x: Mapping[str, Array], log_slope: Array | float) -> Array:
    """Of exp(−log p), whose log p is clamped in `losses.inputs`."""
    return np.where(x["log_p"] >= LEAST_LOG[x["log_p"].dtype == np.float32], -x["inv_p"], 0) * log_slope


def _own_output(head: str, names: Sequence[str], x: Mapping[str, Array]) -> dict[str, Array | float]:
    p = x["p"]
    each: dict[str, Array | float] = {"p": 1.0, "r": 1.0, "z": 1.0}
    if head == "sigmoid":
        side = _SIDE.astype(p.dtype)
        log_slope = side * p[..., ::-1]
        each = {"p": log_slope * p, "r": log_slope * p, "z": np.array([0, 1], p.dtype), "log_p": log_slope}
        each["log_1mp"] = -side * p
        if "inv_p" in names:
            each["inv_p"] = _reciprocal_slope(x, log_slope)
        return {name: each[name] for name in names}
    low = p.dtype.type(PROTECTION)
    if "log_p" in names:
        each["log_p"] = np.where(abs(p) >= low, 1 / p, 0)
    if "log_1mp" in names:
        each["log_1mp"] = np.where(abs(1 - p) >= low, -1 / (1 - p), 0)
    if "inv_p" in names:
        each["inv_p"] = np.where(abs(p) >= low, -1 / (p * p), 0)
    return {name: each[name] for name in names}
