"""Where searches by gradient begin, what they want tuned, and local search inside TaylorGLO."""

from __future__ import annotations

import json

import numpy as np
import pytest

from lossmith import rng
from lossmith.errors import LossError, RunError
from lossmith.losses import Loss, Network, OnlineRule, Ratio, Setting, Taylor, TaylorFamily, Tree, from_json, to_json
from lossmith.losses.parser import parse
from lossmith.records import Candidate, Implicit, Preparation, Tuning
from lossmith.search import ML3, AdaLFL, EvoMAL, Method, Problem, TaylorGLO, TaylorUnroll
from lossmith.search.taylorglo import CmaState

TEN = Setting("softmax", 10)
CROSS_ENTROPY = Loss(Tree(parse("-t*log(p)")), name="cross_entropy")


def first(method: Method, **options: object) -> tuple[Candidate, ...]:
    return method.ask(method.init(Problem(TEN, **options)))[0]  # type: ignore[arg-type]


def single(candidate: Candidate) -> Loss:
    loss = from_json(candidate.loss)
    assert isinstance(loss, Loss)
    return loss


def test_the_architectures_are_the_papers() -> None:
    (ml3,), (adalfl,) = first(ML3()), first(AdaLFL())
    for candidate, hidden, output in ((ml3, (50, 50), "softplus"), (adalfl, (40, 40), "smooth_leaky_relu")):
        kernel = single(candidate).kernel
        assert isinstance(kernel, Network)
        assert (kernel.hidden, kernel.output) == (hidden, output)
    assert single(ml3).online is None
    assert single(adalfl).online == OnlineRule(1e-5)
    assert single(first(AdaLFL(online_lr=0.1, online_every=3))[0]).online == OnlineRule(0.1, every=3)


def test_restarts_differ_and_do_not_depend_on_how_many_there_are() -> None:
    one, three = first(ML3(), seed=4), first(ML3(population=3), seed=4)
    assert three[0] == one[0]
    assert len({candidate.loss for candidate in three}) == 3
    expected = Network.ml3(rng.stream(4, "restart", 2)).weights
    assert single(three[2]).kernel.phi == expected
    xavier = first(ML3(initialisation="xavier"), seed=4)
    assert single(xavier[0]).kernel.phi == Network.ml3(rng.stream(4, "restart", 0), initialisation="xavier").weights
    genomes = np.array([c.genome for c in first(TaylorUnroll(population=400, sigma=2.0))])
    assert genomes.std() == pytest.approx(2.0, rel=0.05)
    assert abs(genomes.mean()) < 0.1


def test_the_settings_are_what_is_asked_to_be_tuned() -> None:
    method = ML3(unroll_length=6, truncation=2, meta_lr=0.01, meta_optimizer="sgd", reinitialise=3, task_loss="brier")
    (candidate,) = first(method)
    wanted = Tuning(51, 6, 0.01, truncation=2, meta_optimizer="sgd", reinitialise=3, task_loss="brier")
    assert Tuning.from_settings(candidate.tuning) == wanted
    assert method.preparation == Preparation(tuning=wanted)
    implicit = ML3(hypergradient="implicit", solver="neumann", terms=7, damping=0.1, unroll_length=100)
    assert Tuning.from_settings(first(implicit)[0].tuning).implicit == Implicit("neumann", 7, 0.1)
    evomal = EvoMAL(hypergradient="implicit").preparation.tuning
    assert evomal is not None
    assert evomal.implicit == Implicit()


def test_a_taylor_restart_begins_with_the_taylor_form_of_a_known_loss() -> None:
    method = TaylorUnroll(population=2)
    known, drawn = first(method, start_from=(CROSS_ENTROPY,))
    # ALGORITHMS §2: the Taylor form of cross-entropy about (.5, .5), k = 3, [θ2 … θ7, θ0, θ1]
    assert known.genome == pytest.approx((1, -1, 4 / 3, 2, -2, 0, 0.5, 0.5))
    assert known.origin == "start: cross_entropy, 50 meta-steps"
    assert drawn.genome == TaylorFamily().sample(rng.stream(0, "restart", 1))
    mean = method.ask(method.init(Problem(TEN, outputs="mean", start_from=(CROSS_ENTROPY,))))[0][0]
    assert mean.genome[:6] == pytest.approx([10 * number for number in (1, -1, 4 / 3, 2, -2, 0)])


