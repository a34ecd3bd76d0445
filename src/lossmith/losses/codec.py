"""Losses as JSON and back. A document is versioned, complete, and data only: nothing in it is ever executed."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from lossmith.errors import LossError
from lossmith.losses import aggregation as agg
from lossmith.losses.family import Kernel, number
from lossmith.losses.inputs import Head, head_name
from lossmith.losses.loss import Loss, LossSet
from lossmith.losses.online_rule import online_rule_from
from lossmith.records import canonical_json, content_hash

FORMAT = 1
FAMILIES: dict[str, type[Kernel]] = {}


def register(kernel: type[Kernel]) -> type[Kernel]:
    """Make a loss family known to the codec (a class decorator).

    Raises:
        LossError: another family has this name; stored losses would be read as the wrong one.
    """
    known = FAMILIES.get(kernel.family, kernel)
    if (known.__module__, known.__qualname__) != (kernel.__module__, kernel.__qualname__):
        raise LossError(
            f"a loss family {kernel.family!r} exists already ({known.__qualname__}): give yours another name."
        )
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
    if loss.online is not None:  # left out where there is none, so that older losses keep their documents and hashes
        document["online"] = loss.online.document()
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
        except (ValueError, RecursionError) as error:
            raise LossError(f"this is not a loss in JSON: {error}.") from None
    else:
        document = text
    if not isinstance(document, Mapping) or "lossmith" not in document:
        raise LossError('this JSON is not a Lossmith loss: it has no field "lossmith" with the format number.')
    version = document["lossmith"]
    if isinstance(version, bool) or not isinstance(version, int) or version < 1:
        raise LossError(f"the loss has format {version!r}; this Lossmith reads format {FORMAT}.")
    if version > FORMAT:
        raise LossError(f"the loss has format {version}, this Lossmith reads up to {FORMAT}: upgrade lossmith.")
    if "losses" in document:
        members = document["losses"]
        if not isinstance(members, list) or not members:
            raise LossError('the field "losses" must be a list of losses.')
        if any(isinstance(member, Mapping) and "losses" in member for member in members):
            raise LossError('the field "losses" holds a set of losses: a set holds single losses only.')
        return LossSet([loss for member in members if isinstance(loss := from_json(member, head=head), Loss)])
    return _single(document, head)


def _single(document: Mapping[str, Any], head: Head | None) -> Loss:
    try:
        stored = document["head"]
        if head is None and stored == "custom":
            raise LossError("the loss was made with a head of your own: pass it again as head=function.")
        prior, name = document.get("prior"), document.get("name")
        if prior is not None and not isinstance(prior, list | tuple):
            raise LossError(f'the field "prior" is {prior!r:.60}: a list of numbers was expected.')
        if name is not None and not isinstance(name, str):
            raise LossError(f'the field "name" is {name!r:.60}: a text was expected.')
        return Loss(
            kernel_from(document["kernel"]),
            head=stored if head is None else head,
            aggregation=agg.aggregation_from(document["aggregation"], kernel_from),
            reduction=document["reduction"],
            outputs=document["outputs"],
            smoothing=number(document, "smoothing"),
            prior=prior,
            name=name,
            online=None if document.get("online") is None else online_rule_from(document["online"]),
        )
    except KeyError as missing:
        raise LossError(f"the loss document lacks the field {missing}.") from None
    except (TypeError, ValueError, AttributeError, OverflowError) as error:
        raise LossError(f"the loss document is malformed: {error}.") from None


def kernel_from(document: object) -> Kernel:
    """A kernel from its document, by its family's name."""
    if not isinstance(document, Mapping):
        raise LossError(f'the kernel of the loss is {document!r:.60}: an object with a "family" was expected.')
    family = document["family"]
    if not isinstance(family, str) or family not in FAMILIES:
        raise LossError(f"unknown loss family {family!r}: this Lossmith has {', '.join(sorted(FAMILIES))}.")
    return FAMILIES[family].from_document(document)


def _without_names(document: dict[str, Any]) -> dict[str, Any]:
    kept = {k: v for k, v in document.items() if k != "name"}
    if "losses" in kept:
        kept["losses"] = [_without_names(member) for member in kept["losses"]]
    return kept
