"""`--meta-steps` and `--hypergradient`: options that are settings of the methods that tune loss parameters by gradient.

A search goes by generations or by meta-steps; whoever gives the wrong one of the two is told the right one.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from lossmith.errors import SpecError, UsageError

if TYPE_CHECKING:
    from lossmith.cli.options import SearchOptions
    from lossmith.search import Method


def gradient_settings(asked: SearchOptions, name: str) -> dict[str, Any]:
    """What the options set, of the method of this name.

    Raises:
        UsageError: a method that takes them not, or the same said twice. UnknownNameError: no such method.
    """
    from lossmith.search import METHODS
    from lossmith.search import method as make_method

    given = {"meta_steps": asked.meta_steps, "hypergradient": asked.hypergradient}
    wanted = {setting: value for setting, value in given.items() if value is not None}
    if not wanted:
        return {}
    usual = make_method(name)
    known = usual.settings()
    if "meta_steps" in wanted and usual.rounds is None:
        own = next((setting for setting in ("meta_steps", "tune") if setting in known), None)
        tuning = f" (how long it tunes a candidate is --set {own}=N)" if own else ""
        raise UsageError(
            f"--meta-steps: {name} goes by generations, not by meta-steps: give --generations N in its place{tuning}."
        )
    for setting in wanted:
        option = "--" + setting.replace("_", "-")
        if setting not in known:
            fit = ", ".join(other for other in METHODS if setting in make_method(other).settings())
            raise UsageError(f"{option}: {name} tunes no loss parameters by gradient; {fit} do.")
        if any(text.partition("=")[0].strip() == setting for text in asked.settings or ()):
            raise UsageError(f"{option} and --set {setting} say the same: give one of them.")
    return wanted


def rounds(method: Method, asked: SearchOptions, search: Mapping[str, Any]) -> int:
    """Generations of a method that goes by meta-steps.

    Args:
        search: the table of that name in the experiment file. A stored spec holds generations too: those that follow
            from its meta-steps.

    Raises:
        UsageError, SpecError: options or file ask for generations.
    """
    from lossmith.search import method as make_method

    assert method.rounds is not None
    here = f"{method.name} goes by meta-steps, not by generations: give"
    if asked.generations is not None:
        raise UsageError(f"--generations: {here} --meta-steps N in its place.")
    if search.get("method") == method.name and "generations" in search:
        stored = make_method(method.name, **search.get("settings", {}))
        if search["generations"] != stored.rounds:
            raise SpecError(
                f"{asked.experiment}: search.generations = {search['generations']!r}: {here} meta_steps in "
                "[search.settings] in its place."
            )
    return method.rounds
