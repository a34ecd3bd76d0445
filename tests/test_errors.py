from __future__ import annotations

import inspect
import pickle
import re

import pytest

from lossmith import errors
from lossmith.errors import LossmithError, UnknownNameError, UsageError

CLASSES = {name: c for name, c in vars(errors).items() if inspect.isclass(c) and issubclass(c, LossmithError)}


def test_the_tree_in_the_docstring_is_the_tree() -> None:
    assert errors.__doc__ is not None
    drawn: dict[str, str] = {}
    path: list[str] = []
    for line in errors.__doc__.splitlines():
        found = re.match(r"\s{4}([│├└─ ]*)([A-Z]\w+)", line)
        if found:
            depth = len(found[1]) // 4
            path[depth:] = [found[2]]
            drawn[found[2]] = path[depth - 1] if depth else "Exception"
    assert drawn == {name: c.__base__.__name__ for name, c in CLASSES.items()}
    assert len(drawn) == 10


@pytest.mark.parametrize("name", sorted(CLASSES))
def test_errors_travel_between_processes(name: str) -> None:
    error = (
        UnknownNameError("loss", "bikal", ["baikal"]) if name == "UnknownNameError" else CLASSES[name]("a sentence.")
    )
    again = pickle.loads(pickle.dumps(error))
    assert type(again) is CLASSES[name]
    assert str(again) == str(error)
    assert inspect.getdoc(CLASSES[name])


def test_unknown_names_come_with_the_nearest() -> None:
    known = ["cross_entropy", "huber", "focal"]
    error = UnknownNameError("loss", "fokal", known, listing="lossmith losses")
    assert str(error) == "unknown loss 'fokal': did you mean 'focal'? `lossmith losses` lists them all."
    assert (error.kind, error.name, error.known) == ("loss", "fokal", sorted(known))
    assert isinstance(error, UsageError)
    again = pickle.loads(pickle.dumps(error))
    assert (again.kind, again.name, again.known, again.listing) == ("loss", "fokal", sorted(known), "lossmith losses")
    assert str(UnknownNameError("method", "zzz", known)) == (
        "unknown method 'zzz': known: cross_entropy, focal, huber."
    )
    many = [f"name{i}" for i in range(30)]
    assert str(UnknownNameError("task", "zzz", many)) == "unknown task 'zzz': there are 30 known ones."
