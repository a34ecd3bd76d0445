"""TaylorGLO itself: what it learns from, where it starts, how it is stored, and that it beats random search."""

from __future__ import annotations

import json
from itertools import pairwise

import numpy as np
import pytest
import torch

from lossmith.errors import LossError, RunError, SpecError
from lossmith.losses import Loss, Setting, Taylor, TaylorFamily, Tree, from_json
from lossmith.losses.parser import parse
from lossmith.records import Candidate
from lossmith.search import Problem, TaylorGLO, method
from lossmith.search.taylorglo import CmaState

TEN = Setting("softmax", 10)
CROSS_ENTROPY = Loss(Tree(parse("-t*log(p)")), name="cross_entropy")
SQUARE = Loss(Tree(parse("(t - p)^2")), name="mse")


def told(m: TaylorGLO, state: CmaState, *, fail: bool = False) -> CmaState:
    """One generation: every unscreened candidate succeeds, or none does."""
    asked, waiting = m.ask(state)
    learned = m.tell(waiting, asked, [float(i) if c.status.ok and not fail else None for i, c in enumerate(asked)])
    assert isinstance(learned, CmaState)
    return learned


def begun(m: TaylorGLO, **options: object) -> CmaState:
    state = m.init(Problem(TEN, **options))  # type: ignore[arg-type]
    assert isinstance(state, CmaState)
    return state


def test_it_starts_at_zero_with_the_published_spread() -> None:
    state = begun(TaylorGLO())
    assert state.distribution.mean.tolist() == [0.0] * 8
    assert state.distribution.spread == pytest.approx(1.2, rel=1e-3)


def test_a_generation_without_a_success_leaves_the_distribution_unchanged() -> None:
    m = TaylorGLO(population=6)
    before = told(m, begun(m))
    after = told(m, before, fail=True)
    assert after.distribution is before.distribution
    assert after.generation == before.generation + 1
    assert m.ask(after)[0] != m.ask(before)[0]  # fresh draws from the same distribution
    asked, waiting = m.ask(before)
    first = next(i for i, c in enumerate(asked) if c.status.ok)
    learned = m.tell(waiting, asked, [0.5 if i == first else None for i in range(len(asked))])
    assert isinstance(learned, CmaState)
    assert learned.distribution is not before.distribution


def test_failures_push_the_distribution_away() -> None:
    m = TaylorGLO(population=12, invariant="off")
    state = begun(m)
    for _ in range(25):
        asked, waiting = m.ask(state)
        state = m.tell(waiting, asked, [abs(c.genome[1]) if c.genome[0] > 1.0 else None for c in asked])  # type: ignore[assignment]
    assert state.distribution.mean[0] > 1.0


@pytest.mark.parametrize(("population", "every"), [(1, 4), (2, 2), (3, 2), (4, 1), (5, 1)])
def test_small_populations_learn_every_few_generations(population: int, every: int) -> None:
    m = TaylorGLO(population=population)
    states = [begun(m)]
    for _ in range(2 * every):
        states.append(told(m, states[-1]))
    changed = [a.distribution is not b.distribution for a, b in pairwise(states)]
    assert changed == [(i + 1) % every == 0 for i in range(2 * every)]


def test_start_from_sets_the_mean_and_joins_the_first_population() -> None:
    m = TaylorGLO(population=6)
    state = begun(m, start_from=(CROSS_ENTROPY, SQUARE))
    expanded = TaylorFamily().expand(CROSS_ENTROPY)
    assert state.distribution.mean.tolist() == list(expanded.genome)
    asked, _ = m.ask(state)
    starts = [c for c in asked if c.origin.startswith("start")]
    assert [c.origin for c in starts] == ["start: cross_entropy", "start: mse"]
    assert starts[0].genome == expanded.genome
    square = from_json(starts[1].loss)
    assert isinstance(square, Loss)
    assert square.kernel.key(TEN) == Taylor((0.0, -1.0, 2.0, 0.0, 0.0), 2).key(TEN)  # squared error, exactly


def test_more_start_losses_than_candidates_take_several_generations() -> None:
    m = TaylorGLO(population=2)
    state = begun(m, start_from=(CROSS_ENTROPY, SQUARE, SQUARE))
    origins = []
    for _ in range(3):
        asked, _ = m.ask(state)
        origins.append([c.origin for c in asked if c.status.ok])
        state = told(m, state)
    assert origins[0] == ["start: cross_entropy", "start: mse"]
    assert origins[1][0] == "start: mse"
    assert not any(o.startswith("start") for o in [origins[1][1], *origins[2]])
    document = json.loads(json.dumps(m.dump(state)))
    again = m.load(state.problem, document)
    assert m.dump(again) == m.dump(state)


def test_a_start_loss_that_violates_the_invariant_is_screened_and_replaced() -> None:
    backwards = Loss(Tree(parse("-(t - p)^2")), name="backwards")
    asked, _ = TaylorGLO(population=3).ask(begun(TaylorGLO(population=3), start_from=(backwards,)))
    assert (asked[0].origin, str(asked[0].status)) == ("start: backwards", "screened:invariant")
    assert asked[1].origin == "redraw 1"


