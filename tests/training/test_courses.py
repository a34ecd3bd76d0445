"""One vector of all φ takes the steps that each φ would take by itself."""

from __future__ import annotations

from typing import Any

import numpy as np

from lossmith.records import OK
from lossmith.training.courses import Courses
from lossmith.training.meta_adam import AdamState, adam_step
from lossmith.training.meta_gradient import MetaGradient

GRADIENTS = np.random.default_rng(0).standard_normal((4, 9))


def taken(gradients: np.ndarray[Any, Any], at: slice, value: float = 1.0) -> MetaGradient:
    return MetaGradient(value, 1.0, gradients[at])


def test_candidates_step_as_they_would_alone() -> None:
    starts = [np.ones(2), np.full(3, 0.5), np.zeros(4)]
    parts = [slice(0, 2), slice(2, 5), slice(5, 9)]
    courses = Courses.start(starts)
    alone = [(phi, AdamState.empty(len(phi))) for phi in starts]
    for number, row in enumerate(GRADIENTS):
        found = {i: taken(row, part, float(number)) for i, part in enumerate(parts)}
        courses = courses.advanced(found, 0.05, keep=number % 2 == 0)
        alone = [adam_step(phi, row[part], adam, 0.05) for (phi, adam), part in zip(alone, parts, strict=True)]
    assert all(np.array_equal(phi, own) for phi, (own, _) in zip(courses.phis, alone, strict=True))
    assert np.abs(courses.phis[1] - 0.5).min() > 0.005
    assert courses.histories == (((1, 0.0), (3, 2.0)),) * 3
    assert {courses.status(i) for i in range(3)} == {OK}


def test_what_diverges_stays_where_it_was_and_disturbs_nobody() -> None:
    parts = [slice(0, 2), slice(2, 4)]
    courses = calm = Courses.start([np.ones(2), np.ones(2)])
    for number, row in enumerate(GRADIENTS):
        well = {i: taken(row, part) for i, part in enumerate(parts)}
        calm = calm.advanced(well, 0.05, keep=True)
        # First it is only the loss that is no number; what is found afterwards is not looked at.
        ill = {0: well[0]} if number > 1 else {**well, 1: taken(row, parts[1], np.nan)} if number else well
        before, courses = courses, courses.advanced(ill, 0.05, keep=True)
        if number:
            assert np.array_equal(courses.phis[1], before.phis[1])
    assert np.array_equal(courses.phis[0], calm.phis[0])
    assert courses.status(1).sentence == "tuning became non-finite at meta-step 2"
    assert (courses.taken(0), courses.taken(1)) == (4, 2)
    assert [len(history) for history in courses.histories] == [4, 1]


def test_a_gradient_that_is_no_number_is_noticed() -> None:
    found = {0: MetaGradient(1.0, 1.0, np.array([np.inf, 0.0])), 1: MetaGradient(1.0, 1.0, np.ones(1))}
    courses = Courses.start([np.ones(2), np.ones(1)]).advanced(found, 0.1, keep=False)
    assert courses.status(0).kind == "diverged"
    assert courses.phis[0].tolist() == [1.0, 1.0]
    assert courses.phis[1][0] < 1
