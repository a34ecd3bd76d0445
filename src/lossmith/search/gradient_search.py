"""What every search by gradient has in common: restarts, each tuned a block of meta-steps at a time.

A restart is a start φ0 and its course from there: φ steps along the meta-gradient of the task loss (`UnrollSettings`).
One generation is one block: `ask` proposes every restart where it stands with the tuning it wants next
(`Candidate.tuning`), whoever runs the search tunes it, trains what came of it in part, and tells the fitness and what
the tuning made, from which the next block goes on bit for bit as if there had been no break. A subclass says only where
restarts begin.

Fitness steers nothing: it only tells how good each block's loss is. All restarts share θ0 and batches, so that they
differ in φ0 alone. One whose tuning fails is left out afterwards, and its last finite φ stays on record.
"""

from __future__ import annotations

import dataclasses
import json
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np

from lossmith import rng
from lossmith.errors import LossError, UsageError
from lossmith.losses import Loss, OnlineRule, from_json, to_json
from lossmith.losses.family import Kernel
from lossmith.losses.inputs import Head, head_name
from lossmith.records import Candidate, Preparation, Tuning, content_hash
from lossmith.search.base import Problem
from lossmith.search.settings import whole
from lossmith.search.slot_search import SlotSearch, SlotState, unknown_head
from lossmith.search.unroll_settings import UnrollSettings

BLOCK = 50  # meta-steps of a block; with `reinitialise` the next multiple of it, so that a block begins with a fresh θ0


@dataclass(frozen=True)
class Restart:
    """One course of φ.

    Args:
        origin: where it began, for people.
        loss: canonical JSON of the loss where it stands.
        state: what its tuning goes on with; "" before the first block.
        ended: whether a tuning has failed, so that it goes no further.
    """

    origin: str
    loss: str
    state: str = ""
    ended: bool = False


@dataclass(frozen=True)
class GradientState(SlotState):
    """State of a search by gradient.

    Args:
        restarts: all of them, those that have ended too.
    """

    restarts: tuple[Restart, ...] = field(default=(), kw_only=True)

    @property
    def going(self) -> tuple[int, ...]:
        """Which restarts have not ended."""
        return tuple(i for i, one in enumerate(self.restarts) if not one.ended)


