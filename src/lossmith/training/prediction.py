"""Outputs of a base model, or of many, on a whole split, for the metric."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from lossmith.records import Split
from lossmith.rng import torch_global_scope
from lossmith.tasks import Task, Terms
from lossmith.tasks.terms import as_terms
from lossmith.training.precision import in_precision

CHUNK = 1000  # rows per forward pass: large enough to be efficient, small enough for convolution buffers


@dataclass(frozen=True)
class Predictions:
    """Outputs z [N, C], targets [N] or [N, C], and weights [N] of one split."""

    output: Tensor
    target: Tensor
    weight: Tensor | None

    @property
    def finite(self) -> bool:
        """Whether every output that counts is finite; a masked position may hold anything."""
        output = self.output if self.weight is None else self.output[self.weight != 0]
        return bool(torch.isfinite(output).all())


def terms_of(task: Task, model: nn.Module, batch: object, dtype: str = "float32") -> tuple[Terms, ...]:
    """The task's forward pass, always as a tuple; the first entry is the one the metric is measured on."""
    return in_precision(lambda: as_terms(task.forward(model, batch)), task.device, dtype)


def predict(
    task: Task, model: nn.Module, split: Split, *, channels_last: bool = False, dtype: str = "float32"
) -> Predictions:
    """Outputs on every row of `split` in evaluation mode.

    Draws (a random augmentation, say) come from a stream of the split's own: looking at a model never changes how its
    training goes on.
    """
    training = model.training
    model.eval()
    # No inference_mode: what a model caches during it (a table of positions) could not be trained with afterwards.
    with torch.no_grad():
        seen = predicted(task, split, lambda batch: terms_of(task, model, batch, dtype)[0], channels_last=channels_last)
    model.train(training)
    return seen


def predicted(
    task: Task, split: Split, look: Callable[[object], Terms], *, channels_last: bool = False, stacked: bool = False
) -> Predictions:
    """What `look` says of every row of `split`, in chunks; see `predict`.

    Args:
        look: a batch → its Terms.
        stacked: outputs have a first axis of candidates, [P, ...], and so have those returned, [P, N, C]; targets and
            weights are shared.
    """
    outputs: list[Tensor] = []
    targets: list[Tensor] = []
    weights: list[Tensor | None] = []
    lead = int(stacked)
    with torch_global_scope(0, "predict", split, device=task.device):
        for batch in task.data[split].batches(CHUNK):
            terms = look(arranged(batch, channels_last))
            shape = terms.output.shape
            outputs.append(terms.output.reshape(*shape[:lead], -1, shape[-1]))
            classes = terms.target.shape == shape[lead:-1]
            targets.append(terms.target.reshape(-1) if classes else terms.target.reshape(outputs[-1].shape[lead:]))
            weights.append(None if terms.weight is None else terms.weight.reshape(-1))
    weight = None
    if any(w is not None for w in weights):  # a batch without weights counts each of its rows once
        ones = [o.new_ones(o.shape[-2]) if w is None else w for w, o in zip(weights, outputs, strict=True)]
        weight = torch.cat(ones)
    return Predictions(torch.cat(outputs, dim=lead), torch.cat(targets), weight)


def arranged(batch: object, channels_last: bool) -> object:
    """Images of a batch in channels-last memory order, which CPU convolutions prefer."""
    if not channels_last:
        return batch
    if isinstance(batch, Tensor):
        return batch.contiguous(memory_format=torch.channels_last) if batch.dim() == 4 else batch
    if isinstance(batch, dict):
        return {key: arranged(value, True) for key, value in batch.items()}
    if isinstance(batch, (tuple, list)):
        return type(batch)(arranged(value, True) for value in batch) if type(batch) in (tuple, list) else batch
    return batch
