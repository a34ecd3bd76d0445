"""Getting data sets from their official homes: checked by digest, whole or not at all, never unpickled."""

from __future__ import annotations

import logging
import os
import shutil
import tarfile
import tempfile
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

import pooch
from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn

from lossmith.errors import DataMissingError
from lossmith.tasks.datasets.places import VARIABLE, Folder, data_folders, present, source_of
from lossmith.tasks.datasets.records import Download, Source

PATIENCE = (10, 60)  # seconds until connected, and between two pieces of data


def fetch(
    name: str,
    data_dir: Folder | None = None,
    *,
    base_url: str | None = None,
    progress: bool = False,
    digests: Mapping[str, str] | None = None,
) -> Path | None:
    """Download a data set into `data_dir`/name (default: LOSSMITH_DATA, else the platform's cache).

    Files that are there already are left alone. A file appears under its name only when it is complete and its digest
    is right, so an interrupted download leaves nothing behind and the next one goes on with what is missing.

    Args:
        name: one of `SOURCES`.
        data_dir: where to put it.
        base_url: a mirror that has the files under the names of the official home.
        progress: whether to draw a bar per file on standard error.
        digests: other digests by name of the served file ("sha256:…" or "md5:…"), for a mirror with other files.

    Returns:
        The folder of its files, or None for a data set that ships with scikit-learn.

    Raises:
        UnknownNameError: no such data set.
        DataMissingError: the home cannot be reached, lacks a file, or serves another; or the folder is not writable.
    """
    source = source_of(name)
    if not source.downloads:
        return None
    folder = data_folders(data_dir)[0] / name
    home = (base_url or source.base_url).rstrip("/") + "/"
    for download in source.downloads:
        if _all_here(source, folder, download.products):
            continue
        digest = (digests or {}).get(download.remote, download.digest)
        try:
            with _staging(folder) as stage:
                archive = _get(home + download.remote, digest, stage, progress)
                _deliver(archive, download, stage, folder)
        except OSError as error:
            raise DataMissingError(
                f"{name}: cannot write to {folder} ({error}): choose another folder with --data-dir or {VARIABLE}."
            ) from error
    return folder


def _all_here(source: Source, folder: Path, products: tuple[str, ...]) -> bool:
    accepted = {names[0]: names for names in source.files}
    return all(present(folder, accepted[product]) for product in products)


@contextmanager
def _staging(folder: Path) -> Iterator[Path]:
    """A folder on the same file system, gone afterwards, and with it everything that was not delivered."""
    made = [path for path in (folder, *folder.parents) if not path.exists()]
    folder.mkdir(parents=True, exist_ok=True)
    try:
        with tempfile.TemporaryDirectory(prefix=".fetch-", dir=folder) as stage:
            yield Path(stage)
    finally:
        with suppress(OSError):  # not empty: something was delivered
            for path in made:
                path.rmdir()


def _get(url: str, digest: str, stage: Path, progress: bool) -> Path:
    bar = _Bar(url.rpartition("/")[2]) if progress else None
    downloader = pooch.HTTPDownloader(progressbar=bar or False, timeout=PATIENCE)
    try:
        with _quiet():
            return Path(pooch.retrieve(url, digest, fname="download", path=stage, downloader=downloader))
    except OSError as error:
        if not hasattr(error, "response"):  # the disk's, not one of requests
            raise
        answer = error.response
        why = f"{answer.status_code} {answer.reason}" if answer is not None else f"{type(error).__name__}: {error}"
        raise DataMissingError(
            f"{url} cannot be downloaded ({why}): try again later, or get the file elsewhere and set {VARIABLE} to its "
            "folder."
        ) from error
    except ValueError as error:  # pooch's word for a wrong digest
        raise DataMissingError(
            f"{url} arrived with a wrong digest and was thrown away ({str(error).split('. ')[0]}): try again, or get "
            f"the file elsewhere and set {VARIABLE} to its folder."
        ) from error
    finally:
        if bar:
            bar.close()


def _deliver(file: Path, download: Download, stage: Path, folder: Path) -> None:
    """Move what was downloaded, or taken out of the archive, to its place: one atomic step per file."""
    if not download.members:
        os.replace(file, folder / download.products[0])
        return
    try:
        with tarfile.open(file, "r:*") as archive:
            for number, name in enumerate(download.members):
                member = archive.extractfile(name)
                if member is None:
                    raise KeyError(name)
                with member, open(stage / str(number), "wb") as out:  # never extracted by the archive's own paths
                    shutil.copyfileobj(member, out)
    except (KeyError, EOFError, tarfile.TarError, zlib.error) as error:
        raise DataMissingError(f"{download.remote} is not the expected archive: {error}; fetch it again.") from error
    for number, name in enumerate(download.members):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        os.replace(stage / str(number), folder / name)


@contextmanager
def _quiet() -> Iterator[None]:
    """Without pooch's own lines about each file; errors are told as ours."""
    logger = pooch.get_logger()
    before = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(before)


class _Bar:
    """A rich progress bar with the four verbs pooch asks of one."""

    def __init__(self, name: str) -> None:
        columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TimeRemainingColumn())
        self._progress = Progress(*columns, console=Console(stderr=True))
        self._task = self._progress.add_task(name, total=None)
        self._progress.start()

    @property
    def total(self) -> float | None:
        return self._progress.tasks[0].total

    @total.setter
    def total(self, total: int) -> None:
        self._progress.update(self._task, total=total)

    def update(self, amount: int) -> None:
        self._progress.advance(self._task, amount)

    def reset(self) -> None:
        self._progress.update(self._task, completed=0)

    def close(self) -> None:
        self._progress.stop()
