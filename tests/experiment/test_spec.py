"""The spec as TOML: complete, exact, and clear about what is wrong with it."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lossmith.errors import SpecError
from lossmith.experiment.spec import SearchSection, Spec, TaskSection, from_toml, make


def spec_with(budget: float, seed: int, start_from: list[str]) -> Spec:
    search = make(SearchSection, method="taylorglo", budget=budget, start_from=start_from)
    spec: Spec = make(Spec, kind="search", seed=seed, task=make(TaskSection, name="a task"), search=search)
    return spec


@given(
    budget=st.floats(0, 1, exclude_min=True),
    seed=st.integers(0, 2**63 - 1),
    start_from=st.lists(st.text(st.characters(exclude_categories=["Cs"]), max_size=20), max_size=3),
)
def test_toml_gives_back_the_spec(budget: float, seed: int, start_from: list[str]) -> None:
    spec = spec_with(budget, seed, start_from)
    assert from_toml(spec.to_toml(), "spec.toml") == spec


def test_defaults_are_written_out() -> None:
    text = spec_with(0.1, 0, []).to_toml()
    for field in ("format", "generations", "fidelity", "elites", "finalist_seeds", "seed_block"):
        assert f"{field} = " in text


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("kind = ", "not valid TOML"),
        ('format = 9\nkind = "search"', "upgrade lossmith"),
        ('kind = "search"', "lacks the field 'task'"),
        ('kind = "hunt"\n[task]\nname = "a"', "kind = 'hunt'"),
        ('kind = "search"\n[task]\nname = "a"\ncolour = 1', "unknown field 'task.colour'"),
        ('kind = "search"\n[task]\nname = "a"\n[search]\nmethod = "x"\nbudget = 2.0', r"search.budget = 2.0: .*1"),
    ],
)
def test_a_bad_spec_names_field_value_and_range(text: str, message: str) -> None:
    with pytest.raises(SpecError, match=message):
        from_toml(text, "spec.toml")
