"""A checkpoint is whole or not there, and what is no checkpoint of the same training is never gone on with."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import safetensors.torch
import torch

from lossmith.training import checkpoint_file
from lossmith.training.checkpoint_file import Contents, Unusable, read_checkpoint, write_checkpoint

MARKS = {"request": "00ff", "plan": "a"}
CONTENTS = Contents({"run": ["plain", 7]}, {"θ": torch.arange(6.0).reshape(2, 3), "n": torch.tensor(3)})


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "x.safetensors"
    write_checkpoint(path, CONTENTS, MARKS)
    return path


def test_what_is_written_is_read(file: Path) -> None:
    found = read_checkpoint(file, MARKS)
    assert found is not None
    assert found.document == CONTENTS.document
    assert {name: t.tolist() for name, t in found.tensors.items()} == {"θ": [[0, 1, 2], [3, 4, 5]], "n": 3}
    assert os.listdir(file.parent) == [file.name]
    assert safetensors.torch.load_file(file)["n"] == 3  # any program that knows the format can read it


def test_where_there_is_no_file_there_is_nothing(tmp_path: Path) -> None:
    assert read_checkpoint(tmp_path / "x", MARKS) is None


def test_every_flipped_bit_is_noticed(file: Path) -> None:
    whole = file.read_bytes()
    for place in range(len(whole)):
        changed = bytearray(whole)
        changed[place] ^= 1 << place % 8
        file.write_bytes(changed)
        try:
            found = read_checkpoint(file, MARKS)
        except Unusable:
            continue
        # padding of the header, and the names of metadata that is not looked at, say nothing
        assert found is not None
        assert found.document == CONTENTS.document
        assert all(found.tensors[name].equal(t) for name, t in CONTENTS.tensors.items()), place


@pytest.mark.parametrize("share", [0.0, 0.01, 0.3, 0.9, 0.999])
def test_a_file_cut_short_is_damaged(file: Path, share: float) -> None:
    whole = file.read_bytes()
    file.write_bytes(whole[: int(share * len(whole))])
    with pytest.raises(Unusable, match="is damaged"):
        read_checkpoint(file, MARKS)


def test_foreign_and_newer_files_are_told_apart(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(Unusable, match=r"belongs to another training \(plan, torch differ\)"):
        read_checkpoint(file, {"request": "00ff", "plan": "b", "torch": "2"})
    monkeypatch.setattr(checkpoint_file, "FORMAT", 2)
    write_checkpoint(file, CONTENTS, MARKS)
    monkeypatch.undo()
    with pytest.raises(Unusable, match="newer Lossmith"):
        read_checkpoint(file, MARKS)
    safetensors.torch.save_file({"x": torch.zeros(2)}, file)
    with pytest.raises(Unusable, match="is no checkpoint"):
        read_checkpoint(file, MARKS)
    file.unlink()
    file.mkdir()
    with pytest.raises(Unusable):
        read_checkpoint(file, MARKS)


@pytest.mark.parametrize("call", ["fsync", "replace"])
def test_a_disk_that_fails_leaves_the_file_before(file: Path, monkeypatch: pytest.MonkeyPatch, call: str) -> None:
    before = file.read_bytes()

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(checkpoint_file.os, call, full)
    with pytest.raises(OSError, match="No space"):
        write_checkpoint(file, Contents({}, {}), MARKS)
    assert file.read_bytes() == before
    assert os.listdir(file.parent) == [file.name]
