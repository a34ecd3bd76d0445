"""What the readers hand over, and what is known of a data set before it is read."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from lossmith.errors import DataMissingError

Pair = tuple[Tensor, Tensor]
Reader = Callable[[tuple[Path, ...]], tuple[Pair, Pair | None]]


@dataclass(frozen=True, eq=False)
class RawData:
    """A data set as its files have it: nothing scaled, nothing shuffled.

    Args:
        name: "mnist", "california" …
        train: inputs and targets. Images are uint8 `[N, channels, height, width]`, tables float32 `[N, features]`;
            classes are int64 `[N]`, values float32 `[N]`.
        test: the official test rows, or None where there are none.
        classes: their number, or None for values.
        normalisation: what the numbers are and what is usually done to them.
        source: where it was read from, for people.
        digest: SHA-256 of contents, shapes and types; the same for every official format of the same rows.
    """

    name: str
    train: Pair
    test: Pair | None
    classes: int | None
    normalisation: str
    source: str
    digest: str


@dataclass(frozen=True)
class Download:
    """One file of an official home.

    Args:
        remote: its name after the base address.
        digest: "sha256:…" or "md5:…" of the file as it is served.
        saved_as: its name in the data set's folder.
        members: of a tar archive, the files taken out of it (by their own paths); the archive is then not kept.
    """

    remote: str
    digest: str
    saved_as: str = ""
    members: tuple[str, ...] = ()

    @property
    def products(self) -> tuple[str, ...]:
        """What is in the data set's folder afterwards."""
        return self.members or (self.saved_as or self.remote,)


@dataclass(frozen=True)
class Source:
    """What is known of a data set before it is read.

    Args:
        name: also its folder.
        title: for people.
        rows: of train and, where there is an official one, test.
        shape: of one input.
        classes: their number, or None for values.
        licence: what its authors allow, as they say it.
        home: its home page.
        normalisation: see `RawData`.
        read: from the files, in the order of `files`.
        files: each file as the names it is accepted under, the downloaded one first. Empty: bundled.
        base_url: where the downloads are.
        downloads: what `fetch` gets.
    """

    name: str
    title: str
    rows: tuple[int, ...]
    shape: tuple[int, ...]
    classes: int | None
    licence: str
    home: str
    normalisation: str
    read: Reader
    files: tuple[tuple[str, ...], ...] = ()
    base_url: str = ""
    downloads: tuple[Download, ...] = ()


def damaged(path: Path, expected: str, found: str) -> DataMissingError:
    """The error for a file that is not what it should be."""
    return DataMissingError(f"{path}: expected {expected}, found {found}; delete the file and fetch it again.")


def content_digest(train: Pair, test: Pair | None) -> str:
    """SHA-256 over types, shapes and bytes of all tensors."""
    hashed = hashlib.sha256()
    for tensor in (*train, *(test or ())):
        hashed.update(f"{tensor.dtype}{tuple(tensor.shape)}".encode())
        hashed.update(memoryview(tensor.contiguous().numpy()).cast("B"))
    return hashed.hexdigest()
