"""What an elementwise loss may read, stated once (ALGORITHMS §0).

A loss family computes ℓ elementwise from named inputs, each broadcastable to the shape of the prediction. The heads
turn the model's output z into the prediction p; logarithms and reciprocals of p are inputs of their own because they
can be computed from z without overflow, which no expression in p can.

Shapes: output and target [N, C]. Under the `softmax` and `identity` heads inputs are [N, C]. Under the `sigmoid` head
every output is read as the pair (1−p, p), so inputs are [N, C, 2] and a loss for n classes applies to each pair as
n = 2.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TypeAlias

import torch
import torch.nn.functional as F
from torch import Tensor

from lossmith.errors import LossError

Head: TypeAlias = str | Callable[[Tensor], Tensor]
Inputs: TypeAlias = Mapping[str, Tensor | float]

HEADS = ("softmax", "sigmoid", "identity")

INPUTS: dict[str, str] = {
    "t": "target: one-hot (or soft) class target, or the value to predict",
    "p": "prediction: the output after the head",
    "z": "output: what the model returns (under sigmoid the pair (0, z))",
    "r": "residual p − t",
    "m": "margin z_t − max z_j over j ≠ t, the same for the whole row",
    "p_t": "prediction of the target class, the same for the whole row",
    "prior": "class prior π_c: share of each class in the training data",
    "w": "sample weight, 1 where none is given",
    "tau": "training progress τ in [0, 1]: steps done / steps of the full recipe",
    "n": "number of classes (2 under sigmoid)",
}
LOWERED: dict[str, str] = {
    "log_p": "log p, from the output",
    "log_1mp": "log(1 − p), from the output",
    "inv_p": "1 / p, from the output, finite",
    "log_p_t": "log p_t, from the output, the same for the whole row",
}
LEAST_LOG = {True: -80.0, False: -700.0}  # in float32 or not: log p below which 1/p = exp(−log p) does not grow
PROTECTION = 1e-7  # the clamp of a logarithm, root or quotient that has no stable form


def head_name(head: Head) -> str:
    """The head's name, "custom" for a callable; LossError for anything else."""
    if isinstance(head, str) and head in HEADS:
        return head
    if not isinstance(head, str) and callable(head):
        return "custom"
    raise LossError(f"unknown head {head!r}: use one of {', '.join(HEADS)} or a function from output to prediction.")


def compute_inputs(
    reads: frozenset[str],
    output: Tensor,
    target: Tensor,
    head: Head = "softmax",
    *,
    prior: Tensor | None = None,
    progress: float | Tensor | None = None,
    weight: Tensor | None = None,
) -> dict[str, Tensor | float]:
    """Exactly the inputs named in `reads`, from the model's output.

    Args:
        reads: names from `INPUTS` and `LOWERED`.
        output: z, [N, C], float32 or float64.
        target: t, [N, C] in the output's dtype.
        head: "softmax", "sigmoid", "identity" or a function [N, C] → [N, C].
        prior: class prior π, [C]; progress: τ; weight: [N].

    Raises:
        LossError: an input is read that was not given or does not exist under this head; a head function that changes
            the shape; a prior for another number of classes.
    """
    if head == "softmax":
        if output.shape[-1] < 2:
            raise LossError('a softmax over one output is constant: use head="sigmoid" for one-output binary models.')
        logs = _softmax_logs(reads, output)
    elif head == "sigmoid":
        target = torch.stack((1 - target, target), -1)  # [N, C, 2]
        logs = _sigmoid_logs(output)
        output = torch.stack((torch.zeros_like(output), output), -1)
    else:
        head_name(head)  # for its complaint
        logs = {"p": output if isinstance(head, str) else head(output)}
        if logs["p"].shape != output.shape:
            raise LossError(
                f"the head function turned outputs of shape {tuple(output.shape)} into {tuple(logs['p'].shape)}: "
                f"it must return one prediction per output."
            )
        if reads & LOWERED.keys():
            logs |= _clamped_logs(logs["p"])
    return _select(reads, logs, output, target, prior, progress, weight, classes=head != "identity")


def inputs_from_prediction(
    reads: frozenset[str],
    prediction: Tensor,
    target: Tensor,
    *,
    prior: Tensor | None = None,
    progress: float | Tensor | None = None,
) -> dict[str, Tensor | float]:
    """The same inputs with the prediction as the independent variable: what γ = −∂ℓ/∂p is taken of (ALGORITHMS §3).

    Shapes [..., C]. The output is read as z = log p, which a softmax maps back to p.
    """
    logs: dict[str, Tensor] = {"p": prediction}
    if reads & (LOWERED.keys() | {"z", "m"}):
        logs |= _clamped_logs(prediction)
    output = logs.get("log_p", prediction)
    return _select(reads, logs, output, target, prior, progress, None, classes=True)


