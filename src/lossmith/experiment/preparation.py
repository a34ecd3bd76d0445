"""What happens to a candidate between ask and training: screens, and tuning of its loss parameters (DESIGN §2).

    candidates → screen → same gradients as an earlier one? → tune, screen again → training

Every stage is a set of requests like any training: answered from the store where it can be, and asked again word for
word by a resumed search, which so comes to the same candidates.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TypeAlias

from lossmith.evaluation import seed_block
from lossmith.records import OK, Candidate, Evaluation, Preparation, Request, Status

Position = tuple[int, int]
Answer: TypeAlias = Callable[[Sequence[Request], str], Sequence[Evaluation]]


@dataclass(frozen=True)
class Prepared:
    """A candidate after the stages before training.

    Args:
        candidate: with the loss that tuning made: the tuned one, or where the tuning of a candidate with settings of
            its own failed, the last that was sound.
        status: `OK` if it is to be trained.
        like: position of the earlier candidate whose result it takes (gradient equivalence), or None.
        steps: base-model steps that tuning spent on it.
        product: what tuning made (`Evaluation.product`), "" where it failed or nothing was tuned.
    """

    candidate: Candidate
    status: Status = OK
    like: Position | None = None
    steps: int = 0
    product: str = ""


class Stages:
    """The stages of one run, and the gradient signatures seen so far.

    Args:
        preparation: what the method wants. run_seed: names the seed of all stages.
    """

    def __init__(self, preparation: Preparation, run_seed: int) -> None:
        self.preparation = preparation
        # One seed for both: the screen after tuning sees the rows and the network of the screen before.
        (self._seed,) = seed_block(run_seed, "prepare", 1)
        self._first_with: dict[str, Position] = {}

    def first_request(self, candidate: Candidate) -> Request | None:
        """What is done first for a candidate; None where it goes straight to training."""
        if self.preparation.screening is not None:
            return self._screen(candidate)
        return self._tune(candidate) if self._is_tuned(candidate) else None

    def run(self, candidates: Mapping[Position, Candidate], answer: Answer) -> dict[Position, Prepared]:
        """Take candidates through the stages.

        Args:
            candidates: those worth it, by position, in order.
            answer: evaluations of requests, in order; the second argument says what for.
        """
        found = {position: Prepared(candidate) for position, candidate in candidates.items()}
        if self.preparation.screening is not None:
            self._screened(found, answer)
        self._tuned(found, answer)
        return found

    def _screened(self, found: dict[Position, Prepared], answer: Answer) -> None:
        results = answer([self._screen(one.candidate) for one in found.values()], "screen")
        for (position, one), result in zip(list(found.items()), results, strict=True):
            if not result.status.ok:
                found[position] = replace(one, status=result.status)
                continue
            signature = json.loads(result.product).get("gradients") if result.product else None
            if signature is None:
                continue
            key = f"{signature}@{one.candidate.lr_scale!r}"
            first = self._first_with.setdefault(key, position)
            if first != position:
                sentence = f"has the gradients of candidate {first[0]}.{first[1]}, whose result it takes"
                found[position] = replace(one, status=Status("screened", "gradient_equivalence", sentence), like=first)

    def _tuned(self, found: dict[Position, Prepared], answer: Answer) -> None:
        left = {p: one for p, one in found.items() if one.status.ok and self._is_tuned(one.candidate)}
        if not left:
            return
        results = answer([self._tune(one.candidate) for one in left.values()], "tune")
        for (position, one), result in zip(left.items(), results, strict=True):
            status, candidate = result.status, one.candidate
            if status.kind == "screened":
                status = replace(status, detail=f"{status.detail}_after_tuning")
            elif status.ok or (candidate.tuning and result.product):
                candidate = replace(candidate, loss=json.loads(result.product)["loss"])
            product = result.product if status.ok else ""
            found[position] = replace(one, candidate=candidate, status=status, steps=result.steps, product=product)

    def _is_tuned(self, candidate: Candidate) -> bool:
        return bool(candidate.tuning) or self.preparation.tuning is not None

    def _screen(self, candidate: Candidate) -> Request:
        assert self.preparation.screening is not None
        settings = self.preparation.screening.to_settings()
        return Request(candidate.loss, self._seed, work="screen", settings=settings)

    def _tune(self, candidate: Candidate) -> Request:
        settings = candidate.tuning
        if not settings:
            assert self.preparation.tuning is not None
            settings = self.preparation.tuning.to_settings()
        return Request(candidate.loss, self._seed, lr_scale=candidate.lr_scale, work="tune", settings=settings)
