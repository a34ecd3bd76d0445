"""The table every search method must pass. A new method is a new row."""

from __future__ import annotations

import copy
import json
import math
from collections.abc import Callable, Sequence
from dataclasses import replace

import pytest

from lossmith.errors import RunError, UsageError
from lossmith.losses import Loss, Setting, Taylor, from_json
from lossmith.records import Candidate, Status
from lossmith.search import METHODS, Method, Problem, method

Fitness = Callable[[Candidate], float | None]

TEN = Setting("softmax", 10)
ROWS = [
    pytest.param("random", {}, id="random"),
    pytest.param("random", {"order": 4, "invariant": "paper"}, id="random, paper"),
    pytest.param("taylorglo", {}, id="taylorglo"),
    pytest.param("taylorglo", {"order": 2, "variables": ["target", "prediction", "logits"]}, id="taylorglo, logits"),
    pytest.param("taylorglo", {"losses": 2, "order": 2}, id="taylorglo, two losses"),
    pytest.param("taylorglo", {"population": 3}, id="taylorglo, small"),
]
rows = pytest.mark.parametrize(("name", "settings"), ROWS)


def make(name: str, settings: dict[str, object], population: int = 5) -> Method:
    return method(name, **{"population": population, **settings})


def problem(seed: int = 0, setting: Setting = TEN, **options: object) -> Problem:
    return Problem(setting, seed=seed, **options)  # type: ignore[arg-type]


def sphere(candidate: Candidate) -> float:
    """A fitness without any training: squared distance of the genome from 1."""
    return sum((g - 1.0) ** 2 for g in candidate.genome)


def patchy(candidate: Candidate) -> float | None:
    """Some candidates fail, some are not finite: a function of the genome, so that every run sees the same."""
    bucket = int(abs(candidate.genome[0]) * 1e6) % 5
    return {0: None, 1: math.nan}.get(bucket, sphere(candidate))


def tell(m: Method, state: object, asked: Sequence[Candidate], fitness: Fitness) -> object:
    return m.tell(state, asked, [fitness(c) if c.status.ok else None for c in asked])


def search(
    m: Method, p: Problem, generations: int, fitness: Fitness = patchy, *, resume_at: Sequence[int] = ()
) -> tuple[list[tuple[Candidate, ...]], dict[str, object]]:
    """Every generation's candidates and the dump of the last state; stored and loaded before the given generations."""
    state, generations_asked = m.init(p), []
    for generation in range(generations):
        if generation in resume_at:
            state = m.load(p, json.loads(json.dumps(m.dump(state))))
        asked, state = m.ask(state)
        generations_asked.append(asked)
        state = tell(m, state, asked, fitness)
    return generations_asked, m.dump(state)


@rows
def test_one_seed_gives_one_search_and_another_seed_another(name: str, settings: dict[str, object]) -> None:
    m = make(name, settings)
    first, second, other = (search(m, problem(seed), 4)[0] for seed in (3, 3, 4))
    assert first == second
    assert all(set(a).isdisjoint(b) for a, b in zip(first, other, strict=True))


@rows
def test_ten_generations_are_five_stored_and_five_resumed(name: str, settings: dict[str, object]) -> None:
    m = make(name, settings)
    undisturbed, last = search(m, problem(), 10)
    resumed, last_resumed = search(make(name, settings), problem(), 10, resume_at=(5,))
    often, _ = search(m, problem(), 10, resume_at=(1, 2, 6, 9))
    assert resumed == undisturbed == often  # to the last bit: genomes, losses, keys, origins
    assert last_resumed == last
    redrawn = [c for asked in undisturbed for c in asked if not c.status.ok]
    assert redrawn, "no screened redraw happened in between, so the test has shown less than it says"
    failed = [c for asked in undisturbed for c in asked if c.status.ok and patchy(c) is None]
    assert failed


