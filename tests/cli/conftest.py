"""What the tests of the command line share: a folder to be in, a way to call it, and runs made once."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest
from commands import TINY, Command, Said

from lossmith.cli import main


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder to work in; what is imported from it leaves no trace."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.setenv("LOSSMITH_DATA", str(tmp_path / "data"))
    monkeypatch.delenv("COLUMNS", raising=False)
    return tmp_path


@pytest.fixture
def lossmith(here: Path, capsys: pytest.CaptureFixture[str]) -> Command:
    """Calls the command line in this process: `lossmith("show", "runs/m")`."""

    def call(*arguments: str) -> Said:
        capsys.readouterr()
        code = main(arguments)
        said = capsys.readouterr()
        return Said(code, said.out, said.err)

    return call


@pytest.fixture
def user_module(here: Path) -> Iterator[Callable[[str], str]]:
    """Writes a module of the user's own; its name cannot be imported by another test."""
    made: list[str] = []

    def write(text: str) -> str:
        name = f"mine_{here.name.replace('-', '_')}_{len(made)}"
        (here / f"{name}.py").write_text(text)
        made.append(name)
        return name

    yield write
    for name in made:
        sys.modules.pop(name, None)


def made_once(factory: pytest.TempPathFactory, name: str, arguments: Sequence[str]) -> Path:
    folder = factory.mktemp("runs") / name
    assert main([*arguments, "--run", str(folder)]) == 0
    return folder


@pytest.fixture(scope="session")
def finished_search(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return made_once(tmp_path_factory, "m", ["search", *TINY])


@pytest.fixture
def a_run(finished_search: Path, here: Path) -> str:
    """A finished search, a test's own copy: runs/m."""
    shutil.copytree(finished_search, here / "runs" / "m")
    return "runs/m"
