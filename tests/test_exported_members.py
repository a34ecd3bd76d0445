"""The public surface: complete, in order, and documented."""

from __future__ import annotations

import importlib
import inspect
from types import ModuleType

import pytest

import lossmith

ROOMS = ("losses", "tasks", "training", "evaluation", "search", "store", "analysis", "experiment")


def order(name: str) -> tuple[int, str]:
    """CONSTANTS, then Classes, then verbs, each by the alphabet."""
    return (0 if name.isupper() else 1 if name[:1].isupper() else 2, name)


def module(name: str) -> ModuleType:
    return lossmith if name == "lossmith" else importlib.import_module(f"lossmith.{name}")


@pytest.mark.parametrize("name", ["lossmith", *ROOMS])
def test_all_is_sorted_and_without_doubles(name: str) -> None:
    exported = module(name).__all__
    assert list(exported) == sorted(set(exported), key=order)


@pytest.mark.parametrize("name", ["lossmith", *ROOMS])
def test_every_member_exists_and_says_what_it_is(name: str) -> None:
    room = module(name)
    assert inspect.getdoc(room), f"{name} has no docstring"
    for member in room.__all__:
        found = getattr(room, member)
        if inspect.isclass(found) or inspect.isroutine(found) or inspect.ismodule(found):
            assert (found.__doc__ or "").strip(), f"{name}.{member} has no docstring"


def test_the_front_is_what_the_design_promises() -> None:
    promised = {"Task", "Recipe", "SGD", "TaylorGLO", "search", "shelf", "evaluate", "resume", "compare", "export"}
    promised |= {"loss", "task", "metrics", "schedules", "supervised", "Terms", "testing", "errors"}  # DESIGN §1
    assert promised <= set(lossmith.__all__)
    for verb in ("search", "evaluate", "shelf", "resume", "compare", "loss", "task", "export"):
        assert inspect.isfunction(getattr(lossmith, verb)), verb
    importlib.import_module("lossmith.search.base")
    assert inspect.isfunction(lossmith.search)  # the verb stays, whatever room of that name is imported
    assert set(lossmith.__all__) <= set(dir(lossmith))
    assert lossmith.__version__
    with pytest.raises(AttributeError, match="no attribute 'serach'"):
        lossmith.serach  # type: ignore[attr-defined]  # noqa: B018


def test_public_classes_and_functions_are_typed() -> None:
    for name in lossmith.__all__:
        found = getattr(lossmith, name)
        if inspect.isfunction(found):
            signature = inspect.signature(found)
            untyped = [p.name for p in signature.parameters.values() if p.annotation is p.empty]
            assert not untyped, f"{name}: {untyped}"
            assert signature.return_annotation is not signature.empty, name
