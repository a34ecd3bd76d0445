"""Where data files are looked for, and what is said when they are nowhere."""

from __future__ import annotations

import os
from os import PathLike
from pathlib import Path

import pooch

from lossmith.errors import DataMissingError, UnknownNameError
from lossmith.tasks.datasets.records import Source
from lossmith.tasks.datasets.sources import SOURCES

Folder = str | PathLike[str]
VARIABLE = "LOSSMITH_DATA"


def source_of(name: str) -> Source:
    """The data set of that name.

    Raises:
        UnknownNameError: there is none.
    """
    if name not in SOURCES:
        raise UnknownNameError("data set", name, SOURCES, listing="lossmith data")
    return SOURCES[name]


def data_folders(data_dir: Folder | None = None) -> list[Path]:
    """In this order: `data_dir`, the environment's LOSSMITH_DATA, the platform's cache. Downloads go to the first."""
    given = (data_dir, os.environ.get(VARIABLE), pooch.os_cache("lossmith"))
    return [Path(folder).expanduser() for folder in given if folder]


def find(source: Source, data_dir: Folder | None = None) -> tuple[Path, ...] | None:
    """The data set's files in the first folder that has them all, or None."""
    for folder in data_folders(data_dir):
        paths = [present(folder / source.name, names) for names in source.files]
        if all(paths):
            return tuple(path for path in paths if path is not None)
    return None


def present(folder: Path, names: tuple[str, ...]) -> Path | None:
    """The first of the accepted names that is a file in `folder`."""
    return next((folder / name for name in names if (folder / name).is_file()), None)


def missing(source: Source, data_dir: Folder | None = None) -> DataMissingError:
    """The error for a data set that is not here: which file, where it was looked for, how to get it."""
    folders = [folder / source.name for folder in data_folders(data_dir)]
    partly = next((f for f in folders if any(present(f, names) for names in source.files)), folders[0])
    names = next(names for names in source.files if not present(partly, names))
    urls = " ".join(source.base_url + download.remote for download in source.downloads)
    return DataMissingError(
        f"{source.name}: {names[0]} is not on this machine (looked in {', '.join(map(str, folders))}): "
        f"run `lossmith data fetch {source.name}`, or get {urls} and set {VARIABLE} to the folder that holds "
        f"{source.name}/{names[0]}."
    )
