"""What the numbers say: statistics, verdicts, curves, figures, the report. Trains nothing.

`statistics` and `power` work on samples; `judge` turns `Arm`s into a `Verdict`; `loss_curve` and `history` compute what
the figures show; `write_report` puts everything on one page. matplotlib is imported only where something is drawn.
"""

from lossmith.analysis.adaptation import AdaptationCurves, adaptation_curves
from lossmith.analysis.adaptation_figure import draw_adaptation
from lossmith.analysis.curves import History, LossCurve, Scored, history, loss_curve
from lossmith.analysis.figures import draw_arms, draw_curve, draw_history
from lossmith.analysis.formula import draw_formula
from lossmith.analysis.judging import judge
from lossmith.analysis.meta_loss import Block, Course, meta_loss
from lossmith.analysis.meta_loss_figure import draw_meta_loss
from lossmith.analysis.power import seeds_needed, smallest_difference
from lossmith.analysis.report import ReportData, render_report, write_report
from lossmith.analysis.statistics import Effect, TTest, effect_size, equivalent, holm, no_worse, paired_t, welch_t
from lossmith.analysis.verdict import Arm, Comparison, SelectionBias, Verdict

__all__ = [
    "AdaptationCurves",
    "Arm",
    "Block",
    "Comparison",
    "Course",
    "Effect",
    "History",
    "LossCurve",
    "ReportData",
    "Scored",
    "SelectionBias",
    "TTest",
    "Verdict",
    "adaptation_curves",
    "draw_adaptation",
    "draw_arms",
    "draw_curve",
    "draw_formula",
    "draw_history",
    "draw_meta_loss",
    "effect_size",
    "equivalent",
    "history",
    "holm",
    "judge",
    "loss_curve",
    "meta_loss",
    "no_worse",
    "paired_t",
    "render_report",
    "seeds_needed",
    "smallest_difference",
    "welch_t",
    "write_report",
]
