"""Where results go, and the few shapes they have: facts, tables, JSON."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterable, Sequence
from typing import Any

from rich.cells import cell_len
from rich.console import Console, RenderableType
from rich.table import Table
from rich.text import Text

UNBOUNDED = 10_000  # columns of what is no terminal: whoever reads a pipe breaks lines where they like
GAP = 2  # columns between two columns
Cell = str | Text


def results() -> Console:
    """Standard output: as wide as the terminal, or as wide as the lines where it is none."""
    width = None if sys.stdout.isatty() or "COLUMNS" in os.environ else UNBOUNDED
    return Console(file=sys.stdout, width=width, highlight=False, markup=False, emoji=False)


def messages() -> Console:
    """Standard error."""
    return Console(file=sys.stderr, highlight=False, markup=False, emoji=False)


def put(console: Console, what: RenderableType) -> None:
    """Print; where it is no terminal without the spaces that fill a table's lines."""
    if console.is_terminal:
        console.print(what)
        return
    with console.capture() as captured:
        console.print(what)
    console.file.write("".join(f"{line.rstrip()}\n" for line in captured.get().splitlines()))


def print_json(document: Any) -> None:
    """A document on standard output, and nothing else."""
    print(json.dumps(document, indent=2, ensure_ascii=False, allow_nan=False))


def print_facts(console: Console, rows: Iterable[tuple[str, Cell]]) -> None:
    """What is called what: labels on the left, values that may run over lines on the right."""
    grid = Table.grid(padding=(0, 2))
    grid.add_column(style="dim", no_wrap=True)
    grid.add_column(overflow="fold")
    for label, value in rows:
        grid.add_row(label, value)
    put(console, grid)


def print_table(
    console: Console,
    header: Sequence[str],
    rows: Iterable[Sequence[Cell]],
    *,
    left: Sequence[int] = (0,),
    cut: int | None = None,
) -> None:
    """A table without a frame.

    Args:
        left: columns that are text; the others are set to the right.
        cut: a column that is cut off where the terminal ends; the others run over lines.
    """
    cells = [tuple(header), *rows]
    table = Table(box=None, padding=(0, GAP, 0, 0), header_style="dim", pad_edge=False)
    for number, title in enumerate(header):
        aligned: Any = "left" if number in left else "right"
        room = None
        if number == cut:
            others = [max(cell_len(str(row[i])) for row in cells) + GAP for i in range(len(header)) if i != cut]
            room = max(20, console.width - sum(others))
        overflow: Any = "fold" if room is None else "ellipsis"
        table.add_column(title, justify=aligned, overflow=overflow, no_wrap=room is not None, max_width=room)
    for row in cells[1:]:
        table.add_row(*row)
    put(console, table)


def print_commands(console: Console, commands: Iterable[tuple[str, str]]) -> None:
    """What to type next, and why."""
    grid = Table.grid(padding=(0, 2))
    grid.add_column(style="cyan", overflow="fold")
    grid.add_column(style="dim")
    for command, why in commands:
        grid.add_row(command, why)
    put(console, grid)
