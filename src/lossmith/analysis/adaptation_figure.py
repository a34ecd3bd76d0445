"""The picture of `adaptation`. Nothing is computed here."""

from __future__ import annotations

from typing import TYPE_CHECKING

from lossmith.analysis.adaptation import AdaptationCurves
from lossmith.analysis.drawing import Format, render

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def draw_adaptation(curves: AdaptationCurves, *, format: Format = "svg", name: str = "adaptation") -> bytes:
    """ℓ over the prediction at t = 1 and at t = 0 (regression: over the residual), from the first step to the last."""

    def draw(figure: Figure) -> None:
        import matplotlib as mpl

        regression = curves.head == "identity"
        panels = [("ℓ of the residual", curves.at_target)]
        if not regression:
            panels = [("ℓ where t = 1", curves.at_target), ("ℓ where t = 0", curves.elsewhere)]
        colours = mpl.colormaps["viridis"]
        last = max(len(curves.steps) - 1, 1)
        for axes, (title, lines) in zip(figure.subplots(1, len(panels), squeeze=False)[0], panels, strict=True):
            for place, (step, line) in enumerate(zip(curves.steps, lines, strict=True)):
                ends = place in (0, len(curves.steps) - 1)
                label = f"step {step:,}" if ends else None
                axes.plot(
                    curves.x, line, color=colours(0.9 * place / last), linewidth=1.8 if ends else 1.0, label=label
                )
            axes.set_title(title)
            axes.set_xlabel("residual p − t" if regression else "prediction p of the output")
        handles, labels = figure.axes[0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside lower center", ncols=2)

    return render(draw, name=name, size=(8.2, 3.5), format=format)
