"""The tree family: any expression of the loss language as a kernel."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch
from torch import Tensor

from lossmith.errors import LossError
from lossmith.losses.codec import register
from lossmith.losses.expression import Node, symbols
from lossmith.losses.family import Kernel
from lossmith.losses.inputs import INPUTS, LOWERED, Inputs
from lossmith.losses.lowering import Program, lower
from lossmith.losses.parser import parse
from lossmith.losses.printer import to_text


@register
@dataclass(frozen=True)
class Tree(Kernel):
    """An elementwise loss, **to be minimised**, given by its expression tree.

    Args:
        root: the expression; its symbols are inputs of `losses.inputs`.

    Raises:
        LossError: a symbol is no input of a loss.

    Example:
        >>> from lossmith.losses.parser import parse
        >>> print(Tree(parse("-t*log(p)")))
        -t*log(p)
    """

    family: ClassVar[str] = "tree"
    root: Node
    program: Program = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        unknown = symbols(self.root) - INPUTS.keys() - LOWERED.keys()
        if unknown:
            raise LossError(
                f"{', '.join(sorted(unknown))} in {to_text(self.root)} is no input of a loss: use {', '.join(INPUTS)}, "
                f"and give numbers for everything else."
            )
        object.__setattr__(self, "program", Program.of(lower(self.root)))

    @property
    def reads(self) -> frozenset[str]:
        return frozenset(leaf for leaf in self.program.leaves if isinstance(leaf, str))

    @property
    def phi(self) -> tuple[float, ...]:
        return ()

    def value(self, x: Inputs, phi: Sequence[float] | Tensor | None = None) -> Tensor:
        """ℓ elementwise, broadcastable to [N, C]; a tree has no φ."""
        del phi
        result = self.program.run(x)
        return result if isinstance(result, Tensor) else torch.tensor(result, dtype=torch.float64)

    def expression(self) -> Node:
        return self.root

    def document(self) -> dict[str, Any]:
        return {"expression": to_text(self.root)}

    @classmethod
    def from_document(cls, document: Mapping[str, Any]) -> Tree:
        text = document.get("expression")
        if not isinstance(text, str):
            raise LossError('a loss of the tree family needs the field "expression", a text such as "-t*log(p)".')
        return cls(parse(text))

    def __str__(self) -> str:
        return to_text(self.root)
