"""`lossmith losses`, `tasks`, `methods`, `data` and `version`: what there is."""

from __future__ import annotations

import platform
from dataclasses import asdict, fields
from importlib.metadata import PackageNotFoundError
from importlib.metadata import version as version_of
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.padding import Padding
from rich.text import Text

from lossmith.cli.options import DataDir, Json
from lossmith.cli.output import messages, print_commands, print_facts, print_json, print_table, put, results

if TYPE_CHECKING:
    from lossmith.tasks import BuiltIn

data = typer.Typer(help="Data sets: what each is, and where it is or how to get it.", invoke_without_command=True)


def losses(json: Json = False) -> None:
    """Published losses: name, formula to be minimised, heads, reference."""
    from lossmith.losses import PUBLISHED

    if json:
        print_json(
            [
                {
                    "name": entry.name,
                    "formula": entry.formula(),
                    "parameters": dict(entry.parameters),
                    "ranges": dict(entry.ranges),
                    "heads": list(entry.heads),
                    "needs": list(entry.needs),
                    "summary": entry.summary,
                    "gradient": entry.gradient,
                    "reference": entry.reference,
                }
                for entry in PUBLISHED.values()
            ]
        )
        return
    console = results()
    for entry in PUBLISHED.values():
        heading = Text(entry.name, style="bold")
        defaults = ", ".join(f"{name}={value:g}" for name, value in entry.parameters.items())
        heading.append(f"({defaults})" if defaults else "", style="not bold")
        needs = f"; needs {' and '.join(entry.needs)}" if entry.needs else ""
        heading.append(f"   {', '.join(entry.heads)}{needs}", style="dim not bold")
        put(console, heading)
        put(console, Padding(entry.formula(), (0, 0, 0, 4)))
        put(console, Padding(Text(entry.reference, style="dim"), (0, 0, 0, 4)))
    console.print(
        "\nFormulas are of one output, to be minimised: t target, p prediction, n number of outputs. Expressions work "
        "wherever a loss is named; they may also read z output, r residual p − t, m margin, p_t prediction of the "
        "target class, prior, tau progress. A task gives its class prior and progress; in a loop of your own they are "
        "prior=... of the loss and progress=... of the call.\n"
    )
    print_commands(console, [('lossmith export "focal(gamma=3)" --to torch', "one of them as PyTorch")])


def tasks(json: Json = False) -> None:
    """Built-in tasks, and the modifiers that work on every task."""
    from lossmith.tasks import MODIFIERS, TASKS
    from lossmith.tasks.datasets import catalogue

    here = {entry.name: entry.found for entry in catalogue()}
    here |= {built.data: "made, not read" for built in TASKS.values() if built.made is not None}
    if json:
        print_json(
            {
                "tasks": [
                    {
                        "name": built.name,
                        "data": built.data,
                        "found": here[built.data],
                        "network": built.network,
                        "optimizer": built.optimizer,
                        "steps": built.recipe.steps,
                        "partial": built.partial,
                    }
                    for built in TASKS.values()
                ],
                "modifiers": list(MODIFIERS),
            }
        )
        return
    console = results()
    rows = [
        (
            built.name,
            built.network,
            _recipe(built),
            f"{built.recipe.steps:,}",
            f"{built.partial:,}",
            "here" if here[built.data] else Text("missing", style="yellow"),
        )
        for built in TASKS.values()
    ]
    header = ("task", "network", "optimiser", "steps", "partial", "data")
    print_table(console, header, rows, left=(0, 1, 2, 5))
    console.print("\nModifiers, for any of them: digits/mlp@noise=0.4@fraction=0.1")
    print_facts(
        console,
        [
            ("@noise=0.4", "label noise in train, fitness and selection; the test split stays clean"),
            ("@noise_valid=0", "with noise: keeps fitness and selection clean, too"),
            ("@imbalance=50", "a long tail: the first class has 50 times the rows of the last"),
            ("@fraction=0.1", "a tenth of the training rows"),
        ],
    )
    console.print("\nA member of a family: sine/mlp@wave=3. Several tasks: digits/mlp,digits/mlp2, sine/mlp@wave=0-9.")
    console.print("\nYour own: --task package.module:function, a function that returns lm.Task(...).")
    if not all(here[built.data] for built in TASKS.values()):
        console.print()
        print_commands(console, [("lossmith data", "how to get what is missing")])


