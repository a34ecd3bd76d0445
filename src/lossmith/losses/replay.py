"""A loss whose parameters follow a stored course of training: what is left of an adaptive loss when it stands still.

AdaLFL's result is φ0 with the rule by which it goes on learning (`losses.online_rule`). Where φ has been in one
training can be stored and replayed in another as an ordinary loss that reads the progress τ: at every τ it has the φ of
the stored time nearest to it.
"""

from __future__ import annotations

import base64
import binascii
import copy
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any, ClassVar

import numpy as np
from torch import Tensor

from lossmith.errors import LossError
from lossmith.losses.codec import kernel_from, register
from lossmith.losses.expression import Node
from lossmith.losses.family import Kernel
from lossmith.losses.inputs import Inputs
from lossmith.losses.loss import Loss, LossSet

_MOST = 4096  # stored times: a document from elsewhere shall not ask for more


@register
@dataclass(frozen=True)
class Replay(Kernel):
    """Members of one family at stored times; the numbers are rounded to float32.

    Args:
        kernel: any member; its own φ does not count.
        times: ascending, in [0, 1].
        course: φ at each time, [T, K].

    Raises:
        LossError: times that are not, other numbers of φ than the family has, a kernel without φ.

    Example:
        >>> from lossmith.losses.taylor import Taylor
        >>> print(Replay(Taylor((1.0,) * 8), (0.0, 0.5), ((1.0,) * 8, (2.0,) * 8)))
        replay of a taylor loss at 2 times
    """

    family: ClassVar[str] = "replay"
    kernel: Kernel
    times: tuple[float, ...]
    course: tuple[tuple[float, ...], ...]
    _members: tuple[Kernel, ...] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        times = tuple(map(float, self.times))
        if not times or not all(0 <= time <= 1 for time in times) or any(a >= b for a, b in pairwise(times)):
            raise LossError(f"replay times = {times!r:.60}: ascending numbers in [0, 1] were expected.")
        if len(self.course) != len(times) or len(times) > _MOST:
            raise LossError(f"a replay needs one φ for each of its {len(times)} times (at most {_MOST}).")
        if not self.kernel.phi:
            raise LossError(f"{self.kernel} has no loss parameters that could be replayed.")
        with np.errstate(over="ignore"):
            course = tuple(tuple(np.asarray(phi, np.float64).astype("<f4").tolist()) for phi in self.course)
        members = tuple(map(self.kernel.with_phi, course))
        object.__setattr__(self, "times", times)
        object.__setattr__(self, "course", course)
        object.__setattr__(self, "kernel", members[0])  # so that equal replays are equal
        object.__setattr__(self, "_members", members)

    @property
    def reads(self) -> frozenset[str]:
        return self.kernel.reads | {"tau"}

    @property
    def phi(self) -> tuple[float, ...]:
        return ()

    @property
    def members(self) -> tuple[Kernel, ...]:
        """The loss at each of the times."""
        return self._members

    def at(self, progress: float) -> Kernel:
        """The loss at a progress τ: of the nearest time, of the earlier one where two are."""
        return self._members[min(range(len(self.times)), key=lambda i: abs(self.times[i] - progress))]

    def value(self, x: Inputs, phi: Sequence[float] | Tensor | None = None) -> Tensor:
        tau = x["tau"]
        if isinstance(tau, Tensor) and tau.numel() != 1:
            raise LossError(f"progress of shape {tuple(tau.shape)}: a replay takes one number for all rows.")
        return self.at(float(tau)).value(x)

    def expression(self) -> Node:
        raise LossError(f"a {self} has no single formula: export it to torch or json.")

    def document(self) -> dict[str, Any]:
        kernel = {"family": self.kernel.family, **self.kernel.document()}
        return {"kernel": kernel, "times": list(self.times), "phi": [packed(phi) for phi in self.course]}

    @classmethod
    def from_document(cls, document: Mapping[str, Any]) -> Replay:
        for name in ("kernel", "times", "phi"):
            if name not in document:
                raise LossError(f"the replay lacks the field {name!r}.")
        times, course, kernel = document["times"], document["phi"], document["kernel"]
        if isinstance(kernel, Mapping) and kernel.get("family") == cls.family:
            raise LossError("a replay of a replay: the kernel of a replay is of another family.")
        for name, value in (("times", times), ("phi", course)):
            if not isinstance(value, list | tuple):
                raise LossError(f"replay {name} = {value!r:.60}: a list was expected.")
        if not all(isinstance(time, int | float) and not isinstance(time, bool) for time in times):
            raise LossError(f"replay times = {times!r:.60}: a list of numbers was expected.")
        return cls(kernel_from(kernel), tuple(times), tuple(map(unpacked, course)))

    def __str__(self) -> str:
        return f"replay of a {self.kernel.family} loss at {len(self.times)} times"


def packed(phi: Sequence[float]) -> str:
    """Numbers as little-endian float32 in base64."""
    return base64.b64encode(np.asarray(phi, "<f4").tobytes()).decode("ascii")


def unpacked(text: object) -> tuple[float, ...]:
    """The inverse of `packed`; LossError where the text is none."""
    try:
        if not isinstance(text, str):
            raise ValueError
        numbers = np.frombuffer(base64.b64decode(text, validate=True), "<f4")
    except (ValueError, binascii.Error):
        raise LossError(f"φ = {text!r:.40}: numbers in base64 (little-endian float32) were expected.") from None
    return tuple(numbers.tolist())


def replay_of(loss: Loss | LossSet, trajectory: Mapping[str, Any], steps: int) -> Loss | LossSet:
    """An adaptive loss as one that replays a stored trajectory.

    Args:
        loss: as it was before that training.
        trajectory: "steps" and "phi", as the product of a training has it; φ of all members of a set as one vector.
        steps: of the full training: τ is a step's share of them.

    Raises:
        LossError: the trajectory is malformed, or belongs to another loss.
    """
    try:
        times = [float(step) / steps for step in trajectory["steps"]]
        course = [unpacked(text) for text in trajectory["phi"]]
        if not times or len(times) != len(course) or not all(map(math.isfinite, times)):
            raise ValueError
    except (KeyError, TypeError, ValueError, ZeroDivisionError):
        raise LossError('this is no trajectory: "steps" and "phi" of a training with an adaptive loss.') from None
    members = tuple(loss) if isinstance(loss, LossSet) else (loss,)
    sizes = [len(member.kernel.phi) for member in members]
    if any(len(phi) != sum(sizes) for phi in course):
        raise LossError(f"the trajectory is of {len(course[0])} loss parameters, and this loss has {sum(sizes)}.")
    found, start = [], 0
    for member, size in zip(members, sizes, strict=True):
        found.append(_replayed(member, times, [phi[start : start + size] for phi in course]))
        start += size
    return LossSet(found) if isinstance(loss, LossSet) else found[0]


def _replayed(loss: Loss, times: Sequence[float], course: Sequence[tuple[float, ...]]) -> Loss:
    if loss.online is None:
        return loss
    static = copy.copy(loss)
    static.online, static.name = None, None
    static.kernel = Replay(loss.kernel, tuple(min(time, 1.0) for time in times), tuple(course))
    return static
