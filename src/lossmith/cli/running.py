"""`lossmith shelf` and `lossmith resume`."""

from __future__ import annotations

from typing import Any

from lossmith.cli.options import ResumeOptions, ShelfOptions, takes
from lossmith.cli.output import print_json, results
from lossmith.cli.searching import machine_settings, partial_of, wanted_workers
from lossmith.cli.watching import watched
from lossmith.errors import UsageError

SHELF_EXAMPLES = """
Example:

  lossmith shelf --task digits/mlp --run runs/shelf --budget-steps 50000
"""
RESUME_EXAMPLES = """
Example:

  lossmith resume runs/m
"""


@takes(ShelfOptions)
def shelf(asked: ShelfOptions) -> None:
    """The bar to beat: published losses × learning rate × label smoothing × early stopping.

    Chosen with the same care as a search's winner. A search can start from it (--start-from), and `lossmith evaluate`
    compares with it.
    """
    from lossmith.cli.summary import summarize
    from lossmith.cli.summary_page import print_summary
    from lossmith.experiment import shelf as make_shelf
    from lossmith.tasks import resolve_task

    if asked.task is None:
        raise UsageError("which task? Give --task digits/mlp, or another that `lossmith tasks` lists.")
    task = resolve_task(asked.task, data_dir=asked.data_dir, steps=asked.steps)
    chosen: dict[str, Any] = {"finalists": asked.finalists, "finalist_seeds": asked.finalist_seeds}
    with watched("trying the task with its own loss") as terminal:
        run = make_shelf(
            task,
            training_steps=asked.budget_steps,
            partial=partial_of(asked.partial, task),
            seed=asked.seed or 0,
            path=asked.run,
            **machine_settings(asked),
            listeners=(terminal,),
            **{name: value for name, value in chosen.items() if value is not None},
        )
    summary = summarize(run)
    if asked.json:
        print_json(summary.to_dict())
    else:
        print_summary(results(), summary, generations=False)


@takes(ResumeOptions)
def resume(asked: ResumeOptions) -> None:
    """Go on with an interrupted run as if it had never stopped; a finished one is shown as it is."""
    from lossmith.cli.summary import summarize
    from lossmith.cli.summary_page import print_summary
    from lossmith.experiment import Run
    from lossmith.experiment import resume as go_on
    from lossmith.tasks import resolve_task

    run = Run(asked.path)
    if not run.finished:
        task = None
        reference = asked.task or run.spec.task.reference
        if asked.task is not None or (asked.data_dir is not None and reference is not None):
            task = resolve_task(str(reference), data_dir=asked.data_dir, steps=run.spec.task.of_each)
        with watched() as terminal:
            go_on(asked.path, task=task, workers=wanted_workers(asked.workers), listeners=(terminal,))
        run = Run(asked.path)
    summary = summarize(run)
    if asked.json:
        print_json(summary.to_dict())
    else:
        print_summary(results(), summary, generations=False)
