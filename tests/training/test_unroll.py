"""Tuning φ through training: what candidates share, what they cannot do to each other, and what is refused."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from small_tasks import dropout_network, small_task
from torch import Tensor, nn
from unrolled_by_hand import (
    KERNELS,
    NAMES,
    PLAIN,
    STEPS,
    ByHand,
    double_task,
    gradients,
    how,
    losses,
    phi,
    relative_error,
    tree,
    two_layers,
)

from lossmith.errors import LossError, TaskError, UsageError
from lossmith.losses import Loss, LossSet, loss
from lossmith.records import Tuning
from lossmith.tasks import Adam, FunctionTask, Terms, schedules
from lossmith.training import roads, task_tuning, tune
from lossmith.training.meta_gradient import MetaGradient, Road, Unroll, draw
from lossmith.training.tunable import Tunable
from lossmith.training.unroll import HISTORY
from lossmith.training.unrolled import unrolled

# What tuning is for


@pytest.mark.parametrize("length", [1, 3])
def test_it_finds_a_better_loss_than_it_started_from(length: int) -> None:
    task = small_task(batch_size=30)
    timid = Loss(tree("-t*log(p)", 0.3, 0.3, 0.3, 1.0))  # a good loss at a fortieth of its strength
    (tuned,) = tune(task, [timid], Tuning(meta_steps=60, unroll_length=length, meta_lr=0.05), seed=1)
    assert tuned.status.ok
    assert tuned.steps == 60 * length

    def task_loss(candidate: Loss | LossSet) -> float:  # on θ0 and batches that tuning never saw
        own = Tunable.of(candidate, task)
        values = []
        for meta_step in range(20):
            drawn, road = draw(task, 99, meta_step, length), Road()
            values.append(
                unrolled(how(task, replace(PLAIN, lr=0.1), length, 1, road), drawn, [own], [own.phi])[0].value
            )
        return float(np.mean(values))

    assert task_loss(tuned.loss) < task_loss(timid) - 0.05 * length


def test_the_course_of_the_task_loss_is_kept_sparsely() -> None:
    (tuned,) = tune(small_task(), losses("squared"), Tuning(meta_steps=2 * HISTORY + 3), seed=0)
    steps = [step for step, _ in tuned.history]
    assert steps == sorted(set(steps))
    assert (steps[0], steps[-1], len(steps)) == (1, 2 * HISTORY + 3, HISTORY)


# What candidates share


def test_what_is_drawn_depends_on_seed_and_meta_step_only() -> None:
    task = double_task(PLAIN)

    def content(seed: int, meta_step: int) -> Tensor:
        drawn = draw(task, seed, meta_step, 2)
        batches = [part for x, y in (*drawn.train, drawn.fitness) for part in (x.reshape(-1), y.double())]
        return torch.cat([*(p.detach().reshape(-1) for p in drawn.model.parameters()), *batches])

    assert torch.equal(content(0, 3), content(0, 3))
    for other in (content(0, 4), content(1, 3)):
        assert not torch.equal(content(0, 3), other)
    first, second = draw(task, 0, 3, 2).train
    assert not torch.equal(first[0], second[0])
    assert torch.equal(draw(task, 0, 3, 1).train[0][0], first[0])


def test_batches_are_training_rows_and_the_task_loss_is_taken_on_fitness_rows() -> None:
    task = double_task(PLAIN)
    drawn = draw(task, 0, 0, 3)
    rows = {split: {tuple(row) for row in data.tree[0].tolist()} for split, data in task.data.items()}
    assert all(tuple(row) in rows["train"] for x, _ in drawn.train for row in x.tolist())
    assert all(tuple(row) in rows["fitness"] for row in drawn.fitness[0].tolist())
    assert [len(x) for x, _ in drawn.train] == [16, 16, 16]


def test_a_fitness_split_smaller_than_a_batch_is_taken_whole() -> None:
    x, y = double_task(PLAIN).data["fitness"].tree
    drawn = draw(double_task(PLAIN, valid=(x[:5], y[:5])), 0, 0, 1)
    assert sorted(map(tuple, drawn.fitness[0].tolist())) == sorted(map(tuple, x[:5].tolist()))


@pytest.mark.parametrize("length", [1, 2])
def test_the_same_seed_gives_the_same_bits(length: int) -> None:
    tuning = Tuning(meta_steps=5, unroll_length=length, meta_lr=0.02)
    first, again, other = (tune(small_task(), losses(*NAMES), tuning, seed=seed) for seed in (4, 4, 5))
    assert [tuned.loss.kernel for tuned in first] == [tuned.loss.kernel for tuned in again]
    assert [tuned.history for tuned in first] == [tuned.history for tuned in again]
    assert not np.allclose(phi(first[0]), phi(other[0]))


@pytest.mark.parametrize(
    "model",
    [
        two_layers,
        lambda seed: dropout_network(seed).double(),
        lambda seed: nn.Sequential(nn.Linear(6, 5), nn.BatchNorm1d(5), nn.ReLU(), nn.Linear(5, 3)).double(),
    ],
    ids=["perceptron", "dropout", "batch norm"],
)
@pytest.mark.parametrize("length", [1, 2])
def test_a_candidate_alone_comes_out_as_in_company(model: Any, length: int) -> None:
    task = double_task(STEPS["nesterov"], model=model)
    tuning = Tuning(meta_steps=4, unroll_length=length, meta_lr=0.05)
    company = [*losses(*NAMES), Loss(tree("square(t - p)", 0.5, 1.5, 0.7))]
    together = tune(task, company, tuning, seed=8)
    for candidate, tuned in zip(company, together, strict=True):
        (alone,) = tune(task, [candidate], tuning, seed=8)
        moved = phi(tuned) - candidate.kernel.phi
        assert np.abs(moved).max() > 0.02
        assert np.abs(phi(alone) - phi(tuned)).max() < 1e-9


def test_float32_is_float64_with_less_to_it() -> None:
    tuning = Tuning(meta_steps=3, meta_lr=0.05)
    wide, narrow = double_task(PLAIN), double_task(PLAIN, model=lambda seed: two_layers(seed).float())
    halved = {split: (data.tree[0].float(), data.tree[1]) for split, data in narrow.data.items()}
    for a, b in zip(
        tune(wide, losses("squared", "tanh"), tuning, seed=0),
        tune(narrow.replace(data=halved), losses("squared", "tanh"), tuning, seed=0),
        strict=True,
    ):
        assert b.status.ok
        assert 0 < np.abs(phi(a) - phi(b)).max() < 1e-4
        assert np.allclose([value for _, value in a.history], [value for _, value in b.history], rtol=1e-5)


def test_a_warm_up_from_zero_counts_as_the_base_learning_rate() -> None:
    tuning = Tuning(meta_steps=3)
    warm, plain, half = (
        tune(small_task(schedule=schedule), losses("squared"), tuning, seed=0)[0].loss.kernel
        for schedule in (schedules.warmup(0.5), None, schedules.warmup(0.5, start=0.5))
    )
    assert warm == plain
    assert half != plain


# Losses


def test_a_loss_without_parameters_comes_back_as_it_is() -> None:
    plain, tunable = loss("cross_entropy"), losses("squared")[0]
    same, tuned = tune(small_task(), [plain, tunable], Tuning(meta_steps=2), seed=0)
    assert same.loss is plain
    assert (same.status.ok, same.status.sentence, same.steps) == (True, "the loss has no parameters to tune", 0)
    assert tuned.steps == 2
    assert tune(small_task(optimizer=None), [], Tuning(), seed=0) == []


def test_the_result_is_the_same_loss_but_for_phi_and_name() -> None:
    kernel = KERNELS["taylor"][0]
    start = Loss(kernel, outputs="mean", smoothing=0.1, name="mine")
    (tuned,) = tune(small_task(), [start], Tuning(meta_steps=3, meta_lr=0.1), seed=0)
    assert isinstance(tuned.loss, Loss)
    assert (tuned.loss.outputs, tuned.loss.smoothing, tuned.loss.name) == ("mean", 0.1, None)
    assert 0.05 < np.abs(phi(tuned) - kernel.phi).max() < 0.31
    assert (start.kernel, start.name) == (kernel, "mine")


def test_progress_runs_with_the_steps_of_the_full_recipe() -> None:
    task, steps = double_task(PLAIN), []
    ageing = Loss(tree("tau*square(t - p)", *[1.0] * 5))

    def formula(p: Tensor, log_p: Tensor, t: Tensor, w: Tensor) -> Tensor:
        steps.append(len(steps))
        return (w[0] * (steps[-1] / 50)) * (w[1] * (w[2] * (w[3] * t - w[4] * p)) ** 2)

    found = gradients(unrolled, task, [ageing], length=3, road=Road())
    expected = ByHand(formula, PLAIN).meta_gradient(draw(task, 2, 0, 3), [1.0] * 5)
    assert relative_error(found[0].gradient, expected) < 1e-9


def test_a_loss_that_reads_the_prior_gets_the_tasks() -> None:
    adjusted = Loss(tree("square(t - p)*prior", 1.0, 1.0, 1.0, 1.0, 1.0))
    (tuned,) = tune(small_task(), [adjusted], Tuning(meta_steps=2), seed=0)
    assert tuned.status.ok
    assert isinstance(tuned.loss, Loss)
    assert tuned.loss.prior is None  # as it was given


# Divergence


def weighed(model: nn.Module, batch: Any) -> Terms:
    """One training row has a weight that no exponential survives."""
    x, y = batch
    heavy = x[:, 0] == x.new_tensor(123.0)
    return Terms(model(torch.where(heavy[:, None], 0.0, x)), y, weight=torch.where(heavy, 1e6, 1.0).to(x.dtype))


@pytest.mark.parametrize("length", [1, 2])
def test_a_candidate_that_diverges_harms_no_other(length: int) -> None:
    x, y = small_task().data["train"].tree
    x = x.clone()
    x[40, 0] = 123.0
    task = small_task(train=(x, y), forward=weighed)
    steps = 40
    first = next(m for m in range(steps) if any((b[0] == 123.0).any() for b in draw(task, 0, m, length).train)) + 1
    assert 1 < first < steps
    calm, wild = (Loss(tree(text, *[1.0] * 4)) for text in ("exp(t)*square(p)", "exp(w)*square(p)"))
    others, tuning = losses("squared", "tanh"), Tuning(meta_steps=steps, unroll_length=length, meta_lr=0.01)
    with_wild = tune(task, [others[0], wild, others[1]], tuning, seed=0)
    with_calm = tune(task, [others[0], calm, others[1]], tuning, seed=0)
    assert with_wild[1].status.kind == "diverged"
    assert with_wild[1].status.sentence == f"tuning became non-finite at meta-step {first}"
    assert with_wild[1].steps == first * length
    assert with_wild[1].history[-1][0] < first
    short = tune(task, [others[0], wild, others[1]], replace(tuning, meta_steps=first - 1), seed=0)
    assert short[1].status.ok
    assert with_wild[1].loss.kernel == short[1].loss.kernel  # the last finite φ
    for i in (0, 2):
        assert with_wild[i].status.ok
        assert with_wild[i].loss.kernel == with_calm[i].loss.kernel  # to the bit
        assert with_wild[i].history == with_calm[i].history


def test_a_chunk_keeps_its_company_until_all_of_it_has_diverged(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[tuple[tuple[int, ...], ...]] = []
    honest = task_tuning.meta_gradients

    def spied(how: Unroll, *rest: Any) -> dict[int, MetaGradient]:
        seen.append(how.chunks)
        return honest(how, *rest)

    monkeypatch.setattr(task_tuning, "meta_gradients", spied)
    monkeypatch.setattr(roads, "STACK", 2)
    wild, calm = (Loss(tree("exp(t)*square(p)", 1.0, size, 1.0, 1.0)) for size in (100.0, 1.0))
    tune(small_task(), [wild, calm, wild, wild, calm], Tuning(meta_steps=2, unroll_length=2), seed=0)
    assert seen == [((0,), (1, 2), (3, 4)), ((1, 2), (3, 4))]


def test_the_layered_road_keeps_candidates_apart_too() -> None:
    wild, calm = (Loss(tree("exp(t)*square(p)", 1.0, size, 1.0, 1.0)) for size in (100.0, 1.0))
    others, tuning = losses("squared", "tanh"), Tuning(meta_steps=10, meta_lr=0.01)
    with_wild, with_calm = (tune(small_task(), [others[0], one, others[1]], tuning, seed=0) for one in (wild, calm))
    assert with_wild[0].road == "closed form, layer by layer"
    assert with_wild[1].status.sentence == "tuning became non-finite at meta-step 1"
    assert with_wild[1].loss.kernel == wild.kernel
    for i in (0, 2):
        assert with_wild[i].loss.kernel == with_calm[i].loss.kernel


def test_an_overflow_within_adam_is_no_warning_and_no_wrong_number() -> None:
    steep = Loss(tree("square(p - t)", 1e170, 1.0, 1.0))
    (tuned,) = tune(double_task(PLAIN), [steep], Tuning(meta_steps=3), seed=0)
    assert np.isfinite(phi(tuned)).all()


def test_when_all_have_diverged_it_stops() -> None:
    wild = Loss(tree("exp(t)*square(p)", 1.0, 100.0, 1.0, 1.0))
    (tuned,) = tune(small_task(), [wild], Tuning(meta_steps=1000), seed=0)
    assert (tuned.status.kind, tuned.steps) == ("diverged", 1)


# Refusals


def test_a_training_function_cannot_be_unrolled() -> None:
    task = FunctionTask(lambda loss, trial: 0.5, outputs=3, name="mine")
    with pytest.raises(UsageError, match=r"'mine' is a training function: give lm\.Task.*taylorglo, random or gplfl"):
        tune(task, losses("squared"), Tuning(), seed=0)


def test_only_sgd_is_differentiated_through() -> None:
    with pytest.raises(TaskError, match=r"optimizer is Adam\(.*give Recipe\(optimizer=lm\.SGD\(lr=0\.01\)\)"):
        tune(small_task(optimizer=Adam(0.01)), losses("squared"), Tuning(), seed=0)


def test_fitness_rows_are_needed() -> None:
    task = small_task()
    data = {split: rows for split, rows in task.data.items() if split != "fitness"}
    object.__setattr__(task, "data", data)
    with pytest.raises(TaskError, match=r"takes the task loss on fitness rows.*Task\(\.\.\., valid="):
        tune(task, losses("squared"), Tuning(), seed=0)


class Once(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x * 2

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        return gradient * 2


class OnceOnly(nn.Linear):
    def forward(self, x: Tensor) -> Tensor:
        return Once.apply(super().forward(x))


class PartlyOnceOnly(nn.Linear):
    """Beside the layer that is cut off there is a way around it, so a meta-gradient would come out, and wrong."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) + Once.apply(super().forward(x))


@pytest.mark.parametrize("length", [1, 2])
@pytest.mark.parametrize("layer", [OnceOnly, PartlyOnceOnly])
def test_a_model_without_second_derivative_is_refused(layer: Any, length: int) -> None:
    task = small_task(model=lambda seed: nn.Sequential(layer(6, 3)))
    with pytest.raises(TaskError, match="differentiates twice through the model, and that failed"):
        tune(task, losses("squared", "tanh"), Tuning(unroll_length=length), seed=0)


def test_a_loss_per_row_is_refused() -> None:
    with pytest.raises(LossError, match="gives a number per row"):
        tune(small_task(), [Loss(KERNELS["squared"][0], reduction="none")], Tuning(), seed=0)


def test_a_model_without_gradient_is_refused() -> None:
    class Detached(nn.Linear):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x).detach()

    with pytest.raises(TaskError, match="an output of the model carries no gradient"):
        tune(small_task(model=lambda seed: nn.Sequential(Detached(6, 3))), losses("squared"), Tuning(), seed=0)
