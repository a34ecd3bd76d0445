"""`Loss`: an elementwise kernel with its head, aggregation and reduction, as a `torch.nn.Module`."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Literal

import torch
from torch import Tensor, nn

from lossmith.errors import LossError
from lossmith.losses.aggregation import (
    Aggregation,
    Pairwise,
    Pointwise,
    Ratio,
    Trimmed,
    check_pairwise,
    pairwise,
    ratio,
    trimmed,
    weighted_mean,
)
from lossmith.losses.family import Kernel, Setting
from lossmith.losses.inputs import Head, compute_inputs, head_name
from lossmith.losses.online_rule import OnlineRule

Reduction = Literal["mean", "sum", "none"]
Outputs = Literal["sum", "mean"]


class Loss(nn.Module):
    """A loss function to be minimised: mean over rows of the sum over outputs of ℓ(p, t) (ALGORITHMS §0).

    It has no parameters and no buffers: its numbers are plain floats, so neither `model.parameters()` nor
    `model.half()` of a module that holds it can change it. It computes in float32 inside autocast and for half
    precision outputs, and in float64 where the output is float64.

    Args:
        kernel: the elementwise ℓ.
        head: "softmax", "sigmoid" (each output is the pair (1−p, p)), "identity", or a function from output to
            prediction.
        aggregation: `Pointwise()`, `Ratio(...)`, `Pairwise()` or `Trimmed(...)`.
        reduction: over rows or pairs: "mean" (Σwℓ/Σw) or "sum"; "none" (per row) for pointwise losses only. A ratio is
            neither: it takes "mean".
        outputs: over outputs of a pointwise or trimmed loss: "sum" (the authors' code) or "mean" (the papers' 1/n). It
            scales the effective learning rate.
        smoothing: label smoothing α: targets become (1−α)t + α/n.
        prior: class prior π, a number above 0 per class, needed by losses that read it.
        name: for people; takes no part in `loss_hash` and `key`.
        online: how the loss parameters go on learning while they train a model (`training.online`); called, the loss
            is what it is at the φ it has now.

    Raises:
        LossError: a setting that does not exist, is out of range, or does not go with the others.

    Example:
        >>> import torch, lossmith as lm
        >>> criterion = lm.loss("baikal")
        >>> criterion(torch.zeros(4, 10), torch.arange(4)).item()  # log 10 · 10 + 10
        33.02585...
    """

    def __init__(
        self,
        kernel: Kernel,
        *,
        head: Head = "softmax",
        aggregation: Aggregation | None = None,
        reduction: Reduction = "mean",
        outputs: Outputs = "sum",
        smoothing: float = 0.0,
        prior: Sequence[float] | None = None,
        name: str | None = None,
        online: OnlineRule | None = None,
    ) -> None:
        super().__init__()
        aggregation = Pointwise() if aggregation is None else aggregation
        head_name(head)
        if reduction not in ("mean", "sum", "none"):
            raise LossError(f'reduction {reduction!r}: use "mean", "sum" or "none".')
        if outputs not in ("sum", "mean"):
            raise LossError(f'outputs {outputs!r}: use "sum" or "mean".')
        if not 0.0 <= smoothing < 1.0:
            raise LossError(f"smoothing {smoothing!r}: label smoothing is a number in [0, 1).")
        if smoothing and head == "identity":
            raise LossError("label smoothing needs class targets; the identity head has none.")
        if reduction == "none" and not isinstance(aggregation, Pointwise):
            raise LossError(f'a {aggregation.kind} loss has no value per row: use reduction="mean".')
        if reduction == "sum" and isinstance(aggregation, Ratio):
            raise LossError('a ratio loss is no sum over rows: use reduction="mean".')
        if isinstance(aggregation, Pairwise):
            check_pairwise(kernel)
        if prior is not None and not (prior := tuple(map(float, prior))):
            raise LossError("prior is empty: give one number above 0 per class.")
        if prior is not None and not all(0 < share < math.inf for share in prior):
            raise LossError(f"prior {prior}: every class needs a number above 0, because losses take its logarithm.")
        if online is not None and not kernel.phi:
            raise LossError(f"{kernel} has no loss parameters that could adapt while it trains: leave online out.")
        self.kernel, self.head, self.aggregation = kernel, head, aggregation
        self.reduction, self.outputs, self.smoothing = reduction, outputs, float(smoothing) + 0.0
        self.prior = None if prior is None else tuple(prior)
        self.name = name
        self.online = online

    def forward(
        self,
        output: Tensor,
        target: Tensor,
        *,
        weight: Tensor | None = None,
        progress: float | Tensor | None = None,
        num_items: Tensor | float | None = None,
        group: Tensor | None = None,
    ) -> Tensor:
        """The loss.

        Args:
            output: z, [..., C]; every index of the axes before the last is a row.
            target: class indices [...], or one-hot, soft or real targets [..., C] (the last axis may be left out where
                C = 1).
            weight: weight per row, [...]; a row of weight 0 (padding, masks) contributes nothing to value and gradient,
                whatever its label and outputs, NaN and infinity included.
            progress: τ in [0, 1], for losses that use it.
            num_items: divisor instead of Σw (or of the weight of all pairs), so that accumulated batches add up to one
                mean. Where gradients are averaged over processes (DDP), give the items of all processes divided by
                their number. Only with reduction="mean".
            group: group index per row, [...], for pairwise losses.

        Returns:
            A scalar, or [...] with reduction="none".

        Raises:
            LossError: shapes that do not fit, labels outside the classes, a needed input that is missing, num_items for
                a loss that is no mean.
        """
        if output.dim() < (1 if self.head == "softmax" else 2):
            raise LossError(
                f"output of shape {tuple(output.shape)}: expected [..., C], rows first and the outputs last; "
                f"for one output per row use output[..., None]."
            )
        if num_items is not None and (self.reduction != "mean" or isinstance(self.aggregation, Ratio)):
            what = "ratio" if isinstance(self.aggregation, Ratio) else f'loss with reduction="{self.reduction}"'
            raise LossError(f"num_items divides a mean; a {what} is none: leave num_items out.")
        with torch.autocast(output.device.type, enabled=False):
            rows = output.shape[:-1]
            z = output.reshape(-1, output.shape[-1]) if output.dim() != 2 else output
            z = z if z.dtype == torch.float64 else z.float()  # [N, C]
            w = None if weight is None else self._per_row(weight, rows, "weight").to(z.dtype)
            t = self._encode(z, target, rows, w)
            if w is not None:
                # What is not computed from cannot put its NaN into the gradient: 0 · NaN is NaN.
                unused = (w == 0)[:, None]
                z, t = z.masked_fill(unused, 0.0), t.masked_fill(unused, 0.0)
            if isinstance(self.aggregation, Pairwise):
                g = None if group is None else self._per_row(group, rows, "group")
                return pairwise(self.kernel, z, t, weight=w, group=g, num_items=num_items, reduction=self.reduction)
            prior = None if self.prior is None else self._on(z, self.prior)
            x = compute_inputs(self.reads, z, t, self.head, prior=prior, progress=progress, weight=w)
            value = self._full(self.kernel.value(x), z)
            if isinstance(self.aggregation, Ratio):
                return ratio(value, self._full(self.aggregation.denominator.value(x), z), w, self.aggregation)
            per_row = value.flatten(1).sum(1) if self.outputs == "sum" else value.flatten(1).mean(1)  # [N]
            if isinstance(self.aggregation, Trimmed):
                return trimmed(per_row, w, num_items, self.reduction, self.aggregation)
            reduced = weighted_mean(per_row, w, num_items, self.reduction)
            return reduced.reshape(rows) if self.reduction == "none" else reduced

    @property
    def reads(self) -> frozenset[str]:
        """Names of the inputs the loss needs (see `losses.inputs`), those of a ratio's denominator among them."""
        if isinstance(self.aggregation, Ratio):
            return self.kernel.reads | self.aggregation.denominator.reads
        return self.kernel.reads

    def setting(self, classes: int, *, hard_targets: bool = True) -> Setting:
        """The setting this loss is used in; label smoothing makes hard targets soft."""
        return Setting(head_name(self.head), classes, hard_targets and not self.smoothing)

    def key(self, classes: int, *, hard_targets: bool = True) -> str:
        """Losses with one key train identically: the kernel's key and every other setting that matters."""
        from lossmith.losses.codec import to_document
        from lossmith.records import content_hash

        if not isinstance(self.aggregation, Pointwise) or self.online is not None:
            # What cannot matter in a sum over outputs of ℓ(p, t) can in a ratio of sums and in ℓ(z_i − z_j), and where
            # φ learns: two writings of one loss adapt differently.
            return content_hash({k: v for k, v in to_document(self).items() if k != "name"})
        rest = {k: v for k, v in to_document(self).items() if k not in ("kernel", "name")}
        return content_hash({**rest, "key": self.kernel.key(self.setting(classes, hard_targets=hard_targets))})

    def extra_repr(self) -> str:
        return str(self)

    def __str__(self) -> str:
        formula = self.name or str(self.kernel)
        if isinstance(self.aggregation, Ratio):
            formula = f"1 - sum({self.kernel})/sum({self.aggregation.denominator})" if self.name is None else self.name
        elif isinstance(self.aggregation, Pairwise):
            formula = f"pairwise({formula})"
        elif isinstance(self.aggregation, Trimmed) and self.name is None:
            formula = f"trimmed({formula}, keep={self.aggregation.keep:g})"
        smoothing = f", smoothing={self.smoothing:g}" if self.smoothing else ""
        outputs = ", outputs=mean" if self.outputs == "mean" else ""
        online = f", {self.online}" if self.online is not None else ""
        return f"{formula}{smoothing}{outputs}{online}"

    def __repr__(self) -> str:
        return f"Loss({self}, head={head_name(self.head)})"

    def _full(self, value: Tensor | float, z: Tensor) -> Tensor:
        shape = (*z.shape, 2) if self.head == "sigmoid" else z.shape
        if not isinstance(value, Tensor) or value.device != z.device:  # a number
            value = z.new_full((), float(value))
        return value.to(z.dtype).expand(shape)

    @staticmethod
    def _on(z: Tensor, numbers: Sequence[float]) -> Tensor:
        """Numbers as a tensor beside z; made there, because a copy to a GPU waits for it."""
        if z.device.type == "cpu":
            return z.new_tensor(numbers)
        return torch.stack([z.new_full((), number) for number in numbers])

    def _encode(self, z: Tensor, target: Tensor, rows: torch.Size, weight: Tensor | None) -> Tensor:
        """Targets as [N, C] in the output's dtype, smoothed."""
        n, c = z.shape
        if self.head == "softmax" and target.shape == rows and not target.is_floating_point():
            labels = target.reshape(-1)
            if not torch.compiler.is_compiling() and z.device.type == "cpu":
                _check_labels(labels, c, weight)  # on other devices a look at the data would stall the queue
            t = (labels[:, None] == torch.arange(c, device=z.device)).to(z.dtype)
        elif target.shape == (*rows, c):
            t = target.reshape(n, c).to(z.dtype)
        elif c == 1 and target.shape == rows:
            t = target.reshape(n, 1).to(z.dtype)
        else:
            wanted = f"{tuple(rows)} of class indices or {(*rows, c)}" if self.head == "softmax" else f"{(*rows, c)}"
            raise LossError(
                f"target of shape {tuple(target.shape)} and type {target.dtype} does not fit an output of shape "
                f"{(*rows, c)} under the {head_name(self.head)} head: expected {wanted}; classes are the last axis "
                f"(for images use output.movedim(1, -1))."
            )
        if self.smoothing:
            t = (1 - self.smoothing) * t + self.smoothing / (2 if self.head == "sigmoid" else c)
        return t

    def _per_row(self, values: Tensor, rows: torch.Size, what: str) -> Tensor:
        if values.shape != rows:
            raise LossError(f"{what} of shape {tuple(values.shape)} does not fit rows of shape {tuple(rows)}.")
        return values.reshape(-1)


