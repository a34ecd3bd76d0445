"""Where results go, and the few shapes they have: facts, tables, JSON."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterable, Sequence
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

UNBOUNDED = 10_000  # columns of what is no terminal: whoever reads a pipe breaks lines where they like
Cell = str | Text


def results() -> Console:
    """Standard output: as wide as the terminal, or as wide as the lines where it is none."""
    width = None if sys.stdout.isatty() or "COLUMNS" in os.environ else UNBOUNDED
    return Console(file=sys.stdout, width=width, highlight=False, markup=False, emoji=False)


def messages() -> Console:
    """Standard error."""
    return Console(file=sys.stderr, highlight=False, markup=False, emoji=False)


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
    console.print(grid)


def print_table(
    console: Console, header: Sequence[str], rows: Iterable[Sequence[Cell]], *, left: Sequence[int] = (0,)
) -> None:
    """A table without a frame; the columns numbered in `left` are text, the others are set to the right."""
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="dim", pad_edge=False)
    for number, title in enumerate(header):
        aligned: Any = "left" if number in left else "right"
        table.add_column(title, justify=aligned, overflow="fold")
    for row in rows:
        table.add_row(*row)
    console.print(table)


def print_commands(console: Console, commands: Iterable[tuple[str, str]]) -> None:
    """What to type next, and why."""
    grid = Table.grid(padding=(0, 2))
    grid.add_column(style="cyan", overflow="fold")
    grid.add_column(style="dim")
    for command, why in commands:
        grid.add_row(command, why)
    console.print(grid)
