"""`Published`: what is known of a loss from the literature, and how one is made of it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from lossmith.errors import LossError
from lossmith.losses.aggregation import Aggregation, Pairwise, Pointwise, Ratio
from lossmith.losses.family import Kernel
from lossmith.losses.parser import parse
from lossmith.losses.tree import Tree

CLASSES = ("softmax", "sigmoid")
_NEEDS = {"prior": "the class prior", "tau": "training progress"}


@dataclass(frozen=True)
class Published:
    """A loss from the literature.

    Args:
        name: how it is called in Python and on the command line.
        text: ℓ in the expression language, with the parameters as names; "" where the loss has another family. With
            `build`, a formula for people.
        parameters: their default values.
        reference: where it was published.
        heads: heads it makes sense under.
        summary: one sentence for people.
        gradient: what its gradient does, in one sentence.
        ranges: per parameter the interval of sensible values, "(0, 1]".
        build: makes the kernel where `text` cannot.
        around: makes the aggregation around the kernel; pointwise without.
    """

    name: str
    text: str
    reference: str
    summary: str
    gradient: str
    heads: tuple[str, ...] = CLASSES
    parameters: Mapping[str, float] = field(default_factory=dict, hash=False)
    ranges: Mapping[str, str] = field(default_factory=dict, hash=False)
    build: Callable[[Mapping[str, float]], Kernel] | None = None
    around: Callable[[Mapping[str, float]], Aggregation] | None = None

    def kernel(self, parameters: Mapping[str, float] | None = None) -> Kernel:
        """The loss with its parameters, defaults where none is given.

        Raises:
            LossError: a parameter the loss does not have, or a value outside its range.
        """
        values = self._values(parameters)
        return Tree(parse(self.text, parameters=values)) if self.build is None else self.build(values)

    def aggregation(self, parameters: Mapping[str, float] | None = None) -> Aggregation:
        """What is around the kernel.

        Raises:
            LossError: as `kernel`.
        """
        return Pointwise() if self.around is None else self.around(self._values(parameters))

    def title(self, parameters: Mapping[str, float] | None = None) -> str:
        """The name with the parameters that differ from their defaults: "focal(gamma=3)"."""
        changed = [f"{k}={float(v):g}" for k, v in sorted((parameters or {}).items()) if v != self.parameters[k]]
        return f"{self.name}({', '.join(changed)})" if changed else self.name

    def formula(self) -> str:
        """ℓ as text with named parameters; of a Taylor loss, the polynomial."""
        return self.text or str(self.kernel())

    @property
    def needs(self) -> tuple[str, ...]:
        """What it takes beside outputs and targets: "the class prior", "training progress", "the whole batch"."""
        around = self.aggregation()
        read = self.kernel().reads | (around.denominator.reads if isinstance(around, Ratio) else frozenset())
        whole = () if isinstance(around, Pointwise | Pairwise) else ("the whole batch",)
        return (*(words for name, words in _NEEDS.items() if name in read), *whole)

    def _values(self, parameters: Mapping[str, float] | None) -> dict[str, float]:
        parameters = parameters or {}
        unknown = sorted(parameters.keys() - self.parameters.keys())
        if unknown:
            takes = ", ".join(self.parameters) if self.parameters else "no parameters"
            raise LossError(f"{self.name} has no parameter {unknown[0]!r}: it takes {takes}.")
        values = {**self.parameters, **parameters}
        for name, value in values.items():
            _check_range(self.name, name, value, self.ranges.get(name, "(-inf, inf)"))
        return values


def _check_range(loss: str, name: str, value: float, interval: str) -> None:
    low, high = (float(bound) for bound in interval[1:-1].split(","))
    above = value > low if interval[0] == "(" else value >= low
    below = value < high if interval[-1] == ")" else value <= high
    if not (above and below):
        raise LossError(f"{loss}: {name} = {value} is outside {interval}.")
