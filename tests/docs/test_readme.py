"""What the pages say works: marked Python runs, every name it uses exists, and every command parses."""

from __future__ import annotations

import ast
import inspect
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import typer
from pages import PAGES, ROOT, Block, blocks, commands, script

import lossmith as lm

PATIENCE = 600.0  # seconds; a loaded machine takes long to start a process

PYTHON = [
    pytest.param(block, id=f"{page.relative_to(ROOT)}:{block.line}")
    for page in PAGES
    for block in blocks(page.read_text())
    if block.language == "python"
]
COMMANDS = [
    pytest.param(words, id=f"{page.relative_to(ROOT)}:{block.line}:{' '.join(words)}")
    for page in PAGES
    for block in blocks(page.read_text())
    if block.language == "console"
    for words in commands(block)
]


@pytest.mark.parametrize(
    "page", [page for page in PAGES if any(b.run for b in blocks(page.read_text()))], ids=lambda page: page.name
)
def test_marked_python_runs(page: Path, tmp_path: Path) -> None:
    program = tmp_path / page.with_suffix(".py").name
    program.write_text(script(blocks(page.read_text())))
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run(
        [sys.executable, program.name], cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=PATIENCE
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("block", PYTHON)
def test_python_uses_names_that_exist(block: Block) -> None:
    check_names(block.code)


@pytest.mark.parametrize("words", COMMANDS)
def test_commands_parse(words: list[str]) -> None:
    check_command(words)


def check_names(code: str) -> None:
    """AssertionError unless every `lm.name` exists and takes the keywords it is called with."""
    for node in ast.walk(ast.parse(code)):
        if isinstance(node, ast.Attribute):
            _library_object(node)
        elif isinstance(node, ast.Call) and callable(called := _library_object(node.func)):
            parameters = inspect.signature(called).parameters
            if all(p.kind is not p.VAR_KEYWORD for p in parameters.values()):
                for keyword in node.keywords:
                    assert keyword.arg in (None, *parameters), f"{ast.unparse(node.func)} takes no {keyword.arg}"


def _library_object(node: ast.expr) -> Any:
    """What `lm.a.b` names; None for anything else."""
    if not isinstance(node, ast.Attribute):
        return lm if isinstance(node, ast.Name) and node.id == "lm" else None
    owner = _library_object(node.value)
    if owner is None:
        return None
    assert hasattr(owner, node.attr), f"{ast.unparse(node)} does not exist"
    return getattr(owner, node.attr)


def check_command(words: list[str]) -> None:
    """An exception unless a command line could be run here: its command, its options, its target, its script exist."""
    program, *rest = words
    if program == "lossmith":
        _parse(rest)
    elif program == "make":
        targets = re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), flags=re.M)
        missing = [word for word in rest if "=" not in word and word not in targets]
        assert not missing, f"make has no target {missing}"
    elif program in ("python", "python3") and rest and rest[0].endswith(".py"):
        assert (ROOT / rest[0]).is_file(), f"there is no {rest[0]}"


def _parse(words: list[str]) -> None:
    from lossmith.cli.application import app

    command: Any = typer.main.get_command(app)
    name = "lossmith"
    while hasattr(command, "commands") and words and not words[0].startswith("-"):
        name, *words = words
        assert name in command.commands, f"lossmith has no command {name!r}"
        command = command.commands[name]
    if not {"-h", "--help"} & {*words}:  # help is printed while parsing
        command.make_context(name, list(words))  # parses and checks, runs nothing


PAGE = """\
# A page

<!-- run -->
```python
import lossmith as lm
```

```python
lm.seach("taylorglo")
lm.search("taylorglo", task, populaton=3)
```

```console
$ LOSSMITH_DATA=/data lossmith search --task 'digits/mlp@noise=0.4' \\
    --generations 2  # a comment
lossmith show runs/m --json | less
make test
```

<!-- run -->
```python
raise SystemExit(lm.__name__)
```
"""


def test_blocks_are_found_with_their_marks_and_lines() -> None:
    first, second, third, fourth = blocks(PAGE)
    assert (first.run, second.run, third.run, fourth.run) == (True, False, False, True)
    assert [b.language for b in (first, second, third, fourth)] == ["python", "python", "console", "python"]
    assert commands(third) == [
        ["lossmith", "search", "--task", "digits/mlp@noise=0.4", "--generations", "2"],
        ["lossmith", "show", "runs/m", "--json"],
        ["less"],
        ["make", "test"],
    ]
    program = script([first, second, third, fourth]).splitlines()
    assert [program.index(line) for line in program if line] == [4, 21]  # numbers on the page, from 0
    with pytest.raises(AssertionError, match="line 2 has no end"):
        blocks("```python\nx = 1\n")


@pytest.mark.parametrize(
    ("code", "complaint"),
    [("lm.seach(1)", "seach does not exist"), ("lm.search(1, 2, populaton=3)", "takes no populaton")],
)
def test_wrong_names_are_noticed(code: str, complaint: str) -> None:
    with pytest.raises(AssertionError, match=complaint):
        check_names(code)


@pytest.mark.parametrize(
    "line", ["lossmith serach", "lossmith search --populaton 3", "make tset", "python examples/no.py"]
)
def test_wrong_commands_are_noticed(line: str) -> None:
    with pytest.raises(Exception, match=r"serach|populaton|tset|no\.py"):
        check_command(line.split())
