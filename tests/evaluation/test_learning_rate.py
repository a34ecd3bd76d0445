from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lossmith.evaluation import TunedLearningRate, tune_learning_rate, tune_learning_rates
from lossmith.evaluation.learning_rate import FARTHEST, REACH, scale_at


def tune(fitness_of: Callable[[int], float | None], asked: list[int] | None = None) -> TunedLearningRate:
    """Tunes a fitness given as a function of the grid step, on two seeds."""
    steps = {scale_at(step): step for step in range(-20, 21)}

    def fitness(scales: Sequence[float]) -> list[list[float | None]]:
        if asked is not None:
            asked.extend(steps[scale] for scale in scales)
        values = [fitness_of(steps[scale]) for scale in scales]
        return [[None if v is None else v - 1, None if v is None else v + 1] for v in values]

    return tune_learning_rate(fitness)


def test_the_grid() -> None:
    assert [scale_at(step) for step in (-4, -2, 0, 2, 4)] == [0.01, 0.1, 1.0, 10.0, 100.0]
    assert scale_at(1) == 3.16228
    asked: list[int] = []
    found = tune(lambda step: (step - 1) ** 2, asked)
    assert asked == list(range(-4, 5))  # √10 from 1/100 to 100, DESIGN §5
    assert found == TunedLearningRate(3.16228, tuple((scale_at(s), float((s - 1) ** 2)) for s in range(-4, 5)), False)


@pytest.mark.parametrize("best", [-6, -5, 5, 7])
def test_it_is_extended_while_the_best_is_at_its_edge(best: int) -> None:
    asked: list[int] = []
    found = tune(lambda step: abs(step - best), asked)
    assert found.scale == scale_at(best)
    assert not found.at_edge
    outermost = best + int(math.copysign(1, best))  # one step beyond the best shows that it is none
    assert sorted(asked) == list(range(min(-4, outermost), max(4, outermost) + 1))
    assert len(asked) == len(set(asked))  # nothing is trained twice


@pytest.mark.parametrize("side", [-1, 1])
def test_the_extension_ends(side: int) -> None:
    asked: list[int] = []
    found = tune(lambda step: -side * step, asked)
    assert found.scale == scale_at(side * FARTHEST)
    assert found.at_edge
    assert len(asked) == 2 * REACH + 1 + FARTHEST - REACH


def test_failures_have_no_number_and_win_nothing() -> None:
    found = tune(lambda step: None if step >= 2 else -step)
    assert found.scale == scale_at(1)
    assert not found.at_edge  # beyond it the trainings fail: there is nothing to extend to
    assert dict(found.table)[10.0] is None
    beyond = tune(lambda step: None if step >= 5 else -step)
    assert (beyond.scale, beyond.at_edge) == (100.0, False)
    assert dict(beyond.table)[scale_at(5)] is None
    nothing = tune(lambda step: None)
    assert (nothing.scale, nothing.at_edge, len(nothing.table)) == (None, False, 9)
    one_seed_fails = tune_learning_rate(lambda scales: [[0.0, None] if s == 1.0 else [1.0, 1.0] for s in scales])
    assert one_seed_fails.scale != 1.0


def test_ties_go_to_the_smallest_change() -> None:
    assert tune(lambda step: 0.0).scale == 1.0
    assert tune(lambda step: 0.0 if abs(step) == 2 else 1.0).scale == 0.1
    assert tune(lambda step: 0.0 if step in (2, 3) else 1.0).scale == 10.0


@given(st.lists(st.one_of(st.none(), st.integers(0, 5)), min_size=17, max_size=17))
def test_the_scale_is_the_best_of_the_table(values: list[int | None]) -> None:
    found = tune(lambda step: values[step + FARTHEST])
    numbers = {scale: value for scale, value in found.table if value is not None}
    assert [scale for scale, _ in found.table] == sorted(scale for scale, _ in found.table)
    if found.scale is None:
        assert not numbers
    else:
        assert numbers[found.scale] == min(numbers.values())


def test_losses_side_by_side_are_tuned_as_if_alone() -> None:
    """One at its edge goes on while others are done; what is known to be needed is asked for in one go."""
    best = [0, 6, -5, 99]  # 99: fails everywhere
    steps = {scale_at(step): step for step in range(-20, 21)}
    asked: list[list[tuple[int, int]]] = []

    def value(number: int, scale: float) -> float | None:
        return None if best[number] == 99 else float(abs(steps[scale] - best[number]))

    def fitness(points: Sequence[tuple[int, float]]) -> list[list[float | None]]:
        asked.append([(number, steps[scale]) for number, scale in points])
        return [[value(number, scale)] for number, scale in points]

    found = tune_learning_rates(fitness, len(best))
    alone = [tune_learning_rate(lambda s, i=i: [[value(i, scale)] for scale in s]) for i in range(len(best))]
    assert found == alone
    assert asked[0] == [(number, step) for number in range(4) for step in range(-4, 5)]
    assert asked[1:] == [[(1, 5), (2, -5)], [(1, 6), (2, -6)], [(1, 7)]]
    assert tune_learning_rates(fitness, 0) == []
