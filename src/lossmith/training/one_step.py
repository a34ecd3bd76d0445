"""One step of the base model from θ0, for many candidates: what the closed form needs of a network."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

import torch
from torch import Tensor

from lossmith.rng import torch_global_scope
from lossmith.tasks import Terms
from lossmith.training.functional_network import Network
from lossmith.training.linearised.step import ThroughRecord
from lossmith.training.meta_gradient import Draw, Unroll
from lossmith.training.perceptron import layers_of
from lossmith.training.perceptron_step import Perceptron

Back = Callable[[Tensor], list[Tensor]]


class OneStep(Protocol):
    """The forward pass at θ0, and a step from there.

    Attributes:
        terms: what the forward pass on the training batch gave; all candidates share it.
    """

    terms: tuple[Terms, ...]

    def step(self, deltas: Sequence[Tensor]) -> tuple[Terms, Back]:
        """The forward pass on the fitness batch after one step.

        Args:
            deltas: ∂M/∂z of the candidates for each of `terms`, [P, *z.shape].

        Returns:
            The first of its Terms, with a first axis of candidates; and a function from a derivative by their output to
            J·w for each of `terms`, [P, *z.shape]. There v is what that derivative is by the parameters θ' after the
            step, and ⟨w, dg⟩ = −⟨v, dθ'⟩/a for every change dg of the step's gradient g.
        """
        ...


def one_step(how: Unroll, drawn: Draw) -> OneStep:
    """By the road that was chosen."""
    ways: dict[str, Callable[[Unroll, Draw], OneStep]] = {"layers": ThroughLayers, "recorded": ThroughRecord}
    return ways.get(how.road.kind, ThroughNetwork)(how, drawn)


class ThroughNetwork:
    """Through any model, by automatic differentiation."""

    def __init__(self, how: Unroll, drawn: Draw) -> None:
        kind = how.road.kind
        self._how, self._drawn = how, drawn
        self._network = Network(
            drawn.model, how.task.forward, stacked=kind == "stacked", forward_mode=kind == "forward"
        )
        self._start = self._network.start(
            drawn.train[0], lambda: torch_global_scope(drawn.seed, "dropout", 0, device=how.task.device)
        )
        self.terms: tuple[Terms, ...] = self._start.terms

    def step(self, deltas: Sequence[Tensor]) -> tuple[Terms, Back]:
        network, descent, count = self._network, self._how.descent, len(deltas[0])
        pulled = self._start.pull(deltas)
        theta = {name: p.detach().expand(count, *p.shape) for name, p in network.theta.items()}
        moved = {name: p.requires_grad_() for name, p in descent.first_step(theta, pulled).items()}
        with torch_global_scope(self._drawn.seed, "dropout", "fitness", device=self._how.task.device):
            terms, _ = network(moved, network.buffers(count), self._drawn.fitness)

        def back(delta: Tensor) -> list[Tensor]:
            slopes = torch.autograd.grad(
                terms[0].output, list(moved.values()), delta, allow_unused=True, materialize_grads=True
            )
            return self._start.push(descent.clipped_direction(pulled, dict(zip(moved, slopes, strict=True))))

        return terms[0], back


class ThroughLayers:
    """Through a plain perceptron, with explicit matrices."""

    def __init__(self, how: Unroll, drawn: Draw) -> None:
        (x, y), (after, self._target) = drawn.train[0], drawn.fitness
        layers, descent = layers_of(how.task, drawn.model), how.descent
        rate, decay, own = descent.first_lr, descent.sgd.weight_decay, layers[0].linear.weight.dtype
        dtype = torch.bfloat16 if how.dtype == "bfloat16" and own == torch.float32 else own
        self._perceptron = Perceptron(layers, x, after, rate=rate, decay=decay, kept=how.kept, dtype=dtype)
        self.terms: tuple[Terms, ...] = (Terms(self._perceptron.output, y),)

    def step(self, deltas: Sequence[Tensor]) -> tuple[Terms, Back]:
        (delta,), y = deltas, self._target
        output, back = self._perceptron.step(delta)
        return Terms(output, y.expand(len(delta), *y.shape)), lambda after: [back(after)]