@dataclass(frozen=True)
class GradientSearch(UnrollSettings, SlotSearch):
    """Settings of a search by gradient, and its course."""

    needs_parts: ClassVar[bool] = True

    population: int = whole(1, 1, 10_000, "restarts, each from a start of its own")
    meta_steps: int = whole(250, 1, 10_000_000, "meta-steps of each restart")

    def __post_init__(self) -> None:
        super().__post_init__()
        self.tuning(self.block)  # for its complaints

    @abstractmethod
    def _drawn(self, generator: np.random.Generator) -> Kernel:
        """The start of a restart that begins at random."""

    @abstractmethod
    def _started(self, problem: Problem, loss: Loss) -> Kernel:
        """The start of a restart that begins from a known loss.

        Raises:
            LossError: it cannot, with the reason.
        """

    @property
    def online(self) -> OnlineRule | None:
        """How the found loss goes on learning while it trains; by default not at all."""
        return None

    @property
    def block(self) -> int:
        """Meta-steps of a generation."""
        return -(-BLOCK // self.reinitialise) * self.reinitialise

    @property
    def rounds(self) -> int:
        return -(-self.meta_steps // self.block)

    def done(self, state: Any) -> bool:
        return state.generation >= self.rounds or not state.going

    @property
    def preparation(self) -> Preparation:
        return Preparation(tuning=self._block_tuning(0))

    def meta_steps_after(self, generation: int) -> int:
        return min(generation * self.block, self.meta_steps)

    def init(self, problem: Problem) -> GradientState:
        starts = problem.start_from
        if len(starts) > self.population:
            raise LossError(
                f"{self.name} has {self.population} restart{'s' if self.population > 1 else ''} and {len(starts)} "
                f"losses to start from: set population = {len(starts)}, or name the ones to start from."
            )
        restarts = [self._restart(problem, self._begun(problem, loss), f"start: {loss}") for loss in starts]
        for number in range(len(starts), self.population):
            kernel = self._drawn(rng.stream(problem.seed, "restart", number))
            restarts.append(self._restart(problem, kernel, f"restart {number}"))
        return GradientState(problem, restarts=tuple(restarts))

    def _begun(self, problem: Problem, loss: Loss) -> Kernel:
        if head_name(loss.head) != problem.setting.head:
            raise LossError(
                f"{loss} has the {head_name(loss.head)} head; a search under {problem.setting.head} cannot start from "
                "it."
            )
        return self._started(problem, loss)

    def _restart(self, problem: Problem, kernel: Kernel, origin: str) -> Restart:
        head: Head = unknown_head if problem.setting.head == "custom" else problem.setting.head
        return Restart(origin, to_json(Loss(kernel, head=head, outputs=problem.outputs, online=self.online)))

    def _block_tuning(self, generation: int, state: str = "") -> Tuning:
        meta_steps = self.meta_steps_after(generation + 1) - self.meta_steps_after(generation)
        return self.tuning(meta_steps, state=state)

    def _asked(self, state: Any) -> GradientState:
        if self.done(state):
            why = "every restart has ended" if not state.going else f"all {self.meta_steps} meta-steps are done"
            raise UsageError(f"{self.name}: {why}, so there is nothing left to ask.")
        asked = tuple(self._candidate(state.restarts[i], state.generation) for i in state.going)
        waiting: GradientState = dataclasses.replace(state, asked=asked, slots=tuple(range(len(asked))))
        return waiting

    def _candidate(self, restart: Restart, generation: int) -> Candidate:
        settings = self._block_tuning(generation, restart.state).to_settings()
        return Candidate(
            restart.loss,
            content_hash([restart.loss, settings]),  # the same φ goes on differently from another state
            origin=f"{restart.origin}, {self.meta_steps_after(generation + 1):,} meta-steps",
            genome=self._genome(restart.loss),
            tuning=settings,
        )

    def _genome(self, loss: str) -> tuple[float, ...]:
        """φ where it is short enough to be read; thousands of weights are in the loss already."""
        del loss
        return ()

    def _learned(self, state: Any, fitness: tuple[float | None, ...], products: tuple[str, ...]) -> GradientState:
        del fitness
        restarts = list(state.restarts)
        for i, product in zip(state.going, products, strict=True):
            restarts[i] = self._moved(restarts[i], product)
        moved: GradientState = dataclasses.replace(state, restarts=tuple(restarts))
        return moved

    def _moved(self, restart: Restart, product: str) -> Restart:
        if not product:
            return dataclasses.replace(restart, ended=True)
        try:
            made = json.loads(product)
            loss, state = made["loss"], made["state"]
        except (ValueError, KeyError, TypeError):
            loss = state = None
        if not (isinstance(loss, str) and isinstance(state, str)):
            raise UsageError(f"{self.name}: tell wants the product of every tuning, with its loss and its state.")
        return dataclasses.replace(restart, loss=loss, state=state)

    def _asked_note(self, state: Any) -> list[Any]:
        return [candidate.key for candidate in state.asked]

    def _dumped(self, state: Any) -> dict[str, Any]:
        return {"restarts": [[one.origin, one.loss, one.state, one.ended] for one in state.restarts]}

    def _loaded(self, state: Any, document: Mapping[str, Any]) -> GradientState:
        restarts = tuple(self._read(entry, state.problem) for entry in document["restarts"])
        if len(restarts) != self.population:
            raise ValueError(f"{len(restarts)} restarts of {self.population}")
        loaded: GradientState = dataclasses.replace(state, restarts=restarts)
        return loaded

    @staticmethod
    def _read(entry: Sequence[Any], problem: Problem) -> Restart:
        origin, loss, state, ended = entry
        if not all(isinstance(text, str) for text in (origin, loss, state)) or not isinstance(ended, bool):
            raise ValueError("a restart that is none")
        try:
            from_json(loss, head=unknown_head if problem.setting.head == "custom" else None)
        except LossError as error:
            raise ValueError(str(error)) from None
        return Restart(origin, loss, state, ended)
