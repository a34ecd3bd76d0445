"""The report of a run: one HTML page that needs nothing but a browser, made from plain values."""

from __future__ import annotations

import os
import tempfile
from dataclasses import dataclass
from pathlib import Path

from lossmith.analysis import report_template as html
from lossmith.analysis import wording
from lossmith.analysis.adaptation import AdaptationCurves
from lossmith.analysis.adaptation_figure import draw_adaptation
from lossmith.analysis.curves import History, LossCurve
from lossmith.analysis.drawing import for_page
from lossmith.analysis.figures import draw_arms, draw_curve, draw_history
from lossmith.analysis.formula import draw_formula
from lossmith.analysis.meta_loss import Course
from lossmith.analysis.meta_loss_figure import draw_meta_loss
from lossmith.analysis.verdict import COMPARISON_HEADER, SelectionBias, Verdict, comparison_cells
from lossmith.errors import UsageError

_HEADLINES = {"better": "Better", "worse": "Worse", "no_worse": "No worse", "not_shown": "Not shown"}


@dataclass(frozen=True)
class ReportData:
    """Everything a report shows. What is missing is named on the page, with the command that adds it.

    Args:
        title: of the page ("taylorglo on digits/mlp").
        task, method, when, machine, run: for the head of the page; empty ones are left out.
        facts: further rows of the head, such as ("generations", "20 of 20").
        verdict: the judgement on the test split.
        selection_bias: shown if the verdict has none of its own.
        loss_name, loss_text, loss_latex, loss_torch: the loss in its forms; LaTeX without dollar signs.
        loss_facts: rows about the loss, such as ("null epoch", "pulls towards the target").
        curve: the loss next to the task loss; `curve_note` says why there is none.
        adaptation: what an adaptive loss became in its best training; `adaptation_note` says which that was.
        history: how the search went. courses: how the tuning of its restarts went, of a search by gradient.
        spec: the run's complete specification (TOML).
        commands: how to reproduce the run, one command each.
        evaluate_command, search_command: what adds a missing verdict or search.
    """

    title: str
    task: str = ""
    method: str = ""
    when: str = ""
    machine: str = ""
    run: str = ""
    facts: tuple[tuple[str, str], ...] = ()
    verdict: Verdict | None = None
    selection_bias: SelectionBias | None = None
    loss_name: str = ""
    loss_text: str = ""
    loss_latex: str = ""
    loss_torch: str = ""
    loss_facts: tuple[tuple[str, str], ...] = ()
    curve: LossCurve | None = None
    curve_note: str = ""
    adaptation: AdaptationCurves | None = None
    adaptation_note: str = ""
    history: History | None = None
    courses: tuple[Course, ...] = ()
    spec: str = ""
    commands: tuple[str, ...] = ()
    evaluate_command: str = "lossmith evaluate RUN --seeds 10"
    search_command: str = "lossmith search --method METHOD --task TASK --run RUN"


def write_report(path: str | os.PathLike[str], data: ReportData) -> Path:
    """Write the report; a reader sees the old page or the whole new one, never half of it.

    Args:
        path: of the HTML file; its folder exists.
    Returns:
        The path written.
    Raises:
        UsageError: the folder does not exist or cannot be written to.
    """
    target = Path(path)
    if not target.parent.is_dir():
        raise UsageError(f"the folder {target.parent} does not exist; create it or choose another path for the report")
    text = render_report(data)
    try:
        handle, temporary = tempfile.mkstemp(dir=target.parent, prefix=f".{target.name}.")
    except OSError as error:
        raise UsageError(f"cannot write {target}: {error.strerror}; choose another path for the report") from error
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(temporary, 0o644)  # mkstemp's files are for their owner only, a report is for others
        os.replace(temporary, target)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise
    return target


