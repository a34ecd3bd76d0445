"""The spec: everything a run was asked to do, complete enough to do it again. TOML in, complete TOML out."""

from __future__ import annotations

import platform
import tomllib
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Literal

import tomli_w
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from lossmith.errors import SpecError

FORMAT = 1


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class TaskSection(_Section):
    """Which task, or several: `reference` is text that rebuilds it, absent for tasks built in Python."""

    name: str
    reference: str | None = None
    steps: int | None = Field(None, ge=1, description="full training steps, where they differ from the task's own")
    each: tuple[int, ...] = Field((), description="those of each of several tasks, whose sum `steps` is")

    @property
    def of_each(self) -> int | tuple[int, ...] | None:
        """Full training steps as `resolve_task` takes them."""
        return self.each or self.steps

    @property
    def option(self) -> int | None:
        """What `--steps` takes to name this task; None where no one number does."""
        return self.steps if not self.each else self.each[0] if len(set(self.each)) == 1 else None


class SearchSection(_Section):
    """What is searched and with what effort."""

    method: str
    settings: dict[str, Any] = Field(default_factory=dict)
    generations: int = Field(20, ge=1, le=1_000_000)
    budget: float = Field(0.1, gt=0, le=1, description="share of the full training each candidate gets")
    fidelity: Literal["steps", "data"] = "steps"
    seeds_per_candidate: int = Field(1, ge=1, le=100)
    elites: int = Field(1, ge=0, le=100, description="candidates that gain a seed per generation")
    seed_block: int = Field(5, ge=1, le=1000, description="most seeds a candidate can gain")
    finalists: int = Field(5, ge=1, le=1000)
    finalist_seeds: int = Field(2, ge=1, le=1000)
    early_stopping: bool = False
    start_from: tuple[str, ...] = Field((), description="losses as JSON that the search starts from")
    shelf: str | None = Field(None, description="folder of the shelf run that the verdict compares with")


class CompareSection(_Section):
    """Losses trained side by side on the same seeds; the first is the reference."""

    names: tuple[str, ...] = Field(min_length=1)
    losses: tuple[str, ...] = Field(min_length=1, description="losses as JSON")
    lr_scales: tuple[float, ...]
    budgets: tuple[float, ...]
    notes: tuple[str, ...] = ()
    tune: tuple[int, ...] = Field((), description="positions of losses that also run with tuned learning rate")
    seeds: int = Field(10, ge=1, le=10_000)
    tune_seeds: int = Field(2, ge=1, le=1000)
    delta: float | None = Field(None, gt=0, description='margin for "no worse", in the metric\'s units')


class Spec(_Section):
    """A whole run."""

    format: int = FORMAT
    kind: Literal["search", "shelf", "compare"]
    seed: int = Field(0, ge=0, lt=2**63)
    task: TaskSection
    search: SearchSection | None = None
    compare: CompareSection | None = None
    plan: dict[str, Any] = Field(default_factory=dict)
    versions: dict[str, str] = Field(default_factory=dict)

    def to_toml(self) -> str:
        """Complete TOML: defaults, versions, seeds and plan included."""
        document = self.model_dump(mode="json")
        if not self.task.each:  # one task, as ever
            del document["task"]["each"]
        return tomli_w.dumps(_without_none(document))


def make(section: type[_Section], **values: Any) -> Any:
    """A section or spec; SpecError names the field, the value and what it must be."""
    try:
        return section(**values)
    except ValidationError as error:
        raise SpecError(_sentence(error)) from None


def from_toml(text: str, source: str) -> Spec:
    """The spec a run stored.

    Raises:
        SpecError: not TOML, a newer format, or a malformed field.
    """
    document = parse_toml(text, source)
    found = document.get("format", FORMAT)
    if isinstance(found, int) and found > FORMAT:
        raise SpecError(f"{source} has format {found}, this Lossmith reads up to {FORMAT}: upgrade lossmith.")
    spec: Spec = make(Spec, **document)
    return spec


def parse_toml(text: str, source: str) -> dict[str, Any]:
    """TOML text as a dict; SpecError with line and column if it is none."""
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise SpecError(f"{source} is not valid TOML: {error}.") from None


def read_toml(path: Path) -> dict[str, Any]:
    """A TOML file as a dict."""
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise SpecError(f"there is no file {path}.") from None
    except (OSError, UnicodeDecodeError) as error:
        raise SpecError(f"{path} cannot be read: {error}.") from None
    return parse_toml(text, str(path))


def versions() -> dict[str, str]:
    """Versions of what the bits of a result depend on."""
    found = {"python": platform.python_version()}
    for package in ("lossmith", "torch", "numpy", "cma"):
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = "unknown"
    return found


def _sentence(error: ValidationError) -> str:
    first = error.errors()[0]
    field = ".".join(str(part) for part in first["loc"]) or "spec"
    if first["type"] == "extra_forbidden":
        return f"unknown field {field!r} in the spec: remove it or correct its name."
    if first["type"] == "missing":
        return f"the spec lacks the field {field!r}."
    message = first["msg"][0].lower() + first["msg"][1:]
    return f"{field} = {first['input']!r}: {message}."


def _without_none(document: Any) -> Any:
    """TOML has no null: an absent field is the default."""
    if isinstance(document, dict):
        return {key: _without_none(value) for key, value in document.items() if value is not None}
    if isinstance(document, list):
        return [_without_none(value) for value in document]
    return document
