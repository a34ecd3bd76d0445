"""A second road to meta-gradients: SGD on a two-layer network, unrolled by hand with explicit matrices."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from lossmith.losses import Loss, LossSet, Network, Taylor, Tree, loss
from lossmith.losses.parser import parse
from lossmith.tasks import SGD, Recipe, Task
from lossmith.training import Tuned
from lossmith.training.functional_sgd import Descent
from lossmith.training.meta_gradient import Draw, MetaGradient, Road, Unroll, draw
from lossmith.training.tunable import Tunable

Formula = Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]  # (p, log p, t, φ) → ℓ, written out


@dataclass(frozen=True)
class Step:
    """The base model's step, for the hand-written road."""

    lr: float = 0.3
    momentum: float = 0.0
    nesterov: bool = False
    weight_decay: float = 0.0
    clip: float | None = None

    @property
    def recipe(self) -> Recipe:
        sgd = SGD(self.lr, momentum=self.momentum, nesterov=self.nesterov, weight_decay=self.weight_decay)
        return Recipe(steps=50, batch_size=16, optimizer=sgd, grad_clip=self.clip)

    @property
    def descent(self) -> Descent:
        recipe = self.recipe
        assert isinstance(recipe.optimizer, SGD)
        return Descent(recipe.optimizer, self.lr, self.clip)


STEPS = {
    "plain": Step(),
    "decay": Step(weight_decay=0.1),
    "momentum": Step(momentum=0.9),
    "nesterov": Step(momentum=0.8, nesterov=True, weight_decay=0.05),
    "clipped": Step(clip=0.2, momentum=0.5, weight_decay=0.01),
}


def third_order(p: Tensor, t: Tensor, phi: Tensor) -> Tensor:
    """−f of ALGORITHMS §2 with factorials absorbed, from the stored order θ2…θ7, θ0, θ1."""
    a, b = t - phi[6], p - phi[7]
    f = phi[0] * b + phi[1] * b**2 + phi[2] * b**3 + phi[3] * a * b + phi[4] * a * b**2 + phi[5] * a**2 * b
    return -f


def perceptron(p: Tensor, t: Tensor, phi: Tensor, hidden: Sequence[int]) -> Tensor:
    """softplus(w · relu(… relu(W_1 (p, t)))) with the weights one after the other, as ML3 has it (ALGORITHMS §5)."""
    x, start = torch.stack([p, t], dim=-1), 0
    for size in hidden:
        weight = phi[start : start + size * x.shape[-1]].reshape(size, -1)
        start += weight.numel()
        x = torch.clamp(x @ weight.T, min=0)
    s = x @ phi[start:]
    return torch.log1p(torch.exp(-s.abs())) + torch.clamp(s, min=0)


def network(seed: int, *hidden: int, scale: float = 1.0) -> Network:
    drawn = Network.drawn(np.random.Generator(np.random.PCG64(seed)), hidden)
    return Network(tuple(scale * weight for weight in drawn.weights), hidden)


def tree(text: str, *weights: float) -> Tree:
    return Tree(parse(text), weights=weights)


KERNELS: dict[str, tuple[Any, Formula]] = {
    "squared": (tree("square(t - p)", 1.1, 0.9, 1.2), lambda p, log_p, t, w: (w[0] * (w[1] * t - w[2] * p)) ** 2),
    "logarithm": (
        tree("p*p - t*log(p)", 0.8, 1.1, 0.9, 1.2, 0.7, 1.3, 0.6),
        lambda p, log_p, t, w: w[0] * (w[1] * p * w[2] * p) - w[3] * (w[4] * t * w[5] * (torch.log(w[6]) + log_p)),
    ),
    "tanh": (
        tree("tanh(p - t)*(p - t)", 1.2, 0.9, 0.8, 1.1, 1.3, 0.7, 0.6),
        lambda p, log_p, t, w: (w[0] * torch.tanh(w[1] * (w[2] * p - w[3] * t))) * (w[4] * (w[5] * p - w[6] * t)),
    ),
    "taylor": (
        Taylor((1.5, -1.0, 0.7, 1.2, -0.6, 0.3, 0.4, 0.6)),
        lambda p, log_p, t, w: third_order(p, t, w),
    ),
    "network": (
        network(4, 4, 3, scale=2.0),  # steep enough to be clipped
        lambda p, log_p, t, w: perceptron(p, t, w, (4, 3)),
    ),
}


NAMES = tuple(KERNELS)
PLAIN = STEPS["plain"]


def two_layers(seed: int) -> nn.Module:
    return nn.Sequential(nn.Linear(6, 5), nn.Tanh(), nn.Linear(5, 3)).double()


def double_task(step: Step, *, model: Any = two_layers, **parts: Any) -> Task:
    """90 training and 24 fitness rows of three classes in float64."""
    generator = torch.Generator().manual_seed(5)
    y = torch.arange(138) % 3
    x = 2 * torch.eye(3, 6, dtype=torch.float64)[y] + torch.randn(138, 6, generator=generator, dtype=torch.float64)
    usual = {"train": (x[:90], y[:90]), "valid": (x[90:114], y[90:114]), "selection": (x[114:], y[114:])}
    return Task(**{**usual, "model": model, "recipe": step.recipe, **parts})


