"""Data modifiers: `digits/mlp@noise=0.4@fraction=0.1`, or `task.modified("noise=0.4,fraction=0.1")`.

- `noise=q`: symmetric label noise in train, fitness and selection. With probability q ∈ [0, 1] a label becomes one of
  the *other* classes, each equally likely (under a sigmoid head it is flipped). To continuous targets Gaussian noise is
  added whose standard deviation is q ∈ [0, 10] times that of the training targets.
- `noise_valid=q`: the noise of fitness and selection, if not the same as train's; `noise_valid=0` keeps them clean.
- `imbalance=r`: a long tail in train. Class c of C keeps n·r^(−c/(C−1)) rows (Cui et al. 2019, arXiv 1901.05555),
  r ∈ [1, 10,000]; n is as large as every class allows, so the first class has r times the rows of the last.
- `fraction=f`: a stratified fraction f ∈ (0, 1] of train.

The test split is never touched. Parts are separated by `@` or `,`. Whatever their order, and also if given one after
another, they are applied to the original data as imbalance, fraction, noise. Draws depend on the task's seed only.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from lossmith.errors import SpecError, TaskError, UnknownNameError
from lossmith.records import Split
from lossmith.rng import stream
from lossmith.tasks.data import Data, TensorData
from lossmith.tasks.ranges import check_number
from lossmith.tasks.splits import stratified_order

if TYPE_CHECKING:
    from lossmith.tasks.task import Task

MODIFIERS = ("noise", "noise_valid", "imbalance", "fraction")  # the order in which they are printed


def parse_modifiers(text: str) -> dict[str, float]:
    """The modifiers of a text such as "noise=0.4,fraction=0.1@imbalance=50".

    Raises:
        UnknownNameError: no such modifier, with the nearest names.
        SpecError: a part without a value, a value that is no number, a modifier given twice, noise_valid without noise.
    """
    found: dict[str, float] = {}
    for part in re.split("[@,]", text.removeprefix("@")):
        name, equals, value = (piece.strip() for piece in part.partition("="))
        if name not in MODIFIERS:
            raise UnknownNameError("modifier", name, MODIFIERS, listing="lossmith tasks")
        if name in found:
            raise SpecError(f"the modifier {name!r} is given twice: give it once.")
        try:
            found[name] = float(value)
        except ValueError:
            shown = repr(value) if equals else "nothing"
            raise SpecError(f"the modifier {name} is {shown}: it must be a number, e.g. {_EXAMPLES[name]}.") from None
    return found


_EXAMPLES = {
    "noise": "noise=0.4",
    "noise_valid": "noise_valid=0",
    "imbalance": "imbalance=50",
    "fraction": "fraction=0.1",
}


def print_modifiers(modifiers: Mapping[str, float]) -> str:
    """The text of modifiers, in one fixed order: "@noise=0.4@fraction=0.1", "" for none."""
    return "".join(f"@{name}={modifiers[name]:.12g}" for name in MODIFIERS if name in modifiers)


def modify(task: Task, text: str) -> Task:
    """A copy of a task with modifiers applied; its name and reference carry them.

    Raises:
        UnknownNameError, SpecError: as in `parse_modifiers`, or a value out of its range.
        TaskError: data or targets that a modifier cannot work on.
    """
    before = dict(task.modifiers)
    new = parse_modifiers(text)
    for name in new:
        if name in before:
            raise SpecError(f"{task.name} already has {name}={before[name]:g}: start from the unmodified task.")
    modifiers = {**before, **new}
    classes = class_count(task)
    _check_ranges(modifiers, classes)
    if task.unmodified is None:
        original, apply = task.data, new
    else:
        original = {split: data.to(task.device) for split, data in task.unmodified.items()}
        apply = modifiers
    old = print_modifiers(before)
    suffix = print_modifiers(modifiers)
    reference = None if task.reference is None else task.reference.removesuffix(old) + suffix
    return task.replace(
        data=modified_data(original, apply, classes, task.seed),
        unmodified=original,
        modifiers=tuple(modifiers.items()),
        name=task.name.removesuffix(old) + suffix,
        reference=reference,
    )


def class_count(task: Task) -> int | None:
    """Number of classes of integer targets; 0 for several-label targets of 0 and 1; None for continuous ones."""
    if not task.hard_targets:
        return None
    target = task.probe[0].target
    if task.head == "sigmoid":
        return 2 if task.outputs == 1 else 0
    return task.outputs if not target.is_floating_point() else None


def modified_data(
    original: Mapping[Split, Data], modifiers: Mapping[str, float], classes: int | None, seed: int
) -> dict[Split, Data]:
    """The four splits with modifiers applied: imbalance, fraction, noise."""
    data = dict(original)
    if "imbalance" in modifiers:
        train = _in_memory(data["train"], "imbalance")
        if not classes:
            raise TaskError("the modifier imbalance needs integer classes as targets: leave it out for this task.")
        data["train"] = train.subset(long_tail(_targets(train), classes, modifiers["imbalance"], seed))
    if "fraction" in modifiers:
        rows = len(data["train"])
        order = stratified_order(data["train"].targets, rows, seed, "modifier", "fraction")
        data["train"] = data["train"].subset(order[: max(1, round(modifiers["fraction"] * rows))].sort().values)
    if "noise" in modifiers:
        reference = _targets(_in_memory(data["train"], "noise"))
        for split in ("train", "fitness", "selection"):
            level = modifiers["noise"] if split == "train" else modifiers.get("noise_valid", modifiers["noise"])
            rows_of = _in_memory(data[split], "noise")
            noisy = add_noise(_targets(rows_of), classes, level, seed, split, reference)
            data[split] = rows_of.with_targets(noisy)
    return data


def long_tail(targets: Tensor, classes: int, ratio: float, seed: int) -> Tensor:
    """Sorted row indices of a long-tailed selection: class c keeps n·ratio^(−c/(C−1)) rows, at least one.

    Args:
        targets: `[rows]` integer classes, each of which must occur.
    """
    counts = torch.bincount(targets.reshape(-1).long().cpu(), minlength=classes)[:classes]
    if int(counts.min()) == 0:
        raise TaskError("the modifier imbalance needs at least one training row of every class: leave it out.")
    share = ratio ** -(torch.arange(classes, dtype=torch.float64) / max(1, classes - 1))
    largest = float((counts / share).min())
    kept = []
    for c in range(classes):
        members = torch.nonzero(targets.reshape(-1).cpu() == c)[:, 0]
        order = torch.from_numpy(stream(seed, "modifier", "imbalance", c).permutation(len(members)))
        kept.append(members[order[: max(1, round(largest * float(share[c])))]])
    return torch.cat(kept).sort().values


def add_noise(
    targets: Tensor, classes: int | None, level: float, seed: int, split: str, reference: Tensor | None = None
) -> Tensor:
    """Targets with noise; see the module's table.

    Args:
        targets: integer classes (C = `classes`), 0/1 labels (`classes` = 2 or 0), or continuous values (None).
        level: probability of a wrong label, or noise in standard deviations of `reference`.
        seed, split: name the random stream.
        reference: training targets, for continuous values.
    """
    rng = stream(seed, "modifier", "noise", split)
    if classes is None:
        train = (targets if reference is None else reference).double()
        deviation = train.std(0, correction=0).to(targets)
        return targets + level * deviation * torch.from_numpy(rng.standard_normal(tuple(targets.shape))).to(targets)
    wrong = torch.from_numpy(rng.random(tuple(targets.shape)) < level).to(targets.device)
    if targets.is_floating_point() or targets.dtype == torch.bool or classes == 0:
        return torch.where(wrong, (1 - targets.float()).to(targets.dtype), targets)
    shift = torch.from_numpy(rng.integers(1, classes, size=tuple(targets.shape))).to(targets.device)
    return torch.where(wrong, (targets + shift) % classes, targets)  # a shift of 1…C−1 is a uniform other class


def _check_ranges(modifiers: Mapping[str, float], classes: int | None) -> None:
    for name, value in modifiers.items():
        label = f"the modifier {name}"
        if name in ("noise", "noise_valid"):
            check_number(label, value, least=0, most=10 if classes is None else 1, error=SpecError)
        elif name == "imbalance":
            check_number(label, value, least=1, most=10_000, error=SpecError)
        else:
            check_number(label, value, above=0, most=1, error=SpecError)
    if "noise_valid" in modifiers and "noise" not in modifiers:
        raise SpecError("the modifier noise_valid says how noise differs on the judging splits: give noise=, too.")


def _in_memory(data: Data, modifier: str) -> TensorData:
    if not isinstance(data, TensorData) or data.targets is None:
        raise TaskError(
            f"the modifier {modifier} works on data in memory with known targets: give (x, y) tensors, or a dict with "
            "a key 'target'."
        )
    return data


def _targets(data: TensorData) -> Tensor:
    targets = data.targets
    assert targets is not None
    return targets
