"""What the interpreter reads under the heads whose inputs are functions of one output alone, and how they follow it.

Under sigmoid and identity the slope of an element is the answer. Under softmax the inputs of one element follow its
row's outputs, so ∂L/∂z needs more than one number per element (`delta_kernel`). With s = p·∂ℓ/∂p (the slope along
d/d log p, which never overflows): δ_j = s_j − p_j·Σ_i s_i, plus ∂ℓ_j/∂z_j of losses that read z, plus what comes
through log(1 − p).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np

from lossmith.losses.inputs import LEAST_LOG, PROTECTION

Array: TypeAlias = np.ndarray[Any, np.dtype[Any]]

_SIDE = np.array([-1.0, 1.0])  # of the pair (1 − p, p): the second follows the output, the first runs against it


def packed(names: Sequence[str], x: Mapping[str, Array | float], shape: tuple[int, ...], dtype: np.dtype[Any]) -> Array:
    """The named arrays as [P, I, M], each broadcast to `shape`, [P, C, L], or [P, C, L, 2] of pairs, whose sides are
    then put apart, [2, C, L]."""
    pairs = len(shape) == 4
    apart = (shape[0], 2, *shape[1:3]) if pairs else shape
    rows = np.empty((shape[0], len(names), *apart[1:]), dtype)
    for i, name in enumerate(names):
        rows[:, i] = np.moveaxis(np.broadcast_to(x[name], shape), -1, 1) if pairs else x[name]
    return rows.reshape(shape[0], len(names), math.prod(shape[1:]))


@np.errstate(all="ignore")  # what is not finite is a result like any other: the caller looks at it
def own_output(head: str, names: Sequence[str], x: Mapping[str, Array]) -> dict[str, Array | float]:
    """The derivative of each named input by the output it follows.

    Args:
        head: sigmoid or identity. names: of inputs that have one.
        x: inputs by name, [P, C, L], or [P, C, L, 2] under sigmoid; p among them, and log_p where inv_p is named.
    """
    p = x["p"]
    each: dict[str, Array | float] = {"p": 1.0, "r": 1.0, "z": 1.0}
    if head == "sigmoid":
        side = _SIDE.astype(p.dtype)
        log_slope = side * p[..., ::-1]
        each = {"p": log_slope * p, "r": log_slope * p, "z": np.array([0, 1], p.dtype), "log_p": log_slope}
        each["log_1mp"] = -side * p
        if "inv_p" in names:  # exp(−log p), whose log p is clamped in `losses.inputs`
            each["inv_p"] = np.where(x["log_p"] >= LEAST_LOG[p.dtype == np.float32], -x["inv_p"], 0) * log_slope
        return {name: each[name] for name in names}
    low = p.dtype.type(PROTECTION)
    if "log_p" in names:
        each["log_p"] = np.where(abs(p) >= low, 1 / p, 0)
    if "log_1mp" in names:
        each["log_1mp"] = np.where(abs(1 - p) >= low, -1 / (1 - p), 0)
    if "inv_p" in names:
        each["inv_p"] = np.where(abs(p) >= low, -1 / (p * p), 0)
    return {name: each[name] for name in names}


@np.errstate(all="ignore")
def along(head: str, names: Sequence[str], x: Mapping[str, Array], direction: Array) -> dict[str, Array]:
    """The tangent of each named input where the outputs move along `direction` [P, C, L]; the rest as `own_output`."""
    moved = direction[..., None] if head == "sigmoid" else direction
    return {name: slope * moved for name, slope in own_output(head, names, x).items()}
