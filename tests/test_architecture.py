"""The floors of the house (DESIGN §2): who may know whom, and why. Read from the source, without importing it."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SOURCE = ROOT / "src" / "lossmith"
FILES = sorted(SOURCE.rglob("*.py"))
GROUND = {"errors", "rng", "records"}

KNOWS: dict[str, set[str]] = {
    "ground": set(),
    "losses": {"ground"},
    "tasks": {"ground", "losses"},
    "training": {"ground", "losses", "tasks"},
    "evaluation": {"ground", "losses", "tasks", "training"},
    "search": {"ground", "losses"},
    "store": {"ground"},
    "analysis": {"ground", "losses", "store"},
    "testing": {"ground", "losses", "tasks", "training"},
    "online": {"training"},
    "experiment": {
        "ground", "losses", "tasks", "training", "evaluation", "search", "store", "analysis", "testing", "front",
    },
    "cli": {
        "ground", "losses", "tasks", "training", "evaluation", "search", "store", "analysis", "testing", "experiment",
        "front",
    },
}  # fmt: skip
"""Room → the rooms it may import, beside itself. `front` is the package itself (its version)."""

WHY = {
    "ground": "the ground carries every room and so can stand on none",
    "losses": "a loss is a formula with a head; it must work in anybody's training loop, without tasks or searches",
    "tasks": "a task says what is to be learned, not how it is trained, searched for or stored",
    "training": "training is one run of one loss; who asked for it and where the result is kept is not its business",
    "evaluation": "evaluation finds out how good a candidate is and never decides what to try next, nor stores it",
    "search": "search decides what to try next; it knows losses, but no networks, disks, devices or evaluations",
    "store": "the store knows records only, so that a run can be read without the rooms that made it",
    "analysis": "analysis reads the store and trains nothing",
    "testing": "checks of a user's task need the task and a training step, nothing of the search",
    "online": "online hands over what training has for loops of one's own, and nothing else",
    "experiment": "experiment is where search, evaluation and store meet; whoever shows its results stands above it",
    "cli": "the command line is thin: it may call every room",
}


def room_of(parts: tuple[str, ...]) -> str:
    """The room of a module given as its names below `lossmith`."""
    if not parts or parts[0].startswith("__"):
        return "front"
    return "ground" if parts[0] in GROUND else parts[0]


def imported(source: str, rooms: set[str]) -> Iterator[tuple[int, str]]:
    """(line, room) of everything of ours a source text imports, wherever in the text it does so."""
    for node in ast.walk(ast.parse(source)):
        names: list[str] = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "relative imports hide who knows whom: write from lossmith.room import name"
            if node.module == "lossmith":
                names = [f"lossmith.{a.name}" if a.name in rooms | GROUND else "lossmith" for a in node.names]
            else:
                names = [node.module or ""]
        elif isinstance(node, ast.Call) and node.args and isinstance(node.args[0], ast.Constant):
            function = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
            if function in ("import_module", "__import__"):
                names = [str(node.args[0].value)]
        for name in names:
            package, *parts = name.split(".")
            if package == "lossmith":
                yield node.lineno, room_of(tuple(parts))


def violations(path: str, source: str) -> list[str]:
    """Sentences about the floors a file of the package does not keep."""
    room = room_of(tuple(Path(path).with_suffix("").parts))
    if room == "front":
        return []  # the front opens every room, lazily
    return [
        f"{path}:{line}: {room} may not know {other}: {WHY[room]}."
        for line, other in imported(source, set(KNOWS))
        if other not in {room, *KNOWS[room]}
    ]


def of_source(path: Path) -> str:
    return str(path.relative_to(SOURCE))


@pytest.mark.parametrize("path", FILES, ids=of_source)
def test_the_floors_are_kept(path: Path) -> None:
    assert violations(of_source(path), path.read_text()) == []


def test_every_room_is_on_a_floor() -> None:
    rooms = {room_of(path.relative_to(SOURCE).with_suffix("").parts) for path in FILES}
    assert rooms - {"front"} == set(KNOWS) == set(WHY)


def test_the_two_wings_never_meet_but_in_experiment() -> None:
    def reaches(room: str) -> set[str]:
        known, new = set(), {room}
        while new:
            known |= new
            new = {further for one in new for further in KNOWS.get(one, set())} - known
        return known

    assert "evaluation" not in reaches("search")
    assert "search" not in reaches("evaluation")
    assert [room for room in KNOWS if {"search", "evaluation"} <= reaches(room)] == ["experiment", "cli"]
    assert reaches("store") == {"store", "ground"}


@pytest.mark.parametrize(
    ("path", "source", "other"),
    [
        ("search/new.py", "from lossmith.evaluation import Plan", "evaluation"),
        ("evaluation/new.py", "import lossmith.search.base as base", "search"),
        ("store/new.py", "def f():\n    from lossmith.losses.codec import from_json", "losses"),
        ("analysis/new.py", "if True:\n    from lossmith.training import train", "training"),
        ("tasks/new.py", "from lossmith import search", "search"),
        ("losses/new.py", "import importlib\nimportlib.import_module('lossmith.tasks')", "tasks"),
        ("records.py", "from lossmith.losses import Loss", "losses"),
        ("training/new.py", "import lossmith", "front"),
    ],
)
def test_a_violation_is_seen_and_said(path: str, source: str, other: str) -> None:
    (sentence,) = violations(path, source)
    assert f"may not know {other}: " in sentence
    assert sentence.startswith(path)


EXECUTING = {
    "eval", "exec", "pickle.load", "pickle.loads", "pickle.Unpickler", "cloudpickle.load", "cloudpickle.loads",
    "dill.load", "dill.loads", "joblib.load", "marshal.load", "marshal.loads", "shelve.open", "yaml.load",
    "torch.load", "pandas.read_pickle", "pd.read_pickle",
}  # fmt: skip
ALLOWED = {("evaluation/payload.py", "cloudpickle.loads")}
"""A task travels from a run to its own workers, through a folder that only its owner can write to."""


def executing(source: str) -> Iterator[str]:
    """Names of what a source text calls that would run what it reads."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Call) and (name := ast.unparse(node.func)) in EXECUTING:
            yield name
        if isinstance(node, ast.ImportFrom) and node.module in ("pickle", "cloudpickle", "marshal", "dill"):
            yield from (f"{node.module}.{alias.name}" for alias in node.names)
        if isinstance(node, ast.keyword) and node.arg == "allow_pickle" and ast.unparse(node.value) != "False":
            yield "allow_pickle"


def test_nothing_stored_is_ever_executed() -> None:
    found = {(of_source(path), name) for path in FILES for name in executing(path.read_text())}
    assert found == ALLOWED


@pytest.mark.parametrize(
    "source",
    ["eval('1')", "import torch\ntorch.load('x')", "from pickle import loads", "np.load(f, allow_pickle=True)"],
)
def test_what_executes_is_seen(source: str) -> None:
    assert list(executing(source))
    assert not list(executing("model.eval()\nself.exec(1)\nre.compile('x')\nnp.load(f, allow_pickle=False)"))


def test_files_are_named_for_what_they_are() -> None:
    nowhere = {"util", "utils", "helper", "helpers", "common", "misc", "tools", "stuff"}
    tests = sorted((ROOT / "tests").rglob("*.py"))
    assert not [str(path) for path in [*FILES, *tests] if path.stem in nowhere]
    names = [path.name for path in tests if path.name not in ("conftest.py", "__init__.py")]
    assert sorted(names) == sorted(set(names)), "pytest imports test files by name: give each its own"
