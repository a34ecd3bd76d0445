"""A run's summary on the terminal."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from rich.text import Text

from lossmith.cli.output import Cell, print_commands, print_facts, print_table
from lossmith.cli.verdict_page import STYLES, print_verdict

if TYPE_CHECKING:
    from rich.console import Console

    from lossmith.cli.summary import LossLine, Summary

_STATES = {"finished": "green", "running": "cyan", "being evaluated": "cyan", "failed": "red"}
_PURPOSES = {
    "search": "searching",
    "elite": "elites",
    "finalist": "finalists",
    "tuning": "tuning learning rates",
    "test": "test",
}


def print_summary(console: Console, summary: Summary, *, generations: bool = True) -> None:
    """State, best loss, counts, finalists, verdict, what to type next.

    Args:
        generations: whether every generation gets a line.
    """
    heading = Text(summary.path, style="bold")
    heading.append(f"   {summary.name}, seed {summary.seed}, ", style="default not bold")
    heading.append(summary.state, style=_STATES.get(summary.state, "yellow") + " not bold")
    console.print(heading)
    console.print()
    print_facts(console, _facts(summary))
    if generations and summary.history:
        console.print()
        _print_generations(console, summary)
    if len(summary.losses) > 1:
        console.print()
        _print_losses(console, summary)
    if summary.verdict is not None and (summary.kind == "compare" or generations):
        console.print()
        print_verdict(console, summary.verdict, sentence=summary.kind == "compare")
    console.print()
    print_commands(console, _next(summary))


def _facts(summary: Summary) -> Iterable[tuple[str, Cell]]:
    from lossmith.analysis import wording
    from lossmith.experiment.progress import duration

    if summary.holder:
        yield "running", f"{summary.holder}, since {summary.since[:19].replace('T', ' ')} UTC"
    best = summary.best
    if best is not None:
        yield "best loss", Text(best.formula, style="bold")
        yield "", _conditions(best, summary)
    elif summary.kind != "compare":
        yield "best loss", "none yet"
    if summary.generations:
        done = f"{summary.generations_done} of {wording.count(summary.generations, 'generation')}"
        if summary.meta_steps is not None:
            done = f"{summary.meta_steps[0]:,} of {wording.count(summary.meta_steps[1], 'meta-step')}"
        left = "" if summary.seconds_left is None else f", about {duration(summary.seconds_left)} left"
        yield "search", done + left
    if summary.counts:
        yield "candidates", f"{sum(summary.counts.values()):,}: {_counts(summary.counts)}"
    if summary.screened or summary.tuned:
        yield "before training", _preparation(summary)
    if summary.trainings:
        parts = ", ".join(f"{count:,} {_PURPOSES.get(what, what)}" for what, count in summary.trainings.items())
        yield "trainings", f"{sum(summary.trainings.values()):,} with {summary.steps:,} steps ({parts})"
    if summary.selection_bias:
        yield "selection bias", summary.selection_bias.removeprefix("Selection bias").lstrip(": ")
    for note in summary.notes[-3:]:
        yield "note", Text(note, style="yellow")
    if summary.test_touches:
        yield "test split", f"touched {wording.count(summary.test_touches, 'time')}"
    if summary.verdict is not None and summary.kind != "compare":
        yield "verdict", Text(summary.verdict.sentence, style=STYLES[summary.verdict.outcome])


def _preparation(summary: Summary) -> str:
    """How many candidates the screens saw, how many were tuned, and whether tuning changed a verdict."""
    parts = [f"{summary.screened:,} screened"] if summary.screened else []
    if summary.tuned:
        parts.append(f"{summary.tuned:,} tuned")
        if summary.screened:
            parts.append(f"the screens' verdict changed by tuning for {summary.changed:,} of them")
    return ", ".join(parts)


def _conditions(best: LossLine, summary: Summary) -> str:
    from lossmith.analysis import wording

    value = "failed" if best.value is None else wording.number(best.value, 4)
    if best.split == "selection":
        how = "full training" if best.budget == 1 else f"training stopped at {best.budget:.0%} of the steps"
        where = f"on selection, {how}, {wording.count(summary.fresh_seeds or 0, 'fresh seed')}"
    else:
        where = "on fitness, in partial training; no finalists yet"
    scale = "" if best.lr_scale == 1 else f", learning rate × {best.lr_scale:.4g}"
    return f"{wording.readable(summary.metric)} {value} {where}{scale}; candidate {best.id}"


def _counts(counts: dict[str, int]) -> str:
    from lossmith.analysis import wording

    order = sorted(counts.items(), key=lambda item: (item[0] != "ok", item[0]))
    return ", ".join(f"{count:,} {wording.status_label(status)}" for status, count in order)


def _print_generations(console: Console, summary: Summary) -> None:
    from lossmith.analysis import wording
    from lossmith.experiment.progress import duration

    statuses = sorted({s for line in summary.history for s in line.counts}, key=lambda s: (s != "ok", s))

    def number(value: float | None) -> str:
        return "–" if value is None else wording.number(value, 4)

    rows = [
        (
            str(line.number),
            number(line.best),
            number(line.best_so_far),
            *(str(line.counts.get(status, 0)) if line.told else "…" for status in statuses),
            f"{line.steps:,}" if line.told else "…",
            "…" if line.seconds is None else duration(line.seconds),
        )
        for line in summary.history
    ]
    header = (
        "generation" if summary.meta_steps is None else "block",
        "best",
        "so far",
        *map(wording.status_label, statuses),
        "steps",
        "time",
    )
    print_table(console, header, rows, left=())


def _print_losses(console: Console, summary: Summary) -> None:
    from lossmith.analysis import wording

    split = summary.losses[0].split
    extra = [any(line.lr_scale != 1 for line in summary.losses), any(line.budget < 1 for line in summary.losses)]
    rows = []
    for line in summary.losses:
        value = "failed" if line.value is None else wording.number(line.value, 4)
        more = [f"{line.lr_scale:.4g}", "full" if line.budget == 1 else f"{line.budget:.0%}"]
        rows.append((line.id, value, *(m for m, shown in zip(more, extra, strict=True) if shown), line.formula))
    columns = [c for c, shown in zip(("lr ×", "trained"), extra, strict=True) if shown]
    what = "finalist" if split == "selection" else "leader"
    header = (what, f"{wording.readable(summary.metric)} ({split})", *columns, "loss")
    print_table(console, header, rows, left=(0, len(header) - 1), cut=len(header) - 1)


def _next(summary: Summary) -> Iterable[tuple[str, str]]:
    path = summary.path
    if summary.state in ("interrupted", "killed", "failed", "created"):
        yield f"lossmith resume {path}", "goes on"
        return
    if summary.state == "running":
        yield f"lossmith show {path}", "how it is getting on"
        return
    if summary.kind == "compare":
        yield f"lossmith report {path}", "one page to keep or send on"
        return
    if summary.best is None:
        return
    if summary.verdict is None:
        yield f"lossmith evaluate {path} --seeds 10", "is it really better?"
    if summary.kind == "shelf" and summary.reference is not None:
        steps = "" if summary.steps_in_full is None else f" --steps {summary.steps_in_full}"
        search = f"lossmith search --method taylorglo --task {summary.reference}{steps} --start-from {path}"
        yield search, "searches on from here"
    yield f"lossmith export {path} --to torch", "the loss as a few lines of PyTorch"
    yield f"lossmith report {path}", "one page to keep or send on"
