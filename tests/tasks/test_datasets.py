"""Data sets by name: where they are looked for, what is said when they are not there, and the real files."""

from __future__ import annotations

import dataclasses
import gzip
import os
import shutil
from pathlib import Path

import numpy as np
import pooch
import pytest
import sklearn.datasets
import torch
from official_formats import WRITERS, write_mnist

from lossmith.errors import DataMissingError, UnknownNameError
from lossmith.tasks.datasets import SOURCES, catalogue, load


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A machine without data: no LOSSMITH_DATA, an empty cache."""
    monkeypatch.delenv("LOSSMITH_DATA", raising=False)
    monkeypatch.setattr(pooch, "os_cache", lambda name: tmp_path / "cache" / name)
    return tmp_path


@pytest.mark.parametrize("name", WRITERS)
def test_load_reads_every_official_layout(name: str, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write, rows = WRITERS[name]
    write(home / "data" / name)
    with pytest.raises(
        DataMissingError, match=rf"{name}: expected [\d,]+ \+ [\d,]+ rows, found {rows[0]} \+ {rows[1]}"
    ):
        load(name, home / "data")
    monkeypatch.setitem(SOURCES, name, dataclasses.replace(SOURCES[name], rows=rows))
    raw = load(name, home / "data")
    assert raw.test is not None
    for part, count in ((raw.train, rows[0]), (raw.test, rows[1])):
        assert part[0].shape == (count, *SOURCES[name].shape)
        assert (part[0].dtype, part[1].dtype) == (torch.uint8, torch.int64)
        assert part[1].shape == (count,)
    assert raw.name == name
    assert raw.source.startswith(str(home / "data" / name))
    assert raw.digest == load(name, home / "data").digest
    damaged = next(path for path in sorted((home / "data" / name).rglob("*")) if path.is_file())
    damaged.write_bytes(damaged.read_bytes()[:-5])
    with pytest.raises(DataMissingError, match=rf"{damaged.name}.*`lossmith data fetch {name}`"):
        load(name, home / "data")


def test_the_digest_depends_on_contents_not_on_the_format(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(SOURCES, "mnist", dataclasses.replace(SOURCES["mnist"], rows=(3, 2)))
    write_mnist(home / "a" / "mnist")
    shutil.copytree(home / "a", home / "b")
    for path in (home / "b" / "mnist").iterdir():
        path.with_suffix("").write_bytes(gzip.decompress(path.read_bytes()))
        path.unlink()
    assert load("mnist", home / "a").digest == load("mnist", home / "b").digest
    labels = home / "b" / "mnist" / "t10k-labels-idx1-ubyte"
    raw = bytearray(labels.read_bytes())
    raw[-1] = (raw[-1] + 1) % 10
    labels.write_bytes(raw)
    assert load("mnist", home / "a").digest != load("mnist", home / "b").digest


def test_the_order_of_places(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(SOURCES, "mnist", dataclasses.replace(SOURCES["mnist"], rows=(3, 2)))
    write_mnist(home / "cache" / "lossmith" / "mnist")
    assert load("mnist").source == str(home / "cache" / "lossmith" / "mnist")
    write_mnist(home / "variable" / "mnist")
    monkeypatch.setenv("LOSSMITH_DATA", str(home / "variable"))
    assert load("mnist").source == str(home / "variable" / "mnist")
    write_mnist(home / "given" / "mnist")
    assert load("mnist", home / "given").source == str(home / "given" / "mnist")
    (home / "given" / "mnist" / "t10k-labels-idx1-ubyte.gz").unlink()
    assert load("mnist", home / "given").source == str(home / "variable" / "mnist"), (
        "an incomplete folder is passed over"
    )


@pytest.mark.parametrize("name", [name for name, source in SOURCES.items() if source.files])
def test_missing_data_says_which_file_where_and_how(name: str, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LOSSMITH_DATA", str(home / "variable"))
    with pytest.raises(DataMissingError) as caught:
        load(name, home / "given")
    sentence = str(caught.value)
    places = [str(home / place / name) for place in ("given", "variable", "cache/lossmith")]
    wanted = (SOURCES[name].files[0][0], SOURCES[name].base_url, f"lossmith data fetch {name}", "LOSSMITH_DATA")
    assert all(part in sentence for part in (*places, *wanted)), sentence


def test_the_file_that_is_missing_is_named(home: Path) -> None:
    write_mnist(home / "given" / "mnist")
    (home / "given" / "mnist" / "t10k-labels-idx1-ubyte.gz").unlink()
    with pytest.raises(DataMissingError, match=r"mnist: t10k-labels-idx1-ubyte\.gz is not on this machine"):
        load("mnist", home / "given")


def test_unknown_data_sets_get_the_nearest_name() -> None:
    with pytest.raises(UnknownNameError, match="'mnist'"):
        load("mnits")


def test_bundled_data_is_scikit_learns() -> None:
    raw = load("digits")
    theirs = sklearn.datasets.load_digits()
    assert raw.classes == 10
    assert raw.source == "scikit-learn"
    assert np.array_equal(raw.train[0][:, 0].numpy(), theirs.images)
    assert np.array_equal(raw.train[1].numpy(), theirs.target)
    raw = load("diabetes")
    assert raw.classes is None
    x, y = raw.train
    assert (x.shape, y.shape, raw.test) == ((442, 10), (442,), None)
    scaled = (x.double() - x.double().mean(0)) / (x.double().std(0, correction=0) * 442**0.5)
    assert np.allclose(scaled.numpy(), sklearn.datasets.load_diabetes().data, atol=1e-6)  # their own scaling


def test_the_catalogue_knows_what_is_here(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_mnist(home / "mnist")
    found = {entry.name: entry for entry in catalogue(home)}
    assert set(found) == set(SOURCES)
    assert found["mnist"].found == str(home / "mnist")
    assert found["digits"].found == "scikit-learn"
    assert found["cifar10"].found is None
    assert (found["cifar100"].rows, found["cifar100"].shape, found["cifar100"].classes) == (
        (50_000, 10_000),
        (3, 32, 32),
        100,
    )
    assert all(entry.licence and entry.home.startswith("http") and entry.title for entry in found.values())


# the real files ----------------------------------------------------------------------------------------------------

# published class counts (MNIST: yann.lecun.com) and the usual normalisation constants of the training pixels
REAL_IMAGES = {
    "mnist": ([5923, 6742, 5958, 6131, 5842, 5421, 5918, 6265, 5851, 5949], [0.1307], [0.3081]),
    "fashion_mnist": ([6000] * 10, [0.2860], [0.3530]),
    "cifar10": ([5000] * 10, [0.4914, 0.4822, 0.4465], [0.2470, 0.2435, 0.2616]),
    "cifar100": ([500] * 100, [0.5071, 0.4865, 0.4409], [0.2673, 0.2564, 0.2762]),
    "svhn": (
        [4948, 13861, 10585, 8497, 7458, 6882, 5727, 5595, 5045, 4659],
        [0.4377, 0.4438, 0.4728],
        [0.1980, 0.2010, 0.1970],
    ),
}


def needs(name: str) -> None:
    if next(entry.found for entry in catalogue() if entry.name == name) is None:
        pytest.skip(f"{name} is not in LOSSMITH_DATA ({os.environ.get('LOSSMITH_DATA') or 'not set'})")


@pytest.mark.real_data
@pytest.mark.parametrize("name", REAL_IMAGES)
def test_real_images(name: str) -> None:
    needs(name)
    counts, mean, deviation = REAL_IMAGES[name]
    raw = load(name)
    x, y = raw.train
    assert raw.test is not None
    assert (len(x), len(raw.test[0])) == SOURCES[name].rows
    assert torch.bincount(y).tolist() == counts
    pixels = x.permute(1, 0, 2, 3).flatten(1)
    share = torch.stack([torch.bincount(plane, minlength=256) for plane in pixels.int()]).double() / pixels.shape[1]
    level = torch.arange(256) / 255
    found = share @ level.double()
    assert found.tolist() == pytest.approx(mean, abs=1e-3)
    assert ((share @ level.double().square()) - found**2).sqrt().tolist() == pytest.approx(deviation, abs=2e-3)


@pytest.mark.real_data
def test_real_california() -> None:
    needs("california")
    raw = load("california")
    x, y = raw.train
    assert raw.test is None
    assert x.shape == (20_640, 8)
    # the example in scikit-learn's documentation of fetch_california_housing
    first = [8.3252, 41.0, 6.98412698, 1.02380952, 322.0, 2.55555556, 37.88, -122.23]
    assert x[0].tolist() == pytest.approx(first, rel=1e-6)
    assert y[0].item() == pytest.approx(4.526)
    assert y.double().mean().item() == pytest.approx(2.0686, abs=1e-4)  # documented range 0.15 - 5
    assert (y.min().item(), y.max().item()) == pytest.approx((0.14999, 5.00001), abs=1e-5)
