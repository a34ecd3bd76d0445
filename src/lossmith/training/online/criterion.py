"""A loss that adapts while it trains a base model: AdaLFL in the training loop (ALGORITHMS §5).

After every step of the base model φ takes one of its own, on the task loss of θ_{t+1} over a batch of fitness rows:

    z = f(θ_t), δ = ∂M_φ/∂z, g = Jᵀδ, θ_{t+1} = S(g) by the recipe's optimiser with the state it has
    v = ∂L_task(θ_{t+1})/∂θ,  w = (∂S/∂g)ᵀ v,  dL_task/dφ = ∂/∂φ ⟨δ(φ), J w⟩

so that nothing is differentiated twice through the network. See `optimizer_step` for w and `repeated_pass` for J w.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import islice
from typing import Any

import torch
from torch import Tensor, nn, optim

from lossmith.errors import TaskError
from lossmith.losses import Loss, LossSet
from lossmith.records import OK, Status
from lossmith.rng import derive_seed
from lossmith.tasks import Task, Terms
from lossmith.training.batches import batch_indices
from lossmith.training.meta_adam import Vector
from lossmith.training.online.adaptation import POINTS, Adaptation
from lossmith.training.online.inner import Inner, InnerLoss
from lossmith.training.online.optimizer_step import OptimizerStep
from lossmith.training.online.passes import passes_of
from lossmith.training.online.random_state import RandomState
from lossmith.training.run_record import Training
from lossmith.training.steps import Step
from lossmith.training.tunable import Tunable, with_class_prior


class OnlineCriterion:
    """See `training.criteria.Criterion`.

    Args:
        task: with fitness rows, which φ adapts to.
        model, optimizer: at θ0.
        loss: with an online rule.

    Raises:
        TaskError: no fitness rows; an optimiser whose step cannot be differentiated; a learning rate too large for φ.
    """

    def __init__(
        self, task: Task, model: nn.Module, optimizer: optim.Optimizer, loss: Loss | LossSet, how: Training
    ) -> None:
        if "fitness" not in task.data or not len(task.data["fitness"]):
            raise TaskError(
                "a loss that adapts while it trains takes the task loss on fitness rows, and the task has none: give "
                "Task(..., valid=...), whose rows become the fitness and selection splits."
            )
        self._task, self._how, self._model = task, how, model
        self._adaptation = Adaptation(Tunable.of(loss, task))
        self._task_loss = with_class_prior(task.task_loss(), task)
        self._step = OptimizerStep(optimizer, task.recipe.grad_clip)
        self._pass = passes_of(task, model, how)
        self._rows = self._fitness_rows(0)
        self._points = frozenset(round(how.steps * i / POINTS) for i in range(POINTS + 1))
        self._loss = InnerLoss(self._adaptation.candidate)
        self._inner: Inner | None = None
        self._due = False

    def before_pass(self) -> None:
        """See `Criterion.before_pass`."""
        self._due = self._adaptation.due(self._adaptation.done + 1)
        if self._due:
            self._pass.remember()

    def backward(self, batch: Any, terms: tuple[Terms, ...], step: Step) -> Tensor:
        """See `Criterion.backward`."""
        own = self._adaptation
        inner = self._loss.at(terms, own.phi, step.tau)
        reached = [(t.output, d) for t, d in zip(terms, inner.deltas, strict=True) if t.output.requires_grad]
        torch.autograd.backward([z for z, _ in reached], [delta for _, delta in reached])
        if self._due:
            self._inner, self._batch = inner, batch
            self._step.complete()
            self._step.before()
        return inner.value

    def after_step(self, step: Step) -> Status:
        """See `Criterion.after_step`."""
        own = self._adaptation
        own.done = step.done
        status = OK
        if self._due and self._inner is not None:
            task_loss, gradient = self._gradient(self._inner)
            status = own.move(gradient, task_loss)
            self._inner = None
        if step.done in self._points:
            own.trajectory.add(step.done, own.phi)
        return status

    def product(self) -> str:
        """See `Criterion.product`."""
        return self._adaptation.product()

    def state(self) -> dict[str, Tensor]:
        """See `Criterion.state`."""
        return self._adaptation.state()

    def load(self, state: Mapping[str, Tensor]) -> None:
        """See `Criterion.load`."""
        self._adaptation.load(state)
        self._rows = self._fitness_rows(self._adaptation.done // self._adaptation.rule.every)

    def _gradient(self, inner: Inner) -> tuple[float, Vector]:
        """Task loss of θ_{t+1}, and its gradient by the φ that the step was taken with."""
        rows = next(self._rows)
        seed = derive_seed(self._how.seed, "online", self._adaptation.done)
        with RandomState(self._task.device).aside(seed):
            batch = self._task.data["fitness"].batch(rows)
            task_loss, v = self._pass.slopes(batch, self._task_loss, self._step.moved)
        w = self._step.direction(v)
        tangents = self._pass.tangents(self._batch, self._step.moved, self._step.start, w)
        return task_loss, inner.mixed(tangents)

    def _fitness_rows(self, after: int) -> Iterator[Tensor]:
        """Rows to adapt to, batch by batch, epoch by epoch, beginning where `after` batches have been drawn."""
        rows = torch.arange(len(self._task.data["fitness"]))
        # A judging split smaller than a batch is taken whole: drawing some of its rows twice would only add noise.
        size = min(self._task.recipe.batch_size, len(rows))
        return islice(batch_indices(rows, size, seed=derive_seed(self._how.seed, "online")), after, None)
