from __future__ import annotations

import math

from hypothesis import given
from hypothesis import strategies as st

from lossmith.evaluation import Standing, mean_fitness, seed_block, top
from lossmith.evaluation.seeds import better

values = st.lists(st.one_of(st.none(), st.floats(-5, 5).map(lambda v: round(v, 1))), max_size=4)


@st.composite
def standings(draw: st.DrawFn) -> list[Standing]:
    return [Standing((0, i), had) for i, had in enumerate(draw(st.lists(values, max_size=8)))]


def test_a_longer_block_begins_with_the_shorter_one() -> None:
    block = seed_block(3, "fitness", 8)
    assert block[:5] == seed_block(3, "fitness", 5)
    assert len(set(block)) == 8
    assert all(0 <= seed < 2**31 for seed in block)
    assert not set(block) & {*seed_block(3, "test", 8), *seed_block(4, "fitness", 8)}


def test_mean_fitness() -> None:
    assert mean_fitness([1.0, 2.0, 6.0]) == 3.0
    assert mean_fitness({7: 1.0, 3: 2.0}) == 1.5
    assert mean_fitness([1.0, None]) is None  # a candidate that fails on a seed has no mean
    assert mean_fitness([]) is None


def test_a_standing_with_a_failure_has_no_number() -> None:
    assert Standing((0, 0), [1.0, 3.0]).mean(2) == 2.0
    assert Standing((0, 0), [1.0, 3.0]).mean(1) == 1.0
    assert Standing((0, 0), [1.0, None]).mean(1) == 1.0
    for standing, seeds in ((Standing((0, 0), [1.0, None]), 2), (Standing((0, 0), [1.0]), 2), (Standing((0, 0)), 0)):
        assert standing.mean(seeds) == math.inf


def test_candidates_are_compared_on_common_seeds() -> None:
    elite, lucky = Standing((0, 0), [1.0, 9.0, 9.0]), Standing((1, 0), [2.0])
    assert better(elite, lucky)  # 1 < 2 on the seed both have had, although the elite's mean is 6.3
    assert not better(lucky, elite)
    newcomer = Standing((2, 0), [0.5])
    assert better(newcomer, elite)  # having had fewer seeds is no fault
    tied = Standing((1, 1), [1.0])
    assert better(elite, tied)  # more seeds win a tie
    assert better(Standing((0, 1), [1.0]), tied)  # then the earlier one
    assert [s.position for s in top([lucky, tied, elite], 3)] == [(0, 0), (1, 1), (1, 0)]


@given(standings())
def test_better_is_a_strict_and_total_comparison(all_of_them: list[Standing]) -> None:
    for a in all_of_them:
        assert not better(a, a)
        for b in all_of_them:
            if a is not b:
                assert better(a, b) != better(b, a)


@given(standings(), st.integers(0, 9))
def test_laws_of_top(all_of_them: list[Standing], count: int) -> None:
    before = list(all_of_them)
    chosen = top(all_of_them, count)
    assert all_of_them == before  # nothing received is written to
    numbered = [s for s in all_of_them if s.fitness and None not in s.fitness]
    assert len(chosen) == min(count, len(numbered))
    assert all(any(c is s for s in numbered) for c in chosen)
    assert len({c.position for c in chosen}) == len(chosen)
    assert [c.position for c in top(all_of_them, 9)][:count] == [c.position for c in chosen]  # more only adds
    equal_seeds = [s for s in all_of_them if len(s.fitness) == 2]
    ranked = top(equal_seeds, 9)  # on equally many seeds it is plain sorting by the mean
    assert ranked == sorted((s for s in equal_seeds if None not in s.fitness), key=lambda s: (s.mean(2), s.position))


def test_nobody_with_a_number() -> None:
    assert top([Standing((0, 0), [None]), Standing((0, 1), [])], 3) == []
