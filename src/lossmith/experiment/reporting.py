"""What a report shows of a run, gathered from the run folder alone: neither the task nor its data is needed."""

from __future__ import annotations

import copy
import json
import math
import os
import platform
import shlex

from lossmith.analysis import (
    AdaptationCurves,
    Block,
    Course,
    History,
    LossCurve,
    ReportData,
    Scored,
    adaptation_curves,
    history,
    loss_curve,
    meta_loss,
    wording,
)
from lossmith.errors import LossError, UsageError
from lossmith.experiment.run import Best, Run
from lossmith.experiment.trajectories import best_trajectory
from lossmith.losses import Loss, LossSet, loss, to_json
from lossmith.losses.export import export
from lossmith.losses.learning_rule import attracts_zero_error, null_epoch
from lossmith.losses.printer import to_text
from lossmith.losses.simplify import simplified

Facts = tuple[tuple[str, str], ...]


def report_data(run: Run) -> ReportData:
    """Everything the report of a run says; what it does not have yet is named on the page.

    Args:
        run: of any kind, finished or not.
    """
    path = run.path
    best = _best(run)
    found = None if best is None else _single(best.loss)
    curve, note = _curve(run, found)
    adaptation, course = _adaptation(run, found)
    return ReportData(
        title=f"{run.row.method or 'comparison'} on {run.row.task}",
        task=run.row.task,
        method=run.row.method,
        when=f"{run.row.created_at[:16].replace('T', ' ')} UTC",
        machine=_machine(run),
        run=path,
        facts=_facts(run),
        verdict=run.verdict,
        selection_bias=run.selection_bias,
        loss_name="" if found is None else found.name or "",
        loss_text="" if found is None else _exported(found, "text") or str(found),
        loss_latex="" if found is None else _exported(simplified(found, digits=5), "latex"),
        loss_torch="" if found is None else _exported(found, "torch"),
        loss_facts=() if best is None or found is None else _loss_facts(run, best, found),
        curve=curve,
        curve_note=note,
        adaptation=adaptation,
        adaptation_note=course,
        history=_history(run),
        courses=_courses(run),
        spec=run.spec.to_toml(),
        commands=_commands(run),
        evaluate_command=f"lossmith evaluate {path} --seeds 10",
        search_command=f"lossmith search --method taylorglo --task {run.spec.task.reference or 'TASK'}",
    )


def _best(run: Run) -> Best | None:
    """The loss found, or None for a comparison and for a run that has found nothing."""
    if run.kind == "compare":
        return None
    try:
        return run.best
    except UsageError:  # nothing yet, or under a head that only Python can bring back
        return None


def _single(found: Loss | LossSet) -> Loss:
    return found[0] if isinstance(found, LossSet) else found


def _exported(found: Loss, form: str) -> str:
    """A form of the loss, or nothing where it has none."""
    try:
        return to_text(found.kernel.expression()) if form == "text" else export(found, form)
    except LossError:
        return ""


def _machine(run: Run) -> str:
    versions = run.spec.versions
    parts = [f"{name} {versions[name]}" for name in ("python", "torch") if name in versions]
    hosts = dict.fromkeys(session.host for session in run.row.attempts)
    device = str(run.spec.plan.get("device", ""))
    return ", ".join(part for part in (device, *parts, *hosts) if part) or platform.machine()


def _facts(run: Run) -> Facts:
    search = run.spec.search
    rows = [("seed", str(run.row.seed)), ("state", run.row.state)]
    if search is not None:
        told = sum(generation.told for generation in run.generations)
        effort = f"{search.budget:.3g} of the full training's {search.fidelity}"
        if run.spec.task.steps:
            effort += f" ({round(search.budget * run.spec.task.steps):,} of {run.spec.task.steps:,})"
        if run.meta_steps is None:
            rows.append(("generations", f"{told} of {search.generations}"))
        else:
            rows.append(("meta-steps", f"{run.meta_steps[0]:,} of {run.meta_steps[1]:,}"))
        rows.append(("effort per candidate", effort))
        rows += [("training steps spent", f"{run.training_steps:,}")]
    if run.test_touches:
        rows.append(("test split touched", wording.count(run.test_touches, "time")))
    return tuple(rows)


def _loss_facts(run: Run, best: Best, found: Loss) -> Facts:
    name, _ = run.metric
    rows = [
        ("candidate", best.position),
        (f"{wording.readable(name)} on {best.chosen_on}", wording.number(best.value, 4)),
        ("learning rate", "the recipe's own" if best.lr_scale == 1 else f"the recipe's × {best.lr_scale:.4g}"),
    ]
    if best.budget < 1:
        rows.append(("early stopping", f"at {best.budget:.0%} of the full training"))
    if found.smoothing:
        rows.append(("label smoothing", wording.margin(found.smoothing)))
    classes = _classes(run)
    if found.head == "softmax" and classes is not None:
        rows += _learning_rule(found, classes)
    return tuple(rows)