def test_label_smoothing_and_reduction_of_a_start_loss_are_kept() -> None:
    smoothed = Loss(Tree(parse("(t - p)^2")), smoothing=0.2, outputs="mean")
    asked, _ = TaylorGLO().ask(begun(TaylorGLO(), start_from=(smoothed,)))
    z = torch.tensor([[0.3, -0.2, 1.0, *[0.0] * 7]], dtype=torch.float64, requires_grad=True)
    found = from_json(asked[0].loss)
    (a,) = torch.autograd.grad(found(z, torch.tensor([1])), z)
    (b,) = torch.autograd.grad(smoothed(z, torch.tensor([1])), z)
    assert isinstance(found, Loss)
    assert (found.outputs, found.smoothing) == ("sum", 0.0)
    torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-15)


@pytest.mark.parametrize(
    ("loss", "sentence"),
    [
        (Loss(Tree(parse("abs(t - p)")), name="mae"), "kink"),
        (
            Loss(Tree(parse("(t - p)^2")), head="identity", name="mse"),
            "mse has the identity head; a search under softmax",
        ),
        (Loss(Tree(parse("1 - m"))), "also reads m"),
    ],
)
def test_losses_it_cannot_start_from_are_refused_at_once(loss: Loss, sentence: str) -> None:
    for name in ("taylorglo", "random"):
        with pytest.raises(LossError, match=sentence):
            method(name).init(Problem(TEN, start_from=(loss,)))


def test_the_published_invariant_needs_probabilities() -> None:
    with pytest.raises(SpecError, match="invariant = 'paper' is about class probabilities, not the identity head"):
        TaylorGLO(invariant="paper").init(Problem(Setting("identity", 1)))


@pytest.mark.parametrize("head", ["sigmoid", "identity", "custom"])
def test_other_heads(head: str) -> None:
    m = TaylorGLO(population=4)
    asked, _ = m.ask(m.init(Problem(Setting(head, 1, hard_targets=head != "identity"), outputs="mean")))
    document = json.loads(asked[-1].loss)
    assert (document["head"], document["outputs"]) == (head, "mean")


def test_several_losses_per_genome_are_one_candidate() -> None:
    m = TaylorGLO(population=4, losses=2)
    asked, _ = m.ask(begun(m))
    assert all(len(json.loads(c.loss)["losses"]) == 2 and len(c.genome) == 16 for c in asked)
    screened = [c.status.sentence for c in asked if not c.status.ok]
    assert any(s.startswith("loss 0 of the genome: ") for s in screened)


def test_a_replay_that_arrives_elsewhere_is_refused() -> None:
    m = TaylorGLO(population=5)
    state = begun(m)
    for _ in range(3):
        state = told(m, state)
    document = json.loads(json.dumps(m.dump(state)))
    other = {**document, "distribution": {**document["distribution"], "sigma": 2.0, "cma": "4.4.0"}}
    with pytest.raises(RunError, match=r"install cma==4\.4\.0 to resume it, or start a new run"):
        m.load(state.problem, other)
    rounded = {**document, "distribution": {**document["distribution"]}}
    rounded["distribution"]["mean"] = [x * (1 + 1e-15) for x in document["distribution"]["mean"]]
    assert m.load(state.problem, rounded).generation == 3  # another BLAS may round otherwise
    for damage in (
        {"log": document["log"][1:]},
        {"log": [{"redraws": [[[0, 1]], [[0, 1]]], "ranks": [0] * 5}]},
        {"log": [{"redraws": [[[77, 1]]], "ranks": [0] * 5}]},
        {"log": 3},
        {"generation": 2},
        {"pending": [{}]},
    ):
        with pytest.raises(RunError):
            m.load(state.problem, {**document, **damage})


def test_a_stored_search_is_small_and_plain() -> None:
    m = TaylorGLO(population=20)
    state = begun(m)
    for _ in range(5):
        state = told(m, state)
    text = json.dumps(m.dump(state))
    assert len(text) < 3000
    assert "genome" not in text


def test_it_climbs_faster_than_random_search_on_a_toy_task() -> None:
    def toy(candidate: Candidate) -> float:
        wanted = np.array([1.0, -1.0, 1.0, 2.0, -2.0, 0.0, 0.5, 0.5])
        return float(np.sum((np.array(candidate.genome) - wanted) ** 2))

    wins = 0
    for seed in range(5):
        best = {}
        for name in ("taylorglo", "random"):
            m = method(name, population=10)
            state, found = m.init(Problem(TEN, seed=seed)), []
            for _ in range(12):
                asked, state = m.ask(state)
                fitness = [toy(c) if c.status.ok else None for c in asked]
                found += [f for f in fitness if f is not None]
                state = m.tell(state, asked, fitness)
            best[name] = min(found)
        wins += best["taylorglo"] < best["random"]
    assert wins >= 4
