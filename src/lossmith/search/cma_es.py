"""The sampling distribution of CMA-ES, as an immutable value around pycma.

Hansen, *The CMA Evolution Strategy: A Tutorial*, arXiv 1604.00772; pycma 4.5.

    distribution = Distribution.start(mean, sigma=1.2, population=20)
    draw = distribution.sampler(generator)
    genomes = draw(20)                                          # [P, K]
    distribution = distribution.updated(genomes, ranks(fitness))

Deviations from pycma's defaults, each because a search must be a pure function of its seed and of what it was told:
    - draws come from our generator (option `randn`), and `seed` is NaN, so that numpy's global state is never touched;
    - it is told ranks, ties in order of drawing: failures need no number, and no sort may decide between equals;
    - its termination criteria are never asked, which also keeps it from reading a signal file in the working directory;
    - no mirrored samples in small populations, and step-size adaptation by CSA in every dimension: the alternatives tie
      one generation's samples to the update before it;
    - it says and logs nothing, and leaves its process-wide verbosity and warning filters as they were.
Time enters pycma only through displays and a timeout, none of which is in use.
"""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, TypeAlias

import cma
import numpy as np
from cma.sigma_adaptation import CMAAdaptSigmaCSA
from cma.utilities import utils as cma_utils
from numpy.typing import NDArray

from lossmith import rng

Array: TypeAlias = NDArray[np.float64]
Draw: TypeAlias = Callable[[int], Array]

VERSION: str = cma.__version__
SMALLEST = 4  # samples an update needs to tell better from worse


class Normals:
    """pycma's source of standard normal numbers: whatever generator it is given."""

    def __init__(self) -> None:
        self.generator = rng.stream(0, "cma-es", "unused")

    def __call__(self, *shape: int) -> Array:
        return self.generator.standard_normal(shape)


class Distribution:
    """A normal distribution N(m, σ²C) with all that its next update needs. Every verb leaves it as it is."""

    def __init__(self, strategy: Any) -> None:
        self._strategy = strategy

    @classmethod
    def start(cls, mean: Sequence[float], sigma: float, population: int) -> Distribution:
        """N(mean, σ²I), for updates from `population` ≥ 4 genomes at a time."""
        options = {
            "popsize": population,
            "randn": Normals(),
            "seed": np.nan,
            "AdaptSigma": CMAAdaptSigmaCSA,
            "CMA_mirrors": 0,
            "signals_filename": "",
            "verbose": -9,
            "verb_disp": 0,
            "verb_log": 0,
        }
        with _quiet():
            return cls(cma.CMAEvolutionStrategy(np.array(mean, dtype=np.float64), sigma, options))

    def sampler(self, generator: np.random.Generator) -> Draw:
        """A function from a number of genomes to that many draws, [number, K]."""
        strategy = self._copy(generator)

        def draw(number: int) -> Array:
            with _quiet():
                return np.array(strategy.ask(number), dtype=np.float64)

        return draw

    def updated(self, genomes: Array, ranks: Sequence[int], foreign: Sequence[int] = ()) -> Distribution:
        """The distribution after learning from one population.

        Args:
            genomes: [P, K]. ranks: one per genome, lower is better.
            foreign: indices of genomes that were not drawn from this distribution; their distance from the mean is
                limited (Hansen, *Injecting external solutions into CMA-ES*, arXiv 1110.4181).
        """
        strategy = self._copy(rng.stream(0, "cma-es", "unused"))
        order = np.argsort(np.argsort(np.array(ranks), kind="stable"), kind="stable")
        with _quiet():
            strategy.ask(1)  # pycma's tell wants an ask before it; this draw is not used
            solutions = [np.array(genome, dtype=np.float64) for genome in genomes]
            for index in foreign:
                solutions[index] = strategy.repair_genotype(solutions[index], copy_if_changed=True)
            strategy.tell(solutions, [float(place) for place in order], check_points=False)
        return Distribution(strategy)

    @property
    def mean(self) -> Array:
        """m in the space of genomes, [K]."""
        return np.array(self._strategy.gp.pheno(self._strategy.mean, copy=True), dtype=np.float64)

    @property
    def sigma(self) -> float:
        """Step size σ."""
        return float(self._strategy.sigma)

    @property
    def spread(self) -> Array:
        """Standard deviation of each coordinate, [K]."""
        return np.array(self._strategy.stds, dtype=np.float64)

    def _copy(self, generator: np.random.Generator) -> Any:
        strategy = copy.deepcopy(self._strategy)
        strategy.opts["randn"].generator = generator
        return strategy


@contextmanager
def _quiet() -> Iterator[None]:
    verbosity = cma_utils.global_verbosity
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        cma_utils.global_verbosity = -9
        try:
            yield
        finally:
            cma_utils.global_verbosity = verbosity
