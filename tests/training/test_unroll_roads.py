"""All roads to a meta-gradient lead to the same numbers, whatever the network and the terms of its loss."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from small_tasks import dropout_network
from torch import Tensor, nn
from unrolled_by_hand import KERNELS, NAMES, PLAIN, agree, double_task, gradients, how, losses, phi, tree

from lossmith.losses import Loss, LossSet, Pairwise
from lossmith.records import Implicit, Tuning
from lossmith.tasks import Terms
from lossmith.training import perceptron, roads, tune
from lossmith.training.closed_form import closed_form
from lossmith.training.meta_gradient import MetaGradient, Road, Unroll, draw
from lossmith.training.tunable import Tunable
from lossmith.training.unrolled import unrolled


class Counting(nn.Module):
    """Its output grows with every forward pass in training, by way of a buffer."""

    def __init__(self, in_place: bool) -> None:
        super().__init__()
        self.linear = nn.Linear(6, 3)
        self.in_place = in_place
        self.register_buffer("seen", torch.zeros(()))

    def forward(self, x: Tensor) -> Tensor:
        if self.in_place:
            self.seen.add_(1)
        else:
            self.seen = self.seen + 1
        return self.linear(x) * self.seen


@pytest.mark.parametrize("in_place", [True, False], ids=["in place", "replaced"])
@pytest.mark.parametrize(("by", "length"), [(closed_form, 1), (unrolled, 1), (unrolled, 2)])
def test_buffers_never_leak_between_candidates(by: Any, length: int, in_place: bool) -> None:
    task = double_task(PLAIN, model=lambda seed: Counting(in_place).double())
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


@pytest.mark.parametrize("road", [Road(), Road("stacked", 3), Road("forward"), Road("recorded", 3), Road("recorded")])
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
    task, tuning = double_task(PLAIN), Tuning(meta_steps=2, meta_lr=0.05)
    right = tune(task, losses("tanh"), tuning, seed=0)[0]
    assert right.road == "closed form, layer by layer"
    monkeypatch.setattr(perceptron, "_value_and_slope", lambda activation, a: (a.tanh(), torch.ones_like(a)))
    careful = tune(task, losses("tanh"), tuning, seed=0)[0]
    assert careful.road == "closed form, one at a time: layer by layer it gives other numbers"
    assert np.abs(phi(careful) - phi(right)).max() < 1e-9


def convolutions(channels: int, *more: nn.Module) -> nn.Module:
    layers = (nn.Unflatten(1, (1, 6)), nn.Conv1d(1, channels, 3), nn.ReLU(), *more, nn.Conv1d(channels, 4, 1))
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(16, 3)).double()


@pytest.mark.parametrize("second", [False, True], ids=["one term", "two terms"])
@pytest.mark.parametrize(("channels", "road"), [(2, "recorded"), (16, "recorded: convolutions are no faster stacked")])
def test_convolutions_are_recorded(channels: int, road: str, second: bool) -> None:
    parts = {"forward": two_targets} if second else {}
    task = double_task(PLAIN, model=lambda seed: convolutions(channels), **parts)
    tuned = tune(task, losses(*NAMES), Tuning(meta_steps=2), seed=0)
    assert {one.road for one in tuned} == {f"closed form, {road}"}
    expected = gradients(unrolled, task, losses(*NAMES))
    for other in (Road("forward"), Road("recorded", 3), Road("recorded")):
        assert agree(gradients(closed_form, task, losses(*NAMES), road=other), expected)


def test_a_recorded_candidate_is_tuned_alike_in_any_company() -> None:
    task, tuning = double_task(PLAIN, model=lambda seed: convolutions(2)), Tuning(meta_steps=3, meta_lr=0.05)
    together = tune(task, losses(*NAMES, *NAMES, *NAMES), tuning, seed=0)  # in two chunks
    for name, tuned in zip(NAMES, together, strict=False):
        assert tune(task, losses(name), tuning, seed=0)[0].loss.kernel == tuned.loss.kernel  # to the bit


class Scaled(torch.autograd.Function):
    """Twice its argument, past torch's functions."""

    generate_vmap_rule = True

    @staticmethod
    def forward(x: Tensor) -> Tensor:
        return 2 * x

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        pass

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Tensor:  # type: ignore[override]
        return 2 * g

    @staticmethod
    def jvp(ctx: Any, tangent: Tensor) -> Tensor:
        return 2 * tangent


class Doubled(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return Scaled.apply(x)


def test_what_cannot_be_recorded_is_differentiated_forward() -> None:
    task = double_task(PLAIN, model=lambda seed: convolutions(2, Doubled()))
    (tuned,) = tune(task, losses("tanh"), Tuning(meta_steps=2), seed=0)
    assert tuned.road == "closed form, one at a time: convolutions are no faster stacked"


def test_a_road_is_chosen_by_two_steps_whatever_is_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    tried: list[tuple[int, int, bool, bool]] = []
    honest = roads.meta_gradients

    def spied(how: Unroll, *rest: Any) -> dict[int, MetaGradient]:
        tried.append((how.length, len(rest[0].train), how.implicit is None, how.carried is None))
        return honest(how, *rest)

    monkeypatch.setattr(roads, "meta_gradients", spied)
    task = double_task(PLAIN)
    for options in ({"unroll_length": 7}, {"unroll_length": 7, "implicit": Implicit()}, {"reinitialise": 4}):
        tune(task, losses("tanh", "taylor"), Tuning(1, **options), seed=0)
    assert set(tried) == {(2, 2, True, True), (1, 1, True, False)}


@pytest.mark.parametrize(("options", "words"), [
    ({}, "closed form, layer by layer"),
    ({"unroll_length": 3}, "unrolled, stacked"),
    ({"unroll_length": 3, "truncation": 2}, "unrolled through the last 2 of 3 steps, stacked"),
    ({"reinitialise": 2}, "unrolled, stacked"),
    ({"implicit": Implicit()}, "implicit, stacked"),
])  # fmt: skip
def test_the_road_is_told(options: Any, words: str) -> None:
    task = double_task(PLAIN)
    assert tune(task, losses("tanh", "taylor"), Tuning(1, **options), seed=0)[0].road.startswith(words)


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