@rows
def test_a_state_is_stored_between_ask_and_tell_too(name: str, settings: dict[str, object]) -> None:
    m = make(name, settings)
    state = m.init(problem())
    for _ in range(3):
        asked, state = m.ask(state)
        stored = json.loads(json.dumps(m.dump(state)))
        state = m.load(problem(), stored)
        assert state.asked == asked
        state = tell(m, state, asked, sphere)
    assert m.dump(state) == search(m, problem(), 3, sphere)[1]


@rows
def test_nothing_received_is_written_to(name: str, settings: dict[str, object]) -> None:
    m = make(name, settings)
    state = m.init(problem())
    for _ in range(3):
        before = copy.deepcopy(m.dump(state))
        asked, after_ask = m.ask(state)
        assert m.dump(state) == before
        assert m.ask(state)[0] == asked  # asking again gives the same, so asking has changed nothing
        waiting = copy.deepcopy(m.dump(after_ask))
        fitness = [sphere(c) if c.status.ok else None for c in asked]
        given = list(fitness)
        told = m.tell(after_ask, asked, fitness)
        assert m.dump(after_ask) == waiting
        assert fitness == given
        # … and telling something else from the same state is not disturbed by what was told before
        m.tell(after_ask, asked, [None for _ in asked])
        assert m.ask(m.tell(after_ask, asked, fitness))[0] == m.ask(told)[0]
        state = told


@rows
def test_all_candidates_fail(name: str, settings: dict[str, object]) -> None:
    m = make(name, settings)
    asked, _ = search(m, problem(), 3, lambda candidate: None)
    assert all(sum(c.status.ok for c in generation) == m.settings()["population"] for generation in asked)
    assert set(asked[0]).isdisjoint(asked[1])  # the search goes on with fresh draws


@pytest.mark.parametrize("name", list(METHODS))
@pytest.mark.parametrize("population", [1, 2])
def test_a_population_of_one(name: str, population: int) -> None:
    m = make(name, {}, population)
    undisturbed, last = search(m, problem(), 12)
    assert all(sum(c.status.ok for c in generation) == population for generation in undisturbed)
    assert search(m, problem(), 12, resume_at=(2, 3, 7))[0] == undisturbed
    assert json.loads(json.dumps(last)) == last


@rows
def test_candidates_are_what_they_say_to_the_last_bit(name: str, settings: dict[str, object]) -> None:
    m = make(name, settings)
    for asked in search(m, problem(), 2)[0]:
        for candidate in asked:
            loss = from_json(candidate.loss)
            members = [loss] if isinstance(loss, Loss) else list(loss)
            kernels = [member.kernel for member in members]
            assert all(isinstance(k, Taylor) for k in kernels)
            assert tuple(g for k in kernels for g in k.phi) == candidate.genome  # float64 survives JSON exactly
            assert candidate.key == loss.key(10, hard_targets=True)
            assert json.loads(json.dumps(candidate.genome)) == list(candidate.genome)


@pytest.mark.parametrize("name", list(METHODS))
def test_the_last_bit_of_a_fitness_counts(name: str) -> None:
    m = make(name, {}, 8)
    asked, state = m.ask(m.init(problem()))
    rising = [1.0 + i * 2.0**-52 if c.status.ok else None for i, c in enumerate(asked)]
    shifted = [None if f is None else f * 8 for f in rising]
    assert m.ask(m.tell(state, asked, rising))[0] == m.ask(m.tell(state, asked, shifted))[0]
    falling = [None if f is None else -f for f in rising]
    if name != "random":
        assert m.ask(m.tell(state, asked, rising))[0] != m.ask(m.tell(state, asked, falling))[0]


@rows
def test_keys_within_a_generation_are_unique(name: str, settings: dict[str, object]) -> None:
    for asked in search(make(name, settings), problem(), 3)[0]:
        keys = [candidate.key for candidate in asked]
        assert len(set(keys)) == len(keys)


@rows
def test_redraws_are_recorded_before_what_replaces_them(name: str, settings: dict[str, object]) -> None:
    m = make(name, settings)
    for asked in search(m, problem(), 4)[0]:
        count = 0
        for candidate in asked:
            assert candidate.origin == (f"redraw {count}" if count else m.origin)  # type: ignore[attr-defined]
            if candidate.status.ok:
                count = 0
            else:
                assert str(candidate.status) == "screened:invariant"
                assert candidate.status.sentence
                count += 1
        assert count == 0


