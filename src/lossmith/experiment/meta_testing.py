"""Meta-testing: is the found loss really better? Subjects and controls trained in full on fresh seeds, judged on test.

The protocol (DESIGN §5): the found loss with tuned learning rate (it is also shown as it is) against the task loss as
it is, the task loss with tuned learning rate (same grid, same seeds), and the shelf, which has had as many training
steps as the search. `better` only against all of them.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass

from lossmith.analysis import Arm, Verdict, judge
from lossmith.errors import SpecError, UsageError
from lossmith.experiment.arms import Contestant, keep_verdict, run_arms, tuned
from lossmith.experiment.compare import compare, needs_test
from lossmith.experiment.events import Note
from lossmith.experiment.opening import Resources, open_session
from lossmith.experiment.run import Run
from lossmith.experiment.session import Session, sitting
from lossmith.experiment.shelf import shelf as make_shelf
from lossmith.losses import Loss, LossSet, loss, to_json
from lossmith.losses.simplify import formula
from lossmith.tasks import AnyTask

CONTROLS = ("task", "tuned", "shelf")


@dataclass(frozen=True)
class MetaTest:
    """How a verdict is made.

    Args:
        seeds: full trainings per arm. tune_seeds: trainings per learning rate.
        controls: which of "task" (the task loss), "tuned" (tuned learning rates on both sides), "shelf".
        delta: margin for "no worse", in the metric's units.
        shelf: the shelf run to compare with; made if needed, with as many training steps as the search used.
    """

    seeds: int = 10
    tune_seeds: int = 2
    controls: tuple[str, ...] = CONTROLS
    delta: float | None = None
    shelf: str | None = None

    def __post_init__(self) -> None:
        unknown = sorted(set(self.controls) - set(CONTROLS))
        if unknown or not self.controls:
            raise UsageError(
                f"controls {', '.join(self.controls) or '(none)'}: use one or more of {', '.join(CONTROLS)}."
            )
        if self.seeds < 2:
            raise UsageError(f"seeds {self.seeds}: a verdict needs at least 2, and shows little below 5.")


def evaluate_run(
    path: str | os.PathLike[str],
    how: MetaTest,
    *,
    task: AnyTask | None = None,
    resources: Resources | None = None,
) -> Verdict:
    """The verdict on a search run's best loss, stored in the run; what was trained before is not trained again.

    Args:
        task: for tasks built in Python.

    Raises:
        UsageError: the run is no finished search, has no winner, or its task has no test split.
    """
    resources = resources or Resources()
    run = Run(path)
    if run.kind not in ("search", "shelf"):
        raise UsageError(f"{path} is a {run.kind}: its verdict is already in it (`lossmith show {path}`).")
    if not run.finished:
        raise UsageError(f"{path} is not finished: `lossmith resume {path}` first.")
    winner = run.winner
    if winner is None:
        raise UsageError(f"{path} found no loss: none of its candidates gave a number (`lossmith show {path}`).")
    shelf_winner = None
    if "shelf" in how.controls and run.kind == "search":
        shelf_winner = _shelf_of(run, how, task, resources)
    session, spec = open_session(path, task, resources)
    needs_test(session.task)
    name = "found" if run.kind == "search" else "shelf's best"
    note = _note(run.decode(winner.loss), winner.lr_scale, winner.budget)
    subject = Contestant(name, winner.loss, winner.lr_scale, winner.budget, "subject", note=note)
    with sitting(session):
        verdict = _verdict(session, subject, shelf_winner, how, spec.seed, run)
        keep_verdict(session, verdict)
    return verdict


def evaluate_loss(
    subject: Loss | LossSet,
    task: AnyTask,
    how: MetaTest,
    *,
    name: str,
    lr_scale: float = 1.0,
    budget: float = 1.0,
    seed: int = 0,
    path: str | os.PathLike[str] | None = None,
    resources: Resources | None = None,
) -> Verdict:
    """The verdict on any loss: against the task loss, both also with tuned learning rate; stored and resumable."""
    task_loss = task.task_loss()
    names = (task.controls[0], name)
    if names[0] == names[1]:
        names = (names[0], f"{name} again")
    contestants = [
        Contestant(names[0], to_json(task_loss)),
        Contestant(names[1], to_json(subject), lr_scale, budget, kind="subject", note=_note(subject, lr_scale, budget)),
    ]
    tune = (0, 1) if "tuned" in how.controls else ()
    return compare(
        contestants,
        task,
        seeds=how.seeds,
        tune=tune,
        tune_seeds=how.tune_seeds,
        delta=how.delta,
        seed=seed,
        path=path,
        resources=resources,
    )


def _verdict(
    session: Session,
    subject: Contestant,
    shelf_winner: Contestant | None,
    how: MetaTest,
    run_seed: int,
    run: Run,
) -> Verdict:
    task = session.task
    subjects = [subject]
    plain = [Contestant(name, to_json(loss(name, head=task.head))) for name in task.controls]
    controls = list(plain) if "task" in how.controls else []
    if "tuned" in how.controls:
        own, *others = tuned(session, [subject, *plain], seeds=how.tune_seeds, run_seed=run_seed)
        subjects += [] if own is None else [own]
        controls += [other for other in others if other is not None]
    controls += [] if shelf_winner is None else [shelf_winner]
    # Whoever uses the found loss will use its best learning rate, as chosen on the fitness split: that arm has to win.
    pairs = [(subjects[-1].name, control.name) for control in controls]
    if not pairs:
        raise UsageError(
            "no control is left to compare with: allow more than the shelf, or make one that has a winner."
        )
    arms = run_arms(session, [*subjects, *controls], seeds=how.seeds)
    session.emit(Note(f"the test split has been touched {session.store.count_test_touches()} times by this run."))
    return _judge(session, arms, pairs, how, run)


def _judge(session: Session, arms: Sequence[Arm], pairs: list[tuple[str, str]], how: MetaTest, run: Run) -> Verdict:
    metric = session.task.metric
    return judge(
        [arm for arm in arms if arm.kind == "subject"],
        [arm for arm in arms if arm.kind == "control"],
        pairs,
        metric=metric.name,
        direction=metric.direction,
        delta=how.delta,
        selection_bias=run.selection_bias,
        test_touches=session.store.count_test_touches(),
    )


def _shelf_of(run: Run, how: MetaTest, task: AnyTask | None, resources: Resources) -> Contestant | None:
    """The best of the shelf: of the one named, the one the run was started with, or one made now beside the run."""
    stored = run.spec.search.shelf if run.spec.search else None
    place = how.shelf or (stored if stored and os.path.isdir(stored) else None) or os.path.join(run.path, "shelf")
    shelf_run = make_shelf_if_absent(place, run, task, resources)
    winner = shelf_run.winner
    if winner is None:
        return None
    note = _note(shelf_run.decode(winner.loss), winner.lr_scale, winner.budget)
    return Contestant("shelf's best", winner.loss, winner.lr_scale, winner.budget, note=note)


def _note(found: Loss | LossSet, lr_scale: float, budget: float) -> str:
    """What an arm was trained with, for the table."""
    note = formula(found)
    note += f", learning rate × {lr_scale:.4g}" if lr_scale != 1 else ""
    return note + (f", stopped at {budget:.0%} of the steps" if budget < 1 else "")


def make_shelf_if_absent(place: str, run: Run, task: AnyTask | None, resources: Resources) -> Run:
    """The shelf run at `place`, resumed or made with as many training steps as `run` used."""
    from lossmith.experiment.opening import task_of
    from lossmith.experiment.search_run import resume

    if os.path.exists(os.path.join(place, "lossmith.db")):
        found = Run(place)
        if found.row.fingerprint.get("digest") != run.row.fingerprint.get("digest"):
            raise UsageError(f"the shelf {place} was made with another task than {run.path}: make one with this task.")
        if found.finished:
            return found
        resumed: Run = resume(place, task=task, resources=resources)
        return resumed
    task = task_of(run.spec, run.path) if task is None else task
    assert run.spec.search is not None
    try:
        return make_shelf(
            task,
            training_steps=run.training_steps,
            partial=run.spec.search.budget,
            seed=run.spec.seed,
            path=place,
            resources=resources,
        )
    except SpecError as error:
        raise UsageError(
            f"this search was too small for a shelf at its cost ({error}) Name a shelf made on its own (--shelf RUN), "
            f"or go without one (--controls task,tuned)."
        ) from None
