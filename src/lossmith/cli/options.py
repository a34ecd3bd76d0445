"""Options as records: each command takes one, whose fields are its options. None means: not given."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import MISSING, dataclass, fields
from pathlib import Path
from typing import Annotated, Any, TypeVar, get_type_hints

import typer

R = TypeVar("R")
_TASK, _SEARCH, _EFFORT, _CHOICE = "What is learned", "What is searched", "Effort", "Choosing the best"
_RUN, _MACHINE, _JUDGE = "Run", "Machine", "Judging"


def takes(record: type[R]) -> Callable[[Callable[[R], None]], Callable[..., None]]:
    """Turn a function of a record into a command: the record's fields become its arguments and options."""
    hints = get_type_hints(record, include_extras=True)
    parameters = [
        inspect.Parameter(
            field.name,
            inspect.Parameter.KEYWORD_ONLY,
            default=inspect.Parameter.empty if field.default is MISSING else field.default,
            annotation=hints[field.name],
        )
        for field in fields(record)  # type: ignore[arg-type]
    ]

    def wrap(function: Callable[[R], None]) -> Callable[..., None]:
        def command(**values: Any) -> None:
            function(record(**values))

        command.__name__, command.__doc__ = function.__name__, function.__doc__
        command.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
        command.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
        return command

    return wrap


def _option(name: str, panel: str, metavar: str, help: str, default: str | None = None) -> Any:
    shown = f"{help} [dim]Default: {default}.[/dim]" if default else help
    return typer.Option(name, metavar=metavar, help=shown, rich_help_panel=panel, show_default=False)


Json = Annotated[bool, typer.Option("--json", help="Print JSON instead of tables.", show_default=False)]
Workers = Annotated[
    int | None,
    _option(
        "--workers",
        _MACHINE,
        "N",
        "Processes; 0 trains in this one. No result depends on it.",
        "one per core or GPU, as memory allows",
    ),
]
DataDir = Annotated[Path | None, _option("--data-dir", _TASK, "DIR", "Where data files are.", "$LOSSMITH_DATA")]
RunArgument = Annotated[str, typer.Argument(metavar="RUN", help="A run folder.", show_default=False)]


@dataclass(frozen=True, kw_only=True)
class TaskOptions:
    """What is to be learned."""

    task: Annotated[
        str | None,
        _option(
            "--task",
            _TASK,
            "TASK",
            "One of `lossmith tasks`, or your own package.module:function; several with commas between them.",
        ),
    ] = None
    steps: Annotated[
        int | None, _option("--steps", _TASK, "N", "Steps of the full training, of each task.", "the task's own")
    ] = None
    data_dir: DataDir = None


@dataclass(frozen=True, kw_only=True)
class NewRun:
    """Where a new run goes."""

    run: Annotated[str | None, _option("--run", _RUN, "DIR", "Folder of the new run.", "runs/…")] = None
    seed: Annotated[int | None, _option("--seed", _RUN, "N", "Seed of everything random.", "0")] = None


@dataclass(frozen=True, kw_only=True)
class Machine:
    """What the work may use."""

    workers: Workers = None
    device: Annotated[str | None, _option("--device", _MACHINE, "NAME", "cpu, cuda, cuda:1 …", "cpu")] = None
    engine: Annotated[
        str | None,
        _option(
            "--engine",
            _MACHINE,
            "NAME",
            "sequential, population (candidates stacked), rule (by model and device) or auto (measures).",
            "rule",
        ),
    ] = None
    dtype: Annotated[
        str | None, _option("--dtype", _MACHINE, "NAME", "float32, or bfloat16 for forward passes.", "float32")
    ] = None
    compile: Annotated[
        bool | None,
        typer.Option(
            "--compile/--no-compile",
            help="Compile stacked training steps on the CPU. [dim]Default: no; --engine auto says what it gains.[/dim]",
            rich_help_panel=_MACHINE,
            show_default=False,
        ),
    ] = None
    deadline: Annotated[
        float | None, _option("--deadline", _MACHINE, "SECONDS", "Seconds after which a training is given up.", "none")
    ] = None


@dataclass(frozen=True, kw_only=True)
class Finalists:
    """How much is trained, and how the best are chosen."""

    partial: Annotated[
        float | None,
        _option(
            "--partial",
            _EFFORT,
            "SHARE|N",
            "Training per candidate: share or steps.",
            "the task's own, else 0.1",
        ),
    ] = None
    finalists: Annotated[
        int | None, _option("--finalists", _CHOICE, "N", "How many of the best are trained again, in full.", "up to 5")
    ] = None
    finalist_seeds: Annotated[
        int | None, _option("--finalist-seeds", _CHOICE, "N", "Fresh seeds for each of them.", "2")
    ] = None