def _learning_rule(found: Loss, classes: int) -> list[tuple[str, str]]:
    """How it pulls before training, and whether it still does when training is nearly done."""
    try:
        at_target, elsewhere = null_epoch(found, classes)
        attracted = attracts_zero_error(found, classes)
    except LossError:
        return []
    if not (math.isfinite(at_target) and math.isfinite(elsewhere)):
        return []
    pulls = f"{at_target:.4g} at the target, {elsewhere:.4g} elsewhere, while every prediction is 1/{classes}"
    ending = "goes on pulling" if attracted else "stops pulling before the prediction is certain, which regularises"
    return [("pull before training", pulls), ("near zero training error", ending)]


def _classes(run: Run) -> int | None:
    """Number of outputs, where the fingerprint knows it."""
    fingerprint = run.row.fingerprint
    outputs = fingerprint.get("outputs") or dict(fingerprint.get("model") or {}).get("outputs")
    return int(outputs) if outputs else None


def _curve(run: Run, found: Loss | None) -> tuple[LossCurve | None, str]:
    """The loss next to the task loss, or why there is no picture."""
    if found is None:
        return None, ""
    classes = _classes(run)
    if classes is None:
        return None, "the number of outputs is not known of a task that trains by itself"
    shown = copy.copy(found)
    shown.name = found.name or "found"  # a picture has no room for a formula
    try:
        return loss_curve(shown, loss(str(run.row.fingerprint["controls"][0]), head=found.head), classes=classes), ""
    except LossError as error:
        return None, str(error).rstrip(".")


def _adaptation(run: Run, found: Loss | None) -> tuple[AdaptationCurves | None, str]:
    """What an adaptive loss became in its best stored training, and which that was."""
    if found is None or found.online is None:
        return None, ""
    trajectory = best_trajectory(run, to_json(found))
    if trajectory is None:
        return None, ""
    try:
        return adaptation_curves(found, trajectory.document, classes=_classes(run) or 2), str(trajectory)
    except LossError:  # under a head that only Python can bring back
        return None, ""


def _history(run: Run) -> History | None:
    name, direction = run.metric
    sign = 1.0 if direction == "min" else -1.0
    unit = "generation" if run.meta_steps is None else "block"
    told = {generation.number for generation in run.generations if generation.told}
    rows = [
        Scored(row.generation, str(row.candidate.status), None if row.fitness is None else sign * row.fitness)
        for row in run.candidates
        if row.generation in told
    ]
    return history(rows, metric=name, direction=direction, unit=unit) if rows else None  # type: ignore[arg-type]


def _courses(run: Run) -> tuple[Course, ...]:
    """The tunings of a search by gradient, whose candidates have settings of their own."""
    done = {row.evaluation.request: row.evaluation for row in run.evaluations if row.request.work == "tune"}
    blocks = []
    for row in run.candidates:
        found = done.get(row.request or "")
        if not row.candidate.tuning or found is None or not found.product:
            continue
        product = json.loads(found.product)
        name = row.candidate.origin.rpartition(", ")[0]
        values = tuple((int(step), float(value)) for step, value in product.get("meta_loss", ()))
        blocks.append(Block(name, row.candidate.loss, product["loss"], values, found.status.ok))
    return meta_loss(blocks)


def _commands(run: Run) -> tuple[str, ...]:
    """What makes the run again, where a command can; the complete specification is on the page in any case."""
    task, compared = run.spec.task, run.spec.compare
    if task.reference is None:
        return ()
    if run.kind == "search":
        spec = os.path.join(run.path, "spec.toml")
        return (f"lossmith search {spec} --run runs/again", "lossmith evaluate runs/again --seeds 10")
    if compared is None:
        return ()
    words = ["lossmith", "compare", *map(shlex.quote, compared.names), "--task", task.reference]
    if len(set(task.each)) > 1:
        return ()  # the command line has one number of steps for all of them
    words += [] if task.option is None else ["--steps", str(task.option)]
    words += ["--seeds", str(compared.seeds), "--seed", str(run.row.seed)]
    for position in compared.tune:
        words += ["--tune-lr", shlex.quote(compared.names[position])]
    words += ["--tune-seeds", str(compared.tune_seeds)] if compared.tune else []
    words += [] if compared.delta is None else ["--delta", f"{compared.delta:g}"]
    return (" ".join([*words, "--run", "runs/again"]),)
