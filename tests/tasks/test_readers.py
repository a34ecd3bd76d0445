"""Readers on tiny files in the official formats, whole and damaged."""

from __future__ import annotations

import gzip
import os
import pickle
import shutil
from pathlib import Path

import numpy as np
import pytest
import scipy.io
import sklearn.datasets
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from official_formats import idx, mat, statlib, tgz

from lossmith.errors import DataMissingError
from lossmith.rng import stream
from lossmith.tasks import datasets
from lossmith.tasks.datasets.california import FEATURES, MEMBER, read_california_file
from lossmith.tasks.datasets.cifar import read_cifar
from lossmith.tasks.datasets.idx import read_idx, read_idx_pair
from lossmith.tasks.datasets.svhn import read_svhn_file

# IDX ---------------------------------------------------------------------------------------------------------------


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(st.lists(st.integers(0, 4), min_size=1, max_size=4), st.booleans(), st.integers(0, 10**6))
def test_idx_reads_what_was_written(tmp_path: Path, shape: list[int], compress: bool, seed: int) -> None:
    array = stream(seed, "test").integers(256, size=shape).astype(np.uint8)
    path = tmp_path / "file"
    path.write_bytes(gzip.compress(idx(array), mtime=0) if compress else idx(array))
    found = read_idx(path)
    assert found.dtype == torch.uint8
    assert np.array_equal(found.numpy(), array)


GOOD = idx(np.zeros((3, 4, 4), np.uint8))


@pytest.mark.parametrize(
    ("raw", "expected", "found"),
    [
        (b"", "begins with two zero bytes", "an empty file"),
        (b"PK\x03\x04 a zip", "begins with two zero bytes", "50 4b 03 04"),
        (GOOD[:2] + b"\x0d" + GOOD[3:], "type 0x08", "type 0x0d"),
        (GOOD[:9], "16 bytes of IDX header", "9 bytes"),
        (GOOD[:-1], r"3 × 4 × 4 = 48 bytes after the header", "found 47"),
        (GOOD + b"\0", "48 bytes after the header", "found 49"),
        (gzip.compress(GOOD, mtime=0)[:-12], "complete gzip", "ends early"),
        (gzip.compress(GOOD, mtime=0)[:-8] + b"\0" * 8, "readable file", "CRC"),
        (gzip.compress(GOOD, mtime=0)[:12] + b"\xff" * 9, "readable file|complete gzip", ""),
    ],
)
def test_a_damaged_idx_file_is_one_sentence(tmp_path: Path, raw: bytes, expected: str, found: str) -> None:
    path = tmp_path / "train-images-idx3-ubyte.gz"
    path.write_bytes(raw)
    with pytest.raises(DataMissingError, match=rf"(?s)train-images-idx3-ubyte\.gz: expected .*({expected}).*{found}"):
        read_idx(path)


@pytest.mark.parametrize(
    ("images", "labels", "sentence"),
    [
        ((3, 28), (3,), "images with 3 axes"),
        ((3, 28, 28), (3, 1), "labels with 1 axis"),
        ((3, 28, 28), (4,), "3 labels, one per image of images, found 4"),
    ],
)
def test_images_and_labels_must_fit(
    tmp_path: Path, images: tuple[int, ...], labels: tuple[int, ...], sentence: str
) -> None:
    (tmp_path / "images").write_bytes(idx(np.zeros(images, np.uint8)))
    (tmp_path / "labels").write_bytes(idx(np.zeros(labels, np.uint8)))
    with pytest.raises(DataMissingError, match=sentence):
        read_idx_pair(tmp_path / "images", tmp_path / "labels", 10)


def test_labels_outside_the_classes_are_damage(tmp_path: Path) -> None:
    (tmp_path / "images").write_bytes(idx(np.zeros((1, 2, 2), np.uint8)))
    (tmp_path / "labels").write_bytes(idx(np.array([10], np.uint8)))
    with pytest.raises(DataMissingError, match="labels 0 to 9, found label 10"):
        read_idx_pair(tmp_path / "images", tmp_path / "labels", 10)


# CIFAR, SVHN, California -------------------------------------------------------------------------------------------


def test_cifar_planes_rows_and_labels(tmp_path: Path) -> None:
    image = np.arange(3072) % 251
    (tmp_path / "a.bin").write_bytes(bytes([7]) + image.astype(np.uint8).tobytes())
    (tmp_path / "b.bin").write_bytes(bytes([1]) + bytes(3072))
    x, y = read_cifar((tmp_path / "a.bin", tmp_path / "b.bin"), classes=10)
    assert (x.shape, x.dtype, y.tolist()) == ((2, 3, 32, 32), torch.uint8, [7, 1])
    # by the format's description: the second byte of a row is its second pixel, byte 1024 the first green one
    assert (x[0, 0, 0, 1], x[0, 0, 1, 0], x[0, 1, 0, 0]) == (1, 32, 1024 % 251)


def test_cifar100_has_the_fine_label_second(tmp_path: Path) -> None:
    (tmp_path / "train.bin").write_bytes(bytes([19, 99]) + bytes(3072))
    _, y = read_cifar((tmp_path / "train.bin",), classes=100, label_bytes=2)
    assert y.tolist() == [99]


@pytest.mark.parametrize(
    ("raw", "sentence"),
    [
        (b"", "0 bytes, no whole number of records"),
        (bytes(3072), r"records of 3,073 bytes, found 3,072 bytes"),
        (bytes([10]) + bytes(3072), "labels 0 to 9, found label 10"),
    ],
)
def test_a_damaged_cifar_file_is_one_sentence(tmp_path: Path, raw: bytes, sentence: str) -> None:
    (tmp_path / "test_batch.bin").write_bytes(raw)
    with pytest.raises(DataMissingError, match=rf"test_batch\.bin: .*{sentence}"):
        read_cifar((tmp_path / "test_batch.bin",), classes=10)


