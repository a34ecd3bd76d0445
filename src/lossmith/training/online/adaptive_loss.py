"""`AdaptiveLoss`: a loss that learns while it trains, for a training loop of the user's own (`lm.online`)."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn, optim

from lossmith.errors import LossError, UsageError
from lossmith.losses import Loss, LossSet, Network, OnlineRule, replay_of
from lossmith.losses import loss as named
from lossmith.losses.autograd_road import with_parameters
from lossmith.losses.inputs import Head
from lossmith.records import OK, Status
from lossmith.rng import derive_seed, stream
from lossmith.tasks import Terms, supervised
from lossmith.tasks.terms import Forward
from lossmith.tasks.trees import map_tree
from lossmith.training.functional_network import Whole
from lossmith.training.meta_adam import Vector
from lossmith.training.online.adaptation import Adaptation
from lossmith.training.online.inner import Inner, InnerLoss
from lossmith.training.online.optimizer_step import OptimizerStep
from lossmith.training.online.passes import slopes_at_present
from lossmith.training.online.random_state import RandomState
from lossmith.training.online.repeated_pass import RepeatedPass
from lossmith.training.online.valid_batches import ValidBatches
from lossmith.training.online.watched_passes import Hook, SeenPass, WatchedPasses, leaves_of
from lossmith.training.tunable import Tunable

_CHANGED = (
    "gradients were changed between backward() and optimizer.step(): where clip_grad_norm_ does that, give "
    "AdaptiveLoss its max_norm as grad_clip=...; add further losses to this one before one backward(); a GradScaler is "
    "not supported, use bfloat16."
)
POINTS = 20  # of a trajectory of unknown length: from here on every second one is left out


class AdaptiveLoss(nn.Module):
    """A loss whose parameters φ take a step of their own after every `optimizer.step()` (AdaLFL).

    Raymond, Chen, Xue & Zhang 2023, *Online Loss Function Learning*, arXiv 2301.13247. φ descends the task loss of the
    model just moved, on a batch of `valid_loader`, differentiated through that one step of the optimiser, whose
    momentum or running means are what they are. Gradients of several backward passes may be accumulated, and losses of
    several passes added; what was called in evaluation mode or without gradients is not learned from. The model runs
    on the validation batch in training mode and keeps nothing of it.

    Args:
        model: what is trained, as it is called in the loop: one process, no GradScaler.
        optimizer: torch's SGD, Adam or AdamW.
        valid_loader: batches to adapt to, none of which is trained on.
        loss: where φ starts: the loss that `lossmith search --method adalfl` found, or any loss with parameters. None
            draws AdaLFL's network, which has learned nothing yet and needs a larger `lr`.
        task_loss: what φ descends: a loss, or its name.
        lr: learning rate of φ; None: that of the loss's own rule, or 1e-5.
        every: steps of the optimiser from one step on φ to the next; None: the loss's own rule, or 1.
        head: of `task_loss` and of the drawn network, where these are not given as a `Loss`.
        grad_clip: the `max_norm` that the loop gives to `clip_grad_norm_` between backward and step.
        forward: (model, batch of `valid_loader`) → Terms, for batches other than (x, y).
        seed: of what is drawn: the network, the order of a shuffling loader, dropout masks on its batches.

    Attributes:
        status: OK, or why φ stands still since: it keeps its last finite value.

    Raises:
        UsageError: an optimiser, loader or loss that cannot serve, with what to give instead.

    Example:
        >>> import torch, lossmith as lm
        >>> x, y, model = torch.zeros(8, 3), torch.arange(8) % 2, torch.nn.Linear(3, 2)
        >>> optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        >>> criterion = lm.online.AdaptiveLoss(model, optimizer, valid_loader=[(x, y)])
        >>> loss = criterion(model(x), y)
        >>> loss.backward()
        >>> optimizer.step()  # and φ has moved, too
    """

    def __init__(
        self,
        model: nn.Module,
        optimizer: optim.Optimizer,
        valid_loader: Iterable[Any],
        loss: Loss | None = None,
        task_loss: Loss | str = "cross_entropy",
        lr: float | None = None,
        seed: int = 0,
        *,
        every: int | None = None,
        head: Head = "softmax",
        grad_clip: float | None = None,
        forward: Forward = supervised,
    ) -> None:
        super().__init__()
        _check_alone()
        if isinstance(loss, LossSet) or not (loss is None or isinstance(loss, Loss)):
            raise LossError(f"loss is a {type(loss).__name__}: give one lm.Loss with parameters, or None.")
        self._task_loss = named(task_loss, head=head) if isinstance(task_loss, str) else task_loss
        if loss is None:
            loss = Loss(Network.adalfl(stream(seed, "adaptive loss")), head=self._task_loss.head)
        if loss.reduction == "none":
            raise LossError('a loss with a number per row cannot be trained with: use reduction="mean".')
        own = loss.online or OnlineRule()
        rule = OnlineRule(own.lr if lr is None else lr, own.optimizer, own.every if every is None else every)
        start = Loss(
            loss.kernel, head=loss.head, aggregation=loss.aggregation, reduction=loss.reduction, outputs=loss.outputs,
            smoothing=loss.smoothing, prior=loss.prior, online=rule,
        )  # fmt: skip
        self.status: Status = OK
        self._start, self._seed = start, seed
        self._adaptation = Adaptation(Tunable(start, (start,)))
        self._inner = InnerLoss(self._adaptation.candidate)
        self._step = OptimizerStep(optimizer, grad_clip)
        self._clips = grad_clip is not None
        self._batches = ValidBatches(valid_loader, seed)
        # In tuples, so that the model does not become a part of its loss.
        self._model, self._optimizer = (model,), (optimizer,)
        whole = getattr(model, "_orig_mod", model)  # of torch.compile, whose passes have no second derivative
        self._repeated, self._whole = (RepeatedPass(whole),), (Whole(whole, forward),)
        self._device = next(iter(model.parameters())).device
        self._inside = False  # a pass of its own
        self._underway = False  # a backward pass
        self._passes = WatchedPasses(model, self._wanted)
        self._calls: list[_Call] = []
        self._versions: list[tuple[int, int]] = []
        self._handles = [
            optimizer.register_step_pre_hook(Hook(self._before_step)),
            optimizer.register_step_post_hook(Hook(self._after_step)),
        ]

    def forward(
        self,
        output: Tensor,
        target: Tensor,
        *,
        weight: Tensor | None = None,
        progress: float | None = None,
        group: Tensor | None = None,
    ) -> Tensor:
        """The loss at the present φ; arguments as for `Loss.forward`.

        Raises:
            UsageError: in training, an output that is not what the model itself returned.
        """
        model = self._model[0]
        learns = torch.is_grad_enabled() and output.requires_grad and model.training and self._wanted()
        if not learns:
            own = with_parameters(self._start, torch.from_numpy(self._adaptation.phi), output)
            value: Tensor = own(output, target, weight=weight, progress=progress, group=group)
            return value
        found = self._passes.of(output)
        if found is None:
            raise UsageError(
                f"the output given to AdaptiveLoss is none that {type(model).__name__} returned in training mode: give "
                "what model(x) returned itself, and put what changes it afterwards into the model."
            )
        z = output.detach()
        terms = Terms(z if z.dtype == torch.float64 else z.float(), target, weight, group)
        inner = self._inner.at([terms], self._adaptation.phi, progress)
        call = _Call(found[0], found[1], inner)
        given: Tensor = _Given.apply(output, inner.value, inner.deltas[0], call, self)  # type: ignore[no-untyped-call]
        return given

    @property
    def loss(self) -> Loss:
        """The loss at the present φ, with its rule: to store, show or export."""
        found = self._adaptation.candidate.with_phi(self._adaptation.phi)
        assert isinstance(found, Loss)
        return found

    @property
    def steps(self) -> int:
        """Steps of the optimiser that were learned from, or passed over by `every`."""
        return self._adaptation.done

    def replay(self) -> Loss:
        """The course of φ so far as a loss that stands still: call it with progress = step / steps."""
        whole = self._adaptation.whole_trajectory()
        found = replay_of(self._start, whole.document(), max(self.steps, 1))
        assert isinstance(found, Loss)
        return found

    def get_extra_state(self) -> dict[str, Tensor]:
        """All that `load_state_dict` needs to go on exactly as here, beside model and optimiser; tensors only."""
        stands_still = torch.tensor(list(self.status.sentence.encode()), dtype=torch.uint8)
        return {**self._adaptation.state(), **self._batches.state(), "stands_still": stands_still}

    def set_extra_state(self, state: Mapping[str, Tensor]) -> None:
        """The inverse.

        Raises:
            LossError: it belongs to another loss.
        """
        try:
            self._adaptation.load(state)
            self._batches.load(state)
            why = bytes(state["stands_still"].tolist()).decode()
            self.status = Status("diverged", "", why) if why else OK
        except (KeyError, ValueError, TypeError) as error:
            raise LossError(f"this is no state of this AdaptiveLoss ({error}): build it with the same loss.") from None
        self._calls.clear()

    def extra_repr(self) -> str:
        return str(self.loss)

    def _wanted(self) -> bool:
        own = self._adaptation
        return not self._inside and self.status.ok and own.due(own.done + 1)

    def _seen_backward(self, call: _Call, scale: Tensor) -> None:
        """In the middle of a backward pass that has come to the loss of this call."""
        if not self._underway and self._calls:
            self._look_at_gradients()
        self._underway = True
        call.scale = scale if call.scale is None else call.scale + scale
        if call not in self._calls:
            self._calls.append(call)
        # At the end of the whole pass gradients are complete, and not clipped yet.
        torch.autograd.Variable._execution_engine.queue_callback(self._gradients_complete)

    def _look_at_gradients(self) -> None:
        """What became of the gradients of earlier passes, before a further one adds to them."""
        gradients = [p.grad for p in self._optimized() if p.grad is not None]
        if not gradients:
            self._calls.clear()  # thrown away
        elif not self._clips and self._versions != self._present_versions():
            if any(bool(gradient.any()) for gradient in gradients):
                raise UsageError(_CHANGED)
            self._calls.clear()  # thrown away by zero_grad(set_to_none=False)

    def _gradients_complete(self) -> None:
        self._underway = False
        self._step.complete()
        self._versions = self._present_versions()

    def _optimized(self) -> list[Tensor]:
        return [p for group in self._optimizer[0].param_groups for p in group["params"]]

    def _present_versions(self) -> list[tuple[int, int]]:
        return [(id(p.grad), p.grad._version) for p in self._optimized() if p.grad is not None]

    def _before_step(self, optimizer: optim.Optimizer, arguments: tuple[Any, ...], keywords: dict[str, Any]) -> None:
        if not self._calls:
            return
        if any(part is not None and part is not optimizer for part in (*arguments, *keywords.values())):
            raise UsageError("AdaptiveLoss cannot see into optimizer.step(closure): call backward() before step().")
        scaled = getattr(optimizer, "grad_scale", None) is not None
        if scaled or (not self._clips and self._versions != self._present_versions()):
            raise UsageError(_CHANGED)
        self._step.before()

    def _after_step(self, optimizer: optim.Optimizer, arguments: tuple[Any, ...], keywords: dict[str, Any]) -> None:
        own, calls = self._adaptation, self._calls
        due = self._wanted()
        if not calls and due:
            return  # a step that another loss has asked for
        own.done += 1
        self._calls = []
        if calls and due:
            self._inside = True
            try:
                task_loss, gradient = self._gradient(calls)
            finally:
                self._inside = False
            self.status = own.move(gradient, task_loss)
            if not self.status.ok:
                warnings.warn(f"AdaptiveLoss stands still from here on: {self.status.sentence}.", stacklevel=4)
        self._keep()

    def _gradient(self, calls: list[_Call]) -> tuple[float, Vector]:
        model, step = self._model[0], self._step
        batch = map_tree(lambda part: torch.as_tensor(part).to(self._device), self._batches.next())
        modes = [(module, module.training) for module in model.modules()]
        if not model.training:
            model.train()  # and where it is, parts that the loop has put into evaluation mode stay there
        try:
            seed = derive_seed(self._seed, "online", self._adaptation.done)
            with RandomState(self._device).aside(seed), torch.enable_grad():
                task_loss, v = slopes_at_present(self._whole[0], batch, self._task_loss, step.moved)
            w = step.direction(v)
            found: Vector = np.zeros(len(self._adaptation.phi))
            for seen in {id(call.seen): call.seen for call in calls}.values():
                own = [call for call in calls if call.seen is seen]
                for call, tangent in zip(own, self._tangents(seen, [call.place for call in own], w), strict=True):
                    assert call.scale is not None
                    found = found + call.inner.mixed([tangent.to(call.inner.deltas[0].dtype) * call.scale])
        finally:
            for module, mode in modes:
                module.training = mode
        return task_loss, found

    def _tangents(self, seen: SeenPass, places: list[int], w: list[Tensor]) -> list[Tensor]:
        enabled, dtype = seen.autocast
        with torch.autocast(self._device.type, dtype=dtype, enabled=enabled, cache_enabled=False):
            return self._repeated[0].tangents(
                seen.inputs, lambda returned: leaves_of(returned, places), seen.remembered,
                self._step.moved, self._step.start, w, seen.keywords,
            )  # fmt: skip

    def _keep(self) -> None:
        """A point of the trajectory every so many steps, twice as many whenever there are too many points."""
        trajectory, done = self._adaptation.trajectory, self._adaptation.done
        between = trajectory.steps[1] if len(trajectory.steps) > 1 else 1
        if done % between == 0:
            trajectory.add(done, self._adaptation.phi)
        if len(trajectory.steps) > POINTS:
            trajectory.every_second()


class _Call:
    """One value of the loss that is back-propagated.

    Attributes:
        seen, place: which output of which pass. inner: its derivatives. scale: what the backward pass multiplied it by.
    """

    def __init__(self, seen: SeenPass, place: int, inner: Inner) -> None:
        self.seen, self.place, self.inner = seen, place, inner
        self.scale: Tensor | None = None


class _Given(torch.autograd.Function):
    """A value with its derivative, which tells when it is asked for."""

    @staticmethod
    def forward(ctx: Any, output: Tensor, value: Tensor, delta: Tensor, call: _Call, owner: AdaptiveLoss) -> Tensor:
        ctx.save_for_backward(delta)
        ctx.call, ctx.owner, ctx.dtype = call, owner, output.dtype
        return value.detach().clone()

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, slope: Tensor) -> tuple[Tensor | None, ...]:
        (delta,) = ctx.saved_tensors
        ctx.owner._seen_backward(ctx.call, slope.detach())
        return (slope * delta).to(ctx.dtype), None, None, None, None


def _check_alone() -> None:
    distributed = torch.distributed
    if distributed.is_available() and distributed.is_initialized() and distributed.get_world_size() > 1:
        raise UsageError("AdaptiveLoss adapts in one process: φ would drift apart in several.")
