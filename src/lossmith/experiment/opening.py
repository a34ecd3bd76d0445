"""Creating and opening runs: the task, the plan, the store and the executor brought together in a `Session`."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lossmith.errors import RunError
from lossmith.evaluation import (
    AllCores,
    Executor,
    Plan,
    Rolling,
    check_device,
    check_dtype,
    count_workers,
    make_executor,
    make_plan,
)
from lossmith.evaluation.payload import pack
from lossmith.experiment.events import Listener, Note
from lossmith.experiment.pilot import Pilot, run_pilot
from lossmith.experiment.session import Session
from lossmith.experiment.spec import Spec, TaskSection, from_toml, make, versions
from lossmith.store import RunStore
from lossmith.tasks import AnyTask, SeveralTasks, resolve_task

LONGEST_NAME = 120  # of a task in a folder's name: several tasks have a long one, and file systems end at 255


@dataclass(frozen=True)
class Resources:
    """What a run may use; no result depends on it, but for the plan's own fields when a run is created.

    Args:
        workers: local worker processes; "all" for as many as there are cores or GPUs; None or 0 trains in this process.
        executor: anything with `submit(fn, *args) -> Future`, instead of workers.
        device: torch device. engine: "rule", "auto" or an engine's name (see `make_plan`).
        deadline: seconds per training after which it is given up (needs workers).
        listeners: called with every event.
        dtype: "float32" or "bfloat16". compile: see `make_plan`.
    """

    workers: int | AllCores | None = None
    executor: Executor | None = None
    device: str = "cpu"
    engine: str = "rule"
    deadline: float | None = None
    listeners: Sequence[Listener] = ()
    dtype: str = "float32"
    compile: bool | None = None

    def say(self, text: str) -> None:
        """Tell every listener, before there is a session."""
        for listener in self.listeners:
            listener(Note(text))


def task_section(task: AnyTask) -> TaskSection:
    """How a spec names a task."""
    each = tuple(one.steps for one in task.tasks) if isinstance(task, SeveralTasks) and task.steps is not None else ()
    values = {"name": task.name, "reference": task.reference, "steps": task.steps, "each": each}
    section: TaskSection = make(TaskSection, **values)
    return section


def default_path(kind: str, task: AnyTask, method: str, seed: int) -> str:
    """`runs/KIND-…` for a run that was given no folder."""
    parts = [kind, method] if kind == "compare" else [method or kind]
    words = "-".join([*parts, task.name[:LONGEST_NAME], f"seed{seed}"])
    return os.path.join("runs", re.sub(r"[^A-Za-z0-9._@=,-]+", "-", words))


def check_absent(path: str | os.PathLike[str]) -> None:
    """RunError if something is there already: said before any work is done."""
    place = Path(path)
    if place.exists() and (not place.is_dir() or any(place.iterdir())):
        raise RunError(
            f"{path} exists already: `lossmith resume {path}` goes on with it, or name another folder with --run."
        )


def prepare(
    task: AnyTask, resources: Resources, *, budget: float, data_fraction: float = 1.0, seed: int = 0
) -> tuple[Plan, Pilot]:
    """Decide the plan and run the pilot, in this process; nothing is on disk yet.

    Raises:
        SpecError: no such engine or device, more workers than memory allows. TaskError: the task does not work.
    """
    plan = planned(task, resources)
    if resources.workers and resources.executor is None:  # refused before time is spent
        count_workers(resources.workers, task, plan, len(pack(task)))
    pilot = run_pilot(task, plan, budget=budget, data_fraction=data_fraction, seed=seed)
    resources.say(plan.describe())
    return pilot.into(plan), pilot


def create(path: str | os.PathLike[str], spec: Spec, task: AnyTask, plan: Plan, resources: Resources) -> Session:
    """A new run folder and a session on it."""
    spec = spec.model_copy(update={"plan": plan.to_dict(), "versions": versions()})
    method = spec.search.method if spec.search else ""
    fingerprint = task.fingerprint()
    rolling = Rolling.of_run(os.fspath(path), str(fingerprint.get("digest", "")), plan)
    executor = _executor(task, plan, resources, rolling)
    try:
        store = RunStore.create(
            path,
            kind=spec.kind,
            task=task.name,
            fingerprint=fingerprint,
            method=method,
            seed=spec.seed,
            spec_toml=spec.to_toml(),
        )
    except BaseException:
        executor.close(kill=True)
        raise
    return Session(store, task, plan, executor, resources.listeners, rolling=rolling)


def open_session(path: str | os.PathLike[str], task: AnyTask | None, resources: Resources) -> tuple[Session, Spec]:
    """A session on an existing run, under the plan it was created with.

    Raises:
        RunError: the run's task was built in Python and not handed over, or is another task by now.
    """
    with RunStore.open(path) as reader:
        spec = from_toml(reader.spec_toml(), f"{path}/spec.toml")
        fingerprint = reader.run().fingerprint
    task = task_of(spec, path) if task is None else task
    found = task.fingerprint()
    if found.get("digest") != fingerprint.get("digest"):
        changed = sorted(k for k in found.keys() | fingerprint.keys() if found.get(k) != fingerprint.get(k))
        raise RunError(
            f"the task is not the one {path} was made with: {', '.join(c for c in changed if c != 'digest')} changed. "
            f"Go on with the original task, or start a new run."
        )
    plan = plan_of(spec)
    check_device(plan.device)
    check_dtype(plan.dtype, plan.device, task)
    rolling = Rolling.of_run(os.fspath(path), str(found.get("digest", "")), plan)
    executor = _executor(task, plan, resources, rolling)
    try:
        store = RunStore.open(path, write=True)
    except BaseException:
        executor.close(kill=True)
        raise
    resources.say(plan.describe())
    attempts = store.run().attempts
    finished = bool(attempts) and attempts[-1].end == "finished"  # not the run's state: verdicts reopen finished runs
    for note in rolling.tidy(lambda key: store.evaluation(key) is not None, finished=finished):
        resources.say(note)
    return Session(store, task, plan, executor, resources.listeners, rolling=rolling), spec


def task_of(spec: Spec, path: str | os.PathLike[str]) -> AnyTask:
    """The task a spec names, rebuilt from its reference."""
    if spec.task.reference is None:
        raise RunError(
            f"the task {spec.task.name!r} of {path} was built in Python, so only Python can rebuild it: "
            f"call lossmith.resume({str(path)!r}, task=task)."
        )
    return resolve_task(spec.task.reference, steps=spec.task.of_each)


def plan_of(spec: Spec) -> Plan:
    """The evaluation plan a spec stores."""
    return Plan.from_dict(spec.plan)


def _executor(task: AnyTask, plan: Plan, resources: Resources, rolling: Rolling) -> Any:
    workers = resources.workers
    if plan.deadline and not workers and resources.executor is None:
        workers = 1  # only a process of its own can be stopped at a deadline
    return make_executor(task, workers=workers, executor=resources.executor, plan=plan, rolling=rolling)


def planned(task: AnyTask, resources: Resources) -> Plan:
    """The plan for a task on these resources.

    Raises:
        SpecError: as `make_plan`.
    """
    return make_plan(
        task,
        engine=resources.engine,
        device=resources.device,
        dtype=resources.dtype,
        deadline=resources.deadline,
        compile=resources.compile,
        say=resources.say,
    )
