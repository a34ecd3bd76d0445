"""What a search is asked to do, from a file and from options: a file has the form of a run's stored `spec.toml`.

A stored spec can be given as it is; what follows from the task and the machine (`versions`, most of `plan`) is decided
anew. Options on the command line win over the file.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lossmith.cli.gradient_options import gradient_settings, rounds
from lossmith.cli.naming import split_list
from lossmith.errors import SpecError, UsageError

if TYPE_CHECKING:
    from lossmith.cli.options import SearchOptions

_NUMBER = (int, float)
_TYPES: Mapping[str, tuple[Any, str]] = {
    "format": (int, "a whole number"),
    "kind": (str, 'the word "search"'),
    "seed": (int, "a whole number"),
    "run": (str, "a folder in quotes"),
    "task": (dict, "a table, [task]"),
    "task.reference": (str, "a task's name in quotes"),
    "task.steps": (int, "a whole number"),
    "task.each": (list, "a list of whole numbers"),
    "search": (dict, "a table, [search]"),
    "search.method": (str, "a method's name in quotes"),
    "search.settings": (dict, "a table, [search.settings]"),
    "search.partial": (_NUMBER, "a share of the full training up to 1, or a number of steps"),
    "search.shelf": (str, "the folder of a shelf run in quotes"),
    "plan": (dict, "a table, [plan]"),
    "plan.members": (list, "the plan of each task"),
    "plan.device": (str, "a device in quotes"),
    "plan.engine": (str, "an engine in quotes"),
    "plan.dtype": (str, "a number format in quotes"),
    "plan.compile": (bool, "true or false"),
    "plan.deadline": (_NUMBER, "a number of seconds"),
}


@dataclass(frozen=True)
class Experiment:
    """A search that was asked for; fields hold what was given, the library knows the rest.

    Args:
        method: name. settings: of the method. task: text that names it. steps: of the full training, of each of several
            tasks where there are many numbers.
        section: fields of `SearchSection`, beside method, settings, budget, start_from and shelf.
        partial: effort per candidate. start_from, shelf: texts that name losses and runs.
        seed, run, device, engine, dtype, compile, deadline: see `lm.search`.
    """

    method: str
    task: str
    settings: Mapping[str, Any] = field(default_factory=dict)
    steps: int | tuple[int, ...] | None = None
    section: Mapping[str, Any] = field(default_factory=dict)
    partial: float | None = None
    start_from: tuple[str, ...] = ()
    shelf: str | None = None
    seed: int = 0
    run: str | None = None
    device: str = "cpu"
    engine: str = "rule"
    dtype: str = "float32"
    compile: bool | None = None
    deadline: float | None = None


def read_experiment(asked: SearchOptions) -> Experiment:
    """What file and options ask for together.

    Raises:
        SpecError: a field that is unknown (with the nearest name), malformed or out of range; nothing to search.
        UnknownNameError: no such method.
    """
    from lossmith.experiment.spec import SearchSection, make
    from lossmith.search import method as make_method

    document = {} if asked.experiment is None else _read(asked.experiment)
    task, plan = document.get("task", {}), document.get("plan", {})
    search = dict(document.get("search", {}))
    settings = {**search.pop("settings", {}), **_settings(asked)}
    name = asked.method or search.pop("method", None)
    reference = asked.task or task.get("reference")
    if name is None:
        raise UsageError("which method? Give --method taylorglo, or another that `lossmith methods` lists.")
    if reference is None:
        known = "the file's task was built in Python and has no reference" if "name" in task else "which task?"
        raise UsageError(f"{known}: give --task digits/mlp, or another that `lossmith tasks` lists.")
    search.pop("method", None)
    partial = _either(asked.partial, search.pop("partial", None), search.pop("budget", None))
    start_from = split_list(asked.start_from) if asked.start_from else _texts(search.pop("start_from", ()))
    shelf = asked.shelf or search.pop("shelf", None)
    for other in ("start_from", "shelf"):
        search.pop(other, None)
    settings |= gradient_settings(asked, name)
    for option in ("generations", "fidelity", "seeds_per_candidate", "elites", "finalists", "finalist_seeds"):
        given = getattr(asked, option)
        search |= {} if given is None else {option: given}
    made = make_method(name, **settings)  # whatever is wrong with these is told before any data is read
    if made.rounds is not None:
        search["generations"] = rounds(made, asked, document.get("search", {}))
    make(SearchSection, method=name, **search)
    return Experiment(
        method=name,
        task=reference,
        settings=settings,
        steps=_either(asked.steps, _steps(task, asked.task)),
        section=search,
        partial=partial,
        start_from=start_from,
        shelf=shelf,
        seed=_either(asked.seed, document.get("seed"), 0),
        run=asked.run or document.get("run"),
        device=asked.device or plan.get("device", "cpu"),
        engine=asked.engine or _engine(plan),
        dtype=asked.dtype or plan.get("dtype", "float32"),
        compile=_either(asked.compile, plan.get("compile")),
        deadline=_either(asked.deadline, plan.get("deadline") or None),
    )


def _engine(plan: Mapping[str, Any]) -> str:
    """The engine of a file; the rule where it gave several tasks different ones."""
    each = {str(dict(one).get("engine", "rule")) for one in plan.get("members", ())}
    return "rule" if len(each) > 1 else str(plan.get("engine", "rule"))


def _steps(task: Mapping[str, Any], instead: str | None) -> int | tuple[int, ...] | None:
    """Full training steps of a file's task; those of several belong to these tasks and to no others."""
    each = tuple(task.get("each", ()))
    if each:
        return each if instead is None else None
    steps: int | None = task.get("steps")
    return steps


