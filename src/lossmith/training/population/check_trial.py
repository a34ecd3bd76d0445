"""Two candidates trained for two steps, one by one and as a stack, and all that can be seen of it."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from lossmith.losses import Loss, Taylor
from lossmith.rng import torch_global_scope, torch_stream
from lossmith.tasks import Task, Terms
from lossmith.tasks.terms import as_terms
from lossmith.tasks.trees import map_tree
from lossmith.training.population.network import PopulationNetwork
from lossmith.training.prediction import arranged

ROWS = 16  # at most, of each of the two batches
STEPS = 2
_GENOMES = ((0.4, -0.6, 0.2, 0.5, -0.3, -0.8, 0.4, 0.6), (-0.5, 2.0, 0.3, 1.0, 0.7, -1.0, 0.6, 0.3))
_PACES = (0.01, 0.03)  # length of each candidate's step, as a share of its parameters' norm
WHAT = ("outputs", "gradients", "buffers", "random numbers drawn", "outputs in evaluation mode")


def trial_losses(task: Task) -> list[Loss]:
    """Two made-up losses, one for each candidate of a trial."""
    return [Loss(Taylor(genome), head=task.head) for genome in _GENOMES]


Seen = dict[str, list[dict[str, Tensor]]]  # one of WHAT → step → name → tensor


@dataclass(frozen=True)
class Trial:
    """Two candidates with different losses, start and step size. `loose`: models built anew share nothing."""

    task: Task
    channels_last: bool
    wide: bool
    loose: bool

    @property
    def losses(self) -> list[Loss]:
        return trial_losses(self.task)

    def model(self) -> nn.Module:
        # Built anew, not copied: a copy's functions may still hold on to the parameters of the original.
        model = self.task.build_model(0)
        model = (model if self.loose else copy.deepcopy(model)).to(self.task.device)
        if self.wide:
            model.double()
        if self.channels_last:
            model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        return model

    def batch(self, step: int) -> Any:
        data = self.task.data["train"]
        rows = min(self.task.recipe.batch_size, ROWS)
        batch = data.batch((torch.arange(rows) + step * rows) % len(data))
        return arranged(map_tree(_double, batch) if self.wide else batch, self.channels_last)

    def start(self, candidate: int, name: str, theta: Tensor) -> Tensor:
        """θ0, moved a little: candidates must differ for a mistake to be seen."""
        noise = torch.randn(theta.shape, generator=torch_stream(candidate, "stacking", name), dtype=torch.float64)
        return theta * (1 + 0.05 * noise).to(theta)

    def scope(self, step: int) -> Any:
        return torch_global_scope(step, "stacking", device=self.task.device)


def one_by_one(trial: Trial, steps: int = STEPS) -> list[Seen]:
    """What each candidate shows, trained by itself."""
    return [_alone(trial, place, steps) for place in range(len(_GENOMES))]


def _alone(trial: Trial, place: int, steps: int) -> Seen:
    model, seen = trial.model(), _nothing()
    theta = {name: p for name, p in model.named_parameters() if p.requires_grad}
    with torch.no_grad():
        for name, p in theta.items():
            p.copy_(trial.start(place, name, p))
    for step in range(steps):
        with trial.scope(step):
            terms = as_terms(trial.task.forward(model, trial.batch(step)))
            seen["random numbers drawn"].append(_states(trial.task.device))
        value = _value(trial, place, terms)
        gradients = dict(zip(theta, _gradients(value, list(theta.values())), strict=True))
        with torch.no_grad():
            for name, p in theta.items():
                p.sub_(gradients[name] * _rate(theta, gradients, place))
        buffers = {name: b.clone() for name, b in model.named_buffers() if b.is_floating_point()}
        _note(seen, [term.output for term in terms], gradients, buffers)
    model.eval()
    with torch.no_grad(), trial.scope(STEPS):
        terms = as_terms(trial.task.forward(model, trial.batch(0)))
        seen["outputs in evaluation mode"].append({str(i): term.output for i, term in enumerate(terms)})
    return seen


def stacked(trial: Trial, steps: int = STEPS) -> list[Seen]:
    """The same of candidates trained as one."""
    places = range(len(_GENOMES))
    network = PopulationNetwork(trial.model(), trial.task.forward, len(places), channels_last=trial.channels_last)
    seen = [_nothing() for _ in places]
    with torch.no_grad():
        for name, raw in network.parameters.items():
            for place in places:
                raw[place] = trial.start(place, name, raw[place])
    for step in range(steps):
        theta = network.parameters
        with trial.scope(step):
            terms = network(trial.batch(step))
            state = _states(trial.task.device)
        values = [_value(trial, place, _of(terms, place)) for place in places]
        found = dict(zip(theta, _gradients(sum(values[1:], values[0]), list(theta.values())), strict=True))
        buffers = network.buffers
        for place in places:
            own, gradients = ({name: raw[place] for name, raw in part.items()} for part in (theta, found))
            with torch.no_grad():
                for name, p in own.items():
                    p.sub_(gradients[name] * _rate(own, gradients, place))
            seen[place]["random numbers drawn"].append(state)
            kept = {name: raw[place].clone() for name, raw in buffers.items()}
            _note(seen[place], [term.output[place] for term in terms], gradients, kept)
    network.train(False)
    with torch.no_grad(), trial.scope(STEPS):
        terms = network(trial.batch(0))
    for place in places:
        outputs = {str(i): term.output[place] for i, term in enumerate(terms)}
        seen[place]["outputs in evaluation mode"].append(outputs)
    return seen


def _of(terms: Sequence[Terms], place: int) -> tuple[Terms, ...]:
    return tuple(Terms(term.output[place], term.target, term.weight, term.group) for term in terms)


def _value(trial: Trial, place: int, terms: Sequence[Terms]) -> Tensor:
    loss = trial.losses[place]
    parts = [loss(t.output, t.target, weight=t.weight, group=t.group, progress=0.0) for t in terms]
    total: Tensor = sum(parts[1:], parts[0])
    return total


def _gradients(value: Tensor, theta: list[Tensor]) -> list[Tensor]:
    return list(torch.autograd.grad(value, theta, allow_unused=True, materialize_grads=True))


def _rate(theta: Mapping[str, Tensor], gradients: Mapping[str, Tensor], place: int) -> float:
    """A learning rate that moves the parameters by the candidate's share of their norm."""
    sizes = [sum(float(one.detach().square().sum()) for one in part.values()) ** 0.5 for part in (theta, gradients)]
    rate = _PACES[place] * sizes[0] / sizes[1] if sizes[1] else 0.0
    # Rounded to a power of two, so that the two paths do not differ by the rounding of a norm.
    return 2.0 ** round(np.log2(rate)) if 0 < rate < np.inf else 0.0


def _nothing() -> Seen:
    return {name: [] for name in WHAT}


def _note(seen: Seen, outputs: list[Tensor], gradients: dict[str, Tensor], buffers: dict[str, Tensor]) -> None:
    seen["outputs"].append({str(i): output.detach() for i, output in enumerate(outputs)})
    # Measured together: a gradient that is zero but for rounding has no size of its own.
    seen["gradients"].append({"all": torch.cat([gradients[name].reshape(-1) for name in sorted(gradients)])})
    seen["buffers"].append({name: buffer.detach() for name, buffer in buffers.items()})


def _states(device: torch.device) -> dict[str, Tensor]:
    state = {"cpu": torch.get_rng_state()}
    return {**state, "cuda": torch.cuda.get_rng_state(device)} if device.type == "cuda" else state


def _double(leaf: Any) -> Any:
    return leaf.double() if isinstance(leaf, Tensor) and leaf.is_floating_point() else leaf