def test_svhn_axes_and_the_digit_zero(tmp_path: Path) -> None:
    x = np.zeros((32, 32, 3, 2), np.uint8)
    x[5, 6, 1, 1] = 200  # row 5, column 6, green, second image
    scipy.io.savemat(tmp_path / "train_32x32.mat", {"X": x, "y": np.array([[10], [3]], np.uint8)})
    images, labels = read_svhn_file(tmp_path / "train_32x32.mat")
    assert labels.tolist() == [0, 3]
    assert images.dtype == torch.uint8
    assert images.nonzero().tolist() == [[1, 1, 5, 6]]
    assert images[1, 1, 5, 6] == 200


X2, Y2 = np.zeros((32, 32, 3, 2), np.uint8), np.ones((2, 1), np.uint8)


@pytest.mark.parametrize(
    ("raw", "sentence"),
    [
        (b"", "a MATLAB file with X and y"),
        (b"not a matlab file" * 20, "a MATLAB file with X and y"),
        (mat(X=X2, y=Y2)[:-3000], "a MATLAB file with X and y|X of 32"),
        (mat(y=Y2), "X of 32 × 32 × 3 × N unsigned bytes"),
        (mat(X=X2.astype(np.float64), y=Y2), "found shape .* of float64"),
        (mat(X=X2), "y with 2 labels"),
        (mat(X=X2, y=Y2[:1]), "y with 2 labels"),
        (mat(X=X2, y=Y2 * 11), "labels 1 to 10, found 11 to 11"),
    ],
)
def test_a_damaged_svhn_file_is_one_sentence(tmp_path: Path, raw: bytes, sentence: str) -> None:
    (tmp_path / "test_32x32.mat").write_bytes(raw)
    with pytest.raises(DataMissingError, match=rf"test_32x32\.mat: expected .*({sentence})"):
        read_svhn_file(tmp_path / "test_32x32.mat")


def test_california_features_are_scikit_learns(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = statlib(30)
    (tmp_path / "cal_housing.tgz").write_bytes(tgz(text))
    theirs = tmp_path / "theirs"
    theirs.mkdir()
    shutil.copy(tmp_path / "cal_housing.tgz", theirs)
    monkeypatch.setattr(
        "sklearn.datasets._california_housing._fetch_remote", lambda *_, **__: theirs / "cal_housing.tgz"
    )
    expected = sklearn.datasets.fetch_california_housing(data_home=theirs)
    assert tuple(expected.feature_names) == FEATURES
    x, y = read_california_file(tmp_path / "cal_housing.tgz")
    assert torch.equal(x, torch.from_numpy(expected.data).float())
    assert torch.equal(y, torch.from_numpy(expected.target).float())

    table = np.column_stack([expected.data, expected.target])
    lines = "".join(",".join(repr(float(v)) for v in row) + "\n" for row in table)
    (tmp_path / "cal_housing.csv").write_text(",".join((*FEATURES, "target")) + "\n" + lines)
    (tmp_path / "cal_housing.data").write_text(text.replace("\n", "\r\n"))
    for other in ("cal_housing.csv", "cal_housing.data"):
        again = read_california_file(tmp_path / other)
        assert torch.equal(again[0], x)
        assert torch.equal(again[1], y)


HEAD = ",".join((*FEATURES, "target")) + "\n"
LINE = "8.3,41,6.9,1.02,322,2.5,37.8,-122.2,4.5\n"


@pytest.mark.parametrize(
    ("raw", "sentence"),
    [
        (b"", "9 numbers .* found '' on line 1"),
        (HEAD.encode(), "9 numbers"),
        ((HEAD + LINE + LINE[:-20] + "\n").encode(), "found '8.3,41,6.9,1.02,322,' on line 3"),
        ((HEAD + LINE.replace("41", "old")).encode(), "found '8.3,old.* on line 2"),
        ((HEAD + LINE + LINE.replace("41", "nan")).encode(), "finite numbers, found none in row 2"),
        (b"-122,37,41,880,129,322,0,8.3,452600\n", "finite numbers, found none in row 1"),  # no household
        (b"\xff\xfe\x00", "bytes that are no text"),
        (tgz(statlib())[:-40], "archive"),
        (tgz(statlib(), "other.data"), f"an archive with {MEMBER}, found one without it"),
        (gzip.compress(b"no tar", mtime=0), "archive"),
    ],
)
def test_a_damaged_california_file_is_one_sentence(tmp_path: Path, raw: bytes, sentence: str) -> None:
    (tmp_path / "cal_housing").write_bytes(raw)
    with pytest.raises(DataMissingError, match=rf"cal_housing: expected .*{sentence}"):
        read_california_file(tmp_path / "cal_housing")


def test_nothing_is_ever_unpickled(tmp_path: Path) -> None:
    class Trap:
        def __reduce__(self) -> tuple[object, ...]:
            return (os.mkdir, (str(tmp_path / "sprung"),))

    for name, read in (
        ("a.mat", read_svhn_file),
        ("a.csv", read_california_file),
        ("a-ubyte", read_idx),
        ("a.bin", lambda path: read_cifar((path,), classes=10)),
    ):
        (tmp_path / name).write_bytes(pickle.dumps(Trap()))
        with pytest.raises(DataMissingError):
            read(tmp_path / name)
    assert not (tmp_path / "sprung").exists()
    sources = [path.read_text() for path in Path(datasets.__file__).parent.glob("*.py")]
    assert len(sources) > 5
    assert not [s for s in sources if "pickle" in s.replace("no pickles", "").replace("never unpickled", "")]
