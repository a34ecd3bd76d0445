"""Where a stacked base model keeps its tensors, so that a computation captured once can be given others.

A captured computation knows tensors, not modules: what it reads has to be handed to it, and what the forward pass left
in a module has to be put back there.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from lossmith.training.population.network import PopulationNetwork
from lossmith.training.population.stacked import Stacked, leading, overwrite

_PLAIN = (bool, int, float, str, type(None))


@dataclass(frozen=True)
class Slot:
    """One tensor of a model.

    Args:
        places: the dictionaries of modules in which it stands, and the name there; several where it is shared.
    """

    places: tuple[tuple[dict[str, Any], str], ...]

    @property
    def value(self) -> Any:
        """What stands there: a `Stacked` or an ordinary tensor."""
        where, name = self.places[0]
        return where[name]

    @property
    def raw(self) -> Tensor:
        """[P, *shape] of a stacked tensor, an ordinary one as it is."""
        value = self.value
        found: Tensor = leading(value) if isinstance(value, Stacked) else value
        return found

    @property
    def stacked(self) -> bool:
        """Whether every candidate has its own."""
        return isinstance(self.value, Stacked)

    def put(self, raw: Tensor) -> None:
        """Another tensor of the same kind."""
        value = self.value
        if isinstance(value, Stacked):
            overwrite(value, raw)
        else:
            self.restore((raw, None))

    def saved(self) -> tuple[Any, Any]:
        """What `restore` needs."""
        value = self.value
        inside = (value.raw, value.count, value.images, value.order) if isinstance(value, Stacked) else None
        return value, inside

    def restore(self, saved: tuple[Any, Any]) -> None:
        """The very tensor that stood here, with what it held."""
        value, inside = saved
        for where, name in self.places:
            where[name] = value
        if inside is not None:
            value.raw, value.count, value.images, value.order = inside


def slots_of(network: PopulationNetwork) -> list[Slot]:
    """Parameters and buffers of a stacked model, each once, in the order of its modules."""
    found: dict[int, list[tuple[dict[str, Any], str]]] = {}
    for module in network._model.modules():
        for part in (module._parameters, module._buffers):
            for name, value in part.items():
                if value is not None:
                    found.setdefault(id(value), []).append((part, name))
    return [Slot(tuple(places)) for places in found.values()]


def plain_state(network: PopulationNetwork) -> Mapping[str, Any]:
    """The numbers and words that modules keep as attributes: what a captured computation would not see change."""
    return {
        f"{path}.{name}".lstrip("."): value
        for path, module in network._model.named_modules()
        for name, value in vars(module).items()
        if isinstance(value, _PLAIN)
    }


def restore_plain(before: Mapping[str, Any], network: PopulationNetwork) -> None:
    """The numbers and words as they were."""
    for path, module in network._model.named_modules():
        own = vars(module)
        own.update({name: before[key] for name in own if (key := f"{path}.{name}".lstrip(".")) in before})


def changed(before: Mapping[str, Any], network: PopulationNetwork) -> str:
    """A sentence about an attribute that is no longer what it was, "" if there is none."""
    for name, value in plain_state(network).items():
        old = before.get(name)
        if name not in before or (old != value and not (old != old and value != value)):
            return f"the forward pass changes {name} of the model, a plain number that a captured step does not see."
    return ""
