"""Reading a data set by name, and the list of all."""

from __future__ import annotations

from dataclasses import dataclass

from lossmith.errors import DataMissingError
from lossmith.tasks.datasets.places import Folder, find, missing, source_of
from lossmith.tasks.datasets.records import RawData, content_digest
from lossmith.tasks.datasets.sources import SOURCES


def load(name: str, data_dir: Folder | None = None) -> RawData:
    """Read a data set from its official files; nothing is downloaded.

    Args:
        name: one of `SOURCES`, e.g. "mnist".
        data_dir: looked in first; then LOSSMITH_DATA, then the platform's cache.

    Raises:
        UnknownNameError: no such data set.
        DataMissingError: files are missing, damaged, or of another number of rows than the official ones.
    """
    source = source_of(name)
    paths = find(source, data_dir) if source.files else ()
    if paths is None:
        raise missing(source, data_dir)
    try:
        train, test = source.read(paths)
    except DataMissingError as error:
        raise DataMissingError(f"{error} The command is `lossmith data fetch {name}`.") from None
    rows = tuple(len(part[0]) for part in (train, test) if part is not None)
    if rows != source.rows:
        expected, found = (" + ".join(f"{n:,}" for n in counts) for counts in (source.rows, rows))
        raise DataMissingError(
            f"{name}: expected {expected} rows, found {found} in {paths[0].parent}; delete its files and run "
            f"`lossmith data fetch {name}`."
        )
    where = str(paths[0].parent) if paths else "scikit-learn"
    return RawData(name, train, test, source.classes, source.normalisation, where, content_digest(train, test))


@dataclass(frozen=True)
class Entry:
    """One line of `lossmith data`.

    Args:
        name, title: the data set.
        rows: of train and, where there is an official one, test.
        shape: of one input.
        classes: their number, or None for values.
        found: the folder that has all its files, "scikit-learn" for what ships with it, None where they are not here.
        licence, home: whose it is.
    """

    name: str
    title: str
    rows: tuple[int, ...]
    shape: tuple[int, ...]
    classes: int | None
    found: str | None
    licence: str
    home: str


def catalogue(data_dir: Folder | None = None) -> list[Entry]:
    """Every data set, and whether its files are here (they are not opened)."""
    return [_entry(name, data_dir) for name in SOURCES]


def _entry(name: str, data_dir: Folder | None) -> Entry:
    source = SOURCES[name]
    paths = find(source, data_dir) if source.files else ()
    found = None if paths is None else str(paths[0].parent) if paths else "scikit-learn"
    facts = (source.rows, source.shape, source.classes, found, source.licence, source.home)
    return Entry(name, source.title, *facts)
