"""The shelf: published losses × learning rate × label smoothing, the bar a search has to beat (DESIGN §5).

It proposes the whole grid, the sensible defaults first, so that any budget cuts off the far corners only. It has the
form of a search method, so a shelf is evaluated, stored, resumed and chosen from exactly as a search is.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from lossmith.errors import RunError, SpecError
from lossmith.losses import PUBLISHED, Loss, Setting, loss, to_json
from lossmith.records import Candidate
from lossmith.search.base import Method, Problem, State
from lossmith.search.settings import whole

LR_STEPS = (0, 1, -1, 2, -2)  # in factors of √10, in the order of interest
SMOOTHINGS = (0.0, 0.1, 0.2, 0.4)
POPULATION = 20
# A list of its own: a loss that the catalogue learns later must not change what a shelf tries. Two of the classics are
# not in it: the grid smooths every loss itself, and the Brier score is squared error here.
NAMES = (
    "cross_entropy",
    "mse",
    "mae",
    "huber",
    "focal",
    "generalized_cross_entropy",
    "baikal",
    "baikal_cma",
    "absolute_cross_entropy",
    "sparse_label_smoothing",
    "taylor_evolved_1",
    "taylor_evolved_2",
    "taylor_cross_entropy",
)


def grid(setting: Setting) -> list[tuple[str, float, float]]:
    """(loss name, learning-rate factor, label smoothing) in the order of interest."""
    names = [name for name in NAMES if setting.head in PUBLISHED[name].heads]
    smoothings = SMOOTHINGS if setting.head in ("softmax", "sigmoid") else (0.0,)
    corners = itertools.product(range(len(LR_STEPS)), range(len(smoothings)), range(len(names)))
    ordered = sorted(corners, key=lambda c: (c[0] + c[1], c))  # both at their defaults first, then one step away, …
    return [(names[k], float(f"{math.sqrt(10) ** LR_STEPS[i]:.6g}"), smoothings[j]) for i, j, k in ordered]


def grid_size(setting: Setting) -> int:
    """Number of grid points for a setting."""
    return len(grid(setting))


@dataclass(frozen=True)
class ShelfGrid(Method):
    """Proposes the grid in order; fitness changes nothing."""

    name: ClassVar[str] = "shelf"
    summary: ClassVar[str] = "published losses × learning rate × label smoothing, in the order of interest"
    reference: ClassVar[str] = "DESIGN §5"

    candidates: int = whole(60, 1, 100_000, "grid points in all")
    population: int = whole(POPULATION, 1, 10_000, "grid points per generation")

    def init(self, problem: Problem) -> State:
        if not grid(problem.setting):
            raise SpecError(
                f"no published loss fits the {problem.setting.head} head, so there is no shelf for this task."
            )
        return State(problem)

    def ask(self, state: State) -> tuple[tuple[Candidate, ...], State]:
        setting = state.problem.setting
        start = state.generation * self.population
        end = min(start + self.population, self.candidates)
        asked = tuple(self._candidate(point, state.problem) for point in grid(setting)[start:end])
        return asked, dataclasses.replace(state, asked=asked)

    def tell(
        self,
        state: State,
        candidates: Sequence[Candidate],
        fitness: Sequence[float | None],
        products: Sequence[str] = (),
    ) -> State:
        del products
        if tuple(candidates) != state.asked or len(fitness) != len(candidates):
            raise ValueError("tell takes exactly the candidates of the last ask, with one fitness each")
        return dataclasses.replace(state, generation=state.generation + 1, asked=None)

    def dump(self, state: State) -> dict[str, Any]:
        return {"method": self.name, "problem": state.problem.digest, "generation": state.generation}

    def load(self, problem: Problem, document: Mapping[str, Any]) -> State:
        if document.get("method") != self.name or document.get("problem") != problem.digest:
            raise RunError("the checkpoint belongs to another search: start a new run.")
        return State(problem, generation=int(document["generation"]))

    @staticmethod
    def _candidate(point: tuple[str, float, float], problem: Problem) -> Candidate:
        name, lr_scale, smoothing = point
        built = loss(name, head=problem.setting.head, outputs=problem.outputs, smoothing=smoothing)
        assert isinstance(built, Loss)
        key = built.key(problem.setting.classes, hard_targets=problem.setting.hard_targets)
        return Candidate(to_json(built), key, lr_scale, origin="shelf")