def _softmax_logs(reads: frozenset[str], output: Tensor) -> dict[str, Tensor]:
    log_p = F.log_softmax(output, -1)
    logs = {"log_p": log_p, "p": log_p.exp()}
    if "log_1mp" in reads:
        # Only the largest p of a row can round to 1; its complement is the log-sum-exp of the others.
        largest = torch.zeros_like(log_p, dtype=torch.bool).scatter(-1, output.argmax(-1, keepdim=True), True)
        others = torch.logsumexp(log_p.masked_fill(largest, -torch.inf), -1, keepdim=True)
        logs["log_1mp"] = torch.where(largest, others, torch.log1p(-logs["p"].masked_fill(largest, 0.0)))
    if "inv_p" in reads:
        logs["inv_p"] = _reciprocal(log_p)
    return logs


def _sigmoid_logs(output: Tensor) -> dict[str, Tensor]:
    log_p = torch.stack((F.logsigmoid(-output), F.logsigmoid(output)), -1)
    return {"log_p": log_p, "p": log_p.exp(), "log_1mp": log_p.flip(-1), "inv_p": _reciprocal(log_p)}


def _reciprocal(log_p: Tensor) -> Tensor:
    # exp(−log p) stays finite, and so does its gradient, where 1/p of an underflowed p is 0·∞.
    return torch.exp(-log_p.clamp(min=LEAST_LOG[log_p.dtype == torch.float32]))


def _clamped_logs(p: Tensor) -> dict[str, Tensor]:
    sign = torch.where(p < 0, -1.0, 1.0).to(p.dtype)
    return {
        "log_p": p.abs().clamp(min=PROTECTION).log(),
        "log_1mp": (1 - p).abs().clamp(min=PROTECTION).log(),
        "inv_p": sign / p.abs().clamp(min=PROTECTION),
    }


def _select(
    reads: frozenset[str],
    logs: Mapping[str, Tensor],
    output: Tensor,
    target: Tensor,
    prior: Tensor | None,
    progress: float | Tensor | None,
    weight: Tensor | None,
    *,
    classes: bool,
) -> dict[str, Tensor | float]:
    chosen: dict[str, Tensor | float] = {}
    for name in reads:
        if name in logs:
            chosen[name] = logs[name]
        elif name == "t":
            chosen[name] = target
        elif name == "z":
            chosen[name] = output
        elif name == "r":
            chosen[name] = logs["p"] - target
        elif name == "n":
            chosen[name] = float(target.shape[-1])
        elif name in ("m", "p_t", "log_p_t"):
            if not classes:
                raise LossError(f"input {name!r} needs class targets; the identity head has none.")
            of_target = {"p_t": "p", "log_p_t": "log_p"}
            chosen[name] = _margin(output, target) if name == "m" else _of_target(logs[of_target[name]], target)
        elif name == "tau":
            if progress is None:
                raise LossError(
                    "this loss uses training progress τ: call it as loss(output, target, progress=step / steps)."
                )
            chosen[name] = progress
        elif name == "prior":
            if prior is None:
                raise LossError("this loss uses the class prior: build it with prior=(share of each class, ...).")
            if prior.shape[-1] != target.shape[-1]:
                raise LossError(f"the loss has a prior of {prior.shape[-1]} classes, here are {target.shape[-1]}.")
            chosen[name] = prior
        elif name == "w":
            ones = torch.ones((), dtype=output.dtype, device=output.device)
            chosen[name] = ones if weight is None else weight.reshape(-1, *[1] * (output.dim() - 1))
        else:
            known = ", ".join(INPUTS)
            raise LossError(f"unknown loss input {name!r}: one of {known}.")
    return chosen


def _of_target(values: Tensor, target: Tensor) -> Tensor:
    return values.gather(-1, target.argmax(-1, keepdim=True))  # [..., 1]


def _margin(output: Tensor, target: Tensor) -> Tensor:
    if output.shape[-1] < 2:
        raise LossError("the margin m compares the target's output with the others; here is only one output.")
    index = target.argmax(-1, keepdim=True)
    rest = output.scatter(-1, index, -torch.inf)
    return output.gather(-1, index) - rest.amax(-1, keepdim=True)  # [..., 1]
