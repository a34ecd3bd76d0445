"""The table every search method must pass. A new method is a new row."""

from __future__ import annotations

import copy
import json
import math
from collections.abc import Callable, Sequence
from dataclasses import replace

import pytest
import torch

from lossmith.errors import RunError, UsageError
from lossmith.losses import Loss, LossSet, Setting, Taylor, Tree, from_json, to_json
from lossmith.losses.keys import algebraic_key, structural_key
from lossmith.losses.parser import parse
from lossmith.records import Candidate, Status, Tuning, content_hash
from lossmith.search import METHODS, Method, Problem, method

Fitness = Callable[[Candidate], float | None]

TEN = Setting("softmax", 10)
TAYLOR = ("random", "taylorglo")
TREES = ("random_trees", "glo", "gplfl", "evomal")
GRADIENT = ("taylor_unroll", "ml3", "adalfl")
LEARN_NOTHING = ("random", "random_trees", *GRADIENT)  # from fitness: what a gradient search learns is in its products
ROWS = [
    pytest.param("random", {}, id="random"),
    pytest.param("random", {"order": 4, "invariant": "paper"}, id="random, paper"),
    pytest.param("taylorglo", {}, id="taylorglo"),
    pytest.param("taylorglo", {"order": 2, "variables": ["target", "prediction", "logits"]}, id="taylorglo, logits"),
    pytest.param("taylorglo", {"losses": 2, "order": 2}, id="taylorglo, two losses"),
    pytest.param("taylorglo", {"population": 3}, id="taylorglo, small"),
    pytest.param("random_trees", {}, id="random_trees"),
    pytest.param("random_trees", {"primitives": "glo", "max_initial_height": 2}, id="random_trees, glo"),
    pytest.param("glo", {"population": 12}, id="glo"),
    pytest.param("glo", {"population": 6, "tree_generations": 2}, id="glo, coefficients"),
    pytest.param("glo", {"population": 3, "tree_generations": 2}, id="glo, small"),
    pytest.param("gplfl", {}, id="gplfl"),
    pytest.param(
        "gplfl",
        {"mutation": 0.1, "point": 0.1, "hoist": 0.05, "shrink": 0.05, "parsimony": 1.4, "elitism": 0.4},
        id="gplfl, every operator",
    ),
    pytest.param("evomal", {}, id="evomal"),
    pytest.param("evomal", {"population": 3, "primitives": "glo", "screen": "off"}, id="evomal, small"),
    pytest.param("taylorglo", {"tune": 5}, id="taylorglo, tuned"),
    pytest.param("taylorglo", {"tune": 5, "inherit": True}, id="taylorglo, inherited"),
    pytest.param("taylorglo", {"tune": 5, "inherit": True, "population": 3}, id="taylorglo, inherited, small"),
    pytest.param("taylor_unroll", {}, id="taylor_unroll"),
    pytest.param("taylor_unroll", {"order": 2, "variables": ["target", "logits"]}, id="taylor_unroll, logits"),
    pytest.param("ml3", {}, id="ml3"),
    pytest.param(
        "ml3",
        {"reinitialise": 40, "unroll_length": 4, "truncation": 2, "meta_optimizer": "sgd", "initialisation": "xavier"},
        id="ml3, every option",
    ),
    pytest.param("ml3", {"hypergradient": "implicit", "solver": "neumann", "terms": 3}, id="ml3, implicit"),
    pytest.param("adalfl", {"online_lr": 1e-4, "online_every": 2}, id="adalfl"),
]
rows = pytest.mark.parametrize(("name", "settings"), ROWS)
taylor_rows = pytest.mark.parametrize(("name", "settings"), [row for row in ROWS if row.values[0] in TAYLOR])
gradient_rows = pytest.mark.parametrize(("name", "settings"), [row for row in ROWS if row.values[0] in GRADIENT])
evolving_rows = pytest.mark.parametrize(("name", "settings"), [row for row in ROWS if row.values[0] not in GRADIENT])
tree_rows = pytest.mark.parametrize(("name", "settings"), [row for row in ROWS if row.values[0] in TREES])


