"""The CMA-ES adapter: pycma's own mathematics, without its state, its clock, its files and its messages."""

from __future__ import annotations

import os
import time
import warnings
from pathlib import Path

import cma
import numpy as np
import pytest
from cma.utilities import utils as cma_utils

from lossmith import rng
from lossmith.search.cma_es import Distribution, Normals
from lossmith.search.ranking import ranks


def rosenbrock(x: np.ndarray) -> float:
    return float(np.sum(100 * (x[1:] - x[:-1] ** 2) ** 2 + (1 - x[:-1]) ** 2))


def run(distribution: Distribution, generations: int, population: int = 10) -> Distribution:
    for generation in range(generations):
        genomes = distribution.sampler(rng.stream(0, "test", generation))(population)
        distribution = distribution.updated(genomes, ranks([rosenbrock(x) for x in genomes]))
    return distribution


def test_it_is_plain_cma_es() -> None:
    # Second road: pycma driven as its documentation says, with fitness values instead of ranks, on the same draws.
    normals = Normals()
    options = {"popsize": 10, "randn": normals, "seed": np.nan, "verbose": -9, "verb_log": 0, "CMA_mirrors": 0}
    plain = cma.CMAEvolutionStrategy(np.zeros(6), 0.5, {**options, "signals_filename": ""})
    ours = Distribution.start([0.0] * 6, 0.5, 10)
    for generation in range(40):
        normals.generator = rng.stream(0, "test", generation)
        solutions = plain.ask()
        genomes = ours.sampler(rng.stream(0, "test", generation))(10)
        assert (genomes == np.array(solutions)).all()
        plain.tell(solutions, [rosenbrock(x) for x in solutions])
        ours = ours.updated(genomes, ranks([rosenbrock(x) for x in genomes]))
    assert (ours.mean == plain.mean).all()
    assert ours.sigma == plain.sigma
    assert (ours.spread == plain.stds).all()


def test_it_minimises() -> None:
    start = Distribution.start([0.0] * 5, 0.5, 10)
    assert rosenbrock(run(start, 150).mean) < 1e-6 < 1.0 < rosenbrock(start.mean)


def test_no_verb_changes_the_distribution() -> None:
    distribution = run(Distribution.start([0.0] * 4, 1.0, 8), 3, 8)
    before = (distribution.mean.tolist(), distribution.sigma, distribution.spread.tolist())
    first = distribution.sampler(rng.stream(1, "test"))(8)
    once = distribution.updated(first, range(8))
    distribution.updated(first[::-1], range(8))
    assert (distribution.sampler(rng.stream(1, "test"))(8) == first).all()
    assert (distribution.mean.tolist(), distribution.sigma, distribution.spread.tolist()) == before
    again = distribution.updated(first, range(8))
    assert (again.sampler(rng.stream(2, "x"))(8) == once.sampler(rng.stream(2, "x"))(8)).all()
    assert not (once.mean == distribution.mean).all()


def test_extra_draws_do_not_disturb_what_is_learned() -> None:
    distribution = run(Distribution.start([0.0] * 4, 1.0, 8), 3, 8)
    draw = distribution.sampler(rng.stream(1, "test"))
    genomes = draw(8)
    for _ in range(50):
        draw(1)
    lonely = distribution.sampler(rng.stream(1, "test"))(8)
    assert (lonely == genomes).all()
    assert (distribution.updated(genomes, range(8)).mean == distribution.updated(lonely, range(8)).mean).all()


def test_only_ranks_count_and_ties_follow_the_order_of_drawing() -> None:
    distribution = Distribution.start([0.0] * 4, 1.0, 8)
    genomes = distribution.sampler(rng.stream(1, "test"))(8)
    tied = distribution.updated(genomes, [0, 0, 2, 2, 4, 4, 4, 4])
    assert (tied.mean == distribution.updated(genomes, range(8)).mean).all()
    assert (distribution.updated(genomes, [10 * i for i in range(8)]).mean == tied.mean).all()


def test_a_foreign_genome_far_away_does_not_tear_the_distribution_along() -> None:
    distribution = Distribution.start([0.0] * 4, 1.0, 8)
    genomes = distribution.sampler(rng.stream(1, "test"))(8)
    genomes[0] = 1000.0
    given = genomes.copy()
    torn = distribution.updated(genomes, range(8))
    limited = distribution.updated(genomes, range(8), foreign=[0])
    assert (genomes == given).all()
    longest = 4**0.5 + 2 * 4 / (4 + 2)  # pycma's limit on the length of a foreign step, in standard deviations
    assert np.linalg.norm(limited.mean) < longest < 100 < np.linalg.norm(torn.mean)


def test_it_leaves_no_trace(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    # pycma reads this file from the working directory in its stopping test: it must not matter.
    Path("cma_signals.in").write_text("{'timeout': 0}")
    state = np.random.get_state()[1].tolist()  # noqa: NPY002 — to see that nothing drew from it
    verbosity, filters = cma_utils.global_verbosity, list(warnings.filters)
    with_file = run(Distribution.start([0.0] * 4, 1.0, 8), 5, 8)
    os.remove("cma_signals.in")
    assert (run(Distribution.start([0.0] * 4, 1.0, 8), 5, 8).mean == with_file.mean).all()
    assert list(tmp_path.iterdir()) == []
    assert np.random.get_state()[1].tolist() == state  # noqa: NPY002
    assert (cma_utils.global_verbosity, list(warnings.filters)) == (verbosity, filters)
    assert capsys.readouterr() == ("", "")


def test_neither_clock_nor_environment_matter(monkeypatch: pytest.MonkeyPatch) -> None:
    reference = run(Distribution.start([0.0] * 4, 1.0, 8), 12, 8)
    ticks = iter(range(10**6))
    monkeypatch.setattr(time, "time", lambda: 1e9 + 1e5 * next(ticks))
    monkeypatch.setenv("TZ", "Asia/Tokyo")
    shifted = run(Distribution.start([0.0] * 4, 1.0, 8), 12, 8)
    assert (shifted.mean == reference.mean).all()
    assert shifted.sigma == reference.sigma


def test_many_dimensions_and_flat_directions() -> None:
    # Flat coordinates make the covariance ill-conditioned; 400 dimensions is where pycma would switch to TPA.
    flat = Distribution.start([0.0] * 6, 1.0, 12)
    for generation in range(120):
        genomes = flat.sampler(rng.stream(0, "flat", generation))(12)
        flat = flat.updated(genomes, ranks([float(x[0] ** 2) for x in genomes]))
    assert np.isfinite(flat.mean).all()
    assert abs(flat.mean[0]) < 1e-3
    large = run(Distribution.start([0.0] * 400, 1.0, 8), 2, 8)
    assert np.isfinite(large.mean).all()
