"""GLO itself: the paper's constants, the minus sign, which coefficients are absorbed, and the change of stages."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from lossmith import rng
from lossmith.errors import LossError, RunError, SpecError
from lossmith.losses import Loss, Setting, Tree, from_json, loss
from lossmith.losses.expression import Node, subtree
from lossmith.losses.inputs import inputs_from_prediction
from lossmith.losses.parser import parse
from lossmith.losses.primitive_sets import EVOMAL, PrimitiveSet
from lossmith.losses.primitive_sets import GLO as GLO_SET
from lossmith.losses.printer import to_text
from lossmith.records import Preparation
from lossmith.search import GLO, Problem
from lossmith.search.coefficients import coefficient_places, with_coefficients
from lossmith.search.glo import GloState, negated
from lossmith.search.required_arguments import required_arguments
from lossmith.search.tree_growth import half_and_half, weighted_growth

TEN = Setting("softmax", 10)
BAIKAL = parse("log(p) - t/p")
BAIKAL_CMA = (2.7279, 0.9863, 1.5352, -1.1135, 1.3716, -0.8411)  # published, ALGORITHMS §1
Z, T = torch.tensor([[2.0, 0.5, -1.0], [0.1, 0.2, 0.3]], dtype=torch.float64), torch.tensor([0, 2])


def value(root: Node) -> float:
    return float(Loss(Tree(root))(Z, T))


def begun(m: GLO, **options: object) -> GloState:
    return m.init(Problem(TEN, **options))  # type: ignore[arg-type]


def told(m: GLO, state: GloState, fail: bool = False) -> GloState:
    """One generation in which short losses are good."""
    asked, waiting = m.ask(state)
    fitness = [None if fail or not c.status.ok else len(c.loss) / 100 for c in asked]
    return m.tell(waiting, asked, fitness)  # type: ignore[return-value]


def test_the_constants_are_the_papers() -> None:
    m = GLO()
    assert (m.population, m.elites, m.recombination, m.sigma, m.primitives) == (80, 6, 0.8, 1.5, "glo")
    assert m.preparation == Preparation()  # cache → partial training
    asked, state = m.ask(begun(m))
    assert len(asked) == 80
    assert max(tree.height for tree in state.trees) == 2
    assert sum(not c.status.ok for c in asked) > 20  # they keep their slots
    assert [GLO(population=p).elites for p in (1, 2, 3, 10, 12, 50)] == [0, 1, 1, 5, 6, 6]


def test_the_minus_sign_is_put_on_once() -> None:
    asked, state = GLO().ask(begun(GLO(), start_from=(loss("baikal"),)))  # type: ignore[arg-type]
    assert state.trees[0] == BAIKAL
    for candidate, tree in zip(asked, state.trees, strict=True):
        kernel = from_json(candidate.loss).kernel  # type: ignore[union-attr]
        assert value(kernel.root) == -value(tree)
    assert value(from_json(asked[0].loss).kernel.root) == pytest.approx(6.2631239171)  # golden, ALGORITHMS §1


@pytest.mark.parametrize(
    ("text", "minus"),
    [
        ("log(p) - t/p", "t/p - log(p)"),
        ("-t*log(p)", "t*log(p)"),
        ("2*t*p", "-2*t*p"),
        ("-(t + p)", "t + p"),
        ("t + p", "-(t + p)"),
        ("p", "-p"),
        ("3", "-3"),
        ("t*p", "-(t*p)"),
    ],
)
def test_signs(text: str, minus: str) -> None:
    assert negated(parse(text)) == parse(minus)


@settings(deadline=None, max_examples=60)
@given(st.integers(0, 10_000))
def test_a_sign_taken_off_and_put_on_changes_nothing(seed: int) -> None:
    root = weighted_growth(rng.stream(seed, "sign"), GLO_SET, 4)
    assert value(negated(root)) == -value(root)
    assert value(negated(negated(root))) == value(root)


def test_all_coefficients_of_baikal_give_the_published_loss() -> None:
    whole = with_coefficients(BAIKAL, range(6), BAIKAL_CMA)
    assert value(negated(whole)) == pytest.approx(17.9127950358)  # golden, ALGORITHMS §1
    assert with_coefficients(BAIKAL, range(6), [1.0] * 6) == BAIKAL


@pytest.mark.parametrize(
    ("text", "kept"),
    [
        ("log(p) - t/p", ["log(p)", "t/p"]),  # the whole sum's, and those inside log and quotient, are absorbed
        ("t*log(p)", ["t*log(p)"]),
        ("t + p", ["p"]),  # t pulls nothing
        ("(1 + 1)*p", ["(1 + 1)*p"]),
        ("(t + 1)*p", ["(t + 1)*p", "1"]),
        ("(t + p)*(1 - p)", ["(t + p)*(1 - p)", "p", "p"]),
        ("square(t - p)", ["square(t - p)", "p"]),
        ("sqrt(p*t)*p", ["sqrt(p*t)*p"]),
        ("log(t + p)", ["log(t + p)", "p"]),
        ("log(t*p)*p", ["log(t*p)*p", "t*p"]),  # not open: a constant added to the logarithm pulls by p
        ("t*(log(p) + 1)", ["t*(log(p) + 1)"]),  # open: the 1 only adds t
        ("t*log(p) + t*p", ["t*log(p)", "t*p"]),
        ("(log(p) + t)*p", ["(log(p) + t)*p", "p", "t"]),
        ("-(t*p) + square(p)", ["-(t*p)", "square(p)"]),
        ("n*p*t", ["n*p*t"]),
        ("min(t, p)*p", ["min(t, p)*p", "p"]),
        ("aq(t, p + t)", ["aq(t, p + t)", "p", "t"]),
        ("p^3*t", ["p^3*t", "3"]),
        ("tanh(t*p)", ["tanh(t*p)", "t*p"]),
    ],
)
def test_which_coefficients_are_absorbed(text: str, kept: list[str]) -> None:
    root = parse(text)
    assert sorted(to_text(subtree(root, place)) for place in coefficient_places(root)) == sorted(kept)


def pulls(root: Node, coefficients: Tensor) -> Tensor:
    """∂f/∂p on a grid of predictions and soft targets, as a function of one coefficient per node, [points]."""
    p = torch.linspace(0.07, 0.93, 9, dtype=torch.float64).repeat(3)[:, None].requires_grad_()
    t = torch.tensor([0.1, 0.4, 0.9], dtype=torch.float64).repeat_interleave(9)[:, None]
    kernel = Tree(root, (1.0,) * (root.size - 1))
    x = inputs_from_prediction(kernel.reads, p, t)
    f = coefficients[0] * (kernel.value(x, coefficients[1:]) if root.size > 1 else x["p"])
    (slope,) = torch.autograd.grad((f * torch.ones_like(p)).sum(), p, create_graph=True, allow_unused=True)
    return torch.zeros_like(p)[:, 0] if slope is None else slope[:, 0]


def jacobian(root: Node, generator: np.random.Generator) -> Tensor:
    """How the pulls change with each coefficient about a general point, columns of length 1 or 0, [points, nodes]."""
    c = torch.tensor(1.0 + 0.2 * generator.random(root.size), dtype=torch.float64)
    columns = torch.autograd.functional.jacobian(lambda c: pulls(root, c), c)
    lengths = columns.norm(dim=0)
    return torch.where(lengths > max(1e-8, 1e-10 * lengths.max()), columns / lengths, 0.0)  # not rounding errors


def rank(columns: Tensor) -> int:
    return int(torch.linalg.matrix_rank(columns, rtol=1e-7)) if columns.shape[1] else 0


@pytest.mark.parametrize(
    ("primitives", "height", "independent"), [(GLO_SET, 2, 0.8), (GLO_SET, 3, 0.7), (EVOMAL, 2, 0.0)]
)
def test_absorbed_coefficients_add_nothing_and_kept_ones_do(
    primitives: PrimitiveSet, height: int, independent: float
) -> None:
    generator = rng.stream(height, "absorption", primitives.name)
    trees: set[Node] = set()
    while len(trees) < 60:
        tree = half_and_half(generator, primitives, 1, height)
        if required_arguments(tree).ok:
            trees.add(tree)
    full = judged = absorbed = 0
    for tree in sorted(trees, key=to_text):
        columns = jacobian(tree, generator)
        if not torch.isfinite(columns).all() or columns.abs().max() == 0:
            continue  # sign(p), p/p: nothing pulls
        judged += 1
        kept = list(coefficient_places(tree))
        absorbed += tree.size - len(kept)
        assert rank(columns[:, kept]) == rank(columns), to_text(tree)  # the absorbed ones reach nothing new
        full += rank(columns[:, kept]) == len(kept)
    assert judged > 45
    assert absorbed > 3 * judged
    print(f"{primitives.name}, height {height}: {full} of {judged} without any coincidence")
    assert full >= independent * judged  # the rest are coincidences such as p + p


def test_stage_two_moves_the_coefficients_of_the_best_tree() -> None:
    m = GLO(population=8, tree_generations=2)
    state = begun(m, start_from=(loss("baikal"),))
    fitness: list[float] = []
    for _ in range(2):
        assert state.stage is None
        fitness += [len(c.loss) / 100 for c in m.ask(state)[0] if c.status.ok]
        state = told(m, state)
    assert state.stage is not None
    assert state.best is not None
    assert state.best.fitness == min(fitness) < max(fitness)
    assert state.stage.root == state.best.root
    asked, waiting = m.ask(state)
    assert [c.origin for c in asked] == ["coefficients"] * 8
    places = coefficient_places(state.stage.root)
    for candidate in asked:
        assert len(candidate.genome) == len(places)
        expected = with_coefficients(state.stage.root, places, candidate.genome)
        assert from_json(candidate.loss).kernel == Tree(negated(expected))  # type: ignore[union-attr]
    genomes = np.array([c.genome for c in asked])
    assert abs(genomes.mean() - 1.0) < 1.5
    assert 0.5 < genomes.std() < 3.0
    learned = m.tell(waiting, asked, [float(np.abs(c.genome).sum()) for c in asked])
    assert isinstance(learned, GloState)
    assert learned.stage is not None
    assert learned.stage.cma.distribution.mean.tolist() != [1.0] * len(places)
    unchanged = m.tell(waiting, asked, [None] * 8)
    assert isinstance(unchanged, GloState)
    assert unchanged.stage is not None
    assert unchanged.stage.cma.distribution is state.stage.cma.distribution
    assert m.ask(unchanged)[0] != asked


@pytest.mark.parametrize(
    ("settings_", "generations", "trees"), [({}, 20, 10), ({}, 1, 1), ({}, 7, 3), ({"tree_generations": 4}, 20, 4)]
)
def test_half_of_the_planned_generations_go_to_trees(settings_: dict[str, int], generations: int, trees: int) -> None:
    m = GLO(population=6, **settings_)
    state = begun(m, generations=generations, start_from=(loss("mse"),))
    assert m.planned(state.problem) == trees
    count = 0
    while state.stage is None:
        state = told(m, state)
        count += 1
    assert count == trees == state.stage.since


def test_coefficients_wait_for_a_tree_and_for_every_start() -> None:
    m = GLO(population=2, tree_generations=1)
    starts = tuple(loss("mse") for _ in range(4))
    state = begun(m, start_from=starts)
    origins = []
    while state.stage is None:
        asked, _ = m.ask(state)
        origins += [c.origin for c in asked]
        state = told(m, state)
    assert origins.count("start: mse") == 4
    assert state.generation == 3  # 2 + 1 + 1: an elite keeps its slot
    alone = begun(GLO(population=4, tree_generations=1))
    for _ in range(3):
        alone = told(GLO(population=4, tree_generations=1), alone, fail=True)
        assert alone.stage is None
    assert {c.origin for c in m.ask(begun(m))[0]} == {"random"}


def test_stored_and_replayed() -> None:
    m = GLO(population=3, tree_generations=2)
    state = begun(m, start_from=(loss("baikal"),))
    for _ in range(9):
        state = told(m, state)
    document = json.loads(json.dumps(m.dump(state)))
    assert len(json.dumps(document)) < 3000
    again = m.load(state.problem, document)
    assert again == state
    assert m.ask(again)[0] == m.ask(state)[0]
    half = GLO(population=3)
    with pytest.raises(RunError, match="has tree_generations 2, this run 5"):
        half.load(replace(state.problem, generations=10), {**document, "settings": half.settings()})
    stage = document["stage"]
    for damage in (
        {"stage": 3},
        {"stage": {**stage, "log": stage["log"][1:]}},
        {"stage": {**stage, "since": 3}},
        {"best": None},
        {"best": ["t*", 0.1]},
        {"generation": 4},
    ):
        with pytest.raises(RunError):
            m.load(state.problem, {**document, **damage})


def test_children_come_in_pairs_and_elites_first() -> None:
    m = GLO(population=80)
    state = begun(m, start_from=(loss("baikal"), loss("mse"), loss("cross_entropy")))
    state = told(m, state)
    best = [one.root for one in sorted((o for o in state.parents if o.fitness is not None), key=lambda o: o.fitness)]
    asked, waiting = m.ask(state)
    origins = [c.origin for c in asked]
    assert origins[:6] == ["elite"] * 6
    assert waiting.trees[0] == best[0]
    pairs = Counter(zip(origins[6::2], origins[7::2], strict=True))
    assert set(pairs) == {("recombination",) * 2, ("mutation",) * 2}
    assert 18 < pairs["recombination", "recombination"] < 36  # of 37, at .80


def test_a_start_over_the_limits_is_refused_with_its_sign() -> None:
    tall = Loss(Tree(parse("t + p + t + p")), name="sum")  # height 3; its negative has 4
    with pytest.raises(LossError, match="glo cannot start from sum: its tree has 8 nodes and height 4, the limits"):
        begun(GLO(max_height=3), start_from=(tall,))
    begun(GLO(max_height=4), start_from=(tall,))


def test_settings() -> None:
    with pytest.raises(SpecError, match=r"glo.recombination = 2: a number from 0 to 1"):
        GLO(recombination=2)
    with pytest.raises(SpecError, match=r"glo.tree_generations = -1: a whole number from 0"):
        GLO(tree_generations=-1)
    m = GLO(population=40, recombination=0.0, primitives="evomal")
    state = told(m, begun(m))
    assert {c.origin for c in m.ask(state)[0]} == {"elite", "mutation"}
