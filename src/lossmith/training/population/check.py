"""Whether the base models of a task can be trained as one, found out by doing it: two candidates, two steps.

The same steps are done one by one: in float64 where the model can be had in it, so that rounding cannot be mistaken for
an error, and in its own type, because a conversion cuts ties between tensors. Whatever differs or goes wrong is a
reason to train one by one; it is never an exception, and never a number.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import numpy as np
import torch
from torch import Tensor, nn

from lossmith.rng import torch_global_scope
from lossmith.tasks import Task
from lossmith.training.population.check_trial import STEPS, WHAT, Seen, Trial, one_by_one, stacked
from lossmith.training.population.fallback import gist
from lossmith.training.population.stacked import NotStackable


def why_not_stacked(task: Task, *, channels_last: bool = False) -> str:
    """Why the base models of a task cannot be trained as a population, one sentence; "" where they can.

    Args:
        task: it is not changed, and no global random state is.
        channels_last: as in `Training`.
    """
    try:
        with _undisturbed(task.device):
            return _why(task, channels_last)
    except Exception as error:
        return _sentence(error)


def _why(task: Task, channels_last: bool) -> str:
    first = task.build_model(0)
    if reason := _seen_at_once(first):
        return reason
    loose = not _shared(first, task.build_model(0))
    given = Trial(task, channels_last, False, loose)
    try:
        expected = one_by_one(given, steps=1)
    except Exception as error:
        return f"already one base model by itself cannot be trained ({gist(error)})."
    wide = Trial(task, channels_last, True, loose)
    try:
        expected_wide = one_by_one(wide)
    except Exception:  # not every model can be had in float64
        found = stacked(given)
        reason = _difference(one_by_one(given), found, 1e-4)
    else:
        # To see what is tied to what; the arithmetic is compared in float64. One step and a wide margin, because a
        # PreResNet-20 in float32 differs from itself with reversed rows by 6e-3 in the first gradient, 9e-2 in the next
        # (measured; stacked from one by one: 2e-6 and 2e-3).
        found = stacked(given, steps=1)
        reason = _difference(expected_wide, stacked(wide), 1e-9) or _difference(expected, found, 1e-2)
    if reason:
        return reason
    again = stacked(given, steps=1)
    if any(not _same(a["outputs"][0], b["outputs"][0]) for a, b in zip(found, again, strict=True)):
        return "the same step done twice on stacked candidates gives other outputs."
    return ""


def _difference(expected: list[Seen], found: list[Seen], tolerance: float) -> str:
    """The first thing in which stacked candidates differ from those trained one by one, or ""."""
    for step in range(STEPS):
        for name in WHAT:
            pairs = [
                (a[name][step], b[name][step]) for a, b in zip(expected, found, strict=True) if step < len(a[name])
            ]
            distance = max([_distance(a, b) for a, b in pairs], default=0.0)
            if not distance <= tolerance:
                far = f"by {distance:.1g} of their size" if distance < np.inf else "altogether"
                return f"the {name} of stacked candidates differ from those of candidates trained one by one, {far}."
    return ""


def _seen_at_once(model: nn.Module) -> str:
    """What can be told without training; some of it would pass a short trial and go wrong later."""
    for module in model.modules():
        kind = type(module).__name__
        if (
            isinstance(module, nn.modules.batchnorm._NormBase)
            and module.track_running_stats
            and module.momentum is None
        ):
            return f"{kind} with momentum=None averages over all steps by a count: give it a momentum, e.g. 0.1."
        if isinstance(module, nn.RReLU):
            return "RReLU draws its slopes in an order that depends on each candidate's numbers: use LeakyReLU."
        if module._backward_hooks or module._backward_pre_hooks:
            return f"{kind} has a hook on its backward pass, which would see the gradients of all candidates at once."
    parameters = list(model.named_parameters())
    for name, parameter in parameters:
        if nn.parameter.is_lazy(parameter):
            return f"parameter {name} has no shape before the first batch: give its lazy layer a number of inputs."
        hooks = parameter._backward_hooks, getattr(parameter, "_post_accumulate_grad_hooks", None)
        if any(hooks):
            return f"parameter {name} has a hook on its gradient, which would see that of all candidates at once."
    trained = [p for _, p in parameters if p.requires_grad]
    if not trained:
        return "the model has no parameter to train."
    kinds = sorted({str(p.dtype) for p in trained})
    if len(kinds) > 1 or not trained[0].is_floating_point():
        return f"its parameters are of type {' and '.join(kinds)}: candidates are stacked in one floating-point type."
    return ""


def _distance(expected: Mapping[str, Tensor], found: Mapping[str, Tensor]) -> float:
    """The largest difference between tensors of the same name, as a share of the largest number expected in them."""
    if set(expected) != set(found):
        return np.inf
    far = [0.0]
    for name, a in expected.items():
        b = found[name]
        if a.shape != b.shape or a.dtype != b.dtype:
            return np.inf
        if torch.equal(a, b) or not a.numel():
            continue
        a, b = a.double(), b.double()
        both = torch.isfinite(a) & torch.isfinite(b)
        if not torch.equal(a[~both].nan_to_num(0.5), b[~both].nan_to_num(0.5)) or not both.any():
            return np.inf
        far.append(float((a[both] - b[both]).abs().max()) / max(float(a[both].abs().max()), 1e-30))
    return max(far)


def _same(a: Mapping[str, Tensor], b: Mapping[str, Tensor]) -> bool:
    return all(torch.equal(a[name].nan_to_num(0.5), b[name].nan_to_num(0.5)) for name in a)


def _shared(one: nn.Module, other: nn.Module) -> bool:
    """Whether two models built one after the other have a tensor in common, so that changing one changes both."""
    mine, theirs = (
        {tensor.untyped_storage().data_ptr() for tensor in [*model.parameters(), *model.buffers()] if tensor.numel()}
        for model in (one, other)
    )
    return one is other or bool(mine & theirs)


@contextmanager
def _undisturbed(device: torch.device) -> Iterator[None]:
    """A block after which every global random state is as it was."""
    numbers, python = np.random.get_state(), random.getstate()  # noqa: NPY002 (a user's model may draw from it)
    try:
        with torch_global_scope(0, "stacking", device=device):
            yield
    finally:
        np.random.set_state(numbers)  # noqa: NPY002
        random.setstate(python)


def _sentence(error: Exception) -> str:
    """What went wrong as one sentence."""
    if isinstance(error, NotStackable):
        return str(error)
    return f"the model fails on stacked tensors ({gist(error)})."
