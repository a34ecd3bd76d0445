"""How a loss adapts while it trains: what `Loss(..., online=...)` holds.

Raymond, Chen, Xue & Zhang 2023, *Online Loss Function Learning* (AdaLFL), arXiv 2301.13247: after every step of the
base model the loss parameters φ take a step of their own on the task loss of the model just moved. The rule is data:
what carries it out is `training.online`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal, get_args

from lossmith.errors import LossError
from lossmith.losses.family import number

OnlineOptimizer = Literal["adam", "sgd"]


@dataclass(frozen=True)
class OnlineRule:
    """One step on φ after every base step, or after every few.

    Args:
        lr: learning rate of φ, finite and above 0.
        optimizer: "adam", its state carried through the whole training, or "sgd".
        every: base steps from one step on φ to the next, at least 1.

    Raises:
        LossError: an argument out of its range.

    Example:
        >>> print(OnlineRule(), "|", OnlineRule(lr=1e-3, optimizer="sgd", every=5))
        online(lr=1e-05) | online(lr=0.001, optimizer=sgd, every=5)
    """

    lr: float = 1e-5
    optimizer: OnlineOptimizer = "adam"
    every: int = 1

    def __post_init__(self) -> None:
        if isinstance(self.lr, bool) or not isinstance(self.lr, int | float) or not 0 < self.lr < math.inf:
            raise LossError(f"online lr = {self.lr!r}: the learning rate of φ is a finite number above 0.")
        if self.optimizer not in get_args(OnlineOptimizer):
            raise LossError(f'online optimizer {self.optimizer!r}: use "adam" or "sgd".')
        if isinstance(self.every, bool) or not isinstance(self.every, int) or self.every < 1:
            raise LossError(f"online every = {self.every!r}: a whole number of base steps, at least 1, was expected.")
        object.__setattr__(self, "lr", float(self.lr))  # 1 and 1.0 are equal, and so must be their documents

    def document(self) -> dict[str, Any]:
        """What `online_rule_from` needs, JSON-able."""
        return asdict(self)

    def __str__(self) -> str:
        optimizer = f", optimizer={self.optimizer}" if self.optimizer != "adam" else ""
        every = f", every={self.every}" if self.every != 1 else ""
        return f"online(lr={self.lr:g}{optimizer}{every})"


def online_rule_from(document: object) -> OnlineRule:
    """The inverse of `OnlineRule.document`.

    Raises:
        KeyError: a missing field. LossError: a malformed one.
    """
    if not isinstance(document, Mapping):
        raise LossError(f'the field "online" is {document!r:.60}: an object with lr, optimizer and every was expected.')
    return OnlineRule(number(document, "lr"), document["optimizer"], document["every"])
