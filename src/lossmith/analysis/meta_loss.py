"""How a search by gradient went: the task loss that φ was tuned for, meta-step by meta-step, restart by restart."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

POINTS = 100  # of a curve: neighbouring meta-steps are averaged, for every batch is another


@dataclass(frozen=True)
class Block:
    """One tuning of one restart.

    Args:
        name: of the restart, for people.
        loss, made: canonical JSON of the loss before and after it.
        values: (meta-step, task loss), meta-steps counted from the restart's beginning.
        sound: whether it went to its end.
    """

    name: str
    loss: str
    made: str
    values: tuple[tuple[int, float], ...]
    sound: bool = True


@dataclass(frozen=True)
class Course:
    """One restart, in at most `POINTS` stretches of meta-steps.

    Args:
        name: for people.
        meta_steps: the last one of each stretch.
        mean, low, high: task loss in each.
        sound: whether it never failed.
    """

    name: str
    meta_steps: tuple[int, ...]
    mean: tuple[float, ...]
    low: tuple[float, ...]
    high: tuple[float, ...]
    sound: bool = True


@dataclass
class _Growing:
    name: str
    made: str
    values: list[tuple[int, float]] = field(default_factory=list)
    sound: bool = True


def meta_loss(blocks: Iterable[Block]) -> tuple[Course, ...]:
    """The courses of restarts, put together of their blocks.

    Args:
        blocks: in the order in which they were done; one goes on from the block that made its loss.
    """
    courses: list[_Growing] = []
    for block in blocks:
        own = next((one for one in courses if one.made == block.loss and one.sound), None)
        if own is None:
            own = _Growing(block.name, block.loss)
            courses.append(own)
        own.made, own.sound = block.made, block.sound
        own.values += [value for value in block.values if math.isfinite(value[1])]
    return tuple(_stretched(one) for one in courses if one.values)


def _stretched(one: _Growing) -> Course:
    width = -(-len(one.values) // POINTS)
    parts = [one.values[at : at + width] for at in range(0, len(one.values), width)]
    values: list[Sequence[float]] = [[value for _, value in part] for part in parts]
    return Course(
        one.name,
        tuple(part[-1][0] for part in parts),
        tuple(math.fsum(v) / len(v) for v in values),
        tuple(map(min, values)),
        tuple(map(max, values)),
        one.sound,
    )
