"""Settings of every method that tunes loss parameters by differentiating through training (ALGORITHMS §4, §5).

EvoMAL, ML3, AdaLFL and both Taylor methods take the same ones, so that what one of them does can be said of another.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from lossmith.errors import SpecError
from lossmith.records import Implicit, Screening, Tuning
from lossmith.search.settings import one_of, positive, text, whole

HYPERGRADIENTS = ("unroll", "implicit")


@dataclass(frozen=True)
class UnrollSettings:
    """How the meta-gradient is taken, and what steps φ takes along it; see `lossmith.records.Tuning`."""

    name: ClassVar[str]

    meta_lr: float = positive(1e-3, 100.0, "learning rate of the loss parameters")
    unroll_length: int = whole(1, 1, 100_000, "training steps K of each meta-step")
    truncation: int = whole(0, 0, 100_000, "only the last so many of them are differentiated through; 0: all")
    meta_optimizer: str = one_of("adam", ("adam", "sgd"), "what steps the loss parameters")
    reinitialise: int = whole(1, 1, 100_000, "the model starts anew every so many meta-steps")
    hypergradient: str = one_of("unroll", HYPERGRADIENTS, "through the K steps, or at what they arrive at")
    solver: str = one_of("cg", ("cg", "neumann"), "implicit: conjugate gradient or Neumann series")
    terms: int = whole(20, 0, 100_000, "implicit: iterations or terms of the solver")
    damping: float = positive(1e-3, 1e6, "implicit: what is added to the curvature")
    task_loss: str = text("", "a differentiable loss by name", "what the loss is tuned for; empty: the task's own")

    def tuning(self, meta_steps: int, *, screen_after: Screening | None = None, state: str = "") -> Tuning:
        """So many meta-steps under these settings, from a state or from the beginning.

        Raises:
            SpecError: settings that contradict each other.
        """
        implicit = None
        if self.hypergradient == "implicit":
            if self.truncation:
                raise SpecError(
                    f"{self.name}.truncation = {self.truncation}: an implicit hypergradient differentiates through no "
                    "step; leave truncation out, or choose hypergradient = unroll."
                )
            implicit = Implicit(self.solver, self.terms, self.damping)  # type: ignore[arg-type]
        return Tuning(
            meta_steps,
            self.unroll_length,
            self.meta_lr,
            screen_after,
            truncation=self.truncation,
            meta_optimizer=self.meta_optimizer,  # type: ignore[arg-type]
            reinitialise=self.reinitialise,
            implicit=implicit,
            task_loss=self.task_loss,
            state=state,
        )
