"""Operators and selection do what they claim, on every tree, and without bias where they claim none."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binomtest, chisquare

from lossmith import rng
from lossmith.errors import SpecError
from lossmith.losses import Setting
from lossmith.losses.expression import Apply, Node, Number, Symbol, replace_subtree, subtree, to_postfix, walk
from lossmith.losses.parser import parse
from lossmith.losses.primitive_sets import EVOMAL, GLO, PrimitiveSet
from lossmith.losses.primitives import PRIMITIVES
from lossmith.losses.printer import to_text
from lossmith.search.base import Problem
from lossmith.search.gplfl import GPLFL
from lossmith.search.ranking import ranks
from lossmith.search.selection import double_tournament, elite, roulette, roulette_shares, tournament
from lossmith.search.tree_growth import Limits, half_and_half
from lossmith.search.tree_search import Individual, TreeState
from lossmith.search.variation import (
    crossover,
    hoist,
    node_mutation,
    point_mutation,
    shrink,
    subtree_mutation,
    subtree_swap,
    within,
)

SEEDS = st.integers(0, 100_000)
MICROS = st.integers(-(10**12), 10**12).map(lambda i: i / 1e6)  # a quarter of the smallest float would be no quarter
UNLIKELY = 1e-4
LEAVES = parse("(z + w)*tanh(tau) - n")  # every node different: what became of a place can be seen


def two(seed: int) -> tuple[np.random.Generator, PrimitiveSet, Node, Node]:
    generator = rng.stream(seed, "operators")
    primitives = (EVOMAL, GLO)[seed % 2]
    a, b = (half_and_half(generator, primitives, 0, 4) for _ in range(2))
    return generator, primitives, a, b


OPERATORS: dict[str, Callable[..., Sequence[Node]]] = {
    "crossover": lambda g, ps, a, b: (crossover(g, a, b),),
    "swap": lambda g, ps, a, b: subtree_swap(g, a, b),
    "subtree": lambda g, ps, a, b: (subtree_mutation(g, a, ps),),
    "point": lambda g, ps, a, b: (point_mutation(g, a, ps),),
    "hoist": lambda g, ps, a, b: (hoist(g, a),),
    "shrink": lambda g, ps, a, b: (shrink(g, a),),
    "node-wise": lambda g, ps, a, b: (node_mutation(g, a, ps),),
}


@pytest.mark.parametrize("name", list(OPERATORS))
@settings(deadline=None, max_examples=60)
@given(seed=SEEDS)
def test_children_are_valid_within_limits_and_parents_untouched(name: str, seed: int) -> None:
    generator, primitives, a, b = two(seed)
    before = to_postfix(a), to_postfix(b)
    state = generator.bit_generator.state
    children = OPERATORS[name](generator, primitives, a, b)
    assert (to_postfix(a), to_postfix(b)) == before
    generator.bit_generator.state = state
    assert OPERATORS[name](generator, primitives, a, b) == children  # a function of its arguments
    limits = Limits(max(a.height, b.height), max(a.size, b.size))
    for child, parent in zip(children, (a, b), strict=False):
        assert parse(to_text(child)) == child  # every node takes as many arguments as it has, and stores
        assert all(len(node.args) == PRIMITIVES[node.op].arity for node in walk(child) if isinstance(node, Apply))
        assert limits.hold(within(limits, child, parent))
        assert within(limits, child, parent) in (child, parent)
        assert within(Limits(0, 1), child, parent) == (child if child.size == 1 else parent)


def check_fair(seen: Counter[object], expected: dict[object, float]) -> None:
    """The counts are those of the expected probabilities."""
    assert set(seen) <= set(expected), set(seen) - set(expected)
    total, mass = sum(seen.values()), sum(expected.values())
    observed = [seen[key] for key in expected]
    assert chisquare(observed, [total * share / mass for share in expected.values()]).pvalue > UNLIKELY, seen


def test_crossover_cuts_uniformly_and_never_at_the_root() -> None:
    generator = rng.stream(0, "crossover")
    mate = parse("abs(m)")
    children = Counter[object](crossover(generator, LEAVES, mate) for _ in range(2000))
    check_fair(children, {replace_subtree(LEAVES, place, Symbol("m")): 1.0 for place in range(1, LEAVES.size)})
    given_parts = Counter[object](crossover(generator, parse("abs(t)"), LEAVES).args[0] for _ in range(2000))
    check_fair(given_parts, {subtree(LEAVES, place): 1.0 for place in range(1, LEAVES.size)})
    assert crossover(generator, Symbol("p"), LEAVES) == Symbol("p")
    assert crossover(generator, LEAVES, Symbol("p")) == LEAVES


@settings(deadline=None, max_examples=80)
@given(SEEDS)
def test_a_swap_keeps_every_node(seed: int) -> None:
    generator, _, a, b = two(seed)
    c, d = subtree_swap(generator, a, b)
    before, after = (Counter(map(label, [*walk(x), *walk(y)])) for x, y in ((a, b), (c, d)))
    assert before == after


def label(node: Node) -> object:
    return node.op if isinstance(node, Apply) else node


def test_a_swap_cuts_both_trees_uniformly_roots_too() -> None:
    generator = rng.stream(1, "swap")
    seen = Counter[object]()
    for _ in range(2000):
        first, second = subtree_swap(generator, LEAVES, Symbol("m"))
        assert replace_subtree(LEAVES, next(i for i in range(9) if subtree(LEAVES, i) == second), Symbol("m")) == first
        seen[second] += 1
    check_fair(seen, {subtree(LEAVES, place): 1.0 for place in range(LEAVES.size)})


def test_subtree_mutation_is_uniform_over_nodes_and_heights() -> None:
    generator = rng.stream(2, "mutation")
    seen, heights = Counter[object](), Counter[object]()
    old = set(walk(LEAVES))
    for _ in range(2000):
        child = subtree_mutation(generator, LEAVES, EVOMAL)
        fits = [place for place in range(LEAVES.size) if replaced_at(child, place)]
        place = max(fits)  # the deepest place that explains the child: no symbol of the old tree is in the set
        seen[place] += 1
        new = subtree(child, place)
        assert new not in old
        heights[new.height] += 1
    check_fair(seen, dict.fromkeys(range(LEAVES.size), 1.0))
    check_fair(heights, {0: 1.0, 1: 1.0, 2: 1.0})


def replaced_at(child: Node, place: int) -> bool:
    """Whether the child is LEAVES with something else at this place."""
    return place < child.size and replace_subtree(LEAVES, place, subtree(child, place)) == child


def test_point_mutation_changes_one_node_to_another_by_weight() -> None:
    generator = rng.stream(3, "point")
    root = parse("log(t) + p*1")
    places, leaves = Counter[object](), Counter[object]()
    for _ in range(3000):
        child = point_mutation(generator, root, GLO)
        (place,) = [i for i, (a, b) in enumerate(zip(walk(root), walk(child), strict=True)) if label(a) != label(b)]
        places[place] += 1
        if place == 2:
            leaves[subtree(child, 2)] += 1
    check_fair(places, dict.fromkeys(range(root.size), 1.0))
    check_fair(leaves, {leaf: w for leaf, w in GLO.terminals if leaf != Symbol("t")})
    lone = PrimitiveSet("lone", (("add", 1.0),), ((Symbol("t"), 1.0), (Symbol("p"), 1.0)))
    assert {point_mutation(generator, parse("t + p"), lone) for _ in range(60)} == {
        parse("p + p"),
        parse("t + t"),
        parse("t + p"),
    }


def test_hoist_and_shrink_are_uniform() -> None:
    generator = rng.stream(4, "hoist")
    hoisted = Counter[object](hoist(generator, LEAVES) for _ in range(2000))
    check_fair(hoisted, {subtree(LEAVES, place): 1.0 for place in range(1, LEAVES.size)})
    shrunk = Counter[object](to_text(shrink(generator, LEAVES)) for _ in range(2000))
    expected = {"(z + w)*tanh(tau)": 0.5, "n": 0.5, "z + w - n": 0.5, "tanh(tau) - n": 0.5, "(z + w)*tau - n": 1.0}
    check_fair(shrunk, {**expected, "z*tanh(tau) - n": 0.5, "w*tanh(tau) - n": 0.5})  # 4 functions, then an argument
    assert hoist(generator, Symbol("p")) == shrink(generator, Symbol("p")) == Symbol("p")


def test_glo_mutation_has_the_published_rates() -> None:
    generator = rng.stream(5, "rates")  # rates: ALGORITHMS §1; one rule after another at each node
    n = 20_000
    number = Counter[object](label(node_mutation(generator, Number(5.0), GLO)) for _ in range(n))
    assert binomtest(number[Number(4.0)] + number[Number(6.0)], n, 0.05 * 0.95 * 0.975).pvalue > UNLIKELY
    check_fair(Counter({i: number[Number(i)] for i in (4.0, 6.0)}), {4.0: 1.0, 6.0: 1.0})
    assert binomtest(number[Number(5.0)], n, 0.95 * 0.95 * 0.975).pvalue > UNLIKELY
    branches = sum(count for what, count in number.items() if isinstance(what, str))
    assert binomtest(branches, n, 0.025 * 10 / 18).pvalue > UNLIKELY  # 10 of the weights 18 are functions'
    broken = Counter[object](label(node_mutation(generator, Number(0.5), GLO)) for _ in range(n))
    assert broken[Number(1.5)] == broken[Number(-0.5)] == 0  # whole numbers only
    unary = Counter[object](label(node_mutation(generator, parse("tanh(z)"), GLO)) for _ in range(n))
    kept = unary["tanh"]
    assert binomtest(kept, n, 0.95 * 0.975).pvalue > UNLIKELY
    assert unary["log"] > unary["sqrt"] > unary["square"] > 0  # weights 3, 2, 1
    assert unary["add"] == 0  # as many arguments


@settings(deadline=None, max_examples=60)
@given(SEEDS)
def test_glo_mutation_visits_what_was_there_and_leaves_most_of_it(seed: int) -> None:
    generator, primitives, a, _ = two(seed)
    child = node_mutation(generator, a, primitives)
    assert child.height <= a.height + 1  # a leaf grows by one level at most, because what is new is not visited
    if child.size == a.size:
        changed = sum(label(x) != label(y) for x, y in zip(walk(a), walk(child), strict=True))
        assert changed <= max(6, a.size // 2)


def test_tournament_odds() -> None:
    generator, standing, n, k = rng.stream(6, "tournament"), (3, 0, 4, 1, 2), 5, 3
    wins = Counter[object](standing[tournament(generator, standing, k)] for _ in range(4000))
    check_fair(wins, {rank: ((n - rank) ** k - (n - rank - 1) ** k) / n**k for rank in range(n)})
    equals = Counter[object](tournament(generator, (0, 0, 0), 4) for _ in range(3000))
    check_fair(equals, {0: 1.0, 1: 1.0, 2: 1.0})


def test_a_failure_wins_among_failures_only() -> None:
    generator = rng.stream(7, "failures")
    standing = ranks([None, 0.2, math.nan, None])
    wins = Counter[object](tournament(generator, standing, 2) for _ in range(4000))
    check_fair(wins, {0: 3 / 16, 1: 7 / 16, 2: 3 / 16, 3: 3 / 16})


@pytest.mark.parametrize(("parsimony", "small"), [(1.4, 0.25 + 0.5 * 0.7), (1.0, 0.5), (2.0, 0.75)])
def test_double_tournament_favours_small_trees_as_strongly_as_it_says(parsimony: float, small: float) -> None:
    generator = rng.stream(8, "double", int(10 * parsimony))
    wins = sum(double_tournament(generator, (0, 0), (5, 9), 1, parsimony) == 0 for _ in range(4000))
    assert binomtest(wins, 4000, small).pvalue > UNLIKELY  # both small: 1/4; one of each: 1/2
    same = sum(double_tournament(generator, (0, 0), (5, 5), 1, parsimony) == 0 for _ in range(2000))
    assert binomtest(same, 2000, 0.5).pvalue > UNLIKELY
    better = sum(double_tournament(generator, (0, 1), (99, 1), 30, parsimony) == 0 for _ in range(200))
    assert better == 200  # fitness first: both tournaments of 30 are won by the better


def test_roulette_shares() -> None:
    assert roulette_shares([1.0, 2.0, 3.0]).tolist() == pytest.approx([2 / 3, 1 / 3, 0.0])
    assert roulette_shares([1.0, None, 2.0, 3.0, math.nan]).tolist() == pytest.approx([2 / 3, 0, 1 / 3, 0, 0])
    assert roulette_shares([0.5, 0.5, None]).tolist() == [0.5, 0.5, 0.0]
    assert roulette_shares([None, math.inf]).tolist() == [0.5, 0.5]
    assert roulette_shares([3.0]).tolist() == [1.0]
    far = roulette_shares([0.1, 0.2, 0.3, 0.4, 1e9])
    assert far[0] > 1.4 * far[2] > 0  # one outlier does not make all others equal
    assert far[4] == 0
    assert np.isfinite(roulette_shares([-1.7e308, 1.7e308, 0.0])).all()


@settings(deadline=None)
@given(st.lists(st.one_of(st.none(), MICROS), min_size=1, max_size=20), st.sampled_from([0.25, 8.0]))
def test_roulette_knows_neither_zero_nor_scale_of_the_metric(values: list[float | None], scale: float) -> None:
    shares = roulette_shares(values)
    assert shares.sum() == pytest.approx(1.0)
    assert (shares >= 0).all()
    np.testing.assert_array_equal(shares, roulette_shares([None if v is None else scale * v for v in values]))
    for v, share in zip(values, shares, strict=True):
        if v is None and any(u is not None for u in values):
            assert share == 0
        for w, other in zip(values, shares, strict=True):
            assert v is None or w is None or v > w or share >= other


def test_roulette_draws_by_share() -> None:
    generator = rng.stream(9, "roulette")
    shares = np.array([0.1, 0.0, 0.6, 0.3, 0.0])
    seen = Counter[object](roulette(generator, shares) for _ in range(4000))
    assert seen[1] == seen[4] == 0
    check_fair(seen, dict(enumerate(shares.tolist())) | {1: 1e-12, 4: 1e-12})


def test_the_elite_are_the_best_different_trees_that_gave_a_number() -> None:
    roots = [parse(text) for text in ("t*p", "t - p", "t*p", "t + p", "t/p")]
    fitness = [0.2, 0.3, 0.2, None, 0.1]
    assert elite(roots, fitness, 3) == (4, 0, 1)
    assert elite(roots, fitness, 9) == (4, 0, 1)
    assert elite(roots, fitness, 0) == ()
    assert elite(roots, [None] * 5, 2) == ()


def bred(m: GPLFL, parents: Sequence[tuple[str, float | None]], generation: int = 1) -> TreeState:
    """A generation of children of given parents."""
    individuals = tuple(Individual(parse(text), fitness) for text, fitness in parents)
    problem = Problem(Setting("softmax", 10), seed=5)
    _, state = m.ask(TreeState(problem, generation=generation, parents=individuals))
    assert isinstance(state, TreeState)
    return state


def origins(state: TreeState) -> list[str]:
    assert state.asked is not None
    return [state.asked[slot].origin.split(",")[0] for slot in state.slots]


def test_a_generation_is_made_as_the_settings_say() -> None:
    m = GPLFL(population=2000, elitism=0.0, point=0.02, hoist=0.01, shrink=0.01)
    state = bred(m, [("t*log(p) + tanh(p)*t", float(i)) for i in range(2000)])
    shares = {"crossover": 0.7, "mutation": 0.25, "point mutation": 0.02, "hoist mutation": 0.01}
    check_fair(Counter[object](origins(state)), {**shares, "shrink mutation": 0.01, "copy": 0.01})


@pytest.mark.parametrize(("population", "elites"), [(1, 0), (2, 1), (25, 1), (50, 2), (100, 5)])
def test_five_percent_but_at_least_one_go_on_unchanged(population: int, elites: int) -> None:
    m = GPLFL(population=population)
    texts = [f"t*p + {i}" for i in range(population)]
    state = bred(m, [(text, float(-i)) for i, text in enumerate(texts)])
    assert origins(state).count("elite") == elites == m.elites
    assert [to_text(tree) for tree in state.trees[:elites]] == texts[::-1][:elites]


def test_mates_come_from_all_of_the_selected() -> None:
    m = GPLFL(population=300, crossover=1.0, mutation=0.0, elitism=0.0, tournament=1)
    state = bred(m, [("abs(t*p + 7)" if i % 2 else "tanh(t*p*5)", 0.0) for i in range(300)])
    texts = [to_text(tree) for tree in state.trees]
    mixed = sum(("abs" in text and "5" in text) or ("tanh" in text and "7" in text) for text in texts)
    assert (
        35 < mixed < 85
    )  # 60 expected: half of the mates are of the other kind, 2 of 5 of their subtrees hold a number


def test_children_over_the_limits_give_way_to_their_parents() -> None:
    m = GPLFL(population=40, max_height=3, max_initial_height=2, max_size=9, crossover=1.0, mutation=0.0, elitism=0.0)
    tall = "tanh(tanh(t*p))"
    state = bred(m, [(tall, 0.0)] * 40)
    assert all(m.limits.hold(tree) for tree in state.trees)
    assert sum(to_text(tree) == tall for tree in state.trees) > 10
    assert len(set(state.trees)) > 3


def test_repair_within_limits_or_the_parent() -> None:
    m = GPLFL(
        population=60, max_height=3, min_initial_height=1, max_initial_height=1, max_size=7, crossover=0.0, mutation=1.0
    )
    state = bred(m, [("t*p + 1", 0.0)] * 60)
    assert state.asked is not None
    assert all(state.asked[slot].status.ok for slot in state.slots)
    assert all(m.limits.hold(tree) for tree in state.trees)
    assert any(not c.status.ok for c in state.asked)


def test_parsimony_makes_trees_smaller() -> None:
    parents = [("t*p" if i % 2 else "t*p + tanh(tanh(t*p))", 0.0) for i in range(400)]
    sizes = []
    for parsimony in (1.0, 2.0):
        m = GPLFL(population=400, crossover=0.0, mutation=0.0, elitism=0.0, parsimony=parsimony)
        sizes.append(sum(tree.size for tree in bred(m, parents).trees))
    assert sizes[1] < 0.8 * sizes[0]


def test_the_better_goes_on_in_a_population_of_one() -> None:
    m = GPLFL(population=1, elitism=0.5)
    problem = Problem(Setting("softmax", 10))
    state = TreeState(problem, generation=1, parents=(Individual(parse("t*p"), 0.3),))
    for fitness, kept in ((0.5, 0.3), (None, 0.3), (0.2, 0.2), (0.2, 0.2)):
        asked, waiting = m.ask(state)
        state = m.tell(waiting, asked, [fitness if c.status.ok else None for c in asked])  # type: ignore[assignment]
        assert [one.fitness for one in state.parents] == [kept]


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"crossover": 0.8}, r"gplfl: crossover \+ mutation .* = 1.05: a sum of at most 1"),
        ({"crossover": -0.1}, r"gplfl.crossover = -0.1: a number from 0 to 1 was expected"),
        ({"crossover": float("nan")}, r"gplfl.crossover = nan"),
        ({"mutation": "often"}, r"gplfl.mutation = 'often': a number from 0 to 1"),
        ({"elitism": True}, r"gplfl.elitism = True: a number from 0 to 1"),
        ({"parsimony": 0.7}, r"gplfl.parsimony = 0.7: a number from 1 to 2"),
        ({"min_initial_height": 5}, r"gplfl.min_initial_height = 5: at most max_initial_height = 4 expected"),
        ({"max_height": 4}, r"gplfl.max_initial_height = 4: less than max_height = 4 was expected"),
        ({"max_size": 32}, r"gplfl.max_size = 32: a fresh tree of height 4 may have 33 nodes"),
        (
            {"primitives": "evomall"},
            r"gplfl.primitives = 'evomall': a primitive set: evomal, glo, or one you registered",
        ),
        ({"screen": "after"}, r"gplfl.screen = 'after': one of before, off"),
        ({"tournament": 0}, r"gplfl.tournament = 0: a whole number from 1"),
    ],
)
def test_wrong_settings_say_what_was_expected(options: dict[str, object], sentence: str) -> None:
    with pytest.raises(SpecError, match=sentence):
        GPLFL(**options)  # type: ignore[arg-type]


def test_probabilities_may_sum_to_one() -> None:
    assert GPLFL(crossover=0.7, mutation=0.1, point=0.1, hoist=0.1).max_size == 100
