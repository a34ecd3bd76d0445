"""The picture of `meta_loss`. Nothing is computed here."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from lossmith.analysis.drawing import BLUE, GREEN, GREY, ORANGE, PURPLE, SKY, YELLOW, Format, render
from lossmith.analysis.meta_loss import Course

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_COLOURS = (BLUE, ORANGE, GREEN, PURPLE, SKY, YELLOW, GREY)
NAMED = 8  # restarts in the legend; more are told apart by colour only


def draw_meta_loss(courses: Sequence[Course], *, format: Format = "svg", name: str = "meta-loss") -> bytes:
    """The task loss over meta-steps: means as lines, the range of single batches behind them."""

    def draw(figure: Figure) -> None:
        axes = figure.subplots()
        for place, course in enumerate(courses):
            colour = _COLOURS[place % len(_COLOURS)]
            label = course.name + ("" if course.sound else ", ended early")
            axes.fill_between(course.meta_steps, course.low, course.high, color=colour, alpha=0.15, linewidth=0)
            axes.plot(
                course.meta_steps,
                course.mean,
                color=colour,
                linestyle="-" if course.sound else "--",
                marker="o" if len(course.mean) == 1 else None,
                markersize=3.5,
                label=label.replace("$", r"\$"),
            )
        axes.set_xlabel("meta-step")
        axes.set_ylabel("task loss after the unroll\n(fitness batch)")
        if 1 < len(courses) <= NAMED:
            axes.legend(loc="upper left", bbox_to_anchor=(1.01, 1.0), borderaxespad=0.0)

    return render(draw, name=name, size=(8.2, 3.0), format=format)