def test_every_method_has_a_row() -> None:
    assert {row.values[0] for row in ROWS} == set(METHODS) == {*TAYLOR, *TREES, *GRADIENT}


def make(name: str, settings: dict[str, object], population: int = 5) -> Method:
    long = {"meta_steps": 5000} if name in GRADIENT else {}
    return method(name, **{"population": population, **long, **settings})


def problem(seed: int = 0, setting: Setting = TEN, **options: object) -> Problem:
    return Problem(setting, seed=seed, **options)  # type: ignore[arg-type]


OTHERWISE: dict[str, dict[str, object]] = {"ml3": {"initialisation": "xavier"}, "adalfl": {"online_lr": 1.0}}
Z = torch.tensor([[0.3, -0.2, 1.0], [2.0, 0.5, -1.0], [-3.0, 4.0, 0.0]], dtype=torch.float64)
T = torch.tensor([0, 2, 1])


def values(candidate: Candidate) -> list[float]:
    """ℓ of three rows of three classes; what a loss is, whatever it is made of."""
    loss = from_json(candidate.loss)
    members = [loss] if isinstance(loss, Loss) else list(loss)
    return [float(v) for m in members for v in Loss(m.kernel, head=m.head, outputs=m.outputs, reduction="none")(Z, T)]


def sphere(candidate: Candidate) -> float:
    """A fitness without any training: squared distance of the genome, or of a tree's values, from 1."""
    numbers = candidate.genome if '"family":"taylor"' in candidate.loss else values(candidate)
    return sum((min(g, 1e6) - 1.0) ** 2 for g in numbers)


def patchy(candidate: Candidate) -> float | None:
    """Some candidates fail, some are not finite: a function of the loss, so that every run sees the same."""
    bucket = int(content_hash(candidate.loss), 16) % 5
    return {0: None, 1: math.nan}.get(bucket, sphere(candidate))


def filled(m: Method, asked: Sequence[Candidate]) -> int:
    """How many slots a generation has filled: every candidate but the screened ones that were replaced."""
    if m.name == "glo":  # nothing is replaced: a tree that cannot be trained keeps its slot, as in the paper
        return len(asked)
    return sum(c.status.ok for c in asked)


def tuned(m: Method, candidate: Candidate) -> str:
    """Stands for tuning: φ moves by what the settings say, its state counts meta-steps, and some tunings fail."""
    common = m.preparation.tuning
    if not candidate.status.ok or not (candidate.tuning or common):
        return ""
    tuning = Tuning.from_settings(candidate.tuning or common.to_settings())
    if m.name not in GRADIENT and int(content_hash(candidate.loss), 16) % 4 == 0:
        return ""
    loss = from_json(candidate.loss)
    assert isinstance(loss, Loss | LossSet)
    members = [loss] if isinstance(loss, Loss) else list(loss)
    done = int(tuning.state or 0) + tuning.meta_steps
    moved = [
        Loss(
            member.kernel.with_phi([number * 0.9 + 1e-3 * done for number in member.kernel.phi]),
            head=member.head,
            outputs=member.outputs,
            online=member.online,
        )
        for member in members
    ]
    made = moved[0] if isinstance(loss, Loss) else LossSet(moved)
    return json.dumps({"loss": to_json(made), "state": str(done)})


def tell(m: Method, state: object, asked: Sequence[Candidate], fitness: Fitness) -> object:
    told = [fitness(c) if c.status.ok else None for c in asked]
    return m.tell(state, asked, told, [tuned(m, c) for c in asked])


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
    assert all(a != b for a, b in zip(first, other, strict=True))
    if name in (*TAYLOR, *GRADIENT, "evomal"):  # real numbers; small trees without any may well be drawn twice
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
    assert redrawn or name in GRADIENT, (
        "no screened candidate happened in between, so the test has shown less than it says"
    )
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
        products = [tuned(m, c) for c in asked]
        told = m.tell(after_ask, asked, fitness, products)
        assert m.dump(after_ask) == waiting
        assert fitness == given
        # … and telling something else from the same state is not disturbed by what was told before
        m.tell(after_ask, asked, [None for _ in asked])
        assert m.ask(m.tell(after_ask, asked, fitness, products))[0] == m.ask(told)[0]
        state = told


