"""`Run`: a finished or running search to look at. Reading never disturbs the process that works on it."""

from __future__ import annotations

import os
from collections import Counter
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from lossmith.analysis import SelectionBias, Verdict
from lossmith.errors import RunError
from lossmith.evaluation import Standing, top
from lossmith.experiment.finalists import Winner, read_winner
from lossmith.experiment.spec import Spec, from_toml
from lossmith.losses import Loss, LossSet, from_json
from lossmith.search import METHODS
from lossmith.store import CandidateRow, GenerationRow, RunRow, RunStore


@dataclass(frozen=True)
class Best:
    """The loss a run found.

    Args:
        loss: an `nn.Module`. lr_scale: factor on the recipe's learning rate. budget: share of the full training.
        value: metric it was chosen by; `chosen_on`: "selection" (full training, fresh seeds) or "fitness" (in the
            search).
        position: "generation.position".
    """

    loss: Loss | LossSet
    lr_scale: float
    budget: float
    value: float
    chosen_on: str
    position: str
    winner: Winner | None


class Run:
    """A run folder, read-only.

    Args:
        path: the folder.
        head: the head function of a task whose head is one; stored losses need it again.

    Raises:
        RunError: no run there, damaged or newer.
    """

    def __init__(self, path: str | os.PathLike[str], *, head: Any = None) -> None:
        self.path = os.fspath(path)
        self._head = head
        with RunStore.open(path) as store:
            self.row: RunRow = store.run()
            self.spec: Spec = from_toml(store.spec_toml(), f"{path}/spec.toml")
            self.generations: tuple[GenerationRow, ...] = store.generations()
            self.candidates: tuple[CandidateRow, ...] = store.candidates()
            self.evaluations = store.evaluations()
            self.events = store.events()
            self.test_touches = store.count_test_touches()
            verdict = store.checkpoint("verdict")
        self.verdict: Verdict | None = None if verdict is None else Verdict.from_dict(verdict.document)

    @property
    def kind(self) -> str:
        return self.row.kind

    @property
    def finished(self) -> bool:
        return self.row.state == "finished"

    @cached_property
    def metric(self) -> tuple[str, str]:
        """Name and direction of the task's metric."""
        described = self.row.fingerprint["metric"]
        return str(described["name"]), str(described["direction"])

    @property
    def meta_steps(self) -> tuple[int, int] | None:
        """Meta-steps done and wanted, of a search that goes by them; None of others."""
        search = self.spec.search
        if search is None or search.method not in METHODS:
            return None
        method = METHODS[search.method](**search.settings)
        told = sum(generation.told for generation in self.generations)
        done, wanted = method.meta_steps_after(told), method.meta_steps_after(search.generations)
        return None if done is None or wanted is None else (done, wanted)

    @property
    def winner(self) -> Winner | None:
        """What the finalists' training chose, once it is done."""
        found = [event for event in self.events if event.kind == "winner"]
        return read_winner(dict(found[0].data)) if found else None

    @property
    def best(self) -> Best:
        """The loss found: the winner, or while the search goes on the best candidate so far.

        Raises:
            RunError: nothing has been evaluated with success yet.
        """
        winner = self.winner
        if winner is not None:
            value = winner.selection_score
            return Best(
                self.decode(winner.loss), winner.lr_scale, winner.budget, value, "selection", winner.position, winner
            )
        found = self.leaders(1)
        if not found:
            raise RunError(f"{self.path} has no successful candidate yet: see `lossmith show {self.path}`.")
        row, value = found[0]
        position = f"{row.generation}.{row.position}"
        return Best(self.decode(row.loss), row.candidate.lr_scale, 1.0, value, "fitness", position, None)

    def leaders(self, count: int) -> list[tuple[CandidateRow, float]]:
        """The best candidates of the told generations with their fitness-split metric."""
        rows = {(r.generation, r.position): r for r in self.candidates if r.candidate.status.ok}
        standings = [Standing(position, [row.fitness]) for position, row in rows.items()]
        sign = 1.0 if self.metric[1] == "min" else -1.0
        return [(rows[s.position], sign * s.mean(1)) for s in top(standings, count)]

    def finalist_losses(self) -> list[Loss | LossSet]:
        """Losses of the finalists, best first, each once; of the leaders where there are no finalists yet."""
        texts = [str(event.data["loss"]) for event in self.events if event.kind == "finalist"]
        texts = texts or [row.loss for row, _ in self.leaders(5)]
        return [self.decode(text) for text in dict.fromkeys(texts)]

    def counts(self) -> dict[str, int]:
        """Candidates per status over all told generations."""
        total: Counter[str] = Counter()
        for generation in self.generations:
            total.update(generation.counts)
        return dict(sorted(total.items()))

    @property
    def training_steps(self) -> int:
        """Training steps spent on tuning, searching and choosing, those of verdicts not counted."""
        spent = ("tune", "search", "elite", "finalist")
        return sum(row.evaluation.steps for row in self.evaluations if row.purpose in spent)

    @property
    def selection_bias(self) -> SelectionBias | None:
        """Search score against fresh score at the same effort, once there is a winner."""
        winner = self.winner
        if winner is None or winner.fresh_score is None:
            return None
        name, direction = self.metric
        return SelectionBias(
            winner.search_score,
            winner.fresh_score,
            winner.fresh_seeds,
            name,
            direction,  # type: ignore[arg-type]
        )

    def decode(self, text: str) -> Loss | LossSet:
        """A stored loss as a module."""
        return from_json(text, head=self._head)

    def __repr__(self) -> str:
        return (
            f"Run({self.path!r}: {self.kind} on {self.row.task}, {self.row.state}, {len(self.candidates)} candidates)"
        )
