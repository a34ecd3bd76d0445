"""Figures: records of `curves` and `verdict` drawn as SVG or PNG. Nothing is computed here."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

from scipy import special

from lossmith.analysis import wording
from lossmith.analysis.curves import History, Line, LossCurve
from lossmith.analysis.drawing import (
    BLUE,
    GREEN,
    GREY,
    INK,
    MUTED,
    ORANGE,
    PURPLE,
    SKY,
    YELLOW,
    Format,
    render,
)
from lossmith.analysis.verdict import Verdict

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_DASHES = ("-", (0, (5, 2)), (0, (1.2, 1.5)))
_STATUS_COLOURS = {
    "ok": GREEN,
    "diverged": ORANGE,
    "at_chance": PURPLE,
    "timed_out": SKY,
    "crashed": INK,
    "duplicate_of": GREY,
}
_SCREEN_COLOURS = (YELLOW, "#f0e442", "#8c6d1f")  # one for each screen


def draw_curve(curve: LossCurve, *, format: Format = "svg", name: str = "curve") -> bytes:
    """Value against prediction, and pull −∂ℓ/∂z against log-odds (regression: both against the residual)."""

    def draw(figure: Figure) -> None:
        left, right = figure.subplots(1, 2)
        regression = curve.head == "identity"
        lines = [*curve.of("reference"), *curve.of("loss")]
        roles = list(dict.fromkeys(line.role for line in curve.of("loss")))
        for line in lines:
            style = {
                "color": BLUE if line.loss == "loss" else ORANGE,
                "linestyle": _DASHES[roles.index(line.role) % len(_DASHES)],
                "label": _label(curve, line),
            }
            factor = curve.scale if line.loss == "loss" else 1.0
            left.plot(curve.prediction, [factor * v for v in line.value], **style)
            right.plot(curve.x, [factor * v for v in line.pull], **style)
        reference = curve.of("reference")
        _limit(left, [line.value for line in reference], [line.value for line in curve.of("loss")], curve.scale)
        _limit(right, [line.pull for line in reference], [line.pull for line in curve.of("loss")], curve.scale)
        right.axhline(0.0, color=MUTED, linewidth=0.8)
        left.set_title("Loss of a row")
        right.set_title("Pull on the output, −∂ℓ/∂z")
        if regression:
            left.set_xlabel("residual p − t")
            right.set_xlabel("residual p − t")
            left.set_ylabel("loss, 0 at residual 0")
        else:
            left.set_xlabel("prediction p of the class")
            right.set_xlabel("log-odds of the class")
            left.set_ylabel("loss, 0 where all classes are equal")
        handles, labels = left.get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside lower center", ncols=2 if len(labels) == 4 else min(len(labels), 3))

    return render(draw, name=name, size=(8.2, 3.7), format=format)


def draw_history(history: History, *, format: Format = "svg", name: str = "history") -> bytes:
    """Every candidate, the best so far and the mean of each generation; below, how the candidates ended."""

    def draw(figure: Figure) -> None:
        top, bottom = figure.subplots(2, 1, sharex=True, height_ratios=(2.2, 1.0))
        g = history.generations
        dots = [(x, v) for x, values in zip(g, history.values, strict=True) for v in values]
        if dots:
            top.scatter(*zip(*dots, strict=True), s=12, color=GREY, alpha=0.6, linewidths=0, label="candidate")
        _line(top, g, history.mean, color=ORANGE, linestyle=_DASHES[1], label=f"mean of the {history.unit}")
        marker = "o" if len(g) <= 40 else None
        _line(top, g, history.best_so_far, color=BLUE, marker=marker, markersize=3.5, label="best so far")
        better = "lower" if history.direction == "min" else "higher"
        top.set_ylabel(f"{wording.readable(history.metric)}\n({better} is better)")
        outside = _clip_outliers(top, [v for _, v in dots], history.direction)
        top.set_title("Candidates" + (f" ({wording.count(outside, 'value')} off the scale)" if outside else ""))
        if dots:
            top.legend(loc="upper left", bbox_to_anchor=(1.01, 1.0), borderaxespad=0.0)
        floor = [0] * len(g)
        screens = [s for s in history.statuses if s.startswith("screened")]
        screen_colours = {s: _SCREEN_COLOURS[i % len(_SCREEN_COLOURS)] for i, s in enumerate(screens)}
        for place, status in enumerate(history.statuses):
            heights = [row[place] for row in history.counts]
            colour = screen_colours.get(status) or _STATUS_COLOURS.get(status, GREY)
            bottom.bar(g, heights, bottom=floor, width=0.8, color=colour, label=wording.status_label(status))
            floor = [f + h for f, h in zip(floor, heights, strict=True)]
        bottom.set_title("How they ended")
        bottom.set_xlabel(history.unit)
        bottom.set_ylabel("candidates")
        _whole_numbers(bottom, g)
        if history.statuses:
            bottom.legend(loc="upper left", bbox_to_anchor=(1.01, 1.0), borderaxespad=0.0, reverse=True)

    return render(draw, name=name, size=(8.2, 4.4), format=format)


def draw_arms(verdict: Verdict, *, format: Format = "svg", name: str = "arms") -> bytes:
    """Every training of every arm on the verdict's split, with mean and 95 % confidence interval."""
    arms = list(reversed(verdict.arms))  # the first arm on top

    def draw(figure: Figure) -> None:
        axes = figure.subplots()
        for row, arm in enumerate(arms):
            values = list(arm.measured.values())
            colour = BLUE if arm.kind == "subject" else ORANGE
            if not values:
                place = axes.get_yaxis_transform()  # across: a share of the width, up: the row
                axes.text(0.02, row, "every training failed", color=colour, va="center", transform=place)
                continue
            marker = "o" if arm.kind == "subject" else "s"
            axes.scatter(
                values, [row - 0.18] * len(values), s=14, color=colour, alpha=0.55, linewidths=0, marker=marker
            )
            center = math.fsum(values) / len(values)
            axes.errorbar(
                [center],
                [row + 0.12],
                xerr=[[_half_width(values)]],
                fmt=marker,
                color=colour,
                markersize=6,
                capsize=4,
                linewidth=1.8,
            )
        axes.set_yticks(range(len(arms)), [_shortened(a.name) for a in arms])
        axes.set_ylim(-0.6, len(arms) - 0.4)
        axes.grid(visible=False, axis="y")
        better = "lower" if verdict.direction == "min" else "higher"
        axes.set_xlabel(f"{verdict.split} {wording.readable(verdict.metric)} ({better} is better)")

    return render(draw, name=name, size=(8.2, 1.0 + 0.46 * len(arms)), format=format)


