"""Whether a smaller stack goes on computing the same bits for those who stay, found out by doing it.

Products, grouped convolutions and pointwise functions do not look at how many candidates there are, but kernels that
work on all channels of an image at once may: batch norm over a few channels sums the last of them in another order
when their number changes. Candidates that have ended then stay in the stack, so that nobody's numbers depend on who
else came to an end.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from lossmith.rng import torch_global_scope, torch_stream
from lossmith.tasks import Task
from lossmith.training.population.network import PopulationNetwork
from lossmith.training.precision import in_precision
from lossmith.training.prediction import arranged
from lossmith.training.run_record import Training
from lossmith.training.steps import initial_model, steps_of


def same_bits(task: Task, how: Training, count: int, kept: Sequence[int]) -> bool:
    """Whether outputs and gradients of the candidates at `kept` are to the bit the same without the others.

    Args:
        how: of the training; no random state is disturbed.
        count: P, of the stack as it is. kept: places, ascending.
    """
    network = PopulationNetwork(initial_model(task, how), task.forward, count, channels_last=how.channels_last)
    with torch.no_grad():  # candidates that differ, as they will
        for name, raw in network.parameters.items():
            raw.mul_(1 + 0.01 * torch.randn(raw.shape, generator=torch_stream(how.seed, "company", name)).to(raw))
    rows = next(iter(steps_of(task, how))).rows
    batch = arranged(task.data["train"].batch(rows), how.channels_last)
    index = torch.tensor(list(kept))
    before = [part.index_select(0, index.to(part.device)) for part in _pass(task, how, network, batch, range(count))]
    network.keep(index)
    after = _pass(task, how, network, batch, kept)
    return all(torch.equal(a.nan_to_num(0.5), b.nan_to_num(0.5)) for a, b in zip(before, after, strict=True))


def _pass(
    task: Task, how: Training, network: PopulationNetwork, batch: object, candidates: Sequence[int]
) -> list[Tensor]:
    """Outputs and gradients of a step, and outputs in evaluation mode, [P, ...] each."""
    with torch_global_scope(how.seed, "company", device=task.device):
        network.train()
        outputs = [t.output for t in in_precision(lambda: network(batch), task.device, how.dtype)]
        outputs = [output for output in outputs if output.requires_grad]
        own = torch.tensor(list(candidates))
        cotangents = [torch.cos(z.detach() + own.to(z).view(-1, *[1] * (z.dim() - 1))) for z in outputs]
        leaves = list(network.parameters.values())
        found = torch.autograd.grad(outputs, leaves, cotangents, allow_unused=True, materialize_grads=True)
        network.train(False)
        with torch.no_grad():
            seen = [t.output for t in in_precision(lambda: network(batch), task.device, how.dtype)]
    return [z.detach() for z in outputs] + list(found) + seen