def test_a_network_restart_begins_with_a_network_of_an_earlier_search() -> None:
    found = Loss(Network.adalfl(np.random.default_rng(3)), name="found before")
    (candidate,) = first(AdaLFL(), start_from=(found,))
    assert candidate.origin == "start: found before, 50 meta-steps"
    assert single(candidate).kernel == found.kernel
    assert single(candidate).online == OnlineRule()


@pytest.mark.parametrize(
    ("method", "start", "why"),
    [
        (ML3(), CROSS_ENTROPY, r"ml3 starts from drawn weights, or from a pointwise network\(2-50-50-1, softplus\)"),
        (ML3(), Loss(Network.adalfl(np.random.default_rng(0))), "given as shelf, not to start from"),
        (AdaLFL(), Loss(Network.ml3(np.random.default_rng(0))), "network\\(2-40-40-1, smooth leaky relu\\)"),
        (ML3(), Loss(Network.ml3(np.random.default_rng(0)), outputs="mean"), "ml3 starts from drawn weights"),
        (ML3(), Loss(Network.ml3(np.random.default_rng(0)), head="sigmoid"), "has the sigmoid head"),
        (TaylorUnroll(), Loss(CROSS_ENTROPY.kernel, head="sigmoid"), "has the sigmoid head"),
        (TaylorUnroll(), Loss(Tree(parse("t*p")), aggregation=Ratio(Tree(parse("t + p")))), "is a ratio loss"),
    ],
)
def test_what_a_restart_cannot_begin_with(method: Method, start: Loss, why: str) -> None:
    with pytest.raises(LossError, match=why):
        method.init(Problem(TEN, start_from=(start,)))


def test_more_losses_to_start_from_than_restarts() -> None:
    starts = (CROSS_ENTROPY, Loss(Tree(parse("(t - p)^2"))))
    with pytest.raises(LossError, match="taylor_unroll has 1 restart and 2 losses to start from: set population = 2"):
        TaylorUnroll().init(Problem(TEN, start_from=starts))
    assert len(first(TaylorUnroll(population=2), start_from=starts)) == 2


def test_a_head_of_the_tasks_own_stays_custom() -> None:
    method = TaylorUnroll()
    problem = Problem(Setting("custom", 3))
    (candidate,), state = method.ask(method.init(problem))
    assert json.loads(candidate.loss)["head"] == "custom"
    assert len(candidate.genome) == 8
    state = method.tell(state, (candidate,), [0.5], [json.dumps({"loss": candidate.loss, "state": "s"})])
    assert method.load(problem, json.loads(json.dumps(method.dump(state)))) == state


def test_equal_losses_in_other_states_are_other_candidates() -> None:
    method = TaylorUnroll()
    (candidate,), state = method.ask(method.init(Problem(TEN)))
    told = method.tell(state, (candidate,), [0.5], [json.dumps({"loss": candidate.loss, "state": "moved on"})])
    (again,), _ = method.ask(told)
    assert again.loss == candidate.loss
    assert again.key != candidate.key


def test_a_search_stored_before_a_setting_was_there_goes_on() -> None:
    for method in (TaylorGLO(population=4), EvoMAL(population=4)):
        asked, state = method.ask(method.init(Problem(TEN)))
        state = method.tell(state, asked, [0.5 if c.status.ok else None for c in asked])
        document = json.loads(json.dumps(method.dump(state)))
        newer = {
            "truncation",
            "meta_optimizer",
            "reinitialise",
            "hypergradient",
            "solver",
            "terms",
            "damping",
            "task_loss",
        }
        newer |= {"tune", "inherit"}
        document["settings"] = {k: v for k, v in document["settings"].items() if k not in newer}
        assert method.ask(method.load(Problem(TEN), document))[0] == method.ask(state)[0]
        for settings in ({**document["settings"], "population": 5}, {**document["settings"], "truncation": 1}, 3):
            with pytest.raises(RunError, match="resume with the settings it was started with"):
                method.load(Problem(TEN), {**document, "settings": settings})