def _label(curve: LossCurve, line: Line) -> str:
    name = curve.name if line.loss == "loss" else curve.reference
    scaled = (
        f" × {curve.scale:.3g}" if line.loss == "loss" and not math.isclose(curve.scale, 1.0, rel_tol=0.005) else ""
    )
    single = len(curve.of("loss")) == 1
    return f"{_shortened(name)}{scaled}" + ("" if single else f", {line.role}")


def _limit(axes: Axes, reference: Sequence[Sequence[float]], shown: Sequence[Sequence[float]], scale: float) -> None:
    """Keep the reference readable: a loss that explodes at the edge may leave the picture."""
    low, high = _range(reference)
    mine_low, mine_high = _range([[scale * v for v in line] for line in shown])
    reach = 1.5 * max(high - low, 1e-9)
    axes.set_ylim(_padded(max(min(low, mine_low), low - reach), min(max(high, mine_high), high + reach)))


def _range(lines: Sequence[Sequence[float]]) -> tuple[float, float]:
    values = [v for line in lines for v in line if math.isfinite(v)]
    return (min(values), max(values)) if values else (0.0, 1.0)


def _padded(low: float, high: float) -> tuple[float, float]:
    margin = 0.05 * (high - low) or 0.5
    return low - margin, high + margin


def _clip_outliers(axes: Axes, values: Sequence[float], direction: str) -> int:
    """Limit the axis so that a few hopeless candidates do not flatten the rest; how many values are outside."""
    if len(values) < 8:
        return 0
    signs = 1.0 if direction == "min" else -1.0
    ordered = sorted(signs * v for v in values)
    best, typical = ordered[0], ordered[int(0.85 * (len(ordered) - 1))]
    worst = typical + 0.5 * (typical - best)
    if ordered[-1] <= worst or typical == best:
        return 0
    axes.set_ylim(*_padded(*sorted((signs * best, signs * worst))))
    return sum(v > worst for v in ordered)


def _line(axes: Axes, x: Sequence[int], y: Sequence[float | None], **style: object) -> None:
    axes.plot(x, [math.nan if v is None else v for v in y], **style)  # type: ignore[arg-type]


def _whole_numbers(axes: Axes, generations: Sequence[int]) -> None:
    from matplotlib.ticker import MaxNLocator

    axes.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=12, min_n_ticks=1))
    axes.yaxis.set_major_locator(MaxNLocator(integer=True, nbins=4, steps=[1, 2, 5, 10], min_n_ticks=1))
    if generations:
        axes.set_xlim(generations[0] - 0.7, generations[-1] + 0.7)


def _half_width(values: Sequence[float]) -> float:
    """Half of the 95 % confidence interval of the mean."""
    n = len(values)
    if n < 2:
        return 0.0
    center = math.fsum(values) / n
    deviation = math.sqrt(math.fsum((v - center) ** 2 for v in values) / (n - 1))
    return float(special.stdtrit(n - 1, 0.975)) * deviation / math.sqrt(n)


def _shortened(name: str, most: int = 44) -> str:
    """A name that fits; its end stays, because that is where arms differ ("…, tuned lr")."""
    if len(name) > most:
        name = f"{name[: most - 17].rstrip()} … {name[-14:].lstrip()}"
    return name.replace("$", r"\$")  # a dollar sign would start mathematics
