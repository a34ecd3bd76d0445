"""Reading code blocks out of Markdown pages."""

from __future__ import annotations

import re
import shlex
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
PAGES = sorted(p for p in (*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), *ROOT.glob("examples/*.md")) if p.is_file())
_FENCE = re.compile(r"^```(\w*)\s*$")
_RUN = "<!-- run -->"
_ENDS_A_COMMAND = re.compile(r"[|&;<>]+")


@dataclass(frozen=True)
class Block:
    """A fenced block.

    Args:
        language: "python", "console", ... line: number of its first line of code, from 1. code: what is inside.
        run: whether `<!-- run -->` stands directly before it.
    """

    language: str
    line: int
    code: str
    run: bool


def blocks(text: str) -> list[Block]:
    """All fenced blocks of a page; an unclosed one is an error."""
    found: list[Block] = []
    opened: tuple[str, int, bool] | None = None
    before = ""
    lines = text.splitlines()
    for number, line in enumerate(lines, start=1):
        fence = _FENCE.match(line)
        if opened is None and fence:
            opened = (fence[1], number + 1, before == _RUN)
        elif opened is not None and line.rstrip() == "```":
            language, first, run = opened
            found.append(Block(language, first, "\n".join(lines[first - 1 : number - 1]) + "\n", run))
            opened = None
        if line.strip():
            before = line.strip()
    assert opened is None, f"the block that begins in line {opened[1]} has no end"  # type: ignore[index]
    return found


def script(page: list[Block]) -> str:
    """The blocks to be run as one program, every line where it stands on the page, so that tracebacks point there."""
    lines: list[str] = []
    for block in page:
        if block.run:
            assert block.language == "python", f"line {block.line}: only python blocks are run"
            lines += [""] * (block.line - 1 - len(lines)) + block.code.splitlines()
    return "\n".join(lines) + "\n"


def commands(block: Block) -> list[list[str]]:
    """The words of every command in a console block: prompts, comments, `NAME=value` before it, pipes are left out."""
    found: list[list[str]] = []
    for line in block.code.replace("\\\n", " ").splitlines():
        lexer = shlex.shlex(line.removeprefix("$ "), posix=True, punctuation_chars="|&;<>")
        lexer.whitespace_split = True
        words: list[str] = []
        for word in lexer:
            if _ENDS_A_COMMAND.fullmatch(word):
                found.append(words)
                words = []
            elif words or not re.match(r"\w+=", word):
                words.append(word)
        found.append(words)
    return [words for words in found if words]
