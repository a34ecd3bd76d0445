"""EvoMAL and GP-LFL: the papers' constants, weights by structure, elites, and what is to be done before training."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from scipy.stats import kstest

from lossmith.errors import SpecError
from lossmith.losses import Loss, Setting, Tree, from_json, loss
from lossmith.losses.keys import algebraic_key, structural_form, structural_key
from lossmith.losses.parser import parse
from lossmith.losses.primitive_sets import PRIMITIVE_SETS, PrimitiveSet, register_primitive_set
from lossmith.losses.printer import to_text
from lossmith.records import Candidate, Preparation, Screening, Tuning
from lossmith.search import GPLFL, METHODS, EvoMAL, Problem, RandomTrees, TaylorGLO
from lossmith.search.tree_search import Individual, TreeState

TEN = Setting("softmax", 10)


def kernel(candidate: Candidate) -> Tree:
    found = from_json(candidate.loss)
    assert isinstance(found, Loss)
    assert isinstance(found.kernel, Tree)
    return found.kernel


def asked(m: EvoMAL | GPLFL, *texts: str, seed: int = 0) -> list[Candidate]:
    """The candidates of these trees, as they are."""
    problem = Problem(TEN, seed=seed, start_from=tuple(Loss(Tree(parse(text)), name=text) for text in texts))
    candidates, _ = m.ask(m.init(problem))
    return [c for c in candidates if c.origin.startswith("start: ")]


def test_the_constants_are_the_papers() -> None:
    m = EvoMAL()
    assert (m.population, m.max_height, m.tournament, m.primitives) == (25, 10, 4, "evomal")
    assert (m.min_initial_height, m.max_initial_height) == (2, 4)
    assert (m.crossover, m.mutation, m.elitism, m.elites, m.parsimony) == (0.7, 0.25, 0.05, 1, 1.0)
    assert m.preparation == Preparation(Screening(1000), Tuning(250, 1, 1e-3, Screening(1000)))
    assert m.needs_parts
    assert {name for name in METHODS if METHODS[name].needs_parts} == {"evomal", "taylor_unroll", "ml3", "adalfl"}
    assert GPLFL().preparation == RandomTrees().preparation == Preparation(Screening(1000))
    assert TaylorGLO().preparation == Preparation()


@pytest.mark.parametrize(
    ("screen", "before", "after"),
    [("before,after", True, True), ("before", True, False), ("after", False, True), ("off", False, False)],
)
def test_when_candidates_are_screened(screen: str, before: bool, after: bool) -> None:
    m = EvoMAL(screen=screen, rejection_steps=100, meta_steps=30, unroll_length=2, meta_lr=0.01)
    assert m.preparation.screening == (Screening(100) if before else None)
    assert m.preparation.tuning == Tuning(30, 2, 0.01, Screening(100) if after else None)


@pytest.mark.parametrize("cls", [GPLFL, RandomTrees])
def test_screening_can_be_left_out(cls: type[GPLFL]) -> None:
    assert cls(screen="off").preparation == Preparation()
    assert cls(rejection_steps=0).preparation == Preparation(Screening(0))


def test_weights_are_normal_about_one() -> None:
    candidates, _ = EvoMAL(population=150).ask(EvoMAL(population=150).init(Problem(TEN)))
    weights = {c.key: kernel(c).weights for c in candidates}
    numbers = np.array([w for one in weights.values() for w in one])
    assert len(numbers) > 1000
    assert kstest((numbers - 1.0) / 1e-3, "norm").pvalue > 1e-3  # N(1, 1e-3): ALGORITHMS §4
    assert all(len(kernel(c).weights) == kernel(c).root.size - 1 for c in candidates)


def test_weights_belong_to_structure_and_seed() -> None:
    one, other, apart = asked(EvoMAL(), "t*log(p) + p", "p + log(p)*t", "t*log(p) + 1*p")
    assert one.loss == other.loss  # only the order of commutative arguments differs
    assert one.key == other.key == structural_key(parse("t*log(p) + p"))
    assert apart.key != one.key  # p·1 is no p once its edges carry weights
    assert apart.key != algebraic_key(parse("t*log(p) + p"))
    again, later = asked(EvoMAL(), "t*log(p) + p")[0], asked(EvoMAL(), "t*log(p) + p", seed=1)[0]
    assert again.loss == one.loss
    assert later.key == one.key
    assert kernel(later).root == kernel(one).root == structural_form(parse("p + log(p)*t"))
    assert kernel(later).weights != kernel(one).weights
    plain = asked(GPLFL(), "t*log(p) + p", "p + t*1*log(p)")
    assert plain[0].key == plain[1].key
    assert plain[0].loss != plain[1].loss


def test_weights_do_not_depend_on_where_in_the_search_a_structure_appears() -> None:
    m = EvoMAL(population=4)
    problem = Problem(TEN, start_from=(loss("cross_entropy"),))  # type: ignore[arg-type]
    candidates, state = m.ask(m.init(problem))
    state = m.tell(state, candidates, [0.5 if c.status.ok else None for c in candidates])
    for generation in (1, 7):
        later, _ = m.ask(replace(state, generation=generation))
        same = [c for c in later if c.key == candidates[0].key]
        assert all(c.loss == candidates[0].loss for c in same)


def test_both_methods_search_the_same_trees() -> None:
    problem = Problem(TEN, seed=4)
    (_, weighted), (_, plain) = (m.ask(m.init(problem)) for m in (EvoMAL(), GPLFL()))
    assert isinstance(weighted, TreeState)
    assert isinstance(plain, TreeState)
    assert weighted.trees == plain.trees
    assert [c.origin for c in weighted.asked or ()] == [c.origin for c in plain.asked or ()]


@pytest.mark.parametrize("cls", [EvoMAL, GPLFL])
def test_elites_are_asked_again_word_for_word(cls: type[GPLFL]) -> None:
    m = cls(population=20, elitism=0.15)
    state = m.init(Problem(TEN, seed=2))
    for _ in range(4):
        candidates, waiting = m.ask(state)
        fitness = [len(c.loss) / 7 if c.status.ok else None for c in candidates]
        state = m.tell(waiting, candidates, fitness)  # type: ignore[assignment]
        ok = sorted((f, i) for i, f in enumerate(fitness) if f is not None)
        best = list({candidates[i].key: candidates[i].loss for _, i in ok}.values())[:3]
        following, _ = m.ask(state)
        assert [c.origin for c in following[:3]] == ["elite"] * 3
        assert sorted(c.loss for c in following[:3]) == sorted(best)


def test_a_stored_population_is_its_formulas() -> None:
    m = EvoMAL(population=2)
    individuals = (Individual(parse("t*log(p)/0.1"), 0.1), Individual(parse("-(-p)^2*t - -1"), None))
    state = TreeState(Problem(TEN), generation=3, parents=individuals)
    document = m.dump(state)
    assert document["parents"] == [["t*log(p)/0.1", 0.1], [to_text(individuals[1].root), None]]
    assert m.load(state.problem, document) == state


def test_a_set_of_ones_own() -> None:
    mine = PrimitiveSet("mine", (("mul", 1.0), ("log", 1.0)), ((parse("t"), 1.0), (parse("p"), 1.0), (parse("2"), 1.0)))
    register_primitive_set(mine)
    try:
        m = GPLFL(primitives="mine")
        _, state = m.ask(m.init(Problem(TEN)))
        assert isinstance(state, TreeState)
        assert {"log", "mul"} < {word for tree in state.trees for word in _ops(to_text(tree))}
        assert any("2" in to_text(tree) for tree in state.trees)
    finally:
        del PRIMITIVE_SETS["mine"]
    with pytest.raises(SpecError, match=r"gplfl.primitives = 'mine'"):
        GPLFL(primitives="mine")


def _ops(text: str) -> list[str]:
    return [*(["log"] if "log" in text else []), *(["mul"] if "*" in text else []), text]