def _either(*values: Any) -> Any:
    return next((value for value in values if value is not None), None)


def _read(path: Path) -> dict[str, Any]:
    """The document of an experiment file, its names and types checked; values are checked where they are used."""
    from dataclasses import fields

    from lossmith.evaluation import Plan
    from lossmith.experiment.spec import FORMAT, SearchSection, Spec, TaskSection, read_toml

    document = read_toml(path)
    known = {
        "": {"run", *Spec.model_fields} - {"compare"},
        "task": set(TaskSection.model_fields),
        "search": {"partial", *SearchSection.model_fields},
        "plan": {entry.name for entry in fields(Plan)},
    }
    for place, names in known.items():
        table = document if place == "" else document.get(place, {})
        _check_type(path, place, table)
        for name, value in table.items():
            full = f"{place}.{name}" if place else name
            if name not in names:
                raise SpecError(f"{path}: unknown field {full!r}{_nearest(name, known, place)}")
            _check_type(path, full, value)
    if document.get("format", FORMAT) > FORMAT:
        raise SpecError(
            f"{path} has format {document['format']}, this Lossmith reads up to {FORMAT}: upgrade lossmith."
        )
    if document.get("kind", "search") != "search":
        raise SpecError(f"{path} describes a {document['kind']}: `lossmith search` takes the spec of a search.")
    if "partial" in document.get("search", {}) and "budget" in document["search"]:
        raise SpecError(f"{path}: search.partial and search.budget say the same: give one of them.")
    return document


def _nearest(name: str, known: Mapping[str, set[str]], place: str) -> str:
    elsewhere = [other for other, names in known.items() if name in names and other != place]
    if elsewhere:
        return f": it belongs into [{elsewhere[0]}]." if elsewhere[0] else ": it belongs above the first table."
    near = difflib.get_close_matches(name, known[place], n=1)
    if near:
        return f": did you mean {near[0]!r}?"
    return f": known are {', '.join(sorted(known[place]))}."


def _check_type(path: Path, name: str, value: Any) -> None:
    wanted, words = _TYPES.get(name, (object, ""))
    if not isinstance(value, wanted) or (isinstance(value, bool) and wanted not in (object, bool)):
        raise SpecError(f"{path}: {name} = {value!r}: {words} was expected.")


def _texts(value: Any) -> tuple[str, ...]:
    texts = [value] if isinstance(value, str) else value
    if not (isinstance(texts, Sequence) and all(isinstance(text, str) for text in texts)):
        raise SpecError(f"search.start_from = {value!r}: a list of losses and runs in quotes was expected.")
    return tuple(texts)


def _settings(asked: SearchOptions) -> dict[str, Any]:
    """`--set key=value` and `--population`."""
    settings: dict[str, Any] = {}
    for text in asked.settings or ():
        name, equals, value = (part.strip() for part in text.partition("="))
        if not name or not equals or not value:
            raise UsageError(f"--set {text}: write it as --set key=value, e.g. --set order=4.")
        if name in settings:
            raise UsageError(f"--set {name} is given twice: give it once.")
        settings[name] = _value(value)
    if asked.population is not None:
        if "population" in settings:
            raise UsageError("--population and --set population say the same: give one of them.")
        settings["population"] = asked.population
    return settings


def _value(text: str) -> Any:
    """A number, true or false where it reads like one, otherwise the text itself."""
    if text in ("true", "false"):
        return text == "true"
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text
