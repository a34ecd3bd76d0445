"""Tuning φ through training: what candidates share, what they cannot do to each other, and what is refused."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from small_tasks import dropout_network, network, small_task
from torch import Tensor, nn
from unrolled_by_hand import KERNELS, STEPS, double_task, how, losses, tree, two_layers

from lossmith.errors import LossError, TaskError, UsageError
from lossmith.losses import Loss, LossSet, Pairwise, loss
from lossmith.records import Tuning
from lossmith.tasks import Adam, FunctionTask, Task, Terms, schedules
from lossmith.training import Tuned, tune
from lossmith.training.closed_form import closed_form
from lossmith.training.meta_gradient import MetaGradient, Road, draw
from lossmith.training.tunable import Tunable
from lossmith.training.unroll import HISTORY
from lossmith.training.unrolled import unrolled

NAMES = tuple(KERNELS)
PLAIN = STEPS["plain"]


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


# Roads


class Counting(nn.Module):
    """Its output grows with every forward pass in training, by way of a buffer."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(6, 3)
        self.register_buffer("seen", torch.zeros(()))

    def forward(self, x: Tensor) -> Tensor:
        self.seen.add_(1)
        return self.linear(x) * self.seen


@pytest.mark.parametrize(("by", "length"), [(closed_form, 1), (unrolled, 1), (unrolled, 2)])
def test_buffers_never_leak_between_candidates(by: Any, length: int) -> None:
    task = double_task(PLAIN, model=lambda seed: Counting().double())
    same = losses(*["tanh"] * 3)
    alone = gradients(by, task, same, length=length, road=Road())
    assert all(np.array_equal(one.gradient, alone[0].gradient) for one in alone)
    assert agree(alone, gradients(by, task, same, length=length))
    # By hand: logits are scaled by 1, 2, … in training, and by K + 1 on the fitness batch.
    drawn = draw(task, 2, 0, length)
    weight, bias = (p.detach().requires_grad_() for p in drawn.model.parameters())
    numbers = torch.tensor(KERNELS["tanh"][0].phi, dtype=torch.float64, requires_grad=True)
    for seen, (x, y) in enumerate(drawn.train, start=1):
        log_p = (seen * (x @ weight.T + bias)).log_softmax(1)
        inner = KERNELS["tanh"][1](log_p.exp(), log_p, torch.eye(3).double()[y], numbers).sum(1).mean()
        slopes = torch.autograd.grad(inner, (weight, bias), create_graph=True)
        weight, bias = (part - PLAIN.lr * slope for part, slope in zip((weight, bias), slopes, strict=True))
    x, y = drawn.fitness
    value = nn.functional.cross_entropy((length + 1) * (x @ weight.T + bias), y)
    (expected,) = torch.autograd.grad(value, numbers)
    assert agree([MetaGradient(value.item(), 0.0, expected.numpy())], alone[:1])


@pytest.mark.parametrize("length", [1, 2])
def test_a_batch_norm_keeps_its_statistics_to_itself(length: int) -> None:
    def build(seed: int) -> nn.Module:
        return nn.Sequential(nn.Linear(6, 5), nn.BatchNorm1d(5), nn.Tanh(), nn.Linear(5, 3)).double()

    task, same = double_task(PLAIN, model=build), losses("squared", "tanh", "squared")
    alone, stacked = (
        gradients(unrolled, task, same, length=length, road=road) for road in (Road(), Road("stacked", 3))
    )
    assert agree(alone, stacked)
    assert np.array_equal(alone[0].gradient, alone[2].gradient)
    drawn, own = draw(task, 2, 0, length), [Tunable.of(one, task) for one in same]
    unrolled(how(task, PLAIN, length, 3, Road()), drawn, own, [one.phi for one in own])
    assert drawn.model[1].num_batches_tracked.item() == 0
    assert drawn.model[1].running_mean.abs().max().item() == 0


def layers_without_dropout(seed: int) -> list[nn.Module]:
    return [layer for layer in dropout_network(seed).children() if type(layer) is not nn.Dropout]


