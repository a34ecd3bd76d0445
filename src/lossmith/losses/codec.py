"""Losses as JSON and back. A document is versioned, complete, and data only: nothing in it is ever executed."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from lossmith.errors import LossError
from lossmith.losses import aggregation as agg
from lossmith.losses.family import Kernel
from lossmith.losses.inputs import Head, head_name
from lossmith.losses.loss import Loss, LossSet
from lossmith.records import canonical_json, content_hash

FORMAT = 1
FAMILIES: dict[str, type[Kernel]] = {}


def register(kernel: type[Kernel]) -> type[Kernel]:
    """Make a loss family known to the codec (a class decorator)."""
    FAMILIES[kernel.family] = kernel
    return kernel


def to_document(loss: Loss | LossSet) -> dict[str, Any]:
    """A loss as a JSON-able document."""
    if isinstance(loss, LossSet):
        return {"lossmith": FORMAT, "losses": [to_document(member) for member in loss]}
    document: dict[str, Any] = {
        "lossmith": FORMAT,
        "kernel": {"family": loss.kernel.family, **loss.kernel.document()},
        "head": head_name(loss.head),
        "aggregation": agg.document(loss.aggregation),
        "reduction": loss.reduction,
        "outputs": loss.outputs,
        "smoothing": loss.smoothing,
    }
    if loss.prior is not None:
        document["prior"] = list(loss.prior)
    if loss.name is not None:
        document["name"] = loss.name
    return document


def to_json(loss: Loss | LossSet) -> str:
    """A loss as canonical JSON text: equal losses of equal name give equal text."""
    return canonical_json(to_document(loss))


def loss_hash(loss: Loss | LossSet) -> str:
    """Content hash of a loss, 16 hex digits; names take no part."""
    return content_hash(_without_names(to_document(loss)))


def from_json(text: str | Mapping[str, Any], *, head: Head | None = None) -> Loss | LossSet:
    """The inverse of `to_json` and `to_document`.

    Args:
        text: JSON text or a document.
        head: replaces the stored head; needed where the stored one is a function ("custom").

    Raises:
        LossError: not JSON, not a loss, a newer format, a missing or malformed field.
    """
    if isinstance(text, str):
        try:
            document = json.loads(text)
        except (json.JSONDecodeError, RecursionError) as error:
            raise LossError(f"this is not a loss in JSON: {error}.") from None
    else:
        document = text
    if not isinstance(document, Mapping) or "lossmith" not in document:
        raise LossError('this JSON is not a Lossmith loss: it has no field "lossmith" with the format number.')
    version = document["lossmith"]
    if not isinstance(version, int) or version < 1:
        raise LossError(f"the loss has format {version!r}; this Lossmith reads format {FORMAT}.")
    if version > FORMAT:
        raise LossError(f"the loss has format {version}, this Lossmith reads up to {FORMAT}: upgrade lossmith.")
    if "losses" in document:
        members = document["losses"]
        if not isinstance(members, list) or not members:
            raise LossError('the field "losses" must be a list of losses.')
        loaded = [from_json(member, head=head) for member in members]
        return LossSet([member for member in loaded if isinstance(member, Loss)])
    return _single(document, head)


def _single(document: Mapping[str, Any], head: Head | None) -> Loss:
    try:
        stored = document["head"]
        if head is None and stored == "custom":
            raise LossError("the loss was made with a head of your own: pass it again as head=function.")
        prior = document.get("prior")
        return Loss(
            kernel_from(document["kernel"]),
            head=stored if head is None else head,
            aggregation=agg.aggregation_from(document["aggregation"], kernel_from),
            reduction=document["reduction"],
            outputs=document["outputs"],
            smoothing=float(document["smoothing"]),
            prior=None if prior is None else [float(p) for p in prior],
            name=document.get("name"),
        )
    except KeyError as missing:
        raise LossError(f"the loss document lacks the field {missing}.") from None
    except (TypeError, ValueError, AttributeError) as error:
        raise LossError(f"the loss document is malformed: {error}.") from None


def kernel_from(document: Mapping[str, Any]) -> Kernel:
    """A kernel from its document, by its family's name."""
    family = document["family"]
    if family not in FAMILIES:
        raise LossError(f"unknown loss family {family!r}: this Lossmith has {', '.join(sorted(FAMILIES))}.")
    return FAMILIES[family].from_document(document)


def _without_names(document: dict[str, Any]) -> dict[str, Any]:
    kept = {k: v for k, v in document.items() if k != "name"}
    if "losses" in kept:
        kept["losses"] = [_without_names(member) for member in kept["losses"]]
    return kept
