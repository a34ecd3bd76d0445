"""What every search that fills a population of slots has in common: who may call what when, and storage.

A generation has `population` slots. A proposal that a screen refuses is a candidate of its own, placed before the one
that finally fills the slot; what fills a slot may be a refused one too. A subclass says which candidates come next
(`_asked`), what is learned from the slots' fitness (`_learned`), and what of it is to be stored.
"""

from __future__ import annotations

import dataclasses
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from lossmith.errors import RunError, UsageError
from lossmith.records import Candidate
from lossmith.search.base import Method, Problem, State
from lossmith.search.ranking import succeeded

FORMAT = 1


@dataclass(frozen=True)
class SlotState(State):
    """State of a search that fills slots.

    Args:
        slots: while candidates wait for `tell`: where in `asked` each of the population's slots is filled.
    """

    slots: tuple[int, ...] = field(default=(), kw_only=True)


class SlotSearch(Method):
    """Chores of a search that fills slots."""

    population: int

    @abstractmethod
    def _asked(self, state: Any) -> SlotState:
        """The state with `asked` and `slots` of its generation: a pure function of the state."""

    @abstractmethod
    def _learned(self, state: Any, fitness: tuple[float | None, ...], products: tuple[str, ...]) -> SlotState:
        """The state after a generation, given the fitness of each slot and what its tuning made, "" for nothing."""

    @abstractmethod
    def _dumped(self, state: Any) -> dict[str, Any]:
        """What the state knows beyond the generation."""

    @abstractmethod
    def _loaded(self, state: Any, document: Mapping[str, Any]) -> SlotState:
        """The inverse of `_dumped`, from the first state, with nothing asked."""

    @abstractmethod
    def _asked_note(self, state: Any) -> list[Any]:
        """What is stored of the asked candidates, so that `load` can tell whether it asks for the same ones."""

    def _course(self, problem: Problem) -> dict[str, Any]:
        """What beside settings and problem decides the course of the search."""
        del problem
        return {}

    def ask(self, state: Any) -> tuple[tuple[Candidate, ...], SlotState]:
        if state.asked is not None:
            raise UsageError(f"{self.name}: ask without tell; tell the results of this generation before asking again.")
        waiting = self._asked(state)
        assert waiting.asked is not None
        return waiting.asked, waiting

    def tell(
        self,
        state: Any,
        candidates: Sequence[Candidate],
        fitness: Sequence[float | None],
        products: Sequence[str] = (),
    ) -> SlotState:
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
        if products and len(products) != len(candidates):
            raise UsageError(f"{self.name}: {len(products)} products for {len(candidates)} candidates.")
        made = tuple(products[slot] if products else "" for slot in state.slots)
        learned = self._learned(state, tuple(values[slot] for slot in state.slots), made)
        return dataclasses.replace(learned, generation=state.generation + 1, asked=None, slots=())

    def dump(self, state: Any) -> dict[str, Any]:
        return {
            **self._header(state.problem),
            "generation": state.generation,
            "asked": None if state.asked is None else self._asked_note(state),
            **self._dumped(state),
        }

    def load(self, problem: Problem, document: Mapping[str, Any]) -> SlotState:
        for name, value in self._header(problem).items():
            if name not in document:
                raise RunError(f"the stored search state lacks the field {name!r}: it is no state of {self.name}.")
            stored = self._completed(document[name]) if name == "settings" else document[name]
            if stored != value:
                raise RunError(
                    f"the stored search state has {name} {document[name]!r}, this run {value!r}: "
                    f"resume with the settings it was started with."
                )
        first = self.init(problem)
        assert isinstance(first, SlotState)
        try:
            state = self._loaded(first, document)
            state = dataclasses.replace(state, generation=int(document["generation"]))
            asked = document["asked"]
        except (KeyError, TypeError, ValueError, IndexError, AttributeError) as error:
            raise RunError(f"the stored state of {self.name} is damaged ({type(error).__name__}: {error}).") from None
        if asked is None:
            return state
        _, state = self.ask(state)
        if self._asked_note(state) != asked:
            raise RunError(f"the stored search asked for other candidates than {self.name} does now: start a new run.")
        return state

    def _completed(self, settings: Any) -> Any:
        """Stored settings with the defaults of those that are newer than them: a new setting's default changes nothing,
        so that older searches go on."""
        if not isinstance(settings, Mapping):
            return settings
        newer = type(self)().settings()
        return {**newer, **settings}

    def _header(self, problem: Problem) -> dict[str, Any]:
        named = {"format": FORMAT, "method": self.name, "settings": self.settings(), "problem": problem.digest}
        return {**named, **self._course(problem)}


def unknown_head(output: Tensor) -> Tensor:
    """Stands for the head of a task whose head is a function, which a document names "custom"."""
    return output
