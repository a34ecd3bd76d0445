"""The course of a search by gradient, put together of its blocks."""

from __future__ import annotations

import math

import pytest

from lossmith.analysis import Block, Scored, draw_meta_loss, history, meta_loss
from lossmith.analysis.meta_loss import POINTS


def block(name: str, loss: str, made: str, start: int, values: list[float], sound: bool = True) -> Block:
    return Block(name, loss, made, tuple((start + i + 1, value) for i, value in enumerate(values)), sound)


def test_blocks_are_joined_by_the_losses_between_them() -> None:
    found = meta_loss(
        [
            block("restart 0", "a", "a1", 0, [3.0, 2.0]),
            block("restart 1", "b", "b1", 0, [5.0, 4.0], sound=False),
            block("restart 0", "a1", "a2", 2, [1.0]),
            block("restart 2", "b1", "c", 0, [9.0]),  # begins where one failed, and is another
        ]
    )
    assert [(one.name, one.meta_steps, one.mean, one.sound) for one in found] == [
        ("restart 0", (1, 2, 3), (3.0, 2.0, 1.0), True),
        ("restart 1", (1, 2), (5.0, 4.0), False),
        ("restart 2", (1,), (9.0,), True),
    ]
    assert all(one.low == one.mean == one.high for one in found)


def test_a_block_that_moved_nothing_is_gone_on_from() -> None:
    found = meta_loss([block("one", "a", "a", 0, [1.0]), block("one", "a", "a", 1, [2.0])])
    assert [one.mean for one in found] == [(1.0, 2.0)]


def test_long_courses_are_drawn_in_stretches() -> None:
    values = [float(i % 7) for i in range(1234)]
    (found,) = meta_loss([block("long", "a", "b", 0, values)])
    assert len(found.mean) <= POINTS
    width = 13  # ⌈1234 / 100⌉
    assert found.meta_steps[0] == width
    assert found.meta_steps[-1] == 1234
    assert found.mean[0] == pytest.approx(sum(values[:width]) / width)
    assert (found.low[0], found.high[0]) == (0.0, 6.0)
    assert found.mean[-1] == pytest.approx(sum(values[1234 // width * width :]) / (1234 % width))


def test_values_that_are_no_numbers_are_left_out() -> None:
    (found,) = meta_loss([block("one", "a", "b", 0, [1.0, math.nan, math.inf, 2.0])])
    assert found.meta_steps == (1, 4)
    assert meta_loss([block("none", "a", "b", 0, [math.nan])]) == ()
    assert meta_loss([]) == ()


def test_the_picture_names_restarts_and_says_which_ended_early() -> None:
    found = meta_loss([block("costs $5", "a", "b", 0, [1.0, 2.0]), block("other", "c", "d", 0, [3.0], sound=False)])
    svg = draw_meta_loss(found)
    assert svg == draw_meta_loss(found)
    assert b"<svg" in svg
    assert draw_meta_loss(found, format="png")[:4] == b"\x89PNG"
    assert draw_meta_loss(found[:1]) != svg


def test_a_history_says_what_its_generations_are() -> None:
    assert history([Scored(0, "ok", 1.0)], metric="m", direction="min").unit == "generation"
    assert history([Scored(0, "ok", 1.0)], metric="m", direction="min", unit="block").unit == "block"
