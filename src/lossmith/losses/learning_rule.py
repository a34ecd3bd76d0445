"""A loss as a learning rule: how strongly it pulls each output, whatever family it is from (ALGORITHMS §3).

Gonzalez & Miikkulainen, *Effective Regularization Through Loss-Function Metalearning*, arXiv 2010.00788. Gradient
descent on ℓ = −f pulls the prediction p_i by γ_i = ∂f/∂p_i and moves the logits by p_j(γ_j − Σ_k γ_k p_k). With one-hot
targets a rule is two functions: γ_T(p) at the target and γ_N(p) at every other output. γ is taken by autograd, so this
works for every differentiable loss.

Deviations: the exact null-epoch condition beside the published one; the attraction to zero training error without the
sign error of the published code.
"""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor

from lossmith.errors import LossError
from lossmith.losses.aggregation import Pointwise
from lossmith.losses.family import Kernel, Setting
from lossmith.losses.inputs import inputs_from_prediction
from lossmith.losses.loss import Loss
from lossmith.records import OK, Status

Invariant = Literal["paper", "exact", "off"]
INVARIANTS: tuple[Invariant, ...] = ("paper", "exact", "off")


def pull(loss: Loss | Kernel, prediction: Tensor, target: Tensor, *, progress: float = 0.0) -> Tensor:
    """γ = −∂ℓ/∂p of each output: positive pulls its prediction up.

    Args:
        loss: pointwise and differentiable. A `Loss` brings its label smoothing and its reduction over outputs along; a
            class prior it does not know is taken as uniform. A loss that reads the output z sees log p.
        prediction: probabilities (softmax, sigmoid pairs) or raw outputs (identity), [..., C].
        target: [..., C].
        progress: training progress τ.

    Returns:
        γ, [..., C].

    Raises:
        LossError: a loss over pairs or ratios, which has no pull per row.
    """
    kernel, scale, prior = loss, 1.0, None
    if isinstance(loss, Loss):
        if not isinstance(loss.aggregation, Pointwise):
            raise LossError(f"{loss} is a {loss.aggregation.kind} loss: only pointwise losses are a learning rule.")
        kernel, prior = loss.kernel, loss.prior
        scale = 1.0 / prediction.shape[-1] if loss.outputs == "mean" else 1.0
        target = (1 - loss.smoothing) * target + loss.smoothing / target.shape[-1] if loss.smoothing else target
    assert isinstance(kernel, Kernel)
    p = prediction.detach().requires_grad_()
    shares = p.new_full((p.shape[-1],), 1 / p.shape[-1]) if prior is None else p.new_tensor(prior)
    with torch.enable_grad():
        total = kernel.value(inputs_from_prediction(kernel.reads, p, target, prior=shares, progress=progress))
        if not total.requires_grad:
            return torch.zeros_like(prediction)
        # A row-wide input makes outputs depend on each other: the sum over the full shape counts every one of them.
        (slope,) = torch.autograd.grad(total.expand(p.shape).sum(), p, allow_unused=True)
    return torch.zeros_like(prediction) if slope is None else -scale * slope


def logit_step(prediction: Tensor, gamma: Tensor) -> Tensor:
    """Exact logit dynamics of a softmax under pulls γ: −∂L/∂z_j = p_j(γ_j − Σ_k γ_k p_k), [..., C]."""
    return prediction * (gamma - (gamma * prediction).sum(-1, keepdim=True))


def null_epoch(loss: Loss | Kernel, classes: int, *, progress: float = 0.0) -> tuple[float, float]:
    """(γ_T, γ_N) before training, where every prediction is 1/n."""
    return _pulls_at(loss, 1.0 / classes, classes, progress)