class LossSet(nn.Module):
    """Several losses of one genome: the first is called, the others are taken by index (auxiliary heads, mixed labels).

    Raises:
        LossError: no loss at all; members that adapt by different online rules.
    """

    def __init__(self, losses: Sequence[Loss]) -> None:
        super().__init__()
        if not losses:
            raise LossError("a set of losses needs at least one loss.")
        if len({loss.online for loss in losses if loss.online is not None}) > 1:
            raise LossError("the losses of a set adapt by different online rules: give all that adapt the same one.")
        self.losses = nn.ModuleList(losses)

    def forward(self, output: Tensor, target: Tensor, **arguments: Tensor | float | None) -> Tensor:
        """The first loss; see `Loss.forward`."""
        value: Tensor = self.losses[0](output, target, **arguments)
        return value

    def __getitem__(self, index: int) -> Loss:
        loss = self.losses[index]
        assert isinstance(loss, Loss)
        return loss

    def __len__(self) -> int:
        return len(self.losses)

    def __iter__(self) -> Iterator[Loss]:
        return (self[i] for i in range(len(self)))

    def key(self, classes: int, *, hard_targets: bool = True) -> str:
        """The keys of all members."""
        return "+".join(loss.key(classes, hard_targets=hard_targets) for loss in self)

    def __str__(self) -> str:
        return " | ".join(map(str, self))


def _check_labels(labels: Tensor, classes: int, weight: Tensor | None) -> None:
    if not labels.numel():
        return
    low, high = labels.aminmax()  # one pass: this is done at every step
    if low >= 0 and high < classes:
        return
    wrong = (labels < 0) | (labels >= classes)
    if weight is not None:
        wrong = wrong & (weight != 0)
    if wrong.any():
        row = int(wrong.nonzero()[0])
        raise LossError(
            f"label {int(labels[row])} in row {row} is outside the classes 0…{classes - 1}: "
            f"correct the labels, or give padding rows weight 0."
        )
