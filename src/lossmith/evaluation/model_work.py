"""What one candidate costs: the arithmetic and memory of one training step, counted on a batch, never timed."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks
from torch.utils.flop_counter import FlopCounterMode

from lossmith.evaluation.requested import on_device
from lossmith.rng import torch_global_scope
from lossmith.tasks import SGD, Recipe, Task
from lossmith.training import compute_scope
from lossmith.training.batches import batch_indices
from lossmith.training.prediction import arranged, terms_of


@dataclass(frozen=True)
class ModelWork:
    """Size of one candidate of a task.

    Args:
        parameters: how many numbers are trained.
        flops: floating-point operations of the forward pass per row of a batch (a multiply-add is two).
        convolution_flops: those of them that convolutions do.
        state_bytes: of parameters, their gradients and what the optimiser keeps.
        activation_bytes: what the forward pass of a batch keeps for the backward pass.
    """

    parameters: int
    flops: float
    convolution_flops: float
    state_bytes: int
    activation_bytes: int

    @property
    def bytes(self) -> int:
        """Memory of one candidate in training; the backward pass makes about as much as the forward pass kept."""
        return self.state_bytes + 2 * self.activation_bytes


def model_work(task: Task, *, device: str = "cpu", channels_last: bool = False) -> ModelWork:
    """Count on the first training batch of seed 0. Equal on every machine.

    Raises:
        Exception: whatever the model's forward pass raises.
    """
    with compute_scope(1):
        task = on_device(task, device)
        model = task.build_model(0).to(task.device)
        trained = [p for p in model.parameters() if p.requires_grad]
        rows = next(batch_indices(task.train_rows(), task.recipe.batch_size, seed=0))
        batch = arranged(task.data["train"].batch(rows), channels_last)
        kept = _Kept(model)
        counter = FlopCounterMode(display=False)
        with torch_global_scope(0, "dropout", device=task.device), saved_tensors_hooks(kept, _same), counter:
            terms_of(task, model, batch)
    counts = {str(op): float(flops) for op, flops in counter.get_flop_counts().get("Global", {}).items()}
    copies = 2 + _optimizer_copies(task.recipe)
    return ModelWork(
        parameters=sum(p.numel() for p in trained),
        flops=sum(counts.values()) / len(rows),
        convolution_flops=sum(flops for op, flops in counts.items() if "convolution" in op) / len(rows),
        state_bytes=copies * sum(p.numel() * p.element_size() for p in trained),
        activation_bytes=sum(kept.sizes.values()),
    )


class _Kept:
    """Sizes of the memory blocks that autograd keeps, beside the model's own, each block once."""

    def __init__(self, model: nn.Module) -> None:
        self._own = {t.untyped_storage().data_ptr() for t in (*model.parameters(), *model.buffers())}
        self.sizes: dict[int, int] = {}
        self._held: list[Tensor] = []  # so that no block is freed and its address given to another

    def __call__(self, tensor: Tensor) -> Tensor:
        block = tensor.untyped_storage()
        if block.data_ptr() not in self._own:
            self.sizes[block.data_ptr()] = block.nbytes()
            self._held.append(tensor)
        return tensor


def _same(tensor: Tensor) -> Tensor:
    return tensor


def _optimizer_copies(recipe: Recipe) -> int:
    """Tensors as large as the parameters that the optimiser keeps; a user's own is taken to be like Adam."""
    optimizer = recipe.optimizer
    if isinstance(optimizer, SGD):
        return int(optimizer.momentum > 0)
    return 2
