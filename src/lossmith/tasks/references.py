"""From one text to the tasks it names: `digits/mlp,digits/lenet5`, or `sine/mlp@wave=0-9`.

Commas also stand between the modifiers of one task (`digits/mlp@noise=0.4,fraction=0.1`): what follows a comma and
reads like a modifier belongs to the task before it.
"""

from __future__ import annotations

import re

from lossmith.errors import SpecError, TaskError
from lossmith.tasks.modifiers import MODIFIERS

MOST_TASKS = 1000  # of one range
_MODIFIER = re.compile(r"\s*\w+\s*=")
_RANGE = re.compile(r"(?<=[@,])\s*wave\s*=\s*(\d+)\s*-\s*(\d+)\s*(?=[@,]|$)")
_WHOLE = re.compile(r"\d{1,9}")


def split_references(text: str) -> tuple[str, ...]:
    """The texts that name one task each, at least one.

    >>> split_references("digits/mlp@noise=0.4,fraction=0.1, digits/lenet5")
    ('digits/mlp@noise=0.4,fraction=0.1', 'digits/lenet5')
    >>> split_references("sine/mlp@wave=0-1@noise=0.1")
    ('sine/mlp@wave=0@noise=0.1', 'sine/mlp@wave=1@noise=0.1')

    Raises:
        SpecError: a range that holds nothing or too much.
        TaskError: a comma that separates nothing.
    """
    names: list[str] = []
    for piece in text.split(","):
        if names and "@" in names[-1] and (_MODIFIER.match(piece) or piece.strip() in (*MODIFIERS, "wave")):
            names[-1] += f",{piece}"
        else:
            names.append(piece)
    if len(names) > 1 and not all(name.strip() for name in names):
        raise TaskError(f"{text!r} names nothing between two commas: write task,task, e.g. digits/mlp,digits/lenet5.")
    return tuple(one for name in names for one in _expanded(name.strip()))


def _expanded(name: str) -> tuple[str, ...]:
    """The members of a range of waves; anything else as it is."""
    found = _RANGE.search(name)
    if found is None:
        return (name,)
    first, last = (int(end) for end in found.groups())
    if not first <= last < first + MOST_TASKS:
        what = "no task: write the lower end first" if last < first else f"more than {MOST_TASKS:,} tasks: name fewer"
        raise SpecError(f"wave={first}-{last} names {what}, e.g. wave=0-9.")
    return tuple(f"{name[: found.start()]}wave={n}{name[found.end() :]}" for n in range(first, last + 1))


def take_wave(name: str, modifiers: str, waves: bool) -> tuple[int | None, str]:
    """The number after `wave=` among the modifiers of a task, or None, and the other modifiers.

    Args:
        name: of the task. waves: whether it is one that has waves.

    Raises:
        SpecError: no whole number, a wave given twice, or a task without waves.
    """
    parts = re.split("[@,]", modifiers)
    given = [part for part in parts if part.partition("=")[0].strip() == "wave"]
    if not given:
        return None, modifiers
    if not waves:
        raise SpecError(f"{name} has no waves: @wave=N names a member of the test family of sine/mlp.")
    if len(given) > 1:
        raise SpecError("the modifier 'wave' is given twice: give it once.")
    value = given[0].partition("=")[2].strip()
    if not _WHOLE.fullmatch(value):
        raise SpecError(f"the modifier wave is {value!r}: it must be a whole number from 0 on, e.g. wave=3.")
    return int(value), "@".join(part for part in parts if part not in given)
