"""Rolling checkpoints of a long training: every minute or so all that it takes to go on from there, bit for bit.

A training that is killed and begun again from its checkpoint ends with the bits of one that was not disturbed, so
nothing that is looked at here may change a result: whatever stands in the way of storing or reading a checkpoint means
that there is none, and training (re)starts from θ0. A checkpoint holds parameters, buffers, the optimiser's state, the
criterion's, the random generators', the curve so far, and the number of steps done; the position in the stream of
batches follows from the last.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn, optim

from lossmith.training.checkpoint_file import Contents, Unusable
from lossmith.training.criteria import Criterion
from lossmith.training.exact_state import NotStorable, decoded, encoded
from lossmith.training.steps import FiniteWatch


@dataclass
class UnderWay:
    """A training under way: all that changes from step to step.

    Attributes:
        lr: learning rate of the last step. done: steps that are finished. curve: (step, metric) so far.
    """

    model: nn.Module
    optimizer: optim.Optimizer
    criterion: Criterion
    watch: FiniteWatch
    lr: float
    device: torch.device
    done: int = 0
    curve: list[tuple[int, float]] = field(default_factory=list)


def contents_of(run: UnderWay) -> Contents:
    """What is stored of a training.

    Raises:
        NotStorable: something in it has no exact text.
    """
    tensors: dict[str, Tensor] = {}
    places = {id(p): place for place, p in enumerate(_optimized(run.optimizer))}
    state: list[tuple[object, object]] = []
    for key, value in run.optimizer.state.items():
        state.append((("of", places[id(key)]) if isinstance(key, Tensor) else ("named", key), value))
    groups = [{k: v for k, v in group.items() if k != "params"} for group in run.optimizer.param_groups]
    everything = {
        "model": _owned(run.model),
        "optimizer": state,
        "groups": groups,
        "criterion": run.criterion.state(),
        "watch": run.watch.state(),
        "generators": _generators(run.device),
        "lr": run.lr,
        "done": run.done,
        "curve": list(run.curve),
    }
    _check_apart(state)
    return Contents({"run": encoded(everything, tensors, "run")}, tensors)


def restore(run: UnderWay, contents: Contents) -> None:
    """Bring a training that has not begun to where a checkpoint was written.

    Raises:
        Unusable: the checkpoint does not fit it, which may be found half-way: begin it anew then.
    """
    try:
        found = decoded(contents.document["run"], contents.tensors, run.device)
        owned = _owned(run.model)
        if _forms(owned) != _forms(found["model"]):
            raise Unusable("is of another model")
        with torch.no_grad():
            for name, tensor in owned.items():
                tensor.copy_(found["model"][name])  # in place: tied weights stay tied
        parameters = _optimized(run.optimizer)
        run.optimizer.state.clear()
        for (kind, key), value in found["optimizer"]:
            run.optimizer.state[parameters[key] if kind == "of" else key] = value
        for group, values in zip(run.optimizer.param_groups, found["groups"], strict=True):
            group.update(values)
        run.criterion.load(found["criterion"])
        run.watch.load(found["watch"])
        run.lr, run.done = found["lr"], found["done"]
        run.curve[:] = found["curve"]
        _set_generators(run.device, found["generators"])
    except Unusable:
        raise
    except Exception as error:
        raise Unusable("does not fit its training") from error


def _owned(model: nn.Module) -> dict[str, Tensor]:
    """Parameters and buffers by name, tied ones once."""
    named = [("parameter", model.named_parameters()), ("buffer", model.named_buffers())]
    return {f"{kind}:{name}": tensor for kind, some in named for name, tensor in some}


def _forms(tensors: Mapping[str, Tensor]) -> dict[str, tuple[torch.Size, torch.dtype]]:
    return {name: (tensor.shape, tensor.dtype) for name, tensor in tensors.items()}


def _optimized(optimizer: optim.Optimizer) -> list[Tensor]:
    return [parameter for group in optimizer.param_groups for parameter in group["params"]]


def _check_apart(state: object) -> None:
    """NotStorable where two tensors share memory: read back, a write to one would no longer be one to the other."""
    seen: set[int] = set()
    waiting = [state]
    while waiting:
        value = waiting.pop()
        if isinstance(value, Tensor) and value.numel():
            where = value.untyped_storage().data_ptr()
            if where in seen:
                raise NotStorable("tensors of the optimiser share memory")
            seen.add(where)
        elif isinstance(value, dict):
            waiting.extend(value.values())
        elif isinstance(value, list | tuple):
            waiting.extend(value)


def _generators(device: torch.device) -> dict[str, Tensor]:
    """States of torch's global generators that a training on the device may draw from."""
    if device.type not in ("cpu", "cuda"):
        raise NotStorable(f"the random generator of {device.type} cannot be put back")
    cuda = {"cuda": torch.cuda.get_rng_state(device)} if device.type == "cuda" else {}
    return {"cpu": torch.get_rng_state(), **cuda}


def _set_generators(device: torch.device, states: dict[str, Tensor]) -> None:
    torch.set_rng_state(states["cpu"])
    if device.type == "cuda":
        torch.cuda.set_rng_state(states["cuda"], device)
