"""A run folder is there completely or not at all, and never in place of something else."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import store_scenario as scenario

from lossmith.errors import RunError
from lossmith.store import RunStore, fault_injection


def test_a_new_run_is_complete_and_closing_leaves_three_files(tmp_path: Path) -> None:
    scenario.create(tmp_path / "deep" / "er" / "run").close()
    assert {p.name for p in (tmp_path / "deep/er/run").iterdir()} == {"lossmith.db", "spec.toml", "lossmith.lock"}
    assert [p.name for p in (tmp_path / "deep/er").iterdir()] == ["run"]


def test_an_existing_run_is_refused_with_the_way_to_continue_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    scenario.create(Path("runs/x")).close()
    before = (tmp_path / "runs/x/lossmith.db").read_bytes()
    with pytest.raises(
        RunError, match=r"^runs/x exists already: `lossmith resume runs/x` continues it, or choose another"
    ):
        scenario.create(Path("runs/x"))
    assert (tmp_path / "runs/x/lossmith.db").read_bytes() == before
    assert [p.name for p in (tmp_path / "runs").iterdir()] == ["x"]


def test_an_empty_folder_is_used_and_anything_else_is_kept(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "behind")
    (tmp_path / "behind").mkdir()
    for name in ("empty", "link"):
        scenario.create(tmp_path / name).close()
    assert (tmp_path / "behind" / "lossmith.db").exists()
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.tex").write_text("mine")
    (tmp_path / "file").write_text("mine too")
    for name in ("full", "file"):
        with pytest.raises(RunError, match="exists already and is no run: choose another --run"):
            scenario.create(tmp_path / name)
    assert (tmp_path / "full" / "thesis.tex").read_text() == "mine"
    assert {p.name for p in tmp_path.iterdir()} == {"empty", "link", "behind", "full", "file"}


def test_a_place_that_cannot_be_written_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(RunError, match=r"cannot be created|exists already"):
        scenario.create(tmp_path / "file" / "run")
    with pytest.raises(RunError, match=r"cannot be created \(File name too long\)"):
        scenario.create(tmp_path / ("x" * 300))
    (tmp_path / "circle").symlink_to(tmp_path / "circle")
    with pytest.raises(RunError, match=r"cannot be created \(Not a directory\)"):
        scenario.create(tmp_path / "circle")
    with pytest.raises(RunError, match="cannot be a folder"):
        scenario.create(tmp_path / "nul\0")
    with pytest.raises(RunError, match="seed -1 is out of range"):
        RunStore.create(tmp_path / "r", kind="search", task="t", fingerprint={}, method="random", seed=-1, spec_toml="")
    assert {p.name for p in tmp_path.iterdir()} == {"file", "circle"}


def test_a_failure_before_the_rename_leaves_nothing(tmp_path: Path) -> None:
    def hook(name: str, moment: str) -> None:
        if (name, moment) == ("create", "before"):
            assert not (tmp_path / "run").exists()
            raise KeyboardInterrupt

    with fault_injection(hook), pytest.raises(KeyboardInterrupt):
        scenario.create(tmp_path / "run")
    assert not list(tmp_path.iterdir())


def test_someone_who_takes_the_place_meanwhile_wins(tmp_path: Path) -> None:
    def hook(name: str, moment: str) -> None:
        if moment == "before" and not (tmp_path / "run").exists():
            (tmp_path / "run").mkdir()
            (tmp_path / "run" / "lossmith.db").write_text("theirs")

    with fault_injection(hook), pytest.raises(RunError, match="exists already: `lossmith resume"):
        scenario.create(tmp_path / "run")
    assert (tmp_path / "run" / "lossmith.db").read_text() == "theirs"
    assert [p.name for p in tmp_path.iterdir()] == ["run"]


def test_the_folder_gets_the_usual_permissions(tmp_path: Path) -> None:
    (tmp_path / "usual").mkdir()
    scenario.create(tmp_path / "run").close()
    assert (tmp_path / "run").stat().st_mode == (tmp_path / "usual").stat().st_mode
    assert os.access(tmp_path / "run" / "lossmith.db", os.R_OK)
