"""Methods by name, their settings, and what is said about wrong ones."""

from __future__ import annotations

import json

import pytest

from lossmith.errors import SpecError, UnknownNameError
from lossmith.search import (
    GLO,
    GPLFL,
    METHODS,
    ML3,
    AdaLFL,
    EvoMAL,
    RandomSearch,
    RandomTrees,
    TaylorGLO,
    TaylorUnroll,
    method,
)

CHANGED: dict[str, dict[str, object]] = {  # every method with some settings that are not its defaults
    "random": {"order": 4, "variables": ["prediction", "residual"], "population": 7, "sigma": 1},
    "random_trees": {"population": 7, "primitives": "glo", "max_initial_height": 3, "rejection_steps": 10},
    "taylorglo": {"order": 4, "variables": ["prediction", "residual"], "population": 7, "sigma": 1},
    "glo": {"population": 7, "tree_generations": 3, "recombination": 1, "elite_count": 0, "max_size": 30},
    "gplfl": {"population": 7, "parsimony": 1.4, "crossover": 0, "hoist": 0.5, "screen": "off"},
    "evomal": {"population": 7, "meta_steps": 10, "unroll_length": 3, "meta_lr": 1, "screen": "after"},
    "taylor_unroll": {"population": 7, "meta_steps": 10, "order": 4, "variables": ["residual"], "truncation": 0},
    "ml3": {"meta_steps": 10, "hypergradient": "implicit", "solver": "neumann", "terms": 0, "initialisation": "xavier"},
    "adalfl": {"online_lr": 1, "online_every": 5, "reinitialise": 7, "meta_optimizer": "sgd", "task_loss": "mse"},
}


def test_every_method_explains_itself() -> None:
    assert list(METHODS) == [
        "random", "random_trees", "taylorglo", "glo", "gplfl", "evomal", "taylor_unroll", "ml3", "adalfl",
    ]  # fmt: skip
    for name, cls in METHODS.items():
        assert cls.name == name
        assert cls.summary
        infos = cls.describe()
        assert {info.name for info in infos} == set(method(name).settings())
        assert all(info.meaning and info.range for info in infos)
        assert {info.name: info.default for info in infos} == {
            info.name: getattr(method(name), info.name) for info in infos
        }


@pytest.mark.parametrize("name", list(METHODS))
def test_settings_rebuild_the_method(name: str) -> None:
    m = method(name, **CHANGED[name])
    assert m != method(name)
    assert method(name, **json.loads(json.dumps(m.settings()))) == m
    assert hash(m) == hash(method(name, **m.settings()))
    assert {k: m.settings()[k] for k in CHANGED[name]} == CHANGED[name]


def test_words_are_a_list_or_text_with_commas() -> None:
    for name in ("random", "taylorglo"):
        assert method(name, variables="prediction, residual") == method(name, variables=("prediction", "residual"))


def test_classes_take_the_same_settings() -> None:
    assert TaylorGLO(order=4) == method("taylorglo", order=4)
    assert RandomSearch() == method("random")
    assert RandomTrees(primitives="glo") == method("random_trees", primitives="glo")
    assert (GLO(), GPLFL(), EvoMAL(meta_steps=9)) == (method("glo"), method("gplfl"), method("evomal", meta_steps=9))
    assert (ML3(), AdaLFL(), TaylorUnroll(sigma=2)) == (
        method("ml3"),
        method("adalfl"),
        method("taylor_unroll", sigma=2),
    )
    unroll = {
        "meta_lr": 1e-3,
        "unroll_length": 1,
        "truncation": 0,
        "meta_optimizer": "adam",
        "reinitialise": 1,
        "hypergradient": "unroll",
        "solver": "cg",
        "terms": 20,
        "damping": 1e-3,
        "task_loss": "",
    }
    for name in ("evomal", "taylor_unroll", "ml3", "adalfl"):
        settings = method(name).settings()
        assert {k: settings[k] for k in unroll} == unroll  # one set of options for all of them
    assert (ML3().meta_steps, TaylorUnroll().meta_steps, AdaLFL().meta_steps) == (250, 250, 2500)  # ALGORITHMS §5
    assert TaylorGLO().settings() == {  # ALGORITHMS §2: population 20, σ 1.2, order 3
        **unroll,
        "tune": 0,
        "inherit": False,
        "population": 20,
        "sigma": 1.2,
        "order": 3,
        "variables": ["target", "prediction"],
        "invariant": "exact",
        "losses": 1,
    }


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"population": 0}, r"taylorglo.population = 0: a whole number from 1 to 10000 was expected"),
        ({"population": 2.0}, r"taylorglo.population = 2.0: a whole number"),
        ({"population": True}, r"taylorglo.population = True: a whole number"),
        ({"sigma": 0}, r"taylorglo.sigma = 0: a number above 0, up to 100 was expected"),
        ({"sigma": float("nan")}, r"taylorglo.sigma = nan: a number above 0"),
        ({"sigma": "big"}, r"taylorglo.sigma = 'big': a number above 0"),
        ({"order": 1}, r"taylorglo.order = 1: a whole number from 2 to 9"),
        ({"order": 10}, r"taylorglo.order = 10: a whole number from 2 to 9"),
        ({"variables": ["targte"]}, r"taylorglo.variables = \['targte'\]: distinct names out of target, prediction"),
        ({"variables": 3}, r"taylorglo.variables = 3: distinct names"),
        ({"variables": []}, r"taylorglo.variables = \[\]: distinct names"),
        ({"variables": ["target", "progress"]}, r"prediction, logits or residual is needed"),
        ({"variables": ["prediction"]}, r"target or residual is needed"),
        ({"invariant": "strict"}, r"taylorglo.invariant = 'strict': one of paper, exact, off was expected"),
        ({"losses": 0}, r"taylorglo.losses = 0: a whole number from 1 to 8"),
        ({"populatoin": 3}, r"taylorglo has no setting 'populatoin': did you mean 'population'.* `lossmith methods`"),
        ({"xyz": 3}, r"taylorglo has no setting 'xyz': it has population, sigma, order"),
    ],
)
def test_wrong_settings_name_field_value_and_range(settings: dict[str, object], sentence: str) -> None:
    with pytest.raises(SpecError, match=sentence):
        method("taylorglo", **settings)