def render_report(data: ReportData) -> str:
    """The page as text: no script, no outside resource."""
    head = [
        ("task", data.task),
        ("method", data.method),
        ("run", data.run),
        ("when", data.when),
        ("machine", data.machine),
    ]
    parts = [
        html.paragraph("Lossmith report", "kicker"),
        f"<header>{html.heading(data.title, 1)}{html.facts([*head, *data.facts])}</header>",
        _verdict_box(data),
        *_evidence(data),
        *_loss(data),
        *_search(data),
        *_reproduce(data),
        "<footer>One file, no scripts, nothing loaded from elsewhere: keep it next to the run, or send it on.</footer>",
    ]
    return html.page(data.title, "\n".join(part for part in parts if part))


def _verdict_box(data: ReportData) -> str:
    if data.verdict is None:
        sentence = f"Nothing has been compared on the test split. `{data.evaluate_command}` adds the verdict."
        return html.verdict_box("missing", "No verdict yet", sentence)
    v = data.verdict
    headline = _HEADLINES[v.outcome]
    if v.outcome == "no_worse":
        headline += f" than {wording.margin(v.delta)}"
    opening, _, rest = v.sentence.partition(": ")  # the headline has said the outcome already
    sentence = f"{rest[:1].upper()}{rest[1:]}" if opening == headline else v.sentence
    return html.verdict_box(v.outcome, headline, sentence)


def _evidence(data: ReportData) -> list[str]:
    v = data.verdict
    bias = (v.selection_bias if v else None) or data.selection_bias
    notes = [
        html.paragraph(text, "note") for text in (bias.sentence if bias else "", v.test_sentence if v else "") if text
    ]
    if v is None:
        return [html.heading("Selection bias"), *notes] if notes else []
    picture = for_page(draw_arms(v, name="arms"), name="arms", label=f"{v.split} {v.metric} of every training, by arm")
    rows = [
        (
            a.name,
            a.kind,
            wording.mean_and_deviation(list(a.measured.values())),
            f"{len(a.measured)} of {len(a.seeds)}",
            a.note,
        )
        for a in v.arms
    ]
    pairs = [(*comparison_cells(c)[:-1], wording.readable(c.outcome).replace(" ", "\u00a0")) for c in v.comparisons]
    words = "".join(html.paragraph(c.sentence) for c in v.comparisons)
    explanation = (
        "A positive difference is in favour of the first of the two, whichever way the metric points. d_z is the mean "
        "difference in standard deviations of the differences (paired), g in standard deviations of the arms (Hedges)."
    )
    return [
        html.heading("Evidence"),
        html.figure(picture, "Every training (small) with the mean and its 95 % confidence interval."),
        html.table(
            ("arm", "kind", f"{v.split} {wording.readable(v.metric)}, mean ± sd", "trained", "note"),
            rows,
            left=(0, 1, 4),
        ),
        html.table(COMPARISON_HEADER, pairs, left=(0, 6)),
        html.paragraph(explanation, "note"),
        html.details("Every comparison in words", words),
        *notes,
    ]


def _loss(data: ReportData) -> list[str]:
    if not (data.loss_text or data.loss_latex):
        sentence = f"There is no loss to show yet. `{data.search_command}` finds one."
        return [html.heading("The loss"), html.paragraph(sentence, "note")]
    parts = [html.heading("The loss" + (f": {data.loss_name}" if data.loss_name else ""))]
    drawn = draw_formula(data.loss_latex) if data.loss_latex else None
    if drawn is not None:
        caption = "ℓ of one output, to be minimised; numbers rounded to five digits."
        parts.append(
            html.figure(for_page(drawn, name="formula", label=data.loss_text or data.loss_latex), caption, "formula")
        )
    if data.loss_text:
        parts.append(html.code(data.loss_text, wrap=True))
    parts.append(html.facts(data.loss_facts))
    if data.curve is not None:
        parts.append(_curve(data.curve))
    elif data.curve_note:
        parts.append(html.paragraph(f"No curve: {data.curve_note}.", "note"))
    parts += _adaptation(data)
    if data.loss_torch:
        parts += [html.heading("In PyTorch, without Lossmith", 3), html.code(data.loss_torch)]
    return parts


