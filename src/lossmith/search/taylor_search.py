"""What every search over Taylor genomes has in common: screening and redrawing, starting losses, checks, storage.

A subclass says only where genomes come from (`_sampler`) and what is learned from them (`_learned`). A generation has
`population` slots. A slot's genome that fails the invariant is redrawn, at most 20 times; every attempt is a candidate
of its own, placed before the one that finally fills the slot. What still fails fills the slot as a failure.
"""

from __future__ import annotations

import dataclasses
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, TypeAlias, TypeVar

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from lossmith.errors import LossError, RunError, SpecError, UsageError
from lossmith.losses import Loss, LossSet, TaylorFamily, to_json
from lossmith.losses.inputs import Head, head_name
from lossmith.losses.learning_rule import INVARIANTS, check_invariant
from lossmith.losses.taylor import SYMBOLS
from lossmith.records import OK, Candidate, Status
from lossmith.search.base import Method, Problem, State
from lossmith.search.cma_es import Draw
from lossmith.search.ranking import succeeded
from lossmith.search.settings import one_of, positive, whole, words

Array: TypeAlias = NDArray[np.float64]
S = TypeVar("S", bound="TaylorState")

FORMAT = 1
REDRAWS = 20  # ALGORITHMS §2, "Failures and CMA-ES"


@dataclass(frozen=True)
class TaylorState(State):
    """State of a search over Taylor genomes.

    Args:
        slots: while candidates wait for `tell`: where in `asked` each of the population's slots is filled.
    """

    slots: tuple[int, ...] = field(default=(), kw_only=True)


