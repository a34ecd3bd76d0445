"""A loss family: how an elementwise loss ℓ is computed, stored and compared.

A `Kernel` is one member of a family: an immutable value. Everything around it (head, aggregation, reduction) is `Loss`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from torch import Tensor

from lossmith.errors import LossError
from lossmith.records import content_hash

if TYPE_CHECKING:
    from lossmith.losses.expression import Node
    from lossmith.losses.inputs import Inputs


@dataclass(frozen=True)
class Setting:
    """Where a loss is used: what decides which of its parameters can matter (ALGORITHMS §2, "What is identifiable").

    Args:
        head: "softmax", "sigmoid", "identity" or "custom".
        classes: number of outputs C.
        hard_targets: whether every target is one-hot.
    """

    head: str
    classes: int
    hard_targets: bool = True


class Kernel(ABC):
    """An elementwise loss ℓ, **to be minimised**. Subclasses are frozen dataclasses."""

    family: ClassVar[str]

    @property
    @abstractmethod
    def reads(self) -> frozenset[str]:
        """Names of the inputs `value` needs (see `losses.inputs`)."""

    @property
    @abstractmethod
    def phi(self) -> tuple[float, ...]:
        """The loss parameters φ, empty where the family has none."""

    @abstractmethod
    def value(self, x: Inputs, phi: Sequence[float] | Tensor | None = None) -> Tensor:
        """ℓ elementwise.

        Args:
            x: the inputs named by `reads`, each broadcastable to [N, C].
            phi: used instead of the kernel's own φ: numbers, or a tensor [K] through which a gradient flows.

        Returns:
            ℓ, broadcastable to [N, C].
        """

    def with_phi(self, phi: Sequence[float]) -> Kernel:
        """The kernel with other loss parameters.

        Raises:
            LossError: the family has no parameters, or has another number of them, or one is not finite.
        """
        raise LossError(f"a loss of the {self.family} family has no parameters: {len(phi)} numbers cannot be set.")

    @abstractmethod
    def expression(self) -> Node:
        """The same ℓ as an expression tree; LossError where the family has no symbolic form."""

    def expression_in(self, phi: Sequence[Node]) -> Node:
        """The same ℓ with nodes in the place of φ; LossError where the family has no such form.

        Args:
            phi: one node per loss parameter, in the order of `phi`.
        """
        raise LossError(f"a loss of the {self.family} family is no expression of its {len(phi)} parameters.")

    @abstractmethod
    def document(self) -> dict[str, Any]:
        """What `from_document` needs to rebuild the kernel, JSON-able."""

    @classmethod
    @abstractmethod
    def from_document(cls, document: Mapping[str, Any]) -> Kernel:
        """The inverse of `document`; LossError names a missing or malformed field."""

    def key(self, setting: Setting) -> str:
        """Kernels with one key train identically under this setting. By default: only identical ones do."""
        del setting
        return content_hash({"family": self.family, **self.document()})


def number(document: Mapping[str, Any], field: str) -> float:
    """A field of a document that must hold a number.

    Raises:
        KeyError: it is missing.
        LossError: it holds something else.
    """
    value = document[field]
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise LossError(f"the field {field!r} of the loss is {value!r:.60}: a number was expected.")
    return float(value)
