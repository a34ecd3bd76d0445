"""P training runs at once, on the population path: one stacked base model, P losses, one seed.

The counterpart of `training.loop.train`: the same streams, batches, schedule and looks, so a candidate ends as it would
alone, but for rounding. Each candidate ends for itself; the stack goes on with the others, whose numbers do not change
by a bit, because nothing of one candidate enters what is computed of another.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from lossmith.errors import LossError
from lossmith.losses import Loss, LossSet
from lossmith.losses.population_loss import PopulationLoss
from lossmith.records import OK, Split, Status
from lossmith.rng import torch_global_scope
from lossmith.tasks import Task, Terms
from lossmith.training.judging import crashed, judged_against_chance, measured
from lossmith.training.population.company import same_bits
from lossmith.training.population.compiled import CompiledPass
from lossmith.training.population.deltas import made_ready, values_and_deltas
from lossmith.training.population.graphs import Capture, CapturedSteps, CudaCapture, Number, why_not_recorded
from lossmith.training.population.network import PopulationNetwork
from lossmith.training.population.optimizers import stacked_optimizer
from lossmith.training.precision import in_precision
from lossmith.training.prediction import Predictions, arranged, predicted
from lossmith.training.process import compute_scope
from lossmith.training.run_record import Trained, Training
from lossmith.training.steps import FiniteWatch, curve_points, initial_model, steps_of, through_deltas

LEAST = 2  # places in a stack: with one, products are computed in another order of summation than with several
WORTH = 8.0  # steps of the whole stack: about what it costs to leave finished candidates behind, looking first


def train_population(
    task: Task,
    losses: Sequence[Loss | LossSet],
    how: Training,
    lr_scales: Sequence[float],
    *,
    on_step: Callable[[int], None] | None = None,
    keep_models: bool = True,
    say: Callable[[str], None] | None = None,
    capture: Capture | None = None,
) -> list[Trained]:
    """Train a fresh base model with each loss.

    Args:
        losses: P of them.
        how: of all trainings, but for `lr_scale`, which does not count.
        lr_scales: factor of each candidate on the recipe's learning rate, [P].
        on_step: called with the number of finished steps, for progress.
        keep_models: whether the trained models are wanted; a copy costs as much as some steps of a small network.
        say: is told at the end why steps were not compiled, or not recorded, where `how` asks for it.
        capture: how steps are recorded instead of as `how` and the device say.

    Returns:
        What came of each; a loss that raises, or a metric that does, is a status of its candidate.

    Raises:
        NotStackable: the model, the forward or the optimiser cannot be stacked.
        LossError: a loss that adapts while it trains.
    """
    for loss in losses:
        if any(member.online is not None for member in (loss if isinstance(loss, LossSet) else (loss,))):
            raise LossError(f"{loss} adapts while it trains, which a stack cannot do: train it alone.")
    with compute_scope(how.threads):
        model = initial_model(task, how)
        network = PopulationNetwork(model, task.forward, len(losses), channels_last=how.channels_last)
        with torch_global_scope(how.seed, "dropout", device=task.device):
            run = _Run(task, network, losses, how, lr_scales, keep_models, capture)
            found = run.to_the_end(on_step)
    if say is not None and run.obstacle:
        say(run.obstacle)
    return found


class _Run:
    """The stack and what is known of its candidates.

    A *place* is an index into the stack. `candidates` says whose it is; at the places that are not `living` stand
    candidates that have ended and are still carried along.
    """

    def __init__(
        self,
        task: Task,
        network: PopulationNetwork,
        losses: Sequence[Loss | LossSet],
        how: Training,
        lr_scales: Sequence[float],
        keep_models: bool,
        capture: Capture | None,
    ) -> None:
        self.keep_models = keep_models
        self.task, self.network, self.how = task, network, how
        self.losses = [tuple(loss) if isinstance(loss, LossSet) else (loss,) for loss in losses]
        self.parameters = list(network.parameters.values())
        self.optimizer = stacked_optimizer(task.recipe, self.parameters, lr_scales)
        self.watch = FiniteWatch(torch.zeros(len(losses), device=task.device), how.steps)
        self.candidates = list(range(len(losses)))
        self.curves: list[list[tuple[int, float]]] = [[] for _ in losses]
        self.found: dict[int, Trained] = {}
        self._set_living(list(range(len(losses))))
        self.done = 0
        self.may_leave = True  # until it is seen to change somebody's bits
        self.compiled: CompiledPass | None = None
        if how.compile:
            key, exact = (how.dtype, how.channels_last), how.dtype == "float32"
            self.compiled = CompiledPass(network, self._terms, task, key, exact=exact)
        self.captured = self._captured(capture)

    def _captured(self, capture: Capture | None) -> CapturedSteps | None:
        task, how, device = self.task, self.how, self.task.device
        if capture is None and how.graph and device.type == "cuda" and not why_not_recorded(task):
            capture = CudaCapture(device)
        if capture is None:
            return None
        steps = steps_of(task, how)
        return CapturedSteps(self.network, steps, task.recipe.base_lr, self._update, device, capture)

    @property
    def obstacle(self) -> str:
        """Why steps were not compiled or not recorded, where that was asked for; "" otherwise."""
        if self.how.graph and self.captured is None:
            return why_not_recorded(self.task) or "steps are recorded on a CUDA device only."
        reasons = [one.reason for one in (self.compiled, self.captured) if one is not None]
        return " ".join(reason for reason in reasons if reason)

    def _set_living(self, places: list[int]) -> None:
        self.living = places
        self._living_index = torch.tensor(places, dtype=torch.int64, device=self.task.device)
        # position of the Terms → the loss of each living candidate, and all of them made ready
        self._members: dict[int, tuple[tuple[Loss, ...], PopulationLoss | None]] = {}

    def to_the_end(self, on_step: Callable[[int], None] | None) -> list[Trained]:
        """All steps, and the measurements at the end."""
        how, points = self.how, curve_points(self.how)
        self.network.train()
        for step in steps_of(self.task, how):
            done = self.done = step.done
            if self.captured is not None:
                totals = self.captured()
            else:
                totals = self._update(step.rows, step.tau, self.task.recipe.base_lr * step.factor)
            bad = self.watch.non_finite(totals, done)
            for place in [place for place in self.living if bad and bad[place]]:
                self._end(place, self.watch.status(done), done)
            if how.chance is not None and done == how.chance[0]:
                self._against_chance(how.chance[1], done)
            if done in points:
                for place, value in self._measured(how.splits[0], done):
                    self.curves[self.candidates[place]].append((done, value))
            if not self.living:
                break
            self._leave_behind(how.steps - done)
            if on_step is not None:
                on_step(done)
        self._conclude()
        return [self.found[candidate] for candidate in range(len(self.losses))]

    def _update(self, rows: Tensor, tau: Number, rate: Number, recording: bool = False) -> Tensor:
        """One step of all candidates on a batch, at a learning rate; their losses before it, [P]."""
        for parameter in self.parameters:
            parameter.grad = None
        batch = arranged(self.task.data["train"].batch(rows), self.how.channels_last)
        totals = self._backward((self.compiled or self._terms)(batch), tau, recording)
        if self.task.recipe.grad_clip is not None:
            self.optimizer.clip(self.task.recipe.grad_clip)
        self.optimizer.step(rate)
        for parameter in self.parameters:
            parameter.grad = None
        return totals

    def _terms(self, batch: object) -> tuple[Terms, ...]:
        return in_precision(lambda: self.network(batch), self.task.device, self.how.dtype)

    def _backward(self, terms: tuple[Terms, ...], tau: Number, recording: bool) -> Tensor:
        """Back-propagates the network from the losses' own derivatives; the sum of the losses of each candidate."""
        return through_deltas(terms, lambda at, term: self._values_and_deltas(at, term, tau, recording))

    def _values_and_deltas(self, position: int, term: Terms, tau: Number, recording: bool) -> tuple[Tensor, Tensor]:
        living, index = self.living, self._living_index
        if position not in self._members:
            sets = [self.losses[self.candidates[place]] for place in living]
            members = tuple(losses[min(position, len(losses) - 1)] for losses in sets)
            self._members[position] = members, made_ready(members)
        members, ready = self._members[position]
        everybody = len(living) == len(self.candidates)
        own = term if everybody else replace(term, output=term.output.detach().index_select(0, index))
        values, deltas, failed = values_and_deltas(members, own, tau, ready=ready, isolate=not recording)
        for i, status in failed.items():
            self._end(living[i], status, self.done - 1)
        if everybody:
            return values, deltas
        count = len(self.candidates)
        return (
            values.new_zeros(count).index_copy(0, index, values),
            deltas.new_zeros(count, *deltas.shape[1:]).index_copy(0, index, deltas),
        )

    def _end(self, place: int, status: Status, done: int, metrics: dict[str, float] | None = None) -> None:
        candidate = self.candidates[place]
        model = self.network.candidate(place) if self.keep_models else None
        self.found[candidate] = Trained(status, done, metrics or {}, tuple(self.curves[candidate]), model)
        self._set_living([other for other in self.living if other != place])

    def _leave_behind(self, steps: int) -> None:
        """Take those that have ended out of the stack, where the steps that are left are worth it."""
        count, living = len(self.candidates), self.living
        if len(living) == count:
            return
        ended = [place for place in range(count) if place not in living]
        kept = sorted([*living, *ended[: max(LEAST - len(living), 0)]])
        if not self.may_leave or len(kept) == count or (count - len(kept)) * steps < WORTH * count:
            return
        self.may_leave = same_bits(self.task, self.how, count, kept)
        if not self.may_leave:
            return
        index = torch.tensor(kept)
        self.network.keep(index)
        self.parameters = list(self.network.parameters.values())
        self.optimizer.keep(index, self.parameters)
        self.watch.keep(index)
        if self.captured is not None:
            self.captured.forget()
        self.candidates = [self.candidates[place] for place in kept]
        self._set_living([kept.index(place) for place in living])

    def _against_chance(self, chance: float, done: int) -> None:
        def judge(seen: Predictions) -> tuple[float, Status]:
            return math.nan, judged_against_chance(self.task, seen, chance, done)

        for _ in self._judged("fitness", done, judge):
            pass

    def _measured(self, split: Split, done: int) -> Iterator[tuple[int, float]]:
        return self._judged(split, done, lambda seen: measured(self.task, seen, split))

    def _judged(
        self, split: Split, done: int, judge: Callable[[Predictions], tuple[float, Status]]
    ) -> Iterator[tuple[int, float]]:
        """(place, value) of the living whose predictions pass; the others end here."""
        if not self.living:
            return
        self.network.train(False)
        with torch.no_grad():
            order = self.how.channels_last
            seen = predicted(self.task, split, lambda b: self._terms(b)[0], channels_last=order, stacked=True)
        self.network.train()
        for place in list(self.living):
            try:
                value, status = judge(replace(seen, output=seen.output[place]))
            except (Exception, SystemExit) as error:
                value, status = math.nan, crashed(error)
            if status.ok:
                yield place, value
            else:
                self._end(place, status, done)

    def _conclude(self) -> None:
        how = self.how
        metrics: dict[int, dict[str, float]] = {place: {} for place in self.living}
        for split in how.splits:
            last = {place: self.curves[self.candidates[place]][-1:] for place in self.living}
            if split == how.splits[0] and how.curve and all(end and end[0][0] == how.steps for end in last.values()):
                values = [(place, end[0][1]) for place, end in last.items()]
            else:
                values = list(self._measured(split, how.steps))
            for place, value in values:
                metrics[place][split] = value
        for place in list(self.living):
            self._end(place, OK, how.steps, metrics[place])
