"""`lossmith show`."""

from __future__ import annotations

from typing import Annotated

import typer

from lossmith.cli.options import Json
from lossmith.cli.output import print_json, results

SHOW_EXAMPLES = """
Examples:

  lossmith show runs/m

  lossmith show runs/m --json
"""


def show(
    path: Annotated[str, typer.Argument(metavar="RUN", help="A run folder.", show_default=False)],
    json: Json = False,
) -> None:
    """How a run stands: state, best loss, counts, finalists, verdict, time left, what to type next.

    Works while the run goes on, and never needs the task or its data.
    """
    from lossmith.cli.summary import summarize
    from lossmith.cli.summary_page import print_summary
    from lossmith.experiment import Run

    summary = summarize(Run(path))
    if json:
        print_json(summary.to_dict())
    else:
        print_summary(results(), summary)
