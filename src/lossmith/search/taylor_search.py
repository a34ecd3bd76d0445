"""What every search over Taylor genomes has in common: screening and redrawing, and starting losses.

A subclass says only where genomes come from (`_sampler`) and what is learned from them (`_learned`). A slot's genome
that fails the invariant is redrawn, at most 20 times; every attempt is a candidate of its own, placed before the one
that finally fills the slot. What still fails fills the slot as a failure.
"""

from __future__ import annotations

import dataclasses
from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from lossmith.errors import LossError, SpecError
from lossmith.losses import Loss, LossSet, TaylorFamily, to_json
from lossmith.losses.inputs import Head, head_name
from lossmith.losses.learning_rule import INVARIANTS, check_invariant
from lossmith.losses.taylor import SYMBOLS
from lossmith.records import OK, Candidate, Status
from lossmith.search.base import Problem
from lossmith.search.cma_es import Array, Draw
from lossmith.search.settings import one_of, positive, whole, words
from lossmith.search.slot_search import SlotSearch, SlotState, unknown_head

REDRAWS = 20  # ALGORITHMS §2, "Failures and CMA-ES"


@dataclass(frozen=True)
class TaylorState(SlotState):
    """State of a search over Taylor genomes."""


@dataclass(frozen=True)
class TaylorSearch(SlotSearch):
    """Settings of a search over Taylor genomes, and where they come from."""

    population: int = whole(20, 1, 10_000, "candidates per generation")
    sigma: float = positive(1.2, 100.0, "standard deviation of the first genomes")
    order: int = whole(3, 2, 9, "order of the Taylor polynomial")
    variables: tuple[str, ...] = words(("target", "prediction"), tuple(SYMBOLS), "what the polynomial is in")
    invariant: str = one_of("exact", INVARIANTS, "screen before training: exact condition, published one, none")
    losses: int = whole(1, 1, 8, "losses per genome, for tasks with auxiliary outputs")
    origin: ClassVar[str]

    def __post_init__(self) -> None:
        super().__post_init__()
        check_variables(self.name, self.variables)

    @property
    def family(self) -> TaylorFamily:
        """What is searched."""
        return TaylorFamily(self.order, self.variables, self.losses)

    @abstractmethod
    def _begin(self, problem: Problem, starts: tuple[Array, ...]) -> TaylorState:
        """The first state; `starts` are the genomes of `problem.start_from`."""

    @abstractmethod
    def _sampler(self, state: Any) -> Draw:
        """Where this generation's genomes come from: a function from a number to that many genomes [number, K]."""

    def init(self, problem: Problem) -> TaylorState:
        head = problem.setting.head
        if self.invariant == "paper" and head not in ("softmax", "sigmoid"):
            raise SpecError(
                f"{self.name}.invariant = 'paper' is about class probabilities, not the {head} head: use exact or off."
            )
        return self._begin(problem, self.start_genomes(problem))

    def _asked(self, state: Any) -> TaylorState:
        draw = self._sampler(state)
        asked: list[Candidate] = []
        slots: list[int] = []
        for genome, origin in self._first_genomes(state, draw):
            asked.append(self._candidate(state.problem, genome, origin))
            for k in range(1, REDRAWS + 1):
                if asked[-1].status.ok:
                    break
                asked.append(self._candidate(state.problem, draw(1)[0], f"redraw {k}"))
            slots.append(len(asked) - 1)
        waiting: TaylorState = dataclasses.replace(state, asked=tuple(asked), slots=tuple(slots))
        return waiting

    def _asked_note(self, state: Any) -> list[Any]:
        return list(redraws(state))

    def start_genomes(self, problem: Problem) -> tuple[Array, ...]:
        """The genomes of the losses to start from: their Taylor expansions, under the problem's reduction over outputs.

        Raises:
            LossError: a loss that the family cannot hold, or of another head.
        """
        return tuple(self._start_genome(problem, loss) for loss in problem.start_from)

    def _start_genome(self, problem: Problem, loss: Loss) -> Array:
        return np.array(expanded(self.order, self.variables, problem, loss) * self.losses, dtype=np.float64)

    def _first_genomes(self, state: TaylorState, draw: Draw) -> list[tuple[Array, str]]:
        """One genome per slot, before any screen: the next starting losses, then draws."""
        begun = state.generation * self.population
        starts = state.problem.start_from[begun : begun + self.population]
        first = [(genome, self.origin) for genome in draw(self.population)]
        for slot, loss in enumerate(starts):
            first[slot] = (self._start_genome(state.problem, loss), f"start: {loss}")
        return first

    def _candidate(self, problem: Problem, genome: Array, origin: str) -> Candidate:
        setting = problem.setting
        head: Head = unknown_head if setting.head == "custom" else setting.head
        numbers = tuple(float(g) for g in genome)
        members = [Loss(kernel, head=head, outputs=problem.outputs) for kernel in self.family.decode(numbers)]
        loss = members[0] if len(members) == 1 else LossSet(members)
        key = loss.key(setting.classes, hard_targets=setting.hard_targets)
        return Candidate(to_json(loss), key, status=self._screened(members, problem), origin=origin, genome=numbers)

    def _screened(self, members: Sequence[Loss], problem: Problem) -> Status:
        for index, loss in enumerate(members):
            status = check_invariant(loss, problem.setting, self.invariant)  # type: ignore[arg-type]
            if not status.ok:
                which = f"loss {index} of the genome: " if len(members) > 1 else ""
                return dataclasses.replace(status, sentence=which + status.sentence)
        return OK


def check_variables(method: str, variables: Sequence[str]) -> None:
    """SpecError for variables in which no polynomial can learn anything."""
    if not {"prediction", "logits", "residual"} & set(variables):
        raise SpecError(f"{method}.variables = {variables!r}: prediction, logits or residual is needed.")
    if not {"target", "residual"} & set(variables):
        raise SpecError(f"{method}.variables = {variables!r}: target or residual is needed to learn anything.")


def expanded(order: int, variables: tuple[str, ...], problem: Problem, loss: Loss) -> list[float]:
    """The genome of a loss to start from: its Taylor expansion, under the problem's reduction over outputs.

    Raises:
        LossError: a loss that the family cannot hold, or of another head.
    """
    setting = problem.setting
    if head_name(loss.head) != setting.head:
        raise LossError(
            f"{loss} has the {head_name(loss.head)} head; a search under {setting.head} cannot start from it."
        )
    found = TaylorFamily(order, variables).expand(loss, classes=setting.classes)
    columns = 2 * setting.classes if setting.head == "sigmoid" else setting.classes
    scale = {("mean", "sum"): 1 / columns, ("sum", "mean"): columns}.get((loss.outputs, problem.outputs), 1.0)
    return [scale * c for c in found.coefficients] + list(found.centres)


def redraws(state: TaylorState) -> tuple[int, ...]:
    """How often each slot was redrawn: with the generation's stream, all that is needed to draw its genomes again."""
    before = (-1, *state.slots[:-1])
    return tuple(slot - last - 1 for last, slot in zip(before, state.slots, strict=True))


def slot_genomes(state: TaylorState) -> Array:
    """The genomes that fill the slots, [P, K]."""
    assert state.asked is not None
    return np.array([state.asked[slot].genome for slot in state.slots], dtype=np.float64)
