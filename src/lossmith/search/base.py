"""What every search method is: pure `init`, `ask`, `tell`, with a state that can be written down.

    state = method.init(problem)
    while state.generation < generations and not method.done(state):
        candidates, state = method.ask(state)
        state = method.tell(state, candidates, [evaluate(c) if c.status.ok else None for c in candidates])

A method may want its candidates prepared between ask and training (`Method.preparation`, `Candidate.tuning`); what that
made of them is told as well.

State in, state out: nothing a method receives is written to, and asking the same state twice gives the same
candidates. Generation g draws from the stream (seed, "search", g) and from nothing else, so a state needs no random
state, and a stored search goes on with the bits of an undisturbed one.
"""

from __future__ import annotations

import dataclasses
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np

from lossmith import rng
from lossmith.losses import Loss, Setting, loss_hash
from lossmith.losses.loss import Outputs
from lossmith.records import Candidate, Preparation, content_hash
from lossmith.search.settings import SettingInfo, check_settings, describe


@dataclass(frozen=True)
class Problem:
    """What is searched on; no data, no network.

    Args:
        setting: head, number of outputs and kind of targets of the task.
        seed: of the run; every draw of the search is derived from it.
        outputs: reduction over outputs of the proposed losses.
        start_from: losses to start from, best first.
        generations: how many are planned, at least 1; a method with stages divides them. No part of the digest: a
            search whose course does not depend on it can go on longer than planned, one whose course does stores it.
    """

    setting: Setting
    seed: int = 0
    outputs: Outputs = "sum"
    start_from: tuple[Loss, ...] = ()
    generations: int = 20

    def stream(self, generation: int) -> np.random.Generator:
        """The draws of one generation."""
        return rng.stream(self.seed, "search", generation)

    @property
    def digest(self) -> str:
        """Tells problems apart; a state belongs to one problem."""
        start = [loss_hash(loss) for loss in self.start_from]
        return content_hash([dataclasses.asdict(self.setting), self.seed, self.outputs, start])


@dataclass(frozen=True)
class State:
    """What a method knows between `ask` and `tell`. Subclasses add what they have learned.

    Args:
        problem: what is searched on.
        generation: how many generations have been told.
        asked: the candidates that wait for `tell`, or None.
    """

    problem: Problem
    generation: int = field(default=0, kw_only=True)
    asked: tuple[Candidate, ...] | None = field(default=None, kw_only=True)


class Method(ABC):
    """A search method: a frozen dataclass of its settings.

    Attributes:
        needs_parts: whether candidates are always tuned by differentiating through training, which needs a task given
            by its parts.
    """

    name: ClassVar[str]
    summary: ClassVar[str] = ""
    reference: ClassVar[str] = ""
    needs_parts: ClassVar[bool] = False

    def __post_init__(self) -> None:
        check_settings(self)

    @abstractmethod
    def init(self, problem: Problem) -> State:
        """The state before the first generation.

        Raises:
            SpecError: the settings do not fit the problem.
            LossError: a loss of `start_from` cannot be started from, with the reason.
        """

    @abstractmethod
    def ask(self, state: Any) -> tuple[tuple[Candidate, ...], State]:
        """The next generation: `population` candidates, each preceded by the screened ones it replaces.

        A screened one that nothing replaces is one of the `population` itself.
        """

    @abstractmethod
    def tell(
        self,
        state: Any,
        candidates: Sequence[Candidate],
        fitness: Sequence[float | None],
        products: Sequence[str] = (),
    ) -> State:
        """What came of them.

        Args:
            candidates: exactly those `ask` returned, in their order.
            fitness: one per candidate, lower is better; None for one that gave no number.
            products: one per candidate, what its tuning made (`Evaluation.product`); "" for one that was not tuned or
                whose tuning failed. May be left out where nothing is tuned.
        """

    @abstractmethod
    def dump(self, state: Any) -> dict[str, Any]:
        """The whole state as JSON-able data; floats survive JSON exactly, and nothing in it is ever executed."""

    @abstractmethod
    def load(self, problem: Problem, document: Mapping[str, Any]) -> State:
        """The inverse of `dump`.

        Raises:
            RunError: the document is of another method, problem or format, or is damaged.
        """

    @property
    def preparation(self) -> Preparation:
        """What is to be done with a candidate between ask and training; by default nothing."""
        return Preparation()

    @property
    def rounds(self) -> int | None:
        """How many generations the method takes by its settings; None where whoever runs it says how many."""
        return None

    def meta_steps_after(self, generation: int) -> int | None:
        """Meta-steps of a candidate after so many generations, for methods that go by them; None elsewhere."""
        del generation
        return None

    def done(self, state: Any) -> bool:
        """Whether there is nothing left to ask, whatever number of generations was planned."""
        del state
        return False

    def settings(self) -> dict[str, Any]:
        """The settings as JSON-able data: `method(self.name, **self.settings())` is this method again."""
        values = {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}  # type: ignore[arg-type]
        return {name: list(value) if isinstance(value, tuple) else value for name, value in values.items()}

    @classmethod
    def describe(cls) -> tuple[SettingInfo, ...]:
        """Every setting with its default, range and meaning."""
        return describe(cls)
