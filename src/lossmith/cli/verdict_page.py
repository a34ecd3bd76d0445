"""A verdict on the terminal."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.text import Text

from lossmith.cli.output import Cell, print_table

if TYPE_CHECKING:
    from rich.console import Console

    from lossmith.analysis import Verdict

STYLES = {"better": "green", "no_worse": "cyan", "not_shown": "yellow", "worse": "red"}
WIDE, MEDIUM = 150, 100  # columns that the whole table of comparisons needs, and that without either test's own p
_BOTH_TESTS, _EFFECT = (2, 3), (5,)


def print_verdict(console: Console, verdict: Verdict, *, sentence: bool = True) -> None:
    """The arms, the comparisons, and the sentence.

    Args:
        sentence: whether the sentences are printed, too.
    """
    from lossmith.analysis import wording

    better = "lower" if verdict.direction == "min" else "higher"
    arms = [
        (
            f"{arm.name} [control]" if arm.kind == "control" else arm.name,
            wording.mean_and_deviation(list(arm.measured.values())),
            f"{len(arm.measured)} of {len(arm.seeds)}",
            _note(arm.note),
        )
        for arm in verdict.arms
    ]
    title = f"{verdict.split} {wording.readable(verdict.metric)} ({better} is better)"
    print_table(console, (title, "mean ± sd", "trained", ""), arms, left=(0, 3), cut=3)
    console.print()
    _print_comparisons(console, verdict)
    if not sentence:
        return
    console.print()
    console.print(Text(verdict.sentence, style=STYLES[verdict.outcome]))
    for text in (verdict.selection_bias.sentence if verdict.selection_bias else "", verdict.test_sentence):
        if text:
            console.print(text)


def _note(text: str) -> str:
    """What a terminal cuts off last stands first: the learning rate before a long formula."""
    formula, comma, rate = text.partition(", learning rate")
    return f"learning rate{rate}; {formula}" if comma else text


def _print_comparisons(console: Console, verdict: Verdict) -> None:
    """As many columns as the terminal has room for; the report and --json have them all."""
    from lossmith.analysis.verdict import COMPARISON_HEADER, comparison_cells

    left_out = {*(_BOTH_TESTS if console.width < WIDE else ()), *(_EFFECT if console.width < MEDIUM else ())}
    kept = [i for i in range(len(COMPARISON_HEADER)) if i not in left_out]
    rows = []
    for comparison in verdict.comparisons:
        cells: list[Cell] = [*comparison_cells(comparison)]
        if left_out:
            cells[0] = f"{comparison.subject}\nvs {comparison.control}"
        cells[-1] = Text(str(cells[-1]), style=STYLES[comparison.outcome])
        rows.append([cells[i] for i in kept])
    print_table(console, [COMPARISON_HEADER[i] for i in kept], rows, left=(0, len(kept) - 1))