@evolving_rows
def test_all_candidates_fail(name: str, settings: dict[str, object]) -> None:
    m = make(name, settings)
    asked, _ = search(m, problem(), 3, lambda candidate: None)
    assert all(filled(m, generation) == m.settings()["population"] for generation in asked)
    assert asked[0] != asked[1] != asked[2]  # the search goes on with fresh draws
    if name in TAYLOR:
        assert set(asked[0]).isdisjoint(asked[1])
    else:
        assert {c.origin.split(",")[0] for generation in asked for c in generation} == {"random"}


@pytest.mark.parametrize("name", list(METHODS))
@pytest.mark.parametrize("population", [1, 2])
def test_a_population_of_one(name: str, population: int) -> None:
    m = make(name, {}, population)
    undisturbed, last = search(m, problem(), 12)
    assert all(filled(m, generation) == population for generation in undisturbed)
    assert search(m, problem(), 12, resume_at=(2, 3, 7))[0] == undisturbed
    assert json.loads(json.dumps(last)) == last


@gradient_rows
def test_restarts_whose_candidates_fail_go_on_and_those_whose_tuning_fails_do_not(
    name: str, settings: dict[str, object]
) -> None:
    m = make(name, settings, 3)
    asked, state = m.ask(m.init(problem()))
    products = [tuned(m, c) for c in asked]
    on, _ = m.ask(m.tell(state, asked, [None] * 3, products))
    assert [c.loss for c in on] == [json.loads(product)["loss"] for product in products]
    left = m.tell(state, asked, [0.5] * 3, [products[0], "", products[2]])
    assert not m.done(left)
    on, waiting = m.ask(left)
    assert [c.loss for c in on] == [json.loads(products[i])["loss"] for i in (0, 2)]
    over = m.tell(waiting, on, [0.5, 0.5], ["", ""])
    assert m.done(over)
    again = m.load(problem(), json.loads(json.dumps(m.dump(over))))
    assert m.done(again)
    assert [one.loss for one in again.restarts] == [  # type: ignore[attr-defined]  # the last that was sound
        on[0].loss, asked[1].loss, on[1].loss,
    ]  # fmt: skip
    with pytest.raises(UsageError, match="every restart has ended"):
        m.ask(again)