@dataclass(frozen=True, kw_only=True)
class Search:
    """What is searched, and how long."""

    experiment: Annotated[
        Path | None,
        typer.Argument(
            metavar="EXPERIMENT.toml",
            help="A file with what is asked for, in the form of a run's spec.toml; options given here win.",
            show_default=False,
        ),
    ] = None
    method: Annotated[str | None, _option("--method", _SEARCH, "NAME", "A search method (`lossmith methods`).")] = None
    settings: Annotated[
        list[str] | None,
        _option("--set", _SEARCH, "KEY=VALUE", "A setting of the method; may be repeated."),
    ] = None
    start_from: Annotated[
        list[str] | None,
        _option("--start-from", _SEARCH, "LOSS,RUN,…", "Losses and runs to start from, best first: baikal,runs/shelf."),
    ] = None
    shelf: Annotated[
        str | None,
        _option("--shelf", _SEARCH, "RUN", "Shelf run that the verdict compares with.", "a shelf in --start-from"),
    ] = None
    generations: Annotated[
        int | None, _option("--generations", _EFFORT, "N", "Rounds of candidates, of methods that evolve.", "20")
    ] = None
    meta_steps: Annotated[
        int | None,
        _option(
            "--meta-steps",
            _EFFORT,
            "N",
            "Steps on the loss parameters, of methods that go by gradient.",
            "the method's own",
        ),
    ] = None
    hypergradient: Annotated[
        str | None,
        _option(
            "--hypergradient",
            _SEARCH,
            "unroll|implicit",
            "How methods that tune loss parameters take their gradient.",
            "unroll",
        ),
    ] = None
    population: Annotated[
        int | None, _option("--population", _EFFORT, "N", "Candidates per generation.", "the method's own")
    ] = None
    fidelity: Annotated[
        str | None, _option("--fidelity", _EFFORT, "steps|data", "What partial training has less of.", "steps")
    ] = None
    seeds_per_candidate: Annotated[
        int | None, _option("--seeds-per-candidate", _EFFORT, "N", "Trainings per candidate.", "1")
    ] = None
    elites: Annotated[
        int | None, _option("--elites", _EFFORT, "N", "The best so many gain a seed per generation.", "1")
    ] = None


@dataclass(frozen=True, kw_only=True)
class SearchOptions(Machine, NewRun, Finalists, Search, TaskOptions):
    """`search`, and what `plan` shares with it."""

    json: Json = False


@dataclass(frozen=True, kw_only=True)
class PlanOptions(SearchOptions):
    """`plan`."""

    seeds: Annotated[int, _option("--seeds", _JUDGE, "N", "Full trainings of each loss in the verdict.", "10")] = 10


@dataclass(frozen=True, kw_only=True)
class ShelfOptions(Machine, NewRun, Finalists, TaskOptions):
    """`shelf`."""

    budget_steps: Annotated[
        int | None,
        _option("--budget-steps", _EFFORT, "N", "Training steps in all; cuts off the far corners.", "the whole grid"),
    ] = None
    json: Json = False


@dataclass(frozen=True, kw_only=True)
class ResumeOptions:
    """`resume`."""

    path: RunArgument
    task: Annotated[
        str | None,
        _option("--task", _TASK, "TASK", "Your package.module:function, where the run does not know it."),
    ] = None
    data_dir: DataDir = None
    workers: Workers = None
    json: Json = False


@dataclass(frozen=True, kw_only=True)
class Judging:
    """How a verdict is made."""

    seeds: Annotated[int, _option("--seeds", _JUDGE, "N", "Full trainings of each loss.", "10")] = 10
    tune_seeds: Annotated[int, _option("--tune-seeds", _JUDGE, "N", "Trainings per learning rate.", "2")] = 2
    delta: Annotated[
        float | None, _option("--delta", _JUDGE, "NUMBER", 'Margin for "no worse", in the metric\'s units.', "none")
    ] = None


@dataclass(frozen=True, kw_only=True)
class EvaluateOptions(Machine, NewRun, Judging, TaskOptions):
    """`evaluate`."""

    subject: Annotated[str, typer.Argument(metavar="RUN|LOSS", help="What is judged.", show_default=False)]
    controls: Annotated[
        list[str] | None,
        _option("--controls", _JUDGE, "NAME,…", "What it has to beat: task, tuned, shelf.", "all of them"),
    ] = None
    shelf: Annotated[
        str | None,
        _option("--shelf", _JUDGE, "RUN", "Shelf run to compare with.", "the run's own, else a new one"),
    ] = None
    json: Json = False


@dataclass(frozen=True, kw_only=True)
class CompareOptions(Machine, NewRun, Judging, TaskOptions):
    """`compare`."""

    losses: Annotated[
        list[str],
        typer.Argument(metavar="LOSS...", help="Two or more; the first is the reference.", show_default=False),
    ]
    tune_lr: Annotated[
        list[str] | None,
        _option("--tune-lr", _JUDGE, "LOSS,…|all", "Losses that also run with tuned learning rate.", "none"),
    ] = None
    json: Json = False
