"""`lossmith search` and `lossmith plan`: the same options, carried out or only counted."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from lossmith.cli.experiment_file import Experiment, read_experiment
from lossmith.cli.naming import starting_points
from lossmith.cli.options import Machine, PlanOptions, SearchOptions, takes
from lossmith.cli.output import print_json, print_table, results
from lossmith.cli.watching import watched
from lossmith.errors import SpecError, UsageError

if TYPE_CHECKING:
    from lossmith.evaluation import AllCores
    from lossmith.experiment import Run
    from lossmith.experiment.cost import Estimate
    from lossmith.experiment.opening import Resources
    from lossmith.tasks import AnyTask

SEARCH_EXAMPLES = """
Examples:

  lossmith search --method taylorglo --task digits/mlp@noise=0.4 --run runs/m

  lossmith search --method taylorglo --task mnist/cnn --steps 2000 --partial 200

  lossmith search --method taylorglo --task mytasks:make_task --set order=4

  lossmith search experiment.toml --seed 1
"""
PLAN_EXAMPLES = """
Example:

  lossmith plan --method taylorglo --task mnist/cnn --generations 10
"""


@takes(SearchOptions)
def search(asked: SearchOptions) -> None:
    """Search for a loss function.

    Candidates are trained partially, the best of them again in full on fresh seeds, and the winner is chosen on data
    the search never saw. Ctrl-C stops it; `lossmith resume` goes on as if it had never stopped.
    """
    from lossmith.cli.summary import summarize
    from lossmith.cli.summary_page import print_summary
    from lossmith.experiment import Run
    from lossmith.experiment.search_run import search as start
    from lossmith.search import method as make_method

    wanted = read_experiment(asked)
    task = wanted_task(wanted, asked)
    points = starting_points(wanted.start_from, task.head)
    shelves = [point for point in points if isinstance(point, Run) and point.kind == "shelf"]
    shelf = _shelf(wanted.shelf, task) if wanted.shelf else shelves[0] if shelves else None
    with watched("trying the task with its own loss") as terminal:
        run = start(
            make_method(wanted.method, **wanted.settings),
            task,
            partial=partial_of(wanted.partial, task),
            seed=wanted.seed,
            path=wanted.run,
            start_from=points,
            shelf=shelf,
            resources=_resources(wanted, asked.workers, terminal),
            **wanted.section,
        )
    summary = summarize(run)
    if asked.json:
        print_json(summary.to_dict())
    else:
        print_summary(results(), summary, generations=False)


@takes(PlanOptions)
def plan(asked: PlanOptions) -> None:
    """What a search and its verdict would cost, before they start; nothing is written.

    Counted from the same options, timed by training the task's own loss for a few steps on this machine.
    """
    from lossmith.experiment.cost import estimate
    from lossmith.experiment.finalists import affordable
    from lossmith.experiment.meta_testing import MetaTest
    from lossmith.experiment.search_run import as_budget, starting_losses
    from lossmith.experiment.spec import SearchSection, make
    from lossmith.losses import to_json
    from lossmith.search import method as make_method

    wanted = read_experiment(asked)
    task = wanted_task(wanted, asked)
    method = make_method(wanted.method, **wanted.settings)
    budget = as_budget(partial_of(wanted.partial, task), task)
    starts = starting_losses(starting_points(wanted.start_from, task.head), task)
    section: SearchSection = make(
        SearchSection,
        method=method.name,
        settings=method.settings(),
        budget=budget,
        start_from=[to_json(found) for found in starts],
        **wanted.section,
    )
    if "finalists" not in wanted.section:
        candidates = section.generations * int(method.settings()["population"])
        count = affordable(task, candidates=candidates, budget=budget, seeds=section.finalist_seeds)
        section = section.model_copy(update={"finalists": count})
    with watched("a short pilot of every kind of work") as terminal:
        found = estimate(
            task,
            method,
            section,
            resources=_resources(wanted, asked.workers, terminal),
            verdict=MetaTest(seeds=asked.seeds),
            shelf=wanted.shelf is None,
        )
    if asked.json:
        print_json(found.to_dict())
    else:
        _print_estimate(found, f"{method.name} on {task.name}")


def wanted_workers(workers: int | None) -> int | AllCores:
    """The command line uses all cores or GPUs unless told otherwise."""
    if workers is not None and workers < 0:
        raise SpecError(f"workers = {workers}: a number of processes was expected, or 0 to train in this one.")
    return "all" if workers is None else workers


def machine_settings(asked: Machine) -> dict[str, Any]:
    """What a command without an experiment file says about the machine, by the library's names."""
    return {
        "workers": wanted_workers(asked.workers),
        "device": asked.device or "cpu",
        "engine": asked.engine or "rule",
        "dtype": asked.dtype or "float32",
        "compile": asked.compile,
        "deadline": asked.deadline,
    }


def wanted_task(wanted: Experiment, asked: SearchOptions) -> AnyTask:
    """The task of an experiment."""
    from lossmith.tasks import resolve_task

    return resolve_task(wanted.task, data_dir=asked.data_dir, steps=wanted.steps)


def partial_of(partial: float | None, task: AnyTask) -> float:
    """Effort per candidate, the task's own where none is given."""
    from lossmith.experiment.api import default_partial

    return default_partial(task) if partial is None else partial


def _shelf(path: str, task: AnyTask) -> Run:
    """The shelf run that the verdict will compare with; told now, not after days of searching, if it cannot serve."""
    from lossmith.experiment import Run

    shelf = Run(path)
    if shelf.kind != "shelf":
        raise UsageError(f"{path} is a {shelf.kind}, not a shelf: `lossmith shelf --task {task.name}` makes one.")
    if shelf.row.fingerprint.get("digest") != task.fingerprint()["digest"]:
        raise UsageError(f"the shelf {path} was made with another task than {task.name}: make one with this task.")
    return shelf


def _resources(wanted: Experiment, workers: int | None, listener: Any) -> Resources:
    from lossmith.experiment.opening import Resources

    return Resources(
        workers=wanted_workers(workers),
        device=wanted.device,
        engine=wanted.engine,
        dtype=wanted.dtype,
        compile=wanted.compile,
        deadline=wanted.deadline,
        listeners=(listener,),
    )


def _print_estimate(found: Estimate, what: str) -> None:
    from lossmith.experiment.progress import duration

    console = results()
    console.print(f"{what}, at {found.seconds_per_step * 1000:.2g} ms per step on one worker of this machine")
    console.print(f"{found.plan.describe()}\n", highlight=False, markup=False)
    rows = [(part.what, f"{part.trainings:,}", f"{part.steps:,}", duration(part.seconds)) for part in found.parts]
    total = sum(part.trainings for part in found.parts)
    rows.append(("in all", f"{total:,}", "", duration(found.core_seconds)))
    print_table(console, ("", "trainings", "steps each", "one worker"), rows)
    workers = "1 worker" if found.workers == 1 else f"{found.workers} workers"
    console.print(f"\nabout {duration(found.wall_seconds)} with {workers}; screened and failed candidates cost less.")
