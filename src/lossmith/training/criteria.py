"""What stands between a forward pass and the optimiser: a loss that stays as it is, or one that adapts as it trains.

The training loop knows a loss by its `Criterion` only, so the plain loop, the online adaptation of AdaLFL and the
checkpoints of long trainings need not know each other.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

from torch import Tensor, nn, optim

from lossmith.losses import Loss, LossSet
from lossmith.losses.delta import interpreted, value_and_delta
from lossmith.records import OK, Status
from lossmith.tasks import Task, Terms
from lossmith.training.run_record import Training
from lossmith.training.steps import Step, through_deltas


class Criterion(Protocol):
    """A loss in the middle of a training run.

    Per step the loop calls `before_pass`, makes the forward pass, calls `backward`, clips gradients where the recipe
    says so, steps the optimiser, and calls `after_step`. Where the loss was found non-finite, training ends without the
    latter.
    """

    def before_pass(self) -> None:
        """The forward pass comes next: what it draws and what it finds in the model's buffers is what is there now."""

    def backward(self, batch: Any, terms: tuple[Terms, ...], step: Step) -> Tensor:
        """Back-propagate the loss of one batch; the parameters had no gradients before.

        Args:
            batch: what the forward pass was given. terms: what it returned, with its graph. step: which step it is.

        Returns:
            The loss, a scalar without a graph.
        """

    def after_step(self, step: Step) -> Status:
        """Called when the optimiser has stepped: `OK`, or why training cannot go on."""

    def product(self) -> str:
        """What the training made besides metrics, as `Evaluation.product` carries it; "" for nothing."""

    def state(self) -> dict[str, Tensor]:
        """All that changed in it since training began, for a checkpoint; the tensors are not to be written to."""

    def load(self, state: Mapping[str, Tensor]) -> None:
        """Go on from what `state` returned: every later call does what it would have done there, bit for bit."""


def criterion_of(
    task: Task, model: nn.Module, optimizer: optim.Optimizer, loss: Loss | LossSet, how: Training
) -> Criterion:
    """The criterion of a training run that has not begun.

    Args:
        model, optimizer: at θ0, on the task's device.
    """
    losses = tuple(loss) if isinstance(loss, LossSet) else (loss,)
    if any(getattr(member, "online", None) is not None for member in losses):
        from lossmith.training.online.criterion import OnlineCriterion

        return OnlineCriterion(task, model, optimizer, loss, how)
    return PlainCriterion(losses, on_cpu=task.device.type == "cpu")


class PlainCriterion:
    """Losses that stay as they are.

    Args:
        losses: one per Terms of a forward pass; the last serves all further ones.
        on_cpu: whether outputs live on the CPU, where losses' own derivatives are faster than autograd's.
    """

    def __init__(self, losses: tuple[Loss, ...], *, on_cpu: bool) -> None:
        self._losses = losses
        self._deltas = on_cpu and all(map(interpreted, losses))

    def before_pass(self) -> None:
        """Nothing is to be remembered."""

    def backward(self, batch: Any, terms: tuple[Terms, ...], step: Step) -> Tensor:
        """See `Criterion.backward`."""
        return self._through_deltas(terms, step.tau) if self._deltas else self._through_graph(terms, step.tau)

    def after_step(self, step: Step) -> Status:
        """Nothing is to be done."""
        return OK

    def product(self) -> str:
        """Nothing is made."""
        return ""

    def state(self) -> dict[str, Tensor]:
        """Nothing changes."""
        return {}

    def load(self, state: Mapping[str, Tensor]) -> None:
        """Nothing changed."""

    def _of(self, position: int) -> Loss:
        return self._losses[min(position, len(self._losses) - 1)]

    def _through_graph(self, terms: tuple[Terms, ...], tau: float) -> Tensor:
        """The sum of the losses, back-propagated through them by autograd: any loss, any device."""
        total: Tensor | None = None
        for position, term in enumerate(terms):
            loss = self._of(position)
            value: Tensor = loss(term.output, term.target, weight=term.weight, group=term.group, progress=tau)
            total = value if total is None else total + value
        assert total is not None
        total.backward()  # type: ignore[no-untyped-call]
        return total.detach()

    def _through_deltas(self, terms: tuple[Terms, ...], tau: float) -> Tensor:
        """The same, with the losses' own derivatives: the network is back-propagated from ∂loss/∂output."""

        def own(position: int, term: Terms) -> tuple[Tensor, Tensor]:
            return value_and_delta(self._of(position), term.output, term.target, term.weight, tau, group=term.group)

        return through_deltas(terms, own)
