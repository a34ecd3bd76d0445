"""`lossmith export` and `lossmith report`: a loss and a run handed over."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from lossmith.cli.naming import named
from lossmith.cli.options import RunArgument
from lossmith.cli.output import messages
from lossmith.errors import UsageError

EXPORT_EXAMPLES = """
Examples:

  lossmith export runs/m --to torch --out my_loss.py

  lossmith export runs/m:3.7 --to latex

  lossmith export "focal(gamma=3)" --head sigmoid
"""
REPORT_EXAMPLES = """
Example:

  lossmith report runs/m
"""


def export(
    loss: Annotated[str, typer.Argument(metavar="RUN|LOSS", help="What is handed over.", show_default=False)],
    to: Annotated[str, typer.Option("--to", help="torch (needs no Lossmith), latex, or json.")] = "torch",
    out: Annotated[Path | None, typer.Option("--out", help="File to write.", show_default="standard output")] = None,
    head: Annotated[
        str, typer.Option("--head", help="softmax, sigmoid or identity, for a loss that is not a run's.")
    ] = "softmax",
) -> None:
    """A loss as a few lines of PyTorch, as a formula, or as JSON."""
    from lossmith.losses.export import export as write

    found = named(loss, head)
    text = write(found.loss, to)
    text = text if text.endswith("\n") else f"{text}\n"
    if out is None:
        print(text, end="")
    else:
        try:
            out.write_text(text, encoding="utf-8")
        except OSError as error:
            raise UsageError(f"cannot write {out} ({error.strerror}): choose another --out.") from None
        print(out)
    if found.conditions:
        messages().print(f"it was found with {found.conditions}; the formula alone does not bring that along.")


def report(
    path: RunArgument,
    out: Annotated[Path | None, typer.Option("--out", help="File to write.", show_default="RUN/report.html")] = None,
) -> None:
    """One page that needs nothing but a browser: verdict, loss, curve, history, how to reproduce it."""
    from lossmith.analysis import write_report
    from lossmith.experiment import Run
    from lossmith.experiment.reporting import report_data

    run = Run(path)
    print(write_report(out or Path(path) / "report.html", report_data(run)))
