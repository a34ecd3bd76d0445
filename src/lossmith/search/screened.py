"""Settings of methods whose candidates are screened before training and not tuned."""

from __future__ import annotations

from dataclasses import dataclass

from lossmith.records import Preparation, Screening
from lossmith.search.settings import one_of, whole


@dataclass(frozen=True)
class ScreenedBefore:
    """To be mixed into a method, before its own base class."""

    screen: str = one_of("before", ("before", "off"), "rejection protocol and gradient equivalence before training")
    rejection_steps: int = whole(1000, 0, 100_000, "Adam steps of the rejection protocol; 0 leaves it out")

    @property
    def preparation(self) -> Preparation:
        return Preparation(Screening(self.rejection_steps) if self.screen == "before" else None)
