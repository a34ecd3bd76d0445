"""California housing, in the two forms it is distributed in.

StatLib's cal_housing.data (inside cal_housing.tgz): nine columns without a header: longitude, latitude, median age,
total rooms, total bedrooms, population, households, median income, median house value in dollars. From these the usual
eight features and the target in units of $100,000 are derived as scikit-learn's `fetch_california_housing` does; the
other form is the table of those, with a header line.

Reference: Pace & Barry (1997), Sparse Spatial Autoregressions, Statistics and Probability Letters 33.
"""

from __future__ import annotations

import io
import tarfile
import zlib
from pathlib import Path

import numpy as np
import torch

from lossmith.tasks.datasets.records import Pair, damaged

FEATURES = ("MedInc", "HouseAge", "AveRooms", "AveBedrms", "Population", "AveOccup", "Latitude", "Longitude")
MEMBER = "CaliforniaHousing/cal_housing.data"


def read_california_file(path: Path) -> Pair:
    """Features float32 `[N, 8]` in the order of `FEATURES`, values float32 `[N]` in $100,000.

    Args:
        path: cal_housing.tgz, cal_housing.data, or a table with the header line `MedInc,…,Longitude,target`.

    Raises:
        DataMissingError: not readable, other columns, or an entry that is no finite number.
    """
    text = _text(path)
    header, _, body = text.partition("\n")
    derived = header.strip().split(",")[:8] == list(FEATURES)
    table = _numbers(path, body, 2) if derived else _numbers(path, text, 1)
    if not derived:
        longitude, latitude, age, rooms, bedrooms, people, households, income, value = table.T
        with np.errstate(divide="ignore", invalid="ignore"):  # a block without households is told of below
            columns = (income, age, rooms / households, bedrooms / households, people, people / households)
        table = np.column_stack([*columns, latitude, longitude, value / 100_000])
    if not np.isfinite(table).all():
        row = int(np.flatnonzero(~np.isfinite(table).all(axis=1))[0])
        raise damaged(path, "finite numbers", f"none in row {row + 1:,}")
    x, y = torch.from_numpy(table[:, :8]).float(), torch.from_numpy(table[:, 8]).float()
    return x.contiguous(), y.contiguous()


def read_california(paths: tuple[Path, ...]) -> tuple[Pair, Pair | None]:
    """The one file; there is no official test split."""
    return read_california_file(paths[0]), None


def _text(path: Path) -> str:
    try:
        raw = path.read_bytes()
        if raw[:2] == b"\x1f\x8b":
            with tarfile.open(fileobj=io.BytesIO(raw), mode="r:gz") as archive:
                member = archive.extractfile(MEMBER)
                raw = member.read() if member is not None else b""
        return raw.decode("ascii")
    except KeyError:
        raise damaged(path, f"an archive with {MEMBER}", "one without it") from None
    except UnicodeDecodeError:
        raise damaged(path, "a table of numbers", "bytes that are no text") from None
    except (OSError, EOFError, tarfile.TarError, zlib.error) as error:
        raise damaged(path, "a readable table or archive", str(error)) from None


def _numbers(path: Path, text: str, first_line: int) -> np.ndarray:
    lines = text.split("\n")
    lines = lines[:-1] if not lines[-1].strip() else lines
    try:
        table = np.array([line.split(",") for line in lines], dtype=np.float64)
    except ValueError:
        table = np.empty(0)
    if table.ndim != 2 or table.shape[1] != 9:
        wrong = next((i for i, line in enumerate(lines) if not _nine_numbers(line)), 0)
        shown = lines[wrong][:60] if lines else ""
        raise damaged(
            path, "9 numbers with commas between them on each line", f"{shown!r} on line {first_line + wrong:,}"
        )
    return table


def _nine_numbers(line: str) -> bool:
    try:
        return len([float(entry) for entry in line.split(",")]) == 9
    except ValueError:
        return False
