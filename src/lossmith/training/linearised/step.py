"""One step of the base model from θ0 with the pass at θ0 recorded: what the closed form needs of a network."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from lossmith.rng import torch_global_scope
from lossmith.tasks import Terms
from lossmith.training.functional_network import Network
from lossmith.training.linearised.many import dense_images
from lossmith.training.linearised.record import Record
from lossmith.training.meta_gradient import Draw, Unroll
from lossmith.training.population import PopulationNetwork

Back = Callable[[Tensor], list[Tensor]]
LEAST = 2  # candidates of a stack: the numbers of one alone would be rounded differently


class ThroughRecord:
    """The pass at θ0 from its record; the pass after the step stacked, or where a chunk is one candidate through the
    model itself. See `one_step.OneStep`."""

    def __init__(self, how: Unroll, drawn: Draw) -> None:
        self._how, self._drawn = how, drawn
        with torch_global_scope(drawn.seed, "dropout", 0, device=how.task.device):
            self._record = Record(drawn.model, how.task.forward, drawn.train[0])
        self.terms: tuple[Terms, ...] = self._record.terms

    def step(self, deltas: Sequence[Tensor]) -> tuple[Terms, Back]:
        record, descent, stacked = self._record, self._how.descent, self._how.road.chunk > 1
        places = len(deltas[0])
        missing = LEAST - places if stacked else 0
        deltas = [_filled(delta, missing) for delta in deltas]
        count = len(deltas[0])
        pulled = record.pull(deltas)
        theta = {name: p.detach().expand(count, *p.shape) for name, p in record.theta.items()}
        moved = {name: p.requires_grad_() for name, p in descent.first_step(theta, pulled).items()}
        with torch_global_scope(self._drawn.seed, "dropout", "fitness", device=self._how.task.device):
            terms = self._stacked(moved, count) if stacked else self._alone(moved)

        def back(delta: Tensor) -> list[Tensor]:
            slopes = torch.autograd.grad(
                terms.output,
                list(moved.values()),
                _filled(delta, missing),
                allow_unused=True,
                materialize_grads=True,
            )
            directions = descent.clipped_direction(pulled, dict(zip(moved, slopes, strict=True)))
            return [tangent[:places] for tangent in record.push(directions)]

        weight, group = (None if part is None else part[:places] for part in (terms.weight, terms.group))
        return Terms(terms.output[:places], terms.target[:places], weight, group), back

    def _stacked(self, moved: dict[str, Tensor], count: int) -> Terms:
        network = PopulationNetwork(self._drawn.model, self._how.task.forward, count)
        with network.substituted(moved):
            term = network(self._drawn.fitness)[0]
        parts = (term.target, term.weight, term.group)
        target, weight, group = (None if part is None else part.expand(count, *part.shape) for part in parts)
        assert target is not None
        return Terms(term.output, target, weight, group)

    def _alone(self, moved: dict[str, Tensor]) -> Terms:
        network = Network(self._drawn.model, self._how.task.forward)
        # Convolutions run in the order of their weights, and channels-last is the faster one.
        own = {f"model.{name}": dense_images(p[0])[None] if p.dim() == 5 else p for name, p in moved.items()}
        terms, _ = network(own, network.buffers(1), self._drawn.fitness)
        return terms[0]


def _filled(stack: Tensor, missing: int) -> Tensor:
    """With copies of the first candidate as passengers."""
    return stack if missing <= 0 else torch.cat([stack, stack[:1].expand(missing, *stack.shape[1:])])