def check_invariant(loss: Loss | Kernel, setting: Setting, which: Invariant = "exact") -> Status:
    """Whether training can start: a screen before any training (ALGORITHMS §3, "Null epoch").

    Args:
        loss: pointwise and differentiable.
        setting: head softmax or sigmoid: the pulls at p = 1/n count (n = 2 for each sigmoid output). Head identity: the
            pulls at output 0 on targets ±1 must point to the target. Under a custom head everything passes.
        which: "exact": γ_T > γ_N, the condition for softmax networks. "paper": γ_T ≥ (n−1)·γ_N, the published one.
            "off": everything passes.

    Returns:
        `OK`, or "screened:invariant" with a sentence.

    Raises:
        LossError: the paper's invariant asked of a head it is not defined for, or an unknown invariant.
    """
    if which not in INVARIANTS:
        raise LossError(f"invariant {which!r}: use one of {', '.join(INVARIANTS)}.")
    if which == "paper" and setting.head not in ("softmax", "sigmoid"):
        raise LossError(
            f'invariant "paper" is about class probabilities, not the {setting.head} head: use "exact" or "off".'
        )
    if which == "off" or setting.head == "custom":
        return OK
    if setting.head == "identity":
        return _regression_invariant(loss)
    n = 2 if setting.head == "sigmoid" else setting.classes
    at_target, elsewhere = null_epoch(loss, n)
    where = f"while every prediction is 1/{n}, the pull is {at_target:.4g} at the target and {elsewhere:.4g} elsewhere"
    if not (math.isfinite(at_target) and math.isfinite(elsewhere)):
        return Status("screened", "invariant", f"{where}: not finite")
    if which == "exact" and not at_target > elsewhere:
        return Status("screened", "invariant", f"{where}: training would start by moving away from the target")
    if which == "paper" and not at_target >= (n - 1) * elsewhere:
        return Status("screened", "invariant", f"{where}: the paper's invariant asks {n - 1} times as much")
    return OK


def _regression_invariant(loss: Loss | Kernel) -> Status:
    target = torch.tensor([[1.0], [-1.0]], dtype=torch.float64)
    up, down = pull(loss, torch.zeros_like(target), target).flatten().tolist()
    if up > 0 > down:
        return OK
    sentence = f"at output 0 the pull is {up:.4g} on the target 1 and {down:.4g} on the target -1: not towards both"
    return Status("screened", "invariant", sentence)


def attraction(loss: Loss | Kernel, classes: int, epsilon: float) -> float:
    """A(ε): how much p_T changes by one unit logit step at p_T = 1−ε, all other outputs ε/(n−1) (ALGORITHMS §3).

    Zero training error attracts if A(ε) > 0 for small ε: cross-entropy always pulls, Baikal balances at p_T = 1/√n.
    """
    if not 0.0 < epsilon < 1.0:
        raise LossError(f"epsilon {epsilon!r}: a number strictly between 0 and 1 was expected.")
    at_target, elsewhere = _pulls_at(loss, 1.0 - epsilon, classes, 0.0)
    a = (1 - epsilon) * epsilon * (at_target - elsewhere)
    b = epsilon * (1 - epsilon) * (elsewhere - at_target) / (classes - 1)
    # (1−ε)ε(e^a − e^b) / ((1−ε)e^a + εe^b), divided by the larger of the two exponentials
    top = max(a, b)
    rise, fall = math.exp(a - top), math.exp(b - top)
    return (1 - epsilon) * epsilon * (rise - fall) / ((1 - epsilon) * rise + epsilon * fall)


def attracts_zero_error(loss: Loss | Kernel, classes: int) -> bool:
    """Whether training goes on pulling once every training example is nearly right (A(ε) > 0 for small ε)."""
    return all(attraction(loss, classes, epsilon) > 0 for epsilon in (1e-2, 1e-3, 1e-4))


def _pulls_at(loss: Loss | Kernel, p_target: float, classes: int, progress: float) -> tuple[float, float]:
    """(γ_T, γ_N) at p_T = p_target with the rest shared equally."""
    if classes < 2:
        raise LossError(f"a learning rule of {classes} output(s): probabilities need at least 2.")
    p = torch.full((1, classes), (1.0 - p_target) / (classes - 1), dtype=torch.float64)
    p[0, 0] = p_target
    target = torch.zeros_like(p)
    target[0, 0] = 1.0
    gamma = pull(loss, p, target, progress=progress)[0]
    return float(gamma[0]), float(gamma[1])
