"""`lossmith evaluate` and `lossmith compare`: is it really better?"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from lossmith.cli.naming import Named, named, split_list
from lossmith.cli.options import CompareOptions, EvaluateOptions, Machine, takes
from lossmith.cli.output import print_commands, print_json, results
from lossmith.cli.searching import machine_settings
from lossmith.cli.verdict_page import print_verdict
from lossmith.cli.watching import watched
from lossmith.errors import Interrupted, UnknownNameError, UsageError

if TYPE_CHECKING:
    from lossmith.analysis import Verdict
    from lossmith.experiment.opening import Resources
    from lossmith.tasks import AnyTask

EVALUATE_EXAMPLES = """
Examples:

  lossmith evaluate runs/m --seeds 10

  lossmith evaluate runs/m --task fashion_mnist/lenet5 --run runs/transfer

  lossmith evaluate "-t*log(p)" --task digits/mlp --controls task
"""
COMPARE_EXAMPLES = """
Examples:

  lossmith compare cross_entropy baikal --task mnist/cnn --steps 2000 --tune-lr all

  lossmith compare cross_entropy "baikal(outputs=mean)" runs/m:3.7 --task digits/mlp
"""


@takes(EvaluateOptions)
def evaluate(asked: EvaluateOptions) -> None:
    """Is this loss really better? A verdict on the test split: better, worse, no worse, or not shown.

    A run's best loss has to beat the task loss, both also with tuned learning rate, and the shelf; any other loss, and
    a run's on another task (transfer), the task loss with and without tuning.
    """
    from lossmith.experiment import Run
    from lossmith.experiment.api import is_run
    from lossmith.experiment.meta_testing import CONTROLS, MetaTest, evaluate_run

    controls = split_list(asked.controls or ()) or CONTROLS
    how = MetaTest(asked.seeds, asked.tune_seeds, controls, asked.delta, asked.shelf)
    run = Run(asked.subject) if is_run(asked.subject) else None
    task = _task(asked, run)
    if run is not None and (task is None or task.fingerprint()["digest"] == run.row.fingerprint["digest"]):
        if asked.run is not None:
            raise UsageError(f"the verdict on {run.path} is stored in the run itself: leave out --run.")
        try:
            with watched() as terminal:
                verdict = evaluate_run(run.path, how, task=task, resources=_resources(asked, terminal))
        except Interrupted:  # the run itself is finished: `resume` has nothing to go on with
            again = f"`lossmith evaluate {run.path}`, with the same options, goes on."
            raise Interrupted(f"stopped; everything finished so far is stored. {again}") from None
        _print(verdict, run.path, asked.json)
        return
    if task is None:
        raise UsageError("a loss is judged on a task: give --task digits/mlp, or another that `lossmith tasks` lists.")
    if asked.shelf is not None or (asked.controls and "shelf" in controls):
        raise UsageError(
            "the shelf is a control for a run on its own task: leave out --shelf and `shelf` in --controls."
        )
    subject = named(asked.subject, task.head)
    _compare([_reference(task, subject), subject], task, asked, tune=(0, 1) if "tuned" in controls else ())


@takes(CompareOptions)
def compare(asked: CompareOptions) -> None:
    """Losses side by side, trained in full on the same seeds and measured on the test split.

    The first is the reference the others are judged against. Ctrl-C stops it; `lossmith resume` goes on.
    """
    task = _task(asked, None)
    if task is None:
        raise UsageError("which task? Give --task digits/mlp, or another that `lossmith tasks` lists.")
    losses = [named(text, task.head) for text in asked.losses]
    _compare(losses, task, asked, tune=_tuned(asked, [loss.name for loss in losses]))


def _compare(
    losses: list[Named], task: AnyTask, asked: EvaluateOptions | CompareOptions, *, tune: tuple[int, ...]
) -> None:
    from lossmith.experiment.compare import compare as compare_losses
    from lossmith.experiment.opening import default_path

    seed = asked.seed or 0
    names = "-".join(loss.name for loss in losses)
    path = asked.run or default_path("compare", task, f"compare-{names[:60]}", seed)
    contestants = [loss.contestant("control" if i == 0 else "subject") for i, loss in enumerate(losses)]
    with watched("trying the task with its own loss") as terminal:
        verdict = compare_losses(
            contestants,
            task,
            seeds=asked.seeds,
            tune=tune,
            tune_seeds=asked.tune_seeds,
            delta=asked.delta,
            seed=seed,
            path=path,
            resources=_resources(asked, terminal),
        )
    _print(verdict, path, asked.json)


def _task(asked: EvaluateOptions | CompareOptions, run: Any) -> AnyTask | None:
    """The task asked for; of a run without --task its own, where the data's folder is given."""
    from lossmith.tasks import resolve_task

    if asked.task is not None:
        return resolve_task(asked.task, data_dir=asked.data_dir, steps=asked.steps)
    if asked.steps is not None:
        raise UsageError("--steps changes a task: give --task with it.")
    if run is not None and asked.data_dir is not None and run.spec.task.reference is not None:
        return resolve_task(run.spec.task.reference, data_dir=asked.data_dir, steps=run.spec.task.of_each)
    return None


def _reference(task: AnyTask, subject: Named) -> Named:
    """The task's own loss; told apart from a subject of the same name."""
    name = task.controls[0]
    return Named(f"{name} (task loss)" if name == subject.name else name, task.task_loss())


def _tuned(asked: CompareOptions, names: list[str]) -> tuple[int, ...]:
    """Positions of the losses that --tune-lr names."""
    wanted = split_list(asked.tune_lr or ())
    if "all" in wanted:
        return tuple(range(len(names)))
    for name in wanted:
        if name not in names:
            raise UnknownNameError("loss in --tune-lr", name, ["all", *names])
    return tuple(i for i, name in enumerate(names) if name in wanted)


def _resources(asked: Machine, listener: Any) -> Resources:
    from lossmith.experiment.opening import Resources

    return Resources(**machine_settings(asked), listeners=(listener,))


def _print(verdict: Verdict, path: str, json: bool) -> None:
    if json:
        print_json({"run": path, **verdict.to_dict()})
        return
    console = results()
    print_verdict(console, verdict)
    console.print()
    print_commands(console, [(f"lossmith report {path}", "one page to keep or send on")])
