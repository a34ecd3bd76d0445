"""One file of a training under way: tensors and a document, whole or not there, and never anything that is run.

A file is written beside its place, brought to the disk and renamed, so that a kill leaves the one before. Its digest is
over all that it says: safetensors itself notices a file cut short, but not a flipped bit.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch
from torch import Tensor

from lossmith.records import canonical_json

FORMAT = 1
UNFINISHED = ".unfinished"


class Unusable(Exception):
    """Why a file cannot be gone on with, as the end of a sentence that begins with its name."""


@dataclass(frozen=True)
class Contents:
    """What a file holds: a JSON-able document, and CPU tensors by name."""

    document: dict[str, Any]
    tensors: dict[str, Tensor]


def write_checkpoint(path: Path, contents: Contents, marks: Mapping[str, str]) -> None:
    """Put a file in its place, in that of an older one.

    Args:
        path: in an existing folder. marks: what a reader must agree with.

    Raises:
        OSError: the disk is full or gone; what was there before is still there.
    """
    text = canonical_json({"marks": dict(marks), "document": contents.document})
    metadata = {"lossmith": text, "format": str(FORMAT), "digest": _digest(text, contents.tensors)}
    whole = safetensors.torch.save(contents.tensors, metadata)
    unfinished = path.with_name(f"{path.name}.{os.getpid()}{UNFINISHED}")
    try:
        with open(unfinished, "wb") as file:
            file.write(whole)
            file.flush()
            os.fsync(file.fileno())
        os.replace(unfinished, path)
    except BaseException:
        with suppress(OSError):
            unfinished.unlink(missing_ok=True)
        raise
    with suppress(OSError):  # not every file system syncs folders
        handle = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def read_checkpoint(path: Path, marks: Mapping[str, str]) -> Contents | None:
    """What the file holds, None where there is none.

    Raises:
        Unusable: it is damaged, newer, or made by something else than the training that `marks` describe.
    """
    if not path.exists():
        return None
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            names = list(file.keys())
            if "lossmith" not in metadata:
                raise Unusable("is no checkpoint of a training")
            if metadata.get("format", "").isdecimal() and int(metadata["format"]) > FORMAT:
                raise Unusable("was written by a newer Lossmith")
            tensors = {name: file.get_tensor(name).clone() for name in names}  # nothing leans on the open file
        text = metadata["lossmith"]
        if metadata.get("format") != str(FORMAT) or metadata.get("digest") != _digest(text, tensors):
            raise Unusable("is damaged")
        said = json.loads(text)
        found, document = said["marks"], said["document"]
    except Unusable:
        raise
    except Exception as error:  # whatever the bytes of a damaged file lead to
        raise Unusable("is damaged") from error
    differing = sorted(name for name in found.keys() | marks.keys() if found.get(name) != marks.get(name))
    if differing:
        raise Unusable(f"belongs to another training ({', '.join(differing)} differ)")
    return Contents(document, tensors)


def _digest(text: str, tensors: Mapping[str, Tensor]) -> str:
    """SHA-256 of the document and of name, type, shape and bytes of every tensor."""
    digest = hashlib.sha256(text.encode())
    for name in sorted(tensors):
        tensor = tensors[name]
        digest.update(f"\x1f{name}\x1f{tensor.dtype}\x1f{tuple(tensor.shape)}\x1f".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()