def _recipe(built: BuiltIn) -> str:
    """Optimiser, its settings that are not the usual ones, and batch: SGD 0.01, momentum 0.9, batch 128."""
    optimizer: Any = built.recipe.optimizer
    parts = [f"{type(optimizer).__name__} {optimizer.lr:g}"]
    for setting in fields(optimizer):
        value = getattr(optimizer, setting.name)
        if setting.name != "lr" and value != setting.default:
            words = setting.name.replace("_", " ")
            parts.append(words if value is True else f"{words} {value:g}")
    return ", ".join([*parts, f"batch {built.recipe.batch_size}"])


def methods(json: Json = False) -> None:
    """Search methods and their settings."""
    from lossmith.search import METHODS

    if json:
        print_json(
            [
                {
                    "name": name,
                    "summary": kind.summary,
                    "reference": kind.reference,
                    "settings": [asdict(setting) for setting in kind.describe()],
                }
                for name, kind in METHODS.items()
            ]
        )
        return
    console = results()
    for name, kind in METHODS.items():
        console.print(f"{name}   {kind.summary}", style="bold")
        if kind.reference:
            console.print(kind.reference, style="dim")
        rows = []
        for setting in kind.describe():
            default = ",".join(setting.default) if isinstance(setting.default, tuple) else str(setting.default)
            rows.append((f"  {setting.name}", default, setting.meaning, setting.range))
        print_table(console, ("  setting", "default", "meaning", "what it may be"), rows, left=(0, 1, 2, 3))
        console.print()
    print_commands(console, [("lossmith search --method taylorglo --set order=4 …", "sets one")])


@data.callback()
def list_data(context: typer.Context, data_dir: DataDir = None, json: Json = False) -> None:
    """Data sets: what each is, and where it is or how to get it."""
    if context.invoked_subcommand is not None:
        return
    from lossmith.tasks.datasets import catalogue, data_folders

    entries = catalogue(data_dir)
    if json:
        print_json([asdict(entry) for entry in entries])
        return
    console = results()
    rows = [
        (
            entry.name,
            entry.title,
            " + ".join(f"{count:,}" for count in entry.rows),
            str(entry.classes or "values"),
            entry.licence,
            entry.found or Text("missing", style="yellow"),
        )
        for entry in entries
    ]
    print_table(console, ("data", "what it is", "rows", "classes", "licence", "where"), rows, left=(0, 1, 4, 5))
    folders = ", then ".join(str(folder) for folder in data_folders(data_dir))
    console.print(f"\nLooked for in {folders}.\n")
    if missing := [entry.name for entry in entries if entry.found is None]:
        print_commands(console, [(f"lossmith data fetch {' '.join(missing[:2])}", "downloads what is missing")])


@data.command("fetch", epilog="\nExample:\n\n  lossmith data fetch mnist fashion_mnist\n")
def fetch(
    names: Annotated[list[str], typer.Argument(metavar="NAME...", help="Which.", show_default=False)],
    data_dir: DataDir = None,
) -> None:
    """Download data sets from their official homes; digests are checked."""
    from lossmith.tasks.datasets import fetch as download
    from lossmith.tasks.datasets.places import source_of

    for name in names:
        source_of(name)  # a slip in the last name is told before the first download
    for name in names:
        folder = download(name, data_dir, progress=messages().is_terminal)
        print(f"{name}: {'ships with scikit-learn' if folder is None else folder}")


def version(json: Json = False) -> None:
    """The versions that results depend on."""
    from lossmith import __version__

    found = {"lossmith": __version__, "python": platform.python_version()}
    for package in ("torch", "numpy", "cma"):
        try:
            found[package] = version_of(package)
        except PackageNotFoundError:  # pragma: no cover - all are dependencies
            continue
    if json:
        print_json(found)
    else:
        print_facts(results(), found.items())
