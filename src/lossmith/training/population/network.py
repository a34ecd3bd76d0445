"""P base models as one: the model of one candidate, run on stacked parameters and buffers."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from lossmith.tasks import Terms
from lossmith.tasks.terms import Forward, as_terms
from lossmith.training.population import rules  # noqa: F401 (it registers them)
from lossmith.training.population.stacked import NotStackable, Stacked, leading, order_of, overwrite, stacked


class PopulationNetwork:
    """P copies of a base model at θ0, trained on the same batches.

    Args:
        model: of one candidate at θ0, on a real device; it is not changed.
        forward: the task's.
        count: P ≥ 1. A candidate's numbers do not depend on those of its companions. On how many there are, from 2 on,
            they depend by rounding only: not at all for products of matrices, in the last bit for some convolutions.
        channels_last: whether candidates trained one by one keep images in this memory order (see `Training`).

    Raises:
        NotStackable: the model cannot be copied.
    """

    def __init__(self, model: nn.Module, forward: Forward, count: int, *, channels_last: bool = False) -> None:
        try:
            self._template, self._model = copy.deepcopy(model), copy.deepcopy(model)
            if channels_last:
                self._template.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        except Exception as error:
            raise NotStackable(f"the model cannot be copied ({error}): train it one by one.") from error
        self._forward = forward
        self._stacks: dict[str, Stacked] = {}
        self._stack(count)

    def _stack(self, count: int) -> None:
        instead: dict[int, Stacked] = {}
        orders = {name: order_of(parameter.stride()) for name, parameter in self._template.named_parameters()}
        for name, parameter in self._model.named_parameters():
            if parameter.requires_grad:
                made = stacked(_repeated(parameter, count).requires_grad_(), orders[name])
                self._stacks[name] = instead[id(parameter)] = made
        for buffer in self._model.buffers():
            if buffer.is_floating_point():
                instead[id(buffer)] = stacked(_repeated(buffer, count))
        for module in self._model.modules():
            parts: list[dict[str, Any]] = [module._parameters, module._buffers]
            for part in parts:
                for key, value in part.items():
                    if id(value) in instead:
                        part[key] = instead[id(value)]  # past the module's check for nn.Parameter
            for key, value in module.__dict__.items():
                if key not in ("_parameters", "_buffers", "_modules") and not key.endswith("_hooks"):
                    module.__dict__[key] = _replaced(value, instead)

    @property
    def count(self) -> int:
        """P."""
        return next(iter(self._stacks.values())).count

    @property
    def parameters(self) -> dict[str, Tensor]:
        """Trainable parameters by name, [P, *shape] each: leaves; tied ones once."""
        return {name: one.raw for name, one in self._stacks.items()}

    @property
    def buffers(self) -> dict[str, Tensor]:
        """Floating-point buffers by name as the last forward pass left them, [P, *shape] each."""
        return {name: leading(one) for name, one in self._model.named_buffers() if isinstance(one, Stacked)}

    def __call__(self, batch: Any) -> tuple[Terms, ...]:
        """The forward pass on one batch.

        Returns:
            Terms with outputs [P, *shape] of all candidates and whatever they share besides.

        Raises:
            NotStackable: the model or the forward does what cannot be done for all candidates at once.
        """
        return tuple(self._shared(term) for term in as_terms(self._forward(self._model, batch)))

    def _shared(self, term: Terms) -> Terms:
        for what in ("target", "weight", "group"):
            if isinstance(getattr(term, what), Stacked):
                raise NotStackable(f"the {what} of the loss comes from the model: train candidates one by one.")
        output = term.output
        raw = leading(output) if isinstance(output, Stacked) else output.expand(self.count, *output.shape)
        return Terms(raw, term.target, term.weight, term.group)

    def train(self, mode: bool = True) -> None:
        """Training or evaluation mode of all modules."""
        self._model.train(mode)

    def keep(self, places: Tensor) -> None:
        """Go on with the candidates at these places only, int64 [P']. Parameters are new leaves afterwards."""
        for one in self._stacks.values():
            overwrite(one, one.raw.detach().index_select(0, places.to(one.raw.device)).requires_grad_())
        seen: set[int] = set()
        for buffer in self._model.buffers():
            if isinstance(buffer, Stacked) and id(buffer) not in seen:
                seen.add(id(buffer))
                overwrite(buffer, leading(buffer).detach().index_select(0, places.to(buffer.raw.device)))

    def candidate(self, place: int) -> nn.Module:
        """One candidate as an ordinary model, with its own copy of parameters and buffers."""
        model = copy.deepcopy(self._template)
        for mine, theirs in zip(model.modules(), self._model.modules(), strict=True):
            mine.training = theirs.training
        own = dict(model.named_parameters())
        with torch.no_grad():
            for name, raw in self.parameters.items():
                own[name].copy_(raw[place])
            for name, value in self._model.named_buffers():
                one = leading(value)[place] if isinstance(value, Stacked) else value
                _set_buffer(model, name, one.detach().clone())
        return model

    @contextmanager
    def substituted(self, parameters: Mapping[str, Tensor]) -> Iterator[None]:
        """Run a block with other tensors as parameters, [P, *shape] each: dual numbers, or results of a computation."""
        before = {name: self._stacks[name].raw for name in parameters}
        try:
            for name, raw in parameters.items():
                overwrite(self._stacks[name], raw)
            yield
        finally:
            for name, raw in before.items():
                overwrite(self._stacks[name], raw)


def _repeated(tensor: Tensor, count: int) -> Tensor:
    return tensor.detach().expand(count, *tensor.shape).clone(memory_format=torch.contiguous_format)


def _replaced(value: Any, instead: dict[int, Stacked]) -> Any:
    """Parameters in attributes and in lists of them, such as the flat weights of recurrent layers."""
    if isinstance(value, Tensor):
        return instead.get(id(value), value)
    if type(value) in (list, tuple):
        found = [_replaced(one, instead) for one in value]
        return value if all(a is b for a, b in zip(found, value, strict=True)) else type(value)(found)
    if type(value) is dict:
        own = {key: _replaced(one, instead) for key, one in value.items()}
        return value if all(own[key] is value[key] for key in value) else own
    return value


def _set_buffer(model: nn.Module, name: str, value: Tensor) -> None:
    path, _, last = name.rpartition(".")
    module = model.get_submodule(path)
    old = module._buffers[last]
    if old is not None and old.shape == value.shape and old.dtype == value.dtype:
        old.copy_(value)  # in place, so that whoever shares the buffer goes on sharing it
    else:
        module._buffers[last] = value