@dataclass(frozen=True)
class TaylorSearch(Method):
    """Settings and chores of a search over Taylor genomes."""

    population: int = whole(20, 1, 10_000, "candidates per generation")
    sigma: float = positive(1.2, 100.0, "standard deviation of the first genomes")
    order: int = whole(3, 2, 9, "order of the Taylor polynomial")
    variables: tuple[str, ...] = words(("target", "prediction"), tuple(SYMBOLS), "what the polynomial is in")
    invariant: str = one_of("exact", INVARIANTS, "screen before training: exact condition, published one, none")
    losses: int = whole(1, 1, 8, "losses per genome, for tasks with auxiliary outputs")
    origin: ClassVar[str]

    def __post_init__(self) -> None:
        super().__post_init__()
        if not {"prediction", "logits", "residual"} & set(self.variables):
            raise SpecError(f"{self.name}.variables = {self.variables!r}: prediction, logits or residual is needed.")
        if not {"target", "residual"} & set(self.variables):
            raise SpecError(
                f"{self.name}.variables = {self.variables!r}: target or residual is needed to learn anything."
            )

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

    @abstractmethod
    def _learned(self, state: Any, fitness: tuple[float | None, ...]) -> TaylorState:
        """The state after a generation, given the fitness of each slot."""

    @abstractmethod
    def _dumped(self, state: Any) -> dict[str, Any]:
        """What the state knows beyond the generation."""

    @abstractmethod
    def _loaded(self, state: Any, document: Mapping[str, Any]) -> TaylorState:
        """The inverse of `_dumped`, from the first state, with nothing asked."""

    def init(self, problem: Problem) -> TaylorState:
        head = problem.setting.head
        if self.invariant == "paper" and head not in ("softmax", "sigmoid"):
            raise SpecError(
                f"{self.name}.invariant = 'paper' is about class probabilities, not the {head} head: use exact or off."
            )
        return self._begin(problem, self.start_genomes(problem))

    def ask(self, state: Any) -> tuple[tuple[Candidate, ...], TaylorState]:
        if state.asked is not None:
            raise UsageError(f"{self.name}: ask without tell; tell the results of this generation before asking again.")
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
        candidates = tuple(asked)
        return candidates, dataclasses.replace(state, asked=candidates, slots=tuple(slots))

    def tell(self, state: Any, candidates: Sequence[Candidate], fitness: Sequence[float | None]) -> TaylorState:
        if state.asked is None:
            raise UsageError(f"{self.name}: tell without ask; ask for candidates, evaluate them, then tell.")
        if [c.loss for c in candidates] != [c.loss for c in state.asked]:
            raise UsageError(f"{self.name}: tell wants the {len(state.asked)} candidates of ask, in their order.")
        if len(fitness) != len(candidates):
            raise UsageError(f"{self.name}: {len(fitness)} fitness values for {len(candidates)} candidates.")
        values = tuple(float(f) if f is not None and succeeded(f) else None for f in fitness)
        for candidate, value in zip(state.asked, values, strict=True):
            if not candidate.status.ok and value is not None:
                raise UsageError(f"{self.name}: a candidate that is {candidate.status} has no fitness: tell None.")
        learned = self._learned(state, tuple(values[slot] for slot in state.slots))
        return dataclasses.replace(learned, generation=state.generation + 1, asked=None, slots=())

    def dump(self, state: Any) -> dict[str, Any]:
        return {
            "format": FORMAT,
            "method": self.name,
            "settings": self.settings(),
            "problem": state.problem.digest,
            "generation": state.generation,
            "asked": None if state.asked is None else list(redraws(state)),
            **self._dumped(state),
        }

    def load(self, problem: Problem, document: Mapping[str, Any]) -> TaylorState:
        wanted = {"format": FORMAT, "method": self.name, "settings": self.settings(), "problem": problem.digest}
        for name, value in wanted.items():
            if name not in document:
                raise RunError(f"the stored search state lacks the field {name!r}: it is no state of {self.name}.")
            if document[name] != value:
                raise RunError(
                    f"the stored search state has {name} {document[name]!r}, this run {value!r}: "
                    f"resume with the settings it was started with."
                )
        try:
            state = self._loaded(self.init(problem), document)
            state = dataclasses.replace(state, generation=int(document["generation"]))
            asked = document["asked"]
        except (KeyError, TypeError, ValueError, IndexError) as error:
            raise RunError(f"the stored state of {self.name} is damaged ({type(error).__name__}: {error}).") from None
        if asked is None:
            return state
        _, state = self.ask(state)
        if list(redraws(state)) != asked:
            raise RunError(f"the stored search asked for other candidates than {self.name} does now: start a new run.")
        return state

    def start_genomes(self, problem: Problem) -> tuple[Array, ...]:
        """The genomes of the losses to start from: their Taylor expansions, under the problem's reduction over outputs.

        Raises:
            LossError: a loss that the family cannot hold, or of another head.
        """
        return tuple(self._start_genome(problem, loss) for loss in problem.start_from)

    def _start_genome(self, problem: Problem, loss: Loss) -> Array:
        setting = problem.setting
        if head_name(loss.head) != setting.head:
            raise LossError(
                f"{loss} has the {head_name(loss.head)} head; a search under {setting.head} cannot start from it."
            )
        one = TaylorFamily(self.order, self.variables)
        expanded = one.expand(loss, classes=setting.classes)
        columns = 2 * setting.classes if setting.head == "sigmoid" else setting.classes
        scale = {("mean", "sum"): 1 / columns, ("sum", "mean"): columns}.get((loss.outputs, problem.outputs), 1.0)
        genome = [scale * c for c in expanded.coefficients] + list(expanded.centres)
        return np.array(genome * self.losses, dtype=np.float64)

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
        head: Head = _unknown_head if setting.head == "custom" else setting.head
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


def redraws(state: TaylorState) -> tuple[int, ...]:
    """How often each slot was redrawn: with the generation's stream, all that is needed to draw its genomes again."""
    before = (-1, *state.slots[:-1])
    return tuple(slot - last - 1 for last, slot in zip(before, state.slots, strict=True))


def slot_genomes(state: TaylorState) -> Array:
    """The genomes that fill the slots, [P, K]."""
    assert state.asked is not None
    return np.array([state.asked[slot].genome for slot in state.slots], dtype=np.float64)


def _unknown_head(output: Tensor) -> Tensor:  # stands for the task's own head, which a document names "custom"
    return output
