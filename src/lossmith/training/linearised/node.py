"""One step of a recorded forward pass, as a linear map of the changes of its inputs."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence

from torch import Tensor

from lossmith.training.linearised.many import Many


class Variable:
    """A tensor of the recorded pass that depends on θ.

    Args:
        tensor: its value at θ0. maker: what it comes from; None for a parameter.
    """

    def __init__(self, tensor: Tensor, maker: Node | None = None) -> None:
        self.tensor, self.maker = tensor, maker


class Node(ABC):
    """A function of some variables with its derivative at their values.

    Attributes:
        inputs: each variable it depends on, once or more. outputs: what it makes.
    """

    def __init__(self, inputs: Sequence[Variable], outputs: Sequence[Tensor]) -> None:
        self.inputs = tuple(inputs)
        # Leaves, so that what takes a value past the record is seen to carry a gradient from nowhere.
        self.outputs = tuple(Variable(tensor.detach().requires_grad_(), self) for tensor in outputs)

    @abstractmethod
    def pull(self, deltas: Sequence[Many | None], count: int) -> list[Many | None]:
        """Derivatives by the inputs from those by the outputs, for `count` candidates; None stands for zeros."""

    @abstractmethod
    def push(self, tangents: Sequence[Many], count: int) -> list[Many]:
        """Changes of the outputs from those of the inputs."""


class Map(Node):
    """A node of one output."""

    @property
    def output(self) -> Tensor:
        return self.outputs[0].tensor

    def pull(self, deltas: Sequence[Many | None], count: int) -> list[Many | None]:
        (delta,) = deltas
        assert delta is not None
        return self.pulled(delta)

    def push(self, tangents: Sequence[Many], count: int) -> list[Many]:
        return [self.pushed(tangents)]

    @abstractmethod
    def pulled(self, delta: Many) -> list[Many | None]: ...

    @abstractmethod
    def pushed(self, tangents: Sequence[Many]) -> Many: ...