@pytest.mark.parametrize("name", list(METHODS))
def test_after_twenty_redraws_a_slot_is_left_as_a_failure(name: str) -> None:
    class Strict(METHODS[name]):  # type: ignore[misc]
        def _screened(self, members: object, problem: Problem) -> Status:
            return Status("screened", "invariant", "the test lets nothing pass")

    m = Strict(population=3)
    asked, state = m.ask(m.init(problem()))
    assert len(asked) == 3 * 21
    assert [c.origin for c in asked[:22]] == [m.origin, *[f"redraw {k}" for k in range(1, 21)], m.origin]
    state = m.tell(state, asked, [None] * len(asked))
    assert m.ask(state)[0] != asked
    assert m.ask(m.load(problem(), json.loads(json.dumps(m.dump(state)))))[0] == m.ask(state)[0]


@rows
def test_start_losses_join_the_first_population(name: str, settings: dict[str, object]) -> None:
    m = make(name, settings)
    if m.settings()["variables"] != ["target", "prediction"]:
        pytest.skip("these start losses are in target and prediction")
    square, other = ((0.0, -1.0, 2.0, 0.0, 0.0), (1.0, -1.0, 2.0, 0.5, 0.5))  # f = −p² + 2tp: squared error; anything
    starts = (Loss(Taylor(square, 2), name="one"), Loss(Taylor(other, 2), name="two"))
    p = problem(start_from=starts)
    asked, _ = search(m, p, 3)
    found = [c for generation in asked for c in generation if c.origin.startswith("start: ")]
    assert [c.origin for c in found] == [f"start: {loss}" for loss in starts]
    exact = from_json(found[0].loss)
    kernels = [exact.kernel] if isinstance(exact, Loss) else [member.kernel for member in exact]
    assert kernels[0].key(TEN) == starts[0].kernel.key(TEN)
    assert search(m, p, 6, resume_at=(1, 4))[0] == search(m, p, 6)[0]
    assert [c for c in search(m, replace(p, start_from=()), 1)[0][0] if c.origin.startswith("start")] == []


@pytest.mark.parametrize("name", list(METHODS))
def test_misuse_is_said(name: str) -> None:
    m = make(name, {})
    state = m.init(problem())
    asked, waiting = m.ask(state)
    fitness: list[float | None] = [0.5 if c.status.ok else None for c in asked]
    with pytest.raises(UsageError, match="tell without ask"):
        m.tell(state, asked, fitness)
    with pytest.raises(UsageError, match="ask without tell"):
        m.ask(waiting)
    with pytest.raises(UsageError, match="in their order"):
        m.tell(waiting, asked[::-1], fitness)
    with pytest.raises(UsageError, match=f"{len(asked) - 1} fitness values for {len(asked)} candidates"):
        m.tell(waiting, asked, fitness[1:])
    if None in fitness:
        with pytest.raises(UsageError, match="screened:invariant has no fitness"):
            m.tell(waiting, asked, [0.5] * len(asked))


@pytest.mark.parametrize("name", list(METHODS))
def test_a_state_of_another_run_is_refused(name: str) -> None:
    m = make(name, {})
    document = search(m, problem(), 2)[1]
    for other, p in (
        (make(name, {"sigma": 2.0}), problem()),
        (m, problem(seed=1)),
        (m, problem(setting=Setting("softmax", 3))),
    ):
        with pytest.raises(RunError, match="resume with the settings it was started with"):
            other.load(p, document)
    with pytest.raises(RunError, match="lacks the field 'format'"):
        m.load(problem(), {})
    with pytest.raises(RunError, match="has format 2, this run 1"):
        m.load(problem(), {**document, "format": 2})
    for damage in ("generation", "asked"):
        with pytest.raises(RunError, match="damaged"):
            m.load(problem(), {k: v for k, v in document.items() if k != damage})
