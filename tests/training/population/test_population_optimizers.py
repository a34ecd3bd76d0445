"""One update of P base models against P optimisers of torch's own."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence

import pytest
import torch
from torch import Tensor, nn

from lossmith.tasks import SGD, Adam, AdamW, Recipe
from lossmith.training.population import optimizers
from lossmith.training.population.optimizers import stacked_optimizer, why_no_stacked_optimizer
from lossmith.training.population.stacked import NotStackable

SHAPES = [(8, 16), (16,), (67,), (3, 5), (1,), ()]  # whole vectors of 64 elements, less than one, one and a bit
RULES = [
    SGD(0.1),
    SGD(0.1, weight_decay=1e-2),
    SGD(0.1, momentum=0.9),
    SGD(0.1, momentum=0.9, nesterov=True, weight_decay=1e-2),
    Adam(0.1),
    Adam(0.1, betas=(0.5, 0.9), eps=1e-3, weight_decay=1e-2),
    AdamW(0.1, weight_decay=1e-1),
]
ALIKE, DIFFERENT, PAIRS = [2.0] * 4, [1.0, 0.1, 3.0, 10.0], [1.0, 0.5, 0.5, 1.0]


def draws(count: int, dtype: torch.dtype, seed: int) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(count, *shape, generator=generator, dtype=dtype) for shape in SHAPES]


def gradients(count: int, dtype: torch.dtype, step: int) -> list[Tensor]:
    return [10.0 ** (i - 3) * g for i, g in enumerate(draws(count, dtype, 100 + step))]


def stepped(
    rule: SGD | Adam | AdamW,
    scales: Sequence[float],
    places: Sequence[int],
    steps: Iterable[int],
    *,
    dtype: torch.dtype = torch.float32,
    clip: float | None = None,
    missing: int | None = None,
) -> list[Tensor]:
    """Parameters of these of the candidates, [P, *shape] each, updated at a learning rate that changes on the way."""
    index = torch.tensor(places)
    parameters = [start[index].requires_grad_() for start in draws(len(scales), dtype, 0)]
    optimizer = stacked_optimizer(Recipe(10, optimizer=rule), parameters, [scales[i] for i in places])
    for step in steps:
        for i, (parameter, gradient) in enumerate(zip(parameters, gradients(len(scales), dtype, step), strict=True)):
            parameter.grad = None if i == missing and step != 2 else gradient[index].clone()
        if clip is not None:
            optimizer.clip(clip)
        optimizer.step(0.1 if step < 3 else 0.01)
    return [parameter.detach() for parameter in parameters]


def alone(
    rule: SGD | Adam | AdamW,
    scales: Sequence[float],
    steps: Iterable[int],
    *,
    dtype: torch.dtype = torch.float32,
    clip: float | None = None,
    missing: int | None = None,
) -> list[Tensor]:
    """The same by one optimiser of torch for each candidate."""
    found: list[list[Tensor]] = []
    for place, scale in enumerate(scales):
        parameters = [start[place].clone().requires_grad_() for start in draws(len(scales), dtype, 0)]
        optimizer = Recipe(10, optimizer=rule).make_optimizer(parameters)
        for step in steps:
            every = gradients(len(scales), dtype, step)
            for i, (parameter, gradient) in enumerate(zip(parameters, every, strict=True)):
                parameter.grad = None if i == missing and step != 2 else gradient[place].clone()
            if clip is not None:
                nn.utils.clip_grad_norm_(parameters, clip)
            optimizer.param_groups[0]["lr"] = scale * (0.1 if step < 3 else 0.01)
            optimizer.step()
        found.append([parameter.detach() for parameter in parameters])
    return [torch.stack(parts) for parts in zip(*found, strict=True)]


def same(one: Sequence[Tensor], other: Sequence[Tensor]) -> bool:
    return all(a.equal(b) for a, b in zip(one, other, strict=True))


def moved(parameters: Sequence[Tensor], dtype: torch.dtype = torch.float32) -> bool:
    start = draws(len(parameters[0]), dtype, 0)
    return all(bool((a != b).reshape(len(a), -1).any(1).all()) for a, b in zip(start, parameters, strict=True))


@pytest.mark.parametrize("rule", RULES, ids=str)
@pytest.mark.parametrize("scales", [ALIKE, DIFFERENT, PAIRS], ids=["alike", "different", "pairs"])
def test_every_candidate_moves_as_alone_to_the_bit(rule: SGD | Adam | AdamW, scales: list[float]) -> None:
    for dtype in (torch.float32, torch.float64):
        got = stepped(rule, scales, range(4), range(5), dtype=dtype)
        assert moved(got, dtype)
        assert same(got, alone(rule, scales, range(5), dtype=dtype))


@pytest.mark.parametrize("rule", [RULES[0], RULES[3], RULES[4]], ids=str)
def test_companions_do_not_matter(rule: SGD | Adam | AdamW) -> None:
    for scales in (ALIKE, DIFFERENT, PAIRS):
        whole = stepped(rule, scales, range(4), range(5), clip=1.0)
        for places in ([0, 1], [3, 1], [1, 2], [0, 2, 3]):
            part = stepped(rule, scales, places, range(5), clip=1.0)
            assert same(part, [tensor[places] for tensor in whole])


@pytest.mark.parametrize("rule", RULES, ids=str)
def test_candidates_can_be_left_behind_between_steps(rule: SGD | Adam | AdamW) -> None:
    for scales in (ALIKE, PAIRS):
        parameters = [start.requires_grad_() for start in draws(4, torch.float32, 0)]
        optimizer = stacked_optimizer(Recipe(10, optimizer=rule), parameters, scales)
        places = torch.arange(4)
        for step in range(6):
            if step == 2:
                kept = torch.tensor([0, 1, 3])
            elif step == 4:
                kept = torch.tensor([1, 2])  # places, not candidates: these are 1 and 3
            else:
                kept = torch.arange(len(places))
            parameters = [p.detach()[kept].requires_grad_() for p in parameters]
            if len(kept) < len(places):
                optimizer.keep(kept, parameters)
                places = places[kept]
            for parameter, gradient in zip(parameters, gradients(4, torch.float32, step), strict=True):
                parameter.grad = gradient[places].clone()
            if len(kept) == len(places) and step not in (2, 4):
                optimizer.keep(torch.arange(len(places)), parameters)  # new leaves every time
            optimizer.step(0.1 if step < 3 else 0.01)
        assert places.tolist() == [1, 3]
        whole = stepped(rule, scales, range(4), range(6))
        assert same([p.detach() for p in parameters], [tensor[[1, 3]] for tensor in whole])


@pytest.mark.parametrize("rule", RULES, ids=str)
def test_parameters_without_a_gradient_stay(rule: SGD | Adam | AdamW) -> None:
    start = draws(4, torch.float32, 0)
    never = stepped(rule, PAIRS, range(4), [0, 1, 3], missing=0)
    assert never[0].equal(start[0])
    assert not never[1].equal(start[1])
    if isinstance(rule, SGD):  # torch has no answer of its own where momentum begins late
        return
    once = stepped(rule, PAIRS, range(4), range(5), missing=0)
    assert same(once, alone(rule, PAIRS, range(5), missing=0))


def test_nothing_to_do_is_nothing_done() -> None:
    parameters = [start.requires_grad_() for start in draws(2, torch.float32, 0)]
    optimizer = stacked_optimizer(Recipe(10, optimizer=Adam()), parameters, [1.0, 1.0])
    optimizer.clip(1.0)
    optimizer.step(0.1)
    assert same([p.detach() for p in parameters], draws(2, torch.float32, 0))


def test_each_candidate_is_clipped_by_its_own_norm() -> None:
    for clip in (1e-3, 2.0, 1e6):
        got = stepped(SGD(0.1), DIFFERENT, range(4), range(3), dtype=torch.float64, clip=clip)
        torch.testing.assert_close(
            got, alone(SGD(0.1), DIFFERENT, range(3), dtype=torch.float64, clip=clip), rtol=1e-12, atol=1e-14
        )
    parameters = [start.requires_grad_() for start in draws(3, torch.float32, 0)]
    optimizer = stacked_optimizer(Recipe(10), parameters, [1.0] * 3)
    size = torch.tensor([1.0, 100.0, math.nan])
    for parameter in parameters:
        parameter.grad = torch.ones_like(parameter) * size.view(-1, *[1] * (parameter.dim() - 1))
    optimizer.clip(50.0)
    norms = sum(p.grad.reshape(3, -1).square().sum(1) for p in parameters if p.grad is not None).sqrt()
    assert isinstance(norms, Tensor)
    entries = sum(p[0].numel() for p in parameters)
    assert norms[:2].tolist() == pytest.approx([math.sqrt(entries), 50.0], rel=1e-5)
    assert norms[2].isnan()


def test_devices_without_fused_updates(monkeypatch: pytest.MonkeyPatch) -> None:
    def never(params: Iterable[Tensor]) -> bool:
        return False

    monkeypatch.setattr(optimizers, "can_fuse", never)
    for rule in RULES:
        for scales in (ALIKE, PAIRS):
            got = stepped(rule, scales, range(4), range(5), dtype=torch.float64)
            torch.testing.assert_close(got, alone(rule, scales, range(5), dtype=torch.float64), rtol=1e-9, atol=1e-12)


class OwnSGD(SGD):
    """A record that makes something else of its numbers."""

    def __call__(self, params: Iterable[Tensor], lr: float) -> torch.optim.SGD:
        return super().__call__(params, 2 * lr)


def rprop(params: Iterable[Tensor], lr: float) -> torch.optim.Optimizer:
    return torch.optim.Rprop(params, lr)


@pytest.mark.parametrize(("optimizer", "name"), [(rprop, "rprop"), (OwnSGD(0.1), "OwnSGD")])
def test_other_optimizers_update_one_model(optimizer: Callable[..., torch.optim.Optimizer], name: str) -> None:
    recipe = Recipe(10, optimizer=optimizer, lr=0.1)
    reason = why_no_stacked_optimizer(recipe)
    assert name in reason
    assert "lm.SGD, lm.Adam and lm.AdamW update many at once" in reason
    with pytest.raises(NotStackable, match="known to update one base model only"):
        stacked_optimizer(recipe, [torch.zeros(2, 3)], [1.0, 1.0])


@pytest.mark.parametrize("rule", RULES, ids=str)
def test_the_records_update_many(rule: SGD | Adam | AdamW) -> None:
    assert why_no_stacked_optimizer(Recipe(10, optimizer=rule)) == ""


def test_parameters_of_two_types_are_not_updated_together() -> None:
    with pytest.raises(NotStackable, match=r"torch\.float32 on cpu and torch\.float64 on cpu"):
        stacked_optimizer(Recipe(10), [torch.zeros(2, 3), torch.zeros(2, 3, dtype=torch.float64)], [1.0, 1.0])
