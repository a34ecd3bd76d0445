"""What models and optimisers may keep outside of parameters, buffers and optimiser state: seen, though not stored.

A module that counts its steps in a plain attribute, or draws from a generator of its own, cannot be gone on with from
its tensors. Such things are compared with those of a model that has not been trained; where they differ, a training has
no checkpoints, because going on from one would change its result.
"""

from __future__ import annotations

import hashlib
import io
import weakref
from typing import Any

import cloudpickle
from torch import Tensor, nn, optim

_STORED = {"_parameters", "_buffers", "_modules", "state", "param_groups"}
_HARMLESS = {"training", "_need_device_dtype_check_for_fused", "_warned_capturable_if_run_uncaptured"}
"""`training` is set by the loop, the others by torch at an optimiser's first step."""


def hidden_state(model: nn.Module, optimizer: optim.Optimizer) -> str:
    """A digest that stays the same while all that changes is parameters, buffers and optimiser state.

    Raises:
        Exception: something in there cannot be looked at (what it is, is up to pickle).
    """
    described: list[object] = []
    for name, parameter in model.named_parameters(remove_duplicate=False):
        described.append((name, *_form(parameter)))
    for name, buffer in model.named_buffers(remove_duplicate=False):
        described.append((name, *_form(buffer)))
    described += [_attributes(module) for module in model.modules()]
    if type(optimizer).__module__.partition(".")[0] != "torch":  # torch's own keep everything where it is stored
        described.append(_attributes(optimizer))
    file = io.BytesIO()
    _Outside(file, model, optimizer).dump(described)
    return hashlib.sha256(file.getvalue()).hexdigest()


def _form(tensor: Tensor) -> tuple[object, ...]:
    return tuple(tensor.shape), tensor.stride(), str(tensor.dtype), str(tensor.device), tensor.requires_grad


def _attributes(owner: object) -> list[tuple[str, Any]]:
    return sorted((k, v) for k, v in vars(owner).items() if k not in _STORED | _HARMLESS)


class _Outside(cloudpickle.Pickler):  # type: ignore[misc]
    """Writes references to the model's own modules and tensors in the place of these; nothing is read back."""

    def __init__(self, file: io.BytesIO, model: nn.Module, optimizer: optim.Optimizer) -> None:
        super().__init__(file)
        owned = [*model.modules(), *model.parameters(), *model.buffers(), optimizer]
        self._places = {id(thing): place for place, thing in enumerate(owned)}
        self._owned = owned  # an id is good as long as its owner lives

    def persistent_id(self, thing: object) -> object:
        """See pickle."""
        if isinstance(thing, weakref.ref):  # recurrent layers refer to their weights so
            thing = thing()
            return ("weak", self._places.get(id(thing)))
        place = self._places.get(id(thing))
        return None if place is None else ("owned", place)
