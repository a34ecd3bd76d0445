"""Several losses side by side on one task: same seeds, full training, judged on test."""

from __future__ import annotations

import os
from collections.abc import Sequence

from lossmith.analysis import Arm, Verdict, judge
from lossmith.errors import UsageError
from lossmith.experiment.arms import Contestant, keep_verdict, run_arms, tuned
from lossmith.experiment.opening import (
    Resources,
    check_absent,
    create,
    default_path,
    open_session,
    prepare,
    task_section,
)
from lossmith.experiment.session import Session, sitting
from lossmith.experiment.spec import CompareSection, Spec, make
from lossmith.tasks import AnyTask, Task, members_of


def compare(
    contestants: Sequence[Contestant],
    task: AnyTask,
    *,
    seeds: int = 10,
    tune: Sequence[int] = (),
    tune_seeds: int = 2,
    delta: float | None = None,
    seed: int = 0,
    path: str | os.PathLike[str] | None = None,
    resources: Resources | None = None,
) -> Verdict:
    """Train every contestant on the same `seeds` seeds; the first is what the others are judged against.

    Args:
        contestants: two or more, the reference first.
        tune: positions of contestants that also run with tuned learning rate.
        path: run folder; `runs/compare-…` by default. An interrupted comparison is continued by `lossmith resume`.

    Raises:
        UsageError: fewer than two arms, repeated names, a task without a test split; RunError: the folder exists.
    """
    resources = resources or Resources()
    names = [c.name for c in contestants]
    if len(names) + len(tune) < 2:
        raise UsageError("a comparison needs two losses, or one and --tune-lr.")
    if len(set(names)) != len(names):
        raise UsageError(f"the losses {', '.join(names)} are not all different: name each once.")
    path = default_path("compare", task, "-".join(names)[:60], seed) if path is None else path
    check_absent(path)
    needs_test(task)
    section = make(
        CompareSection,
        names=names,
        losses=[c.loss for c in contestants],
        lr_scales=[c.lr_scale for c in contestants],
        budgets=[c.budget for c in contestants],
        notes=[c.note for c in contestants],
        tune=list(tune),
        seeds=seeds,
        tune_seeds=tune_seeds,
        delta=delta,
    )
    spec = make(Spec, kind="compare", seed=seed, task=task_section(task), compare=section)
    plan, _ = prepare(task, resources, budget=0.1, seed=seed)
    with sitting(create(path, spec, task, plan, resources)) as session:
        return _run(session, section, seed)


def resume_compare(path: str | os.PathLike[str], task: AnyTask | None, resources: Resources) -> Verdict:
    """Go on with an interrupted comparison."""
    session, spec = open_session(path, task, resources)
    if spec.compare is None:
        raise UsageError(f"{path} is a {spec.kind}, not a comparison.")
    with sitting(session):
        return _run(session, spec.compare, spec.seed)


def needs_test(task: AnyTask) -> None:
    """UsageError unless the task has a test split."""
    for one in members_of(task):
        if isinstance(one, Task) and "test" not in one.data:
            raise UsageError(f"the task {one.name!r} has no test split to judge on: give it one (test=...).")


def _run(session: Session, section: CompareSection, seed: int) -> Verdict:
    notes = section.notes or ("",) * len(section.names)
    rows = zip(section.names, section.losses, section.lr_scales, section.budgets, notes, strict=True)
    plain = [
        Contestant(name, loss, scale, budget, kind="subject" if position else "control", note=note)
        for position, (name, loss, scale, budget, note) in enumerate(rows)
    ]
    run_arms(session, plain, seeds=section.seeds)  # what needs no tuning first: an early look at a long comparison
    wanted = [contestant for position, contestant in enumerate(plain) if position in section.tune]
    better = {c.tuned_from: c for c in tuned(session, wanted, seeds=section.tune_seeds, run_seed=seed) if c is not None}
    contestants = [c for one in plain for c in (one, better.get(one.name)) if c is not None]
    arms = run_arms(session, contestants, seeds=section.seeds)
    verdict = judge_against_first(session, arms, section.delta)
    keep_verdict(session, verdict)
    session.store.set_state("finished")
    return verdict


def judge_against_first(session: Session, arms: Sequence[Arm], delta: float | None) -> Verdict:
    """Every subject against every control; a lone reference tuned against itself is judged as its own subject."""
    controls = [arm for arm in arms if arm.kind == "control"]
    subjects = [arm for arm in arms if arm.kind == "subject"]
    if not subjects:
        first, second = controls[0], controls[1]
        controls = [first]
        subjects = [Arm(second.name, "subject", second.samples, second.seeds, second.note, second.tuned_from)]
    metric = session.task.metric
    return judge(
        subjects,
        controls,
        [(s.name, c.name) for s in subjects for c in controls],
        metric=metric.name,
        direction=metric.direction,
        delta=delta,
        test_touches=session.store.count_test_touches(),
    )
