"""Outputs of a base model on a whole split, and the metric on them."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from lossmith.records import Split
from lossmith.rng import torch_global_scope
from lossmith.tasks import Task, Terms
from lossmith.tasks.terms import as_terms

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


def terms_of(task: Task, model: nn.Module, batch: object) -> tuple[Terms, ...]:
    """The task's forward pass, always as a tuple; the first entry is the one the metric is measured on."""
    return as_terms(task.forward(model, batch))


def predict(task: Task, model: nn.Module, split: Split, *, channels_last: bool = False) -> Predictions:
    """Outputs on every row of `split` in evaluation mode.

    Draws (a random augmentation, say) come from a stream of the split's own: looking at a model never changes how its
    training goes on.
    """
    data = task.data[split]
    outputs: list[Tensor] = []
    targets: list[Tensor] = []
    weights: list[Tensor | None] = []
    training = model.training
    model.eval()
    # No inference_mode: what a model caches during it (a table of positions) could not be trained with afterwards.
    with torch_global_scope(0, "predict", split, device=task.device), torch.no_grad():
        for start in range(0, len(data), CHUNK):
            index = torch.arange(start, min(start + CHUNK, len(data)))
            terms = terms_of(task, model, arranged(data.batch(index), channels_last))[0]
            outputs.append(terms.output.reshape(-1, terms.output.shape[-1]))
            classes = terms.target.shape == terms.output.shape[:-1]
            targets.append(terms.target.reshape(-1) if classes else terms.target.reshape(outputs[-1].shape))
            weights.append(None if terms.weight is None else terms.weight.reshape(-1))
    model.train(training)
    weight = None
    if any(w is not None for w in weights):  # a batch without weights counts each of its rows once
        weight = torch.cat([o.new_ones(len(o)) if w is None else w for w, o in zip(weights, outputs, strict=True)])
    return Predictions(torch.cat(outputs), torch.cat(targets), weight)


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
