"""The application: every command under its name, in the order in which they are used."""

from __future__ import annotations

import inspect
from collections.abc import Callable

import typer

from lossmith.cli import catalogues, exporting, judging, running, searching, showing

_FIND, _JUDGE, _KNOW = "Find a loss", "Judge it and hand it over", "What there is"

app = typer.Typer(
    name="lossmith",
    help="Discovers loss functions for your own PyTorch model and data, and says honestly whether they are better.",
    epilog="""
Start here:

  lossmith search --method taylorglo --task digits/mlp@noise=0.4 --run runs/m

  lossmith evaluate runs/m
""",
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"]},
)

_COMMANDS: tuple[tuple[str, Callable[..., None], str], ...] = (
    (_FIND, searching.plan, searching.PLAN_EXAMPLES),
    (_FIND, running.shelf, running.SHELF_EXAMPLES),
    (_FIND, searching.search, searching.SEARCH_EXAMPLES),
    (_FIND, running.resume, running.RESUME_EXAMPLES),
    (_FIND, showing.show, showing.SHOW_EXAMPLES),
    (_JUDGE, judging.evaluate, judging.EVALUATE_EXAMPLES),
    (_JUDGE, judging.compare, judging.COMPARE_EXAMPLES),
    (_JUDGE, exporting.export, exporting.EXPORT_EXAMPLES),
    (_JUDGE, exporting.report, exporting.REPORT_EXAMPLES),
    (_KNOW, catalogues.losses, ""),
    (_KNOW, catalogues.tasks, ""),
    (_KNOW, catalogues.methods, ""),
    (_KNOW, catalogues.version, ""),
)


def _paragraphs(function: Callable[..., None]) -> str:
    """A docstring whose paragraphs are lines, so that the terminal breaks them where it ends."""
    text = inspect.cleandoc(function.__doc__ or "")
    return "\n\n".join(" ".join(paragraph.split()) for paragraph in text.split("\n\n"))


for _panel, _function, _epilog in _COMMANDS:
    app.command(_function.__name__, rich_help_panel=_panel, help=_paragraphs(_function), epilog=_epilog)(_function)
app.add_typer(catalogues.data, name="data", rich_help_panel=_KNOW)


@app.callback()
def lossmith() -> None:
    """Discovers loss functions for your own PyTorch model and data, and says honestly whether they are better."""
