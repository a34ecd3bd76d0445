"""Losses of a whole row: an output's share depends on the other outputs, so there is no formula of one output."""

from __future__ import annotations

import dataclasses
import math
from abc import abstractmethod
from collections.abc import Mapping
from typing import Any, Self

from torch import Tensor

from lossmith.errors import LossError
from lossmith.losses.expression import Node
from lossmith.losses.family import Kernel, number
from lossmith.losses.inputs import Inputs


@dataclasses.dataclass(frozen=True)
class RowKernel(Kernel):
    """A kernel whose fields are plain numbers and that has neither loss parameters nor an expression.

    Raises:
        LossError: a field that is no finite number.
    """

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
                raise LossError(f"{self.family}: {field.name} = {value!r} must be a finite number.")
            object.__setattr__(self, field.name, float(value) + 0.0)  # minus zero becomes zero

    @property
    def phi(self) -> tuple[float, ...]:
        return ()

    def expression(self) -> Node:
        raise LossError(f"{self} looks at a row as a whole, so it has no formula of one output.")

    @abstractmethod
    def source(self) -> list[str]:
        """The same as lines of Python that import only torch; the last one sets `value`, [N, C].

        They may use every name in `reads` (numbers among them as tensors) and `F`, torch.nn.functional.
        """

    def document(self) -> dict[str, Any]:
        return {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}

    @classmethod
    def from_document(cls, document: Mapping[str, Any]) -> Self:
        return cls(**{field.name: number(document, field.name) for field in dataclasses.fields(cls)})

    def __str__(self) -> str:
        settings = ", ".join(f"{name}={value:g}" for name, value in self.document().items())
        return f"{self.family}({settings})"


def tensors(x: Inputs, *names: str) -> list[Tensor]:
    """These inputs, which are always tensors under a head."""
    return [value for name in names if isinstance(value := x[name], Tensor)]