@gradient_rows
def test_blocks_are_what_the_settings_make_of_the_meta_steps(name: str, settings: dict[str, object]) -> None:
    m = make(name, {**settings, "meta_steps": 190}, 1)
    every = int(m.settings()["reinitialise"])
    block = {1: 50, 40: 80}[every]
    state, tunings, last = m.init(problem()), [], ""
    while not m.done(state):
        (candidate,), state = m.ask(state)
        tunings.append(Tuning.from_settings(candidate.tuning))
        assert tunings[-1].state == last
        assert candidate.origin.endswith(f"{sum(t.meta_steps for t in tunings)} meta-steps")
        product = tuned(m, candidate)
        last = json.loads(product)["state"]
        state = m.tell(state, (candidate,), [0.5], [product])
    lengths = [t.meta_steps for t in tunings]
    assert lengths == [block] * (190 // block) + [190 % block]
    assert len(lengths) == m.rounds
    assert [m.meta_steps_after(g) for g in range(len(lengths) + 1)] == [
        sum(lengths[:g]) for g in range(len(lengths) + 1)
    ]
    assert all(sum(lengths[:g]) % every == 0 for g in range(len(lengths)))  # a tuning begins with a fresh θ0
    assert m.preparation.tuning == replace(tunings[0], state="")
    with pytest.raises(UsageError, match="all 190 meta-steps are done"):
        m.ask(state)


@taylor_rows
def test_candidates_are_what_they_say_to_the_last_bit(name: str, settings: dict[str, object]) -> None:
    m = make(name, settings)
    for asked in search(m, problem(), 2)[0]:
        for candidate in asked:
            loss = from_json(candidate.loss)
            members = [loss] if isinstance(loss, Loss) else list(loss)
            kernels = [member.kernel for member in members]
            assert all(isinstance(k, Taylor) for k in kernels)
            assert tuple(g for k in kernels for g in k.phi) == candidate.genome  # float64 survives JSON exactly
            known = content_hash(candidate.loss) if settings.get("tune") else loss.key(10, hard_targets=True)
            assert candidate.key == known  # what trains alike is tuned apart
            assert json.loads(json.dumps(candidate.genome)) == list(candidate.genome)


@tree_rows
def test_trees_are_what_they_say_to_the_last_bit(name: str, settings: dict[str, object]) -> None:
    m = make(name, settings)
    key = structural_key if name == "evomal" else algebraic_key
    numbers = 0
    for asked in search(m, problem(), 5)[0]:
        for candidate in asked:
            loss = from_json(candidate.loss)
            assert isinstance(loss, Loss)
            assert to_json(loss) == candidate.loss  # float64 survives JSON exactly
            kernel = loss.kernel
            assert isinstance(kernel, Tree)
            assert parse(json.loads(candidate.loss)["kernel"]["expression"]) == kernel.root
            assert candidate.key == key(kernel.root)
            assert (len(kernel.phi) == kernel.root.size - 1) if name == "evomal" else kernel.phi == ()
            assert json.loads(json.dumps(candidate.genome)) == list(candidate.genome)
            numbers += len(candidate.genome)
    assert bool(numbers) == (settings.get("tree_generations") == 2)  # of these only GLO's second stage has a genome


@pytest.mark.parametrize("name", list(METHODS))
def test_the_last_bit_of_a_fitness_counts(name: str) -> None:
    m = make(name, {}, 24 if name in TREES else 8)
    asked, state = m.ask(m.init(problem()))
    made = [tuned(m, c) for c in asked]
    rising = [1.0 + i * 2.0**-52 if c.status.ok else None for i, c in enumerate(asked)]
    shifted = [None if f is None else f * 8 for f in rising]
    assert m.ask(m.tell(state, asked, rising, made))[0] == m.ask(m.tell(state, asked, shifted, made))[0]
    falling = [None if f is None else -f for f in rising]
    same = m.ask(m.tell(state, asked, rising, made))[0] == m.ask(m.tell(state, asked, falling, made))[0]
    assert same == (name in LEARN_NOTHING)


@taylor_rows
def test_keys_within_a_generation_are_unique(name: str, settings: dict[str, object]) -> None:
    for asked in search(make(name, settings), problem(), 3)[0]:
        keys = [candidate.key for candidate in asked]
        assert len(set(keys)) == len(keys)


@tree_rows
def test_trees_with_one_key_are_one_loss(name: str, settings: dict[str, object]) -> None:
    m = make(name, {**settings, "population": 60})
    first: dict[str, Candidate] = {}
    shared = 0
    for asked in search(m, problem(), 3)[0]:
        for candidate in asked:
            other = first.setdefault(candidate.key, candidate)
            if other is candidate:
                continue
            shared += 1
            if name == "evomal":
                assert candidate.loss == other.loss  # weights too
            else:
                assert values(candidate) == pytest.approx(values(other), rel=1e-9, abs=1e-9)
    assert shared > 3  # or nothing was shown


@taylor_rows
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


@tree_rows
def test_trees_without_an_argument_are_recorded_before_what_replaces_them(
    name: str, settings: dict[str, object]
) -> None:
    m = make(name, settings)
    screened = 0
    for asked in search(m, problem(), 4)[0]:
        for candidate, following in zip(asked, [*asked[1:], None], strict=True):
            if not candidate.status.ok:
                screened += 1
                assert str(candidate.status) == "screened:required_arguments"
                assert "does not read the" in candidate.status.sentence
            if following is None or name == "glo":
                assert candidate.status.ok or name == "glo"
            else:
                added = f"{candidate.origin}, arguments added"
                assert (following.origin == added) == (not candidate.status.ok)
                assert candidate.status.ok or following.status.ok
    assert screened


@pytest.mark.parametrize("name", TAYLOR)
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


@tree_rows
def test_start_trees_join_the_first_population(name: str, settings: dict[str, object]) -> None:
    m = make(name, settings)
    square = Taylor((0.0, -1.0, 2.0, 0.0, 0.0), 2)  # f = −p² + 2tp: squared error
    starts = tuple(
        Loss(kernel, name=text)
        for text, kernel in (("one", Tree(parse("-t*log(p)"))), ("two", square), ("three", Tree(parse("exp(-t*z)"))))
    ) + tuple(Loss(Tree(parse(f"abs(r)*{i}")), name=f"more {i}") for i in range(1, 5))
    p = problem(start_from=starts)
    asked, _ = search(m, p, 8)
    found = [c for generation in asked for c in generation if c.origin.startswith("start: ")]
    assert [c.origin for c in found] == [f"start: {loss}" for loss in starts]
    population = int(m.settings()["population"])
    assert [c.origin for c in asked[0][: min(7, population)]] == [c.origin for c in found[: min(7, population)]]
    for candidate, loss in zip(found, starts, strict=True):
        exact = values(replace(candidate, loss=to_json(Loss(loss.kernel))))
        close = 0.03 if name == "evomal" else 1e-12  # its weights are 1 ± 0.001 each
        assert values(candidate) == pytest.approx(exact, rel=close, abs=close)
    assert search(m, p, 6, resume_at=(1, 4))[0] == search(m, p, 6)[0]
    assert [c for c in search(m, replace(p, start_from=()), 1)[0][0] if c.origin.startswith("start")] == []


@taylor_rows
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
    with pytest.raises(UsageError, match=f"{len(asked) + 1} products for {len(asked)} candidates"):
        m.tell(waiting, asked, fitness, [""] * (len(asked) + 1))
    if name in GRADIENT:
        for broken in ("text", "[]", '{"loss": "{}"}', '{"loss": "{}", "state": 3}'):
            with pytest.raises(UsageError, match="product of every tuning, with its loss and its state"):
                m.tell(waiting, asked, fitness, [broken] * len(asked))
    if None in fitness:
        which = "required_arguments" if name in TREES else "invariant"
        with pytest.raises(UsageError, match=f"screened:{which} has no fitness"):
            m.tell(waiting, asked, [0.5] * len(asked))


@pytest.mark.parametrize("name", list(METHODS))
def test_a_state_of_another_run_is_refused(name: str) -> None:
    m = make(name, {})
    document = search(m, problem(), 2)[1]
    for other, p in (
        (make(name, OTHERWISE.get(name, {"max_size": 99} if name in TREES else {"sigma": 2.0})), problem()),
        (m, problem(seed=1)),
        (m, problem(setting=Setting("softmax", 3))),
    ):
        with pytest.raises(RunError, match="resume with the settings it was started with"):
            other.load(p, document)
    with pytest.raises(RunError, match="lacks the field 'format'"):
        m.load(problem(), {})
    with pytest.raises(RunError, match="has format 2, this run 1"):
        m.load(problem(), {**document, "format": 2})
    own = ("parents",) if name in TREES else ("restarts",) if name in GRADIENT else ()
    for damage in ("generation", "asked", *own):
        with pytest.raises(RunError, match="damaged"):
            m.load(problem(), {k: v for k, v in document.items() if k != damage})
    broken: tuple[object, ...] = (3, [["t*", 0.1]] * 5, [["t*p"]] * 5, [["t*p", 0.1]], [["t*p", "best"]] * 5)
    for parents in broken if name in TREES else ():
        with pytest.raises(RunError, match="damaged"):
            m.load(problem(), {**document, "parents": parents})
    for restarts in (3, [], [["a", "{}", "", False]], [["a", 3, "", False]] * 5, [["a", "{}", ""]] * 5):
        if name in GRADIENT:
            with pytest.raises(RunError, match="damaged"):
                m.load(problem(), {**document, "restarts": restarts})
    for other in METHODS:
        if other != name:
            with pytest.raises(RunError, match=f"has method '{name}', this run '{other}'"):
                make(other, {}).load(problem(), document)
