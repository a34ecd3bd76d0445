"""One vector of all φ takes the steps that each φ would take by itself."""

from __future__ import annotations

from typing import Any

import numpy as np

from lossmith.records import OK
from lossmith.training.courses import Courses
from lossmith.training.meta_adam import AdamState, adam_step
from lossmith.training.meta_gradient import MetaGradient
from lossmith.training.tuning_state import TuningState

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


def test_notes_are_kept_with_the_first_of_them_and_their_number() -> None:
    courses = Courses.start([np.ones(1), np.ones(1), np.ones(1)])
    for notes in (("", "", ""), ("raised", "", "too steep"), ("raised further", "", "")):
        gradients = [np.full(1, np.nan) if note == "too steep" else np.ones(1) for note in notes]
        found = {i: MetaGradient(1.0, 1.0, g, note) for i, (g, note) in enumerate(zip(gradients, notes, strict=True))}
        courses = courses.advanced(found, 0.1, keep=False)
    assert str(courses.notes[0]) == "meta-step 2: raised; 2 such meta-steps"
    assert 1 not in courses.notes
    assert courses.status(2).sentence == "tuning became non-finite at meta-step 2 (meta-step 2: too steep)"


def test_what_goes_on_from_states_is_numbered_on() -> None:
    states = [TuningState(5, "adam", np.full(2, 0.1), np.full(2, 0.2)), TuningState(5, "adam", np.ones(1), np.ones(1))]
    courses = Courses.start([np.ones(2), np.ones(1)], states)
    assert courses.state(0).to_text() == states[0].to_text()
    found = {0: MetaGradient(1.0, 1.0, np.ones(2)), 1: MetaGradient(np.nan, 1.0, np.ones(1))}
    after = courses.advanced(found, 0.1, keep=True)
    assert (after.taken(0), after.taken(1), after.meta_steps) == (1, 1, 6)
    assert after.histories == (((6, 1.0),), ())
    assert after.status(1).sentence == "tuning became non-finite at meta-step 6"
    phi, adam = adam_step(np.ones(2), np.ones(2), AdamState(states[0].mean, states[0].square, 5), 0.1)
    assert np.array_equal(after.phis[0], phi)
    assert after.state(0).to_text() == TuningState(6, "adam", adam.mean, adam.square).to_text()
    assert after.state(1).to_text() == states[1].to_text()  # from where it was sound


def test_sgd_moves_by_the_gradient_alone() -> None:
    courses = Courses.start([np.ones(2)], [TuningState.begin("sgd", 2)])
    for done in (1, 2):
        courses = courses.advanced({0: MetaGradient(1.0, 1.0, np.array([1.0, -2.0]))}, 0.1, keep=False)
        assert np.allclose(courses.phis[0], [1 - 0.1 * done, 1 + 0.2 * done])
    assert courses.state(0).meta_steps == 2
