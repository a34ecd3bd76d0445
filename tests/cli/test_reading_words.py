"""How words become losses, lists, settings and arguments."""

from __future__ import annotations

import inspect
import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lossmith.cli.entry import _shielded
from lossmith.cli.experiment_file import _value, read_experiment
from lossmith.cli.naming import named, split_list
from lossmith.cli.options import SearchOptions
from lossmith.cli.searching import wanted_workers
from lossmith.experiment import search
from lossmith.experiment.search_run import GENERATIONS
from lossmith.experiment.spec import SearchSection

PARTS = st.lists(
    st.sampled_from(
        ["baikal", "focal(gamma=3, alpha=.2)", "runs/shelf", "-t*log(p)", "max(p, min(t, n))", "runs/m:3.7"]
    ),
    max_size=5,
)


@given(PARTS)
def test_lists_are_split_at_their_own_commas_only(parts: list[str]) -> None:
    assert split_list([",".join(parts)]) == tuple(parts)
    assert split_list(parts) == tuple(parts)


@pytest.mark.parametrize("text", ["-t*log(p)", "-log(p)", "-t/p", "-p^2"])
def test_an_expression_that_begins_with_minus_is_no_option(text: str) -> None:
    assert _shielded(text).strip() == text
    assert not _shielded(text).startswith("-")
    assert str(named(_shielded(text), "softmax").loss) == str(named(text, "softmax").loss)


@pytest.mark.parametrize("text", ["-h", "--run", "--run=runs/m", "--start-from=focal(gamma=2)", "-5", "runs/m"])
def test_options_stay_options(text: str) -> None:
    assert _shielded(text) == text


@given(st.one_of(st.integers(), st.floats(allow_nan=False)))
def test_numbers_of_settings_are_read_as_they_were_written(value: float) -> None:
    assert _value(repr(value)) == value
    assert type(_value(repr(value))) is type(value)


def test_other_values_of_settings_stay_words() -> None:
    assert [_value(text) for text in ("target,prediction", "exact", "true", ".5")] == [
        "target,prediction",
        "exact",
        True,
        0.5,
    ]


def test_the_defaults_that_help_states_are_those_of_the_library() -> None:
    stated = {}
    for name, hint in inspect.get_annotations(SearchOptions.__mro__[4], eval_str=True).items():
        option = hint.__metadata__[0]
        if found := re.search(r"Default: (.*?)\.\[", option.help or ""):
            stated[name] = found[1]
    fields, arguments = SearchSection.model_fields, inspect.signature(search).parameters
    assert stated["generations"] == str(fields["generations"].default) == str(GENERATIONS)
    assert arguments["generations"].default is None  # whatever the method's settings make, else that
    for name in ("fidelity", "seeds_per_candidate", "elites"):
        assert stated[name] == str(fields[name].default) == str(arguments[name].default)


def test_the_command_line_uses_all_there_is_unless_told_otherwise() -> None:
    assert wanted_workers(None) == "all"
    assert [wanted_workers(count) for count in (0, 3)] == [0, 3]


def test_engine_and_number_format_from_file_and_options(tmp_path: Path) -> None:
    file = tmp_path / "experiment.toml"
    file.write_text("[task]\nreference = 'digits/mlp'\n[search]\nmethod = 'random'\n[plan]\ndtype = 'bfloat16'\n")
    found = read_experiment(SearchOptions(experiment=file))
    assert (found.engine, found.dtype) == ("rule", "bfloat16")
    found = read_experiment(SearchOptions(experiment=file, engine="auto", dtype="float32"))
    assert (found.engine, found.dtype) == ("auto", "float32")
