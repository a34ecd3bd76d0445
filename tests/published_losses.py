"""Published losses with what each needs beside outputs and targets."""

from __future__ import annotations

from typing import Any

from lossmith.errors import LossError
from lossmith.losses import PUBLISHED, Loss, Pointwise, loss

PROGRESS = 0.33


def prior_of(classes: int) -> tuple[float, ...]:
    """A long tail: each class is half as frequent again as the next one."""
    shares = [1.5**-place for place in range(classes)]
    return tuple(share / sum(shares) for share in shares)


def made(name: str, *, classes: int = 3, rows: int = 200, **settings: Any) -> Loss:
    """A published loss for outputs of so many classes; to be called with progress=PROGRESS."""
    if name.startswith("class_balanced"):
        settings["rows"] = rows
    if "the class prior" in PUBLISHED[name].needs:
        settings["prior"] = prior_of(2 if settings.get("head") == "sigmoid" else classes)
    return loss(name, **settings)


def has_formula(name: str) -> bool:
    """Whether it is a sum over outputs of a formula."""
    try:
        PUBLISHED[name].kernel().expression()
    except LossError:
        return False
    return isinstance(PUBLISHED[name].aggregation(), Pointwise)


FORMULAS = [name for name in PUBLISHED if has_formula(name)]
"""The names of those that are."""
