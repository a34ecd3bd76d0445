"""From text to loss: a published name with options, an expression, or a JSON file. No text is ever executed."""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from lossmith.errors import LossError, UnknownNameError
from lossmith.losses.codec import from_json
from lossmith.losses.expression import Node, symbols
from lossmith.losses.inputs import INPUTS, LOWERED, Head, head_name
from lossmith.losses.literature import PUBLISHED, Published
from lossmith.losses.loss import Loss, LossSet, Outputs, Reduction
from lossmith.losses.parser import parse
from lossmith.losses.primitives import PRIMITIVES
from lossmith.losses.printer import to_text
from lossmith.losses.tree import Tree

__all__ = ["PUBLISHED", "Published", "loss"]

_OPTIONS = ("head", "outputs", "reduction", "smoothing")
_NAME = re.compile(r"\s*([^\W\d]\w*)\s*(?:\((.*)\))?\s*", re.DOTALL)
_OPTION = re.compile(r"\s*([^\W\d]\w*)\s*=\s*([^=(),]+?)\s*")
_CONSTANT = {"t", "prior", "w", "tau", "n"}  # inputs that do not depend on the model


def loss(
    text: str,
    *,
    head: Head = "softmax",
    outputs: Outputs = "sum",
    reduction: Reduction = "mean",
    smoothing: float = 0.0,
    prior: Sequence[float] | None = None,
    **parameters: float,
) -> Loss:
    """A loss by name, by formula, or from a file (public as `lm.loss`).

    Args:
        text: a published name ("baikal"), one with its parameters or any of the options below in parentheses
            ("focal(gamma=3)", "baikal(outputs=mean)"; these win over the keywords), an expression of what is to be
            *minimised* ("-t*log(p)"; see `losses.parser`), or the path of a .json file, which has its own settings.
        head, outputs, reduction, smoothing, prior: see `Loss`.
        parameters: numbers for the names in the formula ("gamma" of focal; any name of your own in an expression).

    Raises:
        UnknownNameError: no published loss has this name.
        ExpressionError: an expression that cannot be read, with the place.
        LossError: a parameter that does not exist or is out of range, a head that does not fit, a file that is no loss.

    Example:
        >>> print(loss("focal(gamma=3)"), "|", loss("-t*log(p)", outputs="mean"))
        focal(gamma=3) | -t*log(p), outputs=mean
    """
    if not isinstance(text, str):
        raise LossError(f'loss(...) takes a text such as "baikal" or "-t*log(p)", not a {type(text).__name__}.')
    settings: dict[str, Any] = {"head": head, "outputs": outputs, "reduction": reduction, "smoothing": smoothing}
    if text.strip().endswith(".json"):
        defaults = {"outputs": "sum", "reduction": "mean", "smoothing": 0.0, "prior": None}
        given = [name for name, usual in defaults.items() if {**settings, "prior": prior}[name] != usual]
        return _from_file(Path(text.strip()), head, [*given, *parameters])
    named = _split(text)
    if named is None:
        root = parse(text, parameters=_numbers("the expression", parameters))
        _check_expression(text, root, parameters)
        return Loss(Tree(root), prior=prior, **settings)
    name, inside = named
    if name not in PUBLISHED:
        raise UnknownNameError("loss", name, PUBLISHED, listing="lossmith losses")
    entry = PUBLISHED[name]
    twice = sorted(inside.keys() & parameters.keys())
    if twice:
        raise LossError(f"{twice[0]} is given twice, in {text!r} and as a keyword: give it once.")
    own = {key: value for key, value in {**inside, **parameters}.items() if key not in _OPTIONS}
    _check_names(entry, own)
    values = _numbers(name, own)
    settings |= {key: value for key, value in inside.items() if key in _OPTIONS}
    settings["smoothing"] = _numbers(name, {"smoothing": settings["smoothing"]})["smoothing"]
    _check_head(entry, settings["head"])
    around = entry.aggregation(values)
    return Loss(entry.kernel(values), aggregation=around, prior=prior, name=entry.title(values), **settings)


def _split(text: str) -> tuple[str, dict[str, str]] | None:
    """A name and what stands in its parentheses; None where the text is an expression."""
    match = _NAME.fullmatch(text)
    if match is None or (match[2] is None and match[1] in (*INPUTS, *LOWERED, *PRIMITIVES)):
        return None
    name, inside = match[1], match[2]
    options: dict[str, str] = {}
    for item in inside.split(",") if inside and inside.strip() else []:
        option = _OPTION.fullmatch(item)
        if option is None:
            if name in PUBLISHED:
                examples = [f"{key}={value:g}" for key, value in PUBLISHED[name].parameters.items()]
                example = ", ".join(examples or ["outputs=mean"])
                raise LossError(f"{text!r}: options are written with their names, as in {name}({example}).")
            return None
        if option[1] in options:
            raise LossError(f"{option[1]} is given twice in {text!r}: give it once.")
        options[option[1]] = option[2]
    return name, options


def _numbers(where: str, values: Mapping[str, object]) -> dict[str, float]:
    numbers: dict[str, float] = {}
    for name, value in values.items():
        try:
            numbers[name] = float(value)  # type: ignore[arg-type]
        except (TypeError, ValueError):
            raise LossError(f"{where}: {name} = {value!r} must be a number.") from None
    return numbers


def _check_names(entry: Published, given: Mapping[str, object]) -> None:
    for name in given:
        if name not in entry.parameters:
            near = difflib.get_close_matches(name, [*entry.parameters, *_OPTIONS], n=1, cutoff=0.5)
            hint = f"did you mean {near[0]}? " if near else ""
            takes = f"{', '.join(entry.parameters)} and, like" if entry.parameters else "no parameters of its own; like"
            raise LossError(
                f"{entry.name} has no parameter {name!r}: {hint}It takes {takes} every loss, {', '.join(_OPTIONS)}."
            )


def _check_head(entry: Published, head: Head) -> None:
    kind = head_name(head)
    if kind != "custom" and kind not in entry.heads:
        fitting = [name for name, other in PUBLISHED.items() if kind in other.heads]
        raise LossError(
            f'{entry.name} needs class probabilities (head="{entry.heads[0]}"); '
            f'head="{kind}" goes with {", ".join(fitting)}.'
        )


def _check_expression(text: str, root: Node, parameters: Mapping[str, float]) -> None:
    unused = sorted(parameters.keys() - set(re.findall(r"[^\W\d]\w*", text)))
    if unused:
        raise LossError(f"{unused[0]} is given but does not occur in the expression {text!r}.")
    if not symbols(root) - _CONSTANT:
        raise LossError(
            f"{to_text(root)} does not depend on the model: a loss must contain the prediction p, the output z, "
            f"the residual r, the margin m or p_t."
        )


def _from_file(path: Path, head: Head, given: Sequence[str]) -> Loss:
    if given:
        raise LossError(f"{path} carries its own settings: leave out {', '.join(given)}.")
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is no text file"
        raise LossError(f"cannot read the loss {path}: {reason}.") from None
    found = from_json(text, head=None if isinstance(head, str) else head)
    if isinstance(found, LossSet):
        raise LossError(f"{path} holds a set of {len(found)} losses: read it with lossmith.losses.from_json(text).")
    return found