@dataclass(frozen=True)
class ByHand:
    """Training of the two layers with a loss given as a formula; everything is plain matrices.

    Args:
        formula: ℓ(p, log p, t, φ). step: of the base model.
        forget_momentum: leaves momentum out, which is wrong: the comparisons must notice.
    """

    formula: Formula
    step: Step
    forget_momentum: bool = False
    losses: list[float] = field(default_factory=list)

    def trained(
        self,
        theta: Sequence[Tensor],
        batches: Sequence[Any],
        phi: Tensor,
        velocity: list[Tensor] | None = None,
        truncation: int = 0,
    ) -> tuple[list[Tensor], list[Tensor] | None]:
        """Parameters and momentum after one step per batch; before the last `truncation` steps cut off from φ."""
        w1, b1, w2, b2 = theta
        for number, (x, y) in enumerate(batches):
            if truncation and number == len(batches) - truncation:
                w1, b1, w2, b2 = (v.detach().requires_grad_() for v in (w1, b1, w2, b2))
                velocity = None if velocity is None else [v.detach() for v in velocity]
            logits = torch.tanh(x @ w1.T + b1) @ w2.T + b2
            log_p = logits - logits.logsumexp(1, keepdim=True)
            t = torch.eye(3, dtype=x.dtype)[y]
            inner = self.formula(log_p.exp(), log_p, t, phi).sum(1).mean()
            gradient = list(torch.autograd.grad(inner, (w1, b1, w2, b2), create_graph=True))
            if self.step.clip is not None:
                norm = torch.cat([g.reshape(-1) for g in gradient]).pow(2).sum().sqrt()
                factor = torch.clamp(self.step.clip / (norm + 1e-6), max=1.0)
                gradient = [factor * g for g in gradient]
            gradient = [g + self.step.weight_decay * v for g, v in zip(gradient, (w1, b1, w2, b2), strict=True)]
            mu = 0.0 if self.forget_momentum else self.step.momentum
            velocity = gradient if velocity is None else [mu * m + g for m, g in zip(velocity, gradient, strict=True)]
            moved = [g + mu * m for g, m in zip(gradient, velocity, strict=True)] if self.step.nesterov else velocity
            w1, b1, w2, b2 = (v - self.step.lr * d for v, d in zip((w1, b1, w2, b2), moved, strict=True))
        return [w1, b1, w2, b2], velocity

    def judged(self, theta: Sequence[Tensor], fitness: Any) -> Tensor:
        """Cross-entropy on the fitness batch."""
        w1, b1, w2, b2 = theta
        x, y = fitness
        logits = torch.tanh(x @ w1.T + b1) @ w2.T + b2
        return -(logits - logits.logsumexp(1, keepdim=True))[torch.arange(len(y)), y].mean()

    def task_loss(
        self, theta: Sequence[Tensor], batches: Sequence[Any], fitness: Any, phi: Tensor, truncation: int = 0
    ) -> Tensor:
        """Cross-entropy on the fitness batch after one step per batch, as a function of φ."""
        return self.judged(self.trained(theta, batches, phi, truncation=truncation)[0], fitness)

    def meta_gradient(self, drawn: Draw, phi: Sequence[float], truncation: int = 0) -> Tensor:
        number = torch.tensor(phi, dtype=torch.float64, requires_grad=True)
        value = self.task_loss(leaves(drawn), drawn.train, drawn.fitness, number, truncation)
        (gradient,) = torch.autograd.grad(value, number)
        return gradient

    def finite_differences(self, drawn: Draw, phi: Sequence[float], h: float = 1e-5) -> Tensor:
        """Central differences of the task loss."""
        at = torch.tensor(phi, dtype=torch.float64)
        found = []
        for k in range(len(phi)):
            shift = torch.zeros_like(at)
            shift[k] = h
            up, down = (
                self.task_loss(leaves(drawn), drawn.train, drawn.fitness, at + sign * shift).item() for sign in (1, -1)
            )
            found.append((up - down) / (2 * h))
        return torch.tensor(found, dtype=torch.float64)


def leaves(drawn: Draw) -> list[Tensor]:
    return [p.detach().clone().requires_grad_() for p in drawn.model.parameters()]


def how(task: Task, step: Step, length: int, count: int, road: Road) -> Unroll:
    return Unroll(task, loss("cross_entropy"), step.descent, length, road, road.chunks(count))


def losses(*names: str) -> list[Loss]:
    return [Loss(KERNELS[name][0]) for name in names]


def relative_error(found: Any, expected: Tensor) -> float:
    """Largest deviation relative to the largest expected number, which must not be nothing."""
    size = expected.abs().max().item()
    assert size > 1e-4, "there is hardly a gradient: the comparison would prove nothing"
    error = (torch.as_tensor(found) - expected).abs().max().item() / size
    return math.inf if math.isnan(error) else error


def phi(tuned: Tuned) -> np.ndarray[Any, Any]:
    members = tuple(tuned.loss) if isinstance(tuned.loss, LossSet) else (tuned.loss,)
    return np.array([number for member in members for number in member.kernel.phi])


def gradients(
    by: Any, task: Task, candidates: Sequence[Loss | LossSet], *, length: int = 1, road: Road | None = None
) -> list[MetaGradient]:
    tunable = [Tunable.of(one, task) for one in candidates]
    road = Road("stacked", 8) if road is None else road
    found = by(
        how(task, PLAIN, length, len(tunable), road), draw(task, 2, 0, length), tunable, [c.phi for c in tunable]
    )
    return [found[i] for i in range(len(tunable))]


def agree(a: Sequence[MetaGradient], b: Sequence[MetaGradient], tolerance: float = 1e-9) -> bool:
    for one, other in zip(a, b, strict=True):
        size = np.abs(one.gradient).max()
        assert size > 1e-5, "nothing to compare"
        if np.abs(one.gradient - other.gradient).max() > tolerance * size or abs(one.value - other.value) > tolerance:
            return False
    return True
