"""With what a tuning can go on, as text: a tuning of 100 meta-steps is to the bit two of 50.

What a meta-step draws depends on its number, and φ is in the loss, so that the number of meta-steps done and the
running means of Adam are all there is to keep. The text is canonical JSON; vectors are little-endian float64 in base64.
"""

from __future__ import annotations

import base64
import binascii
import json
import math
from dataclasses import dataclass
from typing import Any, get_args

import numpy as np

from lossmith.errors import SpecError
from lossmith.records import MetaOptimizer, canonical_json
from lossmith.training.meta_adam import Vector

_WHAT = "the state a tuning goes on with"
_GIVE = "give the state that an evaluation's product holds, or none to begin anew"


@dataclass(frozen=True)
class TuningState:
    """Where the tuning of one candidate stands, beside φ.

    Args:
        meta_steps: done so far, ≥ 0.
        optimizer: of φ.
        mean, square: of Adam, [K]; empty for SGD, which remembers nothing.
    """

    meta_steps: int
    optimizer: MetaOptimizer
    mean: Vector
    square: Vector

    @classmethod
    def begin(cls, optimizer: MetaOptimizer, size: int) -> TuningState:
        """Before the first meta-step on K numbers."""
        return cls(0, optimizer, np.zeros(size), np.zeros(size))

    def to_text(self) -> str:
        document: dict[str, Any] = {"meta_steps": self.meta_steps, "optimizer": self.optimizer}
        if self.optimizer == "adam":
            document |= {"mean": _packed(self.mean), "square": _packed(self.square)}
        return canonical_json(document)

    @classmethod
    def from_text(cls, text: str, optimizer: MetaOptimizer, size: int) -> TuningState:
        """The inverse of `to_text`, for a tuning by `optimizer` of a loss with `size` parameters; "" is the beginning.

        Raises:
            SpecError: the text is no state, or that of another optimiser or loss.
        """
        if not text:
            return cls.begin(optimizer, size)
        try:
            document = json.loads(text)
            done, by = document["meta_steps"], document["optimizer"]
            vectors = [_unpacked(document[name]) for name in ("mean", "square")] if by == "adam" else []
            sound = type(done) is int and done >= 0 and by in get_args(MetaOptimizer)
        except (ValueError, KeyError, TypeError, RecursionError):
            sound = False
        if not sound:
            raise SpecError(f"{text!r:.60} is not {_WHAT}: {_GIVE}.")
        if by != optimizer:
            raise SpecError(f"{_WHAT} is one of {by}, and this tuning moves φ by {optimizer}: {_GIVE}.")
        mean, square = vectors or (np.zeros(size), np.zeros(size))
        if not len(mean) == len(square) == size:
            raise SpecError(f"{_WHAT} belongs to {len(mean)} loss parameters, and this loss has {size}: {_GIVE}.")
        if not np.isfinite(mean).all() or np.isnan(square).any() or (square < 0).any():
            raise SpecError(f"{_WHAT} holds numbers that no running mean can have: {_GIVE}.")
        return cls(done, optimizer, mean, square)


def meta_steps_of(text: str) -> int:
    """Meta-steps done, of a state that need not be sound otherwise; 0 where it says none."""
    try:
        done = json.loads(text)["meta_steps"] if text else 0
    except (ValueError, KeyError, TypeError, RecursionError):
        return 0
    return done if type(done) is int and 0 <= done < math.inf else 0


def _packed(vector: Vector) -> str:
    return base64.b64encode(np.ascontiguousarray(vector, dtype="<f8").tobytes()).decode("ascii")


def _unpacked(text: str) -> Vector:
    try:
        content = base64.b64decode(text.encode("ascii"), validate=True)
    except (AttributeError, UnicodeEncodeError, binascii.Error) as error:
        raise ValueError("no base64") from error
    return np.frombuffer(content, dtype="<f8").astype(np.float64)
