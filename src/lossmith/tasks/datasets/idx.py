"""The IDX format of MNIST and Fashion-MNIST, plain or gzipped.

Format (yann.lecun.com/exdb/mnist): two zero bytes, one for the type of the numbers (0x08 = unsigned byte), one for the
number of axes; then the axes, big-endian 32-bit; then the numbers, last axis fastest.
"""

from __future__ import annotations

import gzip
import math
import struct
import zlib
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from lossmith.tasks.datasets.records import Pair, damaged

UNSIGNED_BYTE = 0x08


def read_idx(path: Path) -> Tensor:
    """The numbers of an IDX file of unsigned bytes, uint8 in the shape the file states.

    Raises:
        DataMissingError: not readable, not IDX, not unsigned bytes, shorter or longer than it says.
    """
    raw = _bytes(path)
    if len(raw) < 4 or raw[:2] != b"\0\0":
        raise damaged(path, "an IDX file (it begins with two zero bytes)", f"{raw[:4].hex(' ') or 'an empty file'}")
    kind, axes = raw[2], raw[3]
    if kind != UNSIGNED_BYTE or not axes:
        raise damaged(path, "IDX type 0x08 (unsigned byte) with 1 axis or more", f"type 0x{kind:02x} with {axes} axes")
    start = 4 + 4 * axes
    if len(raw) < start:
        raise damaged(path, f"{start} bytes of IDX header", f"{len(raw)} bytes")
    shape = struct.unpack(f">{axes}I", raw[4:start])
    if len(raw) - start != math.prod(shape):
        size = " × ".join(f"{n:,}" for n in shape)
        raise damaged(path, f"{size} = {math.prod(shape):,} bytes after the header", f"{len(raw) - start:,}")
    return torch.from_numpy(np.frombuffer(raw, np.uint8, offset=start).reshape(shape).copy())


def read_idx_pair(images: Path, labels: Path, classes: int) -> Pair:
    """Images uint8 `[N, 1, height, width]` and labels int64 `[N]`.

    Raises:
        DataMissingError: as `read_idx`; axes, numbers of rows or labels do not fit.
    """
    x, y = read_idx(images), read_idx(labels)
    if x.ndim != 3:
        raise damaged(images, "images with 3 axes (magic number 2051)", f"{x.ndim} axes")
    if y.ndim != 1:
        raise damaged(labels, "labels with 1 axis (magic number 2049)", f"{y.ndim} axes")
    if len(x) != len(y):
        raise damaged(labels, f"{len(x):,} labels, one per image of {images.name}", f"{len(y):,}")
    if len(y) and int(y.max()) >= classes:
        raise damaged(labels, f"labels 0 to {classes - 1}", f"label {int(y.max())}")
    return x[:, None], y.long()


def read_mnist(paths: tuple[Path, ...]) -> tuple[Pair, Pair | None]:
    """The four files of MNIST or Fashion-MNIST: train images and labels, test images and labels."""
    return read_idx_pair(paths[0], paths[1], 10), read_idx_pair(paths[2], paths[3], 10)


def _bytes(path: Path) -> bytes:
    try:
        raw = path.read_bytes()
        return gzip.decompress(raw) if raw[:2] == b"\x1f\x8b" else raw
    except EOFError:
        raise damaged(path, "a complete gzip file", "one that ends early") from None
    except (OSError, zlib.error) as error:
        raise damaged(path, "a readable file", str(error)) from None
