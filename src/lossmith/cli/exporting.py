"""`lossmith export` and `lossmith report`: a loss and a run handed over."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from lossmith.cli.naming import Named, named
from lossmith.cli.options import RunArgument
from lossmith.cli.output import messages
from lossmith.errors import UsageError

EXPORT_EXAMPLES = """
Examples:

  lossmith export runs/m --to torch --out my_loss.py

  lossmith export runs/m:3.7 --to latex

  lossmith export "focal(gamma=3)" --head sigmoid

  lossmith export runs/adalfl --adaptive replay
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
    adaptive: Annotated[
        str,
        typer.Option(
            "--adaptive",
            help="Of a loss that adapts while it trains: initial (as it is before) or replay (its course in the run's "
            "best training, as a loss that reads the progress).",
        ),
    ] = "initial",
) -> None:
    """A loss as a few lines of PyTorch, as a formula, or as JSON."""
    from lossmith.losses.export import export as write

    found, said = _standing_still(named(loss, head), adaptive, to)
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
    if said:
        messages().print(said)
    if found.conditions:
        messages().print(f"it was found with {found.conditions}; the formula alone does not bring that along.")


def _standing_still(found: Named, adaptive: str, to: str) -> tuple[Named, str]:
    """An adaptive loss as what is exported of it, and what that is; any other as it is.

    Raises:
        UsageError: a word that is neither; a replay of a loss that has no stored course.
    """
    from lossmith.experiment.trajectories import replayed
    from lossmith.losses import LossSet, to_json

    if adaptive not in ("initial", "replay"):
        raise UsageError(f"--adaptive {adaptive}: use initial or replay.")
    members = tuple(found.loss) if isinstance(found.loss, LossSet) else (found.loss,)
    if not any(member.online is not None for member in members):
        if adaptive == "replay":
            raise UsageError(f"{found.name} does not adapt while it trains: leave --adaptive out.")
        return found, ""
    if adaptive == "initial":
        rule = ", its rule for adapting beside it" if to == "json" else ""
        return found, (
            f"this is the loss before training, φ0{rule}; it adapts while it trains: --adaptive replay gives its "
            "course."
        )
    if found.run is None:
        raise UsageError(f"{found.name} is no run, and a loss has no course of its own: name the run that trained it.")
    still, trajectory = replayed(found.run, found.loss, to_json(found.loss))
    said = f"this replays {trajectory}: call it with progress = step / steps."
    return replace(found, loss=still), said


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
