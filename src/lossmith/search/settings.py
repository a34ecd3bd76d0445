"""Settings of search methods: each field of a method says what it means and what it may be, and is checked by that.

population: int = whole(20, 1, 10_000, "candidates per generation")
"""

from __future__ import annotations

import dataclasses
import difflib
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from lossmith.errors import SpecError
from lossmith.losses.primitive_sets import PRIMITIVE_SETS

_RULE = "lossmith.setting"


@dataclass(frozen=True)
class SettingInfo:
    """One setting of a method, for people.

    Args:
        name: as in `--set name=value`.
        default: its value unless set.
        range: in words, what it may be.
        meaning: what it does.
    """

    name: str
    default: Any
    range: str
    meaning: str


@dataclass(frozen=True)
class _Rule:
    range: str
    meaning: str
    accept: Callable[[Any], Any]  # the value in its final type; raises TypeError or ValueError


def whole(default: int, low: int, high: int, meaning: str) -> Any:
    """A dataclass field for a whole number from `low` to `high`."""

    def accept(value: Any) -> int:
        if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
            raise ValueError
        return value

    return _field(default, f"a whole number from {low} to {high}", meaning, accept)


def positive(default: float, high: float, meaning: str) -> Any:
    """A dataclass field for a number above 0, up to `high`."""

    def accept(value: Any) -> float:
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise TypeError
        if not (math.isfinite(value) and 0 < value <= high):
            raise ValueError
        return float(value)

    return _field(default, f"a number above 0, up to {high:g}", meaning, accept)


def share(default: float, meaning: str) -> Any:
    """A dataclass field for a probability or a part of a whole."""
    return between(default, 0.0, 1.0, meaning)


def between(default: float, low: float, high: float, meaning: str) -> Any:
    """A dataclass field for a number from `low` to `high`, both included."""

    def accept(value: Any) -> float:
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise TypeError
        if not low <= value <= high:
            raise ValueError
        return float(value)

    return _field(default, f"a number from {low:g} to {high:g}", meaning, accept)


def flag(default: bool, meaning: str) -> Any:
    """A dataclass field that is true or false."""

    def accept(value: Any) -> bool:
        if not isinstance(value, bool):
            raise TypeError
        return value

    return _field(default, "true or false", meaning, accept)


def text(default: str, range_: str, meaning: str) -> Any:
    """A dataclass field for a text that only a later room can judge; `range_` says in words what it may be."""

    def accept(value: Any) -> str:
        if not isinstance(value, str):
            raise TypeError
        return value.strip()

    return _field(default, range_, meaning, accept)


def primitives(default: str) -> Any:
    """A dataclass field for a registered primitive set, by name."""

    def accept(value: Any) -> str:
        if value not in PRIMITIVE_SETS:  # looked up now: a user may have registered more since
            raise ValueError
        return str(value)

    known = ", ".join(PRIMITIVE_SETS)
    return _field(default, f"a primitive set: {known}, or one you registered", "functions and leaves", accept)


def one_of(default: str, options: Sequence[str], meaning: str) -> Any:
    """A dataclass field for one of some words."""

    def accept(value: Any) -> str:
        if value not in tuple(options):
            raise ValueError
        return str(value)

    shown = ", ".join(f"'{option}'" if "," in option else option for option in options)
    return _field(default, f"one of {shown}", meaning, accept)


def words(default: tuple[str, ...], options: Sequence[str], meaning: str) -> Any:
    """A dataclass field for distinct words, given as a list or as text with commas."""

    def accept(value: Any) -> tuple[str, ...]:
        given = tuple(v.strip() for v in value.split(",")) if isinstance(value, str) else tuple(value)
        if not given or any(given.count(w) > 1 or w not in tuple(options) for w in given):
            raise ValueError
        return given

    return _field(default, f"distinct names out of {', '.join(options)}", meaning, accept)


def check_settings(method: Any) -> None:
    """Check every field of a method's dataclass by its rule; called while the instance is made.

    Raises:
        SpecError: names the field, the value and the range.
    """
    for field in dataclasses.fields(method):
        rule: _Rule | None = field.metadata.get(_RULE)
        if rule is None:
            continue
        value = getattr(method, field.name)
        try:
            object.__setattr__(method, field.name, rule.accept(value))
        except (TypeError, ValueError):
            raise SpecError(f"{method.name}.{field.name} = {value!r}: {rule.range} was expected.") from None


def check_names(method: Any, given: Mapping[str, Any]) -> None:
    """SpecError with the nearest names if a method has no such setting."""
    known = [field.name for field in dataclasses.fields(method)]
    for name in given:
        if name not in known:
            near = difflib.get_close_matches(name, known, n=1)
            hint = f"did you mean {near[0]!r}?" if near else f"it has {', '.join(known)}."
            raise SpecError(f"{method.name} has no setting {name!r}: {hint} `lossmith methods` explains them.")


def describe(method: Any) -> tuple[SettingInfo, ...]:
    """Every setting of a method class that states what it may be."""
    return tuple(
        SettingInfo(field.name, field.default, rule.range, rule.meaning)
        for field in dataclasses.fields(method)
        if (rule := field.metadata.get(_RULE)) is not None
    )


def _field(default: Any, range_: str, meaning: str, accept: Callable[[Any], Any]) -> Any:
    return dataclasses.field(default=default, metadata={_RULE: _Rule(range_, meaning, accept)})
