"""Draws that are kept are the draws that would be made."""

from __future__ import annotations

import gc
from typing import Any

import pytest
import torch
from small_tasks import network, small_task
from torch import nn

from lossmith.training import draws
from lossmith.training.draws import drawn_once
from lossmith.training.meta_gradient import Draw, draw


def same(a: Draw, b: Draw) -> bool:
    tensors = [[*one.model.parameters(), *one.train[0], *one.fitness] for one in (a, b)]
    return a.seed == b.seed and all(map(torch.equal, *tensors))


def test_a_draw_is_made_once_and_is_the_right_one() -> None:
    task = small_task(model=network)
    first = drawn_once(task, 3, 5, 1)
    assert same(first, draw(task, 3, 5, 1))
    assert drawn_once(task, 3, 5, 1) is first
    assert same(drawn_once(task, 3, 6, 1), draw(task, 3, 6, 1))
    assert drawn_once(task.replace(name="other"), 3, 5, 1) is first  # all that counts is the same


def later_network(seed: int) -> nn.Module:
    torch.rand(1)
    return network(seed)


@pytest.mark.parametrize("what", ["seed", "length", "batch", "model", "fitness"])
def test_whatever_changes_a_draw_is_noticed(what: str) -> None:
    task, seed, length = small_task(model=network), 3, 1
    drawn_once(task, seed, 5, length)
    other: dict[str, Any] = {
        "batch": {"recipe": type(task.recipe)(steps=10, batch_size=task.recipe.batch_size + 1)},
        "model": {"model": later_network},
        "fitness": {"data": {"fitness": task.data["selection"].subset(torch.arange(8))}},
    }
    seed, length = seed + (what == "seed"), length + (what == "length")
    changed = task.replace(**other.get(what, {}))
    found = drawn_once(changed, seed, 5, length)
    assert same(found, draw(changed, seed, 5, length))
    assert len(found.train) == length
    assert not same(found, draw(task, 3, 5, 1)) or what == "length"


def test_only_what_fits_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    task = small_task(model=network)
    monkeypatch.setattr(draws, "BUDGET", 2 * draws._size(draw(task, 0, 0, 1)))
    for meta_step, kept in ((0, True), (7, True), (2, False), (0, True)):
        assert (drawn_once(task, 0, meta_step, 1) is drawn_once(task, 0, meta_step, 1)) == kept


class Unreferable:
    __slots__ = ()

    def __call__(self, seed: int) -> nn.Module:
        return network(seed)


def test_a_factory_that_cannot_be_watched_draws_afresh() -> None:
    task = small_task(model=Unreferable())
    assert drawn_once(task, 0, 0, 1) is not drawn_once(task, 0, 0, 1)


def test_nothing_outlives_its_rows() -> None:
    before = len(draws._shelves)
    task = small_task(model=network)
    drawn_once(task, 0, 0, 1)
    assert len(draws._shelves) == before + 1
    del task
    gc.collect()
    assert len(draws._shelves) <= before
