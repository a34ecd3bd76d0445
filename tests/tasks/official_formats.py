"""Writes tiny files in the official formats of the data sets."""

from __future__ import annotations

import gzip
import io
import struct
import tarfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import scipy.io

from lossmith.rng import stream
from lossmith.tasks.datasets.california import MEMBER

RNG = stream(0, "test", "datasets")


def bytes_of(*shape: int, below: int = 256) -> np.ndarray:
    return RNG.integers(below, size=shape).astype(np.uint8)


def idx(array: np.ndarray, kind: int = 0x08) -> bytes:
    return bytes([0, 0, kind, array.ndim]) + struct.pack(f">{array.ndim}I", *array.shape) + array.tobytes()


def write_mnist(folder: Path, train: int = 3, test: int = 2, *, compress: bool = True) -> None:
    folder.mkdir(parents=True)
    for part, rows in (("train", train), ("t10k", test)):
        for kind, array in (("images-idx3", bytes_of(rows, 28, 28)), ("labels-idx1", bytes_of(rows, below=10))):
            name, raw = f"{part}-{kind}-ubyte", idx(array)
            content = gzip.compress(raw, mtime=0) if compress else raw
            (folder / (f"{name}.gz" if compress else name)).write_bytes(content)


def write_cifar10(folder: Path) -> None:
    (folder / "cifar-10-batches-bin").mkdir(parents=True)
    for name in [*(f"data_batch_{i}" for i in range(1, 6)), "test_batch"]:
        rows = np.concatenate([bytes_of(2, 1, below=10), bytes_of(2, 3072)], axis=1)
        (folder / f"cifar-10-batches-bin/{name}.bin").write_bytes(rows.tobytes())


def write_cifar100(folder: Path) -> None:
    (folder / "cifar-100-binary").mkdir(parents=True)
    for name in ("train", "test"):
        rows = np.concatenate([bytes_of(3, 1, below=20), bytes_of(3, 1, below=100), bytes_of(3, 3072)], axis=1)
        (folder / f"cifar-100-binary/{name}.bin").write_bytes(rows.tobytes())


def write_svhn(folder: Path) -> None:
    folder.mkdir(parents=True)
    for name, rows in (("train", 4), ("test", 3)):
        y = RNG.integers(1, 11, size=(rows, 1)).astype(np.uint8)
        scipy.io.savemat(folder / f"{name}_32x32.mat", {"X": bytes_of(32, 32, 3, rows), "y": y}, do_compression=True)


def statlib(rows: int = 5) -> str:
    """Lines of cal_housing.data."""
    ranges = ((-124, -114), (32, 42), (1, 52), (100, 9000), (20, 900), (100, 3000), (50, 900), (0.5, 15), (15e3, 5e5))
    columns = np.column_stack([RNG.uniform(low, high, rows) for low, high in ranges])
    columns[:, 2:7] = columns[:, 2:7].round()
    return "".join(",".join(f"{value:.6f}" for value in row) + "\n" for row in columns)


def tgz(text: str, member: str = MEMBER) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as archive:
        info = tarfile.TarInfo(member)
        info.size = len(text)
        archive.addfile(info, io.BytesIO(text.encode()))
    return buffer.getvalue()


def mat(**content: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    scipy.io.savemat(buffer, content)
    return buffer.getvalue()


WRITERS: dict[str, tuple[Callable[[Path], None], tuple[int, ...]]] = {
    "mnist": (write_mnist, (3, 2)),
    "fashion_mnist": (lambda folder: write_mnist(folder, 4, 1, compress=False), (4, 1)),
    "cifar10": (write_cifar10, (10, 2)),
    "cifar100": (write_cifar100, (3, 3)),
    "svhn": (write_svhn, (4, 3)),
}