def _curve(curve: LossCurve) -> str:
    if curve.head == "identity":
        how = "One output of a row as its residual varies."
    elif curve.head == "softmax":
        how = f"One output of {curve.classes} as its prediction varies; the others share the rest equally."
    else:
        how = "One output of a row as its prediction varies."
    scaled = ""
    if f"{curve.scale:.3g}" != "1":
        where = "at residual 1" if curve.head == "identity" else "where all predictions are equal"
        scaled = (
            f" {curve.name} is drawn × {curve.scale:.3g}, which gives it the pull of {curve.reference} {where}: "
            f"in training its steps there are {1 / curve.scale:.3g} times as large."
        )
    progress = f" At training progress {curve.progress:g}." if curve.progress is not None else ""
    picture = for_page(draw_curve(curve, name="curve"), name="curve", label=f"{curve.name} next to {curve.reference}")
    return html.figure(picture, how + scaled + progress)


def _adaptation(data: ReportData) -> list[str]:
    curves = data.adaptation
    if curves is None:
        return []
    label = "the loss at the stored steps of a training"
    picture = for_page(draw_adaptation(curves, name="adaptation"), name="adaptation", label=label)
    moved = f"{curves.moved[-1]:.2%}" if curves.moved[-1] < 0.1 else f"{curves.moved[-1]:.0%}"
    caption = (
        f"How the loss adapted in {data.adaptation_note}, from step {curves.steps[0]:,} to {curves.steps[-1]:,}; at "
        f"the end its parameters were {moved} of their own length away from where they began."
    )
    return [html.heading("While it trains", 3), html.figure(picture, caption)]


def _search(data: ReportData) -> list[str]:
    if data.history is None or not data.history.generations:
        sentence = f"This run has no search of its own. `{data.search_command}` makes one."
        return [html.heading("The search"), html.paragraph(sentence, "note")]
    h = data.history
    picture = for_page(
        draw_history(h, name="history"), name="history", label=f"{h.metric} of the candidates by {h.unit}"
    )

    def cell(value: float | None) -> str:
        return "–" if value is None else wording.number(value, 4 if abs(value) < 10 else None)

    rows = [
        (str(g), *(cell(series[i]) for series in (h.best, h.mean, h.best_so_far)), *map(str, h.counts[i]))
        for i, g in enumerate(h.generations)
    ]
    header = (h.unit, "best", "mean", "best so far", *(wording.status_label(s) for s in h.statuses))
    last = next((b for b in reversed(h.best_so_far) if b is not None), None)
    ended = ", ".join(f"{h.total(s):,} {wording.status_label(s)}" for s in h.statuses)
    generations = wording.count(len(h.generations), h.unit)
    summary = f"{generations}: {ended}. Best {wording.readable(h.metric)} as the search saw it: {cell(last)}."
    return [
        html.heading("The search"),
        html.paragraph(summary),
        html.figure(
            picture, "Scores of the search itself, on its own split and fidelity; no statement about the test split."
        ),
        *_courses(data.courses),
        html.details(f"{h.unit.capitalize()} by {h.unit}", html.table(header, rows, left=())),
    ]


def _courses(courses: tuple[Course, ...]) -> list[str]:
    if not courses:
        return []
    picture = for_page(draw_meta_loss(courses, name="meta-loss"), name="meta-loss", label="task loss by meta-step")
    caption = (
        "What the loss parameters were tuned for: the task loss on a fitness batch after the unrolled steps, mean and "
        "range over neighbouring meta-steps, each of which has batches of its own."
    )
    return [html.figure(picture, caption)]


def _reproduce(data: ReportData) -> list[str]:
    parts = []
    if data.commands:
        parts += [html.heading("How to reproduce"), html.code("\n".join(data.commands))]
    if data.spec:
        parts += [] if parts else [html.heading("How to reproduce")]
        parts.append(html.details("Complete specification (TOML)", html.code(data.spec)))
    return parts