@pytest.mark.parametrize("road", [Road(), Road("stacked", 3), Road("forward")], ids=str)
def test_all_candidates_and_all_roads_see_one_dropout_mask(road: Road) -> None:
    task = double_task(PLAIN, model=lambda seed: dropout_network(seed).double())
    same = losses("tanh", "taylor", "tanh")
    found = gradients(closed_form, task, same, road=road)
    assert np.allclose(found[0].gradient, found[2].gradient, rtol=1e-12, atol=0)
    assert agree(found, gradients(unrolled, task, same))
    undropped = double_task(PLAIN, model=lambda seed: nn.Sequential(*layers_without_dropout(seed)).double())
    assert not agree(found, gradients(closed_form, undropped, same))


class Moody(nn.Module):
    """Its way through depends on the data, which cannot be stacked."""

    def __init__(self) -> None:
        super().__init__()
        self.hidden, self.out = nn.Linear(6, 5), nn.Linear(5, 3)

    def forward(self, x: Tensor) -> Tensor:
        h = self.hidden(x)
        return self.out(h.tanh() if h.mean().item() > 0 else h.sigmoid())


@pytest.mark.parametrize("length", [1, 2])
def test_a_model_that_cannot_be_stacked_is_tuned_one_candidate_at_a_time(length: int) -> None:
    task = double_task(PLAIN, model=lambda seed: Moody().double())
    tuning = Tuning(meta_steps=3, unroll_length=length, meta_lr=0.05)
    together = tune(task, losses(*NAMES), tuning, seed=0)
    assert all("one at a time: stacked it fails" in tuned.road for tuned in together)
    for name, tuned in zip(NAMES, together, strict=True):
        assert tune(task, losses(name), tuning, seed=0)[0].loss.kernel == tuned.loss.kernel  # to the bit


def test_a_road_that_leads_elsewhere_is_not_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    from lossmith.training import perceptron

    task, tuning = double_task(PLAIN), Tuning(meta_steps=2, meta_lr=0.05)
    right = tune(task, losses("tanh"), tuning, seed=0)[0]
    assert right.road == "closed form, layer by layer"
    monkeypatch.setattr(perceptron, "_value_and_slope", lambda activation, a: (a.tanh(), torch.ones_like(a)))
    careful = tune(task, losses("tanh"), tuning, seed=0)[0]
    assert careful.road == "closed form, one at a time: layer by layer it gives other numbers"
    assert np.abs(phi(careful) - phi(right)).max() < 1e-9


