"""The shelf of a task: published losses × learning rate × label smoothing × early stopping, at a given cost."""

from __future__ import annotations

import os

from lossmith.errors import SpecError
from lossmith.evaluation.evaluate import steps_of
from lossmith.experiment.opening import Resources
from lossmith.experiment.run import Run
from lossmith.experiment.spec import SearchSection, make
from lossmith.search.shelf import POPULATION, ShelfGrid, grid_size
from lossmith.tasks import AnyTask, all_parts


def shelf(
    task: AnyTask,
    *,
    training_steps: int | None = None,
    partial: float = 0.1,
    finalists: int = 5,
    finalist_seeds: int = 2,
    seed: int = 0,
    path: str | os.PathLike[str] | None = None,
    resources: Resources | None = None,
) -> Run:
    """Try what is published, with care.

    Every grid point gets a partial training; the best `finalists` are trained in full on fresh seeds with early
    stopping on the fitness split, and chosen on the selection split: the protocol of a search, so that it is fair.

    Args:
        training_steps: how many training steps it may use, those of the finalists included; None takes the whole grid.
        partial: effort per grid point, as in `search`.
        path: run folder; `runs/shelf-…` by default.

    Raises:
        SpecError: too few training steps for the finalists.
    """
    from lossmith.experiment.search_run import as_budget, start

    budget = as_budget(partial, task)
    each = steps_of(task, budget)
    full = steps_of(task, 1.0)
    largest = grid_size(task.setting)
    count = largest
    scored = 1 if all_parts(task) else 2  # a training function answers for one split, so it is called for each
    if training_steps is not None:
        while True:
            # Each finalist is trained in full, once more stopped early; winner and task loss once more in part. At most
            # half goes into finalists, so that the grid stays wide.
            finals = finalist_seeds * (2 * finalists * full * scored + each * (1 + scored))
            partials = max(0, (training_steps - finals) // each)
            count = partials - -(-partials // (POPULATION + 1))  # one per generation goes to the elite's further seed
            if finalists == 1 or (count >= 1 and 2 * finals <= training_steps):
                break
            finalists -= 1
        if count < 1:
            raise SpecError(
                f"training_steps = {training_steps:,}: a shelf needs at least {finals + 2 * each:,} "
                f"(one grid point of {each:,} steps on two seeds, and one finalist in full)."
            )
    count = min(count, largest)
    grid = ShelfGrid(candidates=count, population=min(POPULATION, count))
    section = make(
        SearchSection,
        method=grid.name,
        settings=grid.settings(),
        generations=-(-count // grid.population),
        budget=budget,
        elites=1,
        finalists=finalists,
        finalist_seeds=finalist_seeds,
        early_stopping=True,
    )
    return start("shelf", grid, section, task, seed=seed, path=path, resources=resources or Resources())