def moved(candidate: Candidate) -> str:
    """A tuning that brings every number nearer to 1."""
    if not candidate.status.ok:
        return ""
    return json.dumps({"loss": to_json(Loss(Taylor(tuple(0.5 + 0.5 * g for g in candidate.genome))))})


@pytest.mark.parametrize("inherit", [False, True])
def test_local_search_is_inherited_only_where_that_is_wanted(inherit: bool) -> None:
    plain, tuned = TaylorGLO(population=8), TaylorGLO(population=8, tune=5, inherit=inherit)
    assert plain.preparation == Preparation()
    assert tuned.preparation == Preparation(tuning=Tuning(5))
    asked, waiting = tuned.ask(tuned.init(Problem(TEN)))
    same, waiting_plain = plain.ask(plain.init(Problem(TEN)))
    assert [c.genome for c in asked] == [c.genome for c in same]
    fitness = [float(i) if c.status.ok else None for i, c in enumerate(asked)]
    products = [moved(c) for c in asked]
    baldwin = plain.tell(waiting_plain, same, fitness)
    told = tuned.tell(waiting, asked, fitness, products)
    assert isinstance(told, CmaState)
    assert isinstance(baldwin, CmaState)
    means = told.distribution.mean, baldwin.distribution.mean
    assert np.array_equal(*means) == (not inherit)
    if inherit:  # by hand: what CMA-ES learns from the tuned genomes, as solutions from outside
        slots = waiting.slots  # type: ignore[attr-defined]
        genomes = np.array([[0.5 + 0.5 * g for g in asked[slot].genome] for slot in slots])
        before = waiting.distribution  # type: ignore[attr-defined]
        expected = before.updated(genomes, range(8), range(8))
        assert np.array_equal(told.distribution.mean, expected.mean)
        assert told.distribution.sigma == expected.sigma
    again = tuned.load(Problem(TEN), json.loads(json.dumps(tuned.dump(told))))
    assert isinstance(again, CmaState)
    assert np.array_equal(again.distribution.mean, told.distribution.mean)
    assert tuned.ask(again)[0] == tuned.ask(told)[0]


def test_a_damaged_inherited_genome_is_said() -> None:
    method = TaylorGLO(population=4, tune=5, inherit=True)
    asked, waiting = method.ask(method.init(Problem(TEN)))
    told = method.tell(waiting, asked, [1.0 if c.status.ok else None for c in asked], [moved(c) for c in asked])
    document = json.loads(json.dumps(method.dump(told)))
    for broken in ([[[9, [0.0] * 8]]], [[[0, [0.0] * 7]]], [[[0, 1]]], [[], []], 3):
        changed = {**document, "log": [{**document["log"][0], "moved": broken}]}
        with pytest.raises(RunError, match="damaged"):
            method.load(Problem(TEN), changed)


def test_tuned_genomes_that_train_alike_are_not_duplicates() -> None:
    # one effective loss in two writings (ALGORITHMS §2): θ2 + c, θ5 with a centre moved along
    one = Loss(Taylor((0.0, -1.0, 0.0, 2.0, 0.0, 0.0, 0.0, 0.0)))
    two = Loss(Taylor((0.5, -1.0, 0.0, 2.0, 0.0, 0.0, 0.25, 0.0)))
    assert one.key(10) == two.key(10)
    for tune, same in ((0, True), (3, False)):
        method = TaylorGLO(population=4, tune=tune)
        asked = first(method, start_from=(one, two))
        keys = [c.key for c in asked if c.origin.startswith("start")]
        assert len(keys) == 2
        assert (keys[0] == keys[1]) == same