@pytest.mark.parametrize("second", [False, True], ids=["one term", "two terms"])
def test_convolutions_go_one_by_one_with_forward_products(second: bool) -> None:
    def build(seed: int) -> nn.Module:
        layers = (nn.Unflatten(1, (1, 6)), nn.Conv1d(1, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(16, 3))
        return nn.Sequential(*layers).double()

    parts = {"forward": two_targets} if second else {}
    task = double_task(PLAIN, model=build, **parts)
    tuned = tune(task, losses(*NAMES), Tuning(meta_steps=2), seed=0)
    assert {one.road for one in tuned} == {"closed form, one at a time: convolutions are no faster stacked"}
    forward = gradients(closed_form, task, losses(*NAMES), road=Road("forward"))
    assert agree(forward, gradients(unrolled, task, losses(*NAMES)))


# Several terms, weights, groups


def two_targets(model: nn.Module, batch: Any) -> tuple[Terms, ...]:
    x, y = batch
    weight = torch.where(x[:, 0] > 1, 0.0, 1.0 + x[:, 1].abs()).to(x.dtype)
    return Terms(model(x), y, weight=weight), Terms(model(0.5 * x), (y + 1) % 3)


@pytest.mark.parametrize("length", [1, 2])
@pytest.mark.parametrize("shared", [True, False], ids=["one loss", "set of losses"])
def test_several_terms_are_tuned_jointly(shared: bool, length: int) -> None:
    task = double_task(PLAIN, forward=two_targets)
    names = ["tanh"] if shared else ["tanh", "squared"]
    candidate = losses("tanh")[0] if shared else LossSet(losses(*names))
    drawn = draw(task, 2, 0, length)
    theta = [p.detach().requires_grad_() for p in drawn.model.parameters()]
    numbers = [torch.tensor(KERNELS[name][0].phi, dtype=torch.float64, requires_grad=True) for name in names]

    def outputs(x: Tensor) -> Tensor:
        w1, b1, w2, b2 = theta
        return torch.tanh(x @ w1.T + b1) @ w2.T + b2

    def inner(x: Tensor, y: Tensor, position: int) -> Tensor:
        log_p, at = outputs(x).log_softmax(1), 0 if shared else position
        return KERNELS[names[at]][1](log_p.exp(), log_p, torch.eye(3).double()[y], numbers[at]).sum(1)

    for x, y in drawn.train:
        weight = torch.where(x[:, 0] > 1, 0.0, 1.0 + x[:, 1].abs())
        total = (weight * inner(x, y, 0)).sum() / weight.sum() + inner(0.5 * x, (y + 1) % 3, 1).mean()
        slopes = torch.autograd.grad(total, theta, create_graph=True)
        theta = [part - PLAIN.lr * slope for part, slope in zip(theta, slopes, strict=True)]
    x, y = drawn.fitness
    weight = torch.where(x[:, 0] > 1, 0.0, 1.0 + x[:, 1].abs())
    rows = nn.functional.cross_entropy(outputs(x), y, reduction="none")  # on the first Terms only, as the metric
    value = (weight * rows).sum() / weight.sum()
    expected = MetaGradient(value.item(), 0.0, torch.cat(torch.autograd.grad(value, numbers)).numpy())
    for road in (Road(), Road("stacked", 2)):
        for by in (unrolled, closed_form) if length == 1 else (unrolled,):
            assert agree([expected], gradients(by, task, [candidate], length=length, road=road))
    (tuned,) = tune(task, [candidate], Tuning(meta_steps=2, unroll_length=length), seed=0)
    assert type(tuned.loss) is type(candidate)
    assert np.abs(phi(tuned) - Tunable.of(candidate, task).phi).min() > 1e-4


def test_losses_over_pairs_within_groups() -> None:
    def forward(model: nn.Module, batch: Any) -> Terms:
        x, y = batch
        return Terms(model(x), y, group=(x[:, 0] > 0).long())

    task = double_task(PLAIN, forward=forward)
    ranking = [Loss(tree("tanh(-z)*t", *weights), aggregation=Pairwise()) for weights in ([1.0] * 4, [0.5, 2, 1, 1])]
    two, one = gradients(closed_form, task, ranking), gradients(unrolled, task, ranking, road=Road())
    assert agree(two, one)
    without = gradients(unrolled, double_task(PLAIN), ranking, road=Road())
    assert not agree(two, without)


def test_rows_of_tokens() -> None:
    def forward(model: nn.Module, batch: Any) -> Terms:
        x, y = batch
        return Terms(model(x.reshape(-1, 2, 6)), y.reshape(-1, 2))

    tokens = double_task(PLAIN, forward=forward)
    found = gradients(closed_form, tokens, losses(*NAMES))
    assert agree(found, gradients(closed_form, double_task(PLAIN), losses(*NAMES)))
    assert agree(found, gradients(unrolled, tokens, losses(*NAMES)))


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


def test_the_layered_road_keeps_candidates_apart_too() -> None:
    wild, calm = (Loss(tree("exp(t)*square(p)", 1.0, size, 1.0, 1.0)) for size in (100.0, 1.0))
    others, tuning = losses("squared", "tanh"), Tuning(meta_steps=10, meta_lr=0.01)
    with_wild, with_calm = (tune(small_task(), [others[0], one, others[1]], tuning, seed=0) for one in (wild, calm))
    assert with_wild[0].road == "closed form, layer by layer"
    assert with_wild[1].status.sentence == "tuning became non-finite at meta-step 1"
    assert with_wild[1].loss.kernel == wild.kernel
    for i in (0, 2):
        assert with_wild[i].loss.kernel == with_calm[i].loss.kernel


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


def test_networks_of_the_tests_are_what_they_seem() -> None:
    assert tune(small_task(model=network), losses("squared"), Tuning(meta_steps=1), seed=0)[0].road.endswith("layer")