@pytest.mark.parametrize(
    ("name", "settings", "sentence"),
    [
        ("ml3", {"meta_steps": 0}, r"ml3.meta_steps = 0: a whole number from 1"),
        ("ml3", {"truncation": 2}, r"truncation = 2: at most unroll_length = 1 steps"),
        ("ml3", {"hypergradient": "exact"}, r"ml3.hypergradient = 'exact': one of unroll, implicit was expected"),
        (
            "ml3",
            {"hypergradient": "implicit", "unroll_length": 5, "truncation": 2},
            r"ml3.truncation = 2: an implicit hypergradient differentiates through no step",
        ),
        ("ml3", {"hypergradient": "implicit", "terms": 0}, r"terms = 0: a whole number of at least 1"),
        ("ml3", {"initialisation": "zeros"}, r"ml3.initialisation = 'zeros': one of kaiming, xavier"),
        ("ml3", {"task_loss": 3}, r"ml3.task_loss = 3: a differentiable loss by name was expected"),
        ("adalfl", {"online_lr": 0}, r"adalfl.online_lr = 0: a number above 0"),
        ("taylor_unroll", {"variables": ["target"]}, r"taylor_unroll.variables = .*prediction, logits or residual"),
        ("taylorglo", {"inherit": True}, r"taylorglo.inherit: nothing is tuned that could be inherited; set tune"),
        ("taylorglo", {"inherit": 1, "tune": 5}, r"taylorglo.inherit = 1: true or false was expected"),
        ("taylorglo", {"tune": 5, "truncation": 2}, r"truncation = 2: at most unroll_length"),
        ("evomal", {"truncation": 2}, r"truncation = 2: at most unroll_length"),
        ("evomal", {"meta_steps": 0}, r"evomal.meta_steps = 0: a whole number from 1"),
        ("evomal", {"meta_lr": 0}, r"evomal.meta_lr = 0: a number above 0"),
        (
            "evomal",
            {"screen": "never"},
            r"screen = 'never': one of 'before,after', before, after, off was expected",
        ),
        ("evomal", {"unroll_lenght": 3}, r"evomal has no setting 'unroll_lenght': did you mean 'unroll_length'"),
        ("evomal", {"max_height": 31}, r"evomal.max_height = 31: a whole number from 2 to 30"),
        ("glo", {"sigma": -1}, r"glo.sigma = -1: a number above 0"),
        ("random_trees", {"tournament": 4}, r"random_trees has no setting 'tournament'"),
        (
            "random_trees",
            {"primitives": 3},
            r"random_trees.primitives = 3: a primitive set: evomal, glo, or one",
        ),
        ("random_trees", {"primitives": ["glo"]}, r"random_trees.primitives = \['glo'\]: a primitive set"),
    ],
)
def test_wrong_settings_of_tree_searches(name: str, settings: dict[str, object], sentence: str) -> None:
    with pytest.raises(SpecError, match=sentence):
        method(name, **settings)


def test_unknown_methods_name_the_nearest() -> None:
    with pytest.raises(
        UnknownNameError, match=r"unknown method 'taylorgol': did you mean 'taylorglo'.*lossmith methods"
    ):
        method("taylorgol")
