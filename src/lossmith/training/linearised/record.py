"""The forward pass at θ0, recorded node by node, and products with its Jacobian J = ∂z/∂θ for many candidates.

Automatic differentiation goes through a network once for every candidate, and twice, or once more forward, for J v.
What it does at θ0 is a linear map that all candidates share: it is recorded once and applied to all of them at once.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_flatten, tree_map, tree_unflatten

from lossmith.errors import TaskError, UsageError
from lossmith.tasks import Terms
from lossmith.tasks.terms import Forward, as_terms
from lossmith.training.linearised.many import Many, leading
from lossmith.training.linearised.node import Node, Variable
from lossmith.training.linearised.rules import RULES
from lossmith.training.linearised.simple_nodes import Opaque

Stack = dict[str, Tensor]


class NotRecordable(UsageError):
    """A forward pass does something that cannot be seen by replacing torch functions."""


class Recording(TorchFunctionMode):
    """Makes a node of every torch function that is given something that depends on θ."""

    def __init__(self, theta: Mapping[str, Tensor]) -> None:
        super().__init__()
        self.nodes: list[Node] = []
        self._variables = {id(p): Variable(p) for p in theta.values()}  # a variable keeps its tensor, and so its id

    def variable(self, tensor: Any) -> Variable | None:
        """The variable a tensor is the value of.

        Raises:
            NotRecordable: it depends on θ by a way that was not seen.
        """
        if not isinstance(tensor, Tensor):
            return None
        found = self._variables.get(id(tensor))
        if found is None and tensor.requires_grad:
            raise NotRecordable("part of the model goes past torch's functions")
        return found

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        leaves, spec = tree_flatten((args, kwargs))
        found = [self.variable(leaf) for leaf in leaves]
        inputs = list({id(v): v for v in found if v is not None}.values())
        if not inputs or not torch.is_grad_enabled():
            return func(*args, **kwargs)
        rule = RULES.get(func)
        if rule is not None:
            own = [leaf if variable is None else variable for leaf, variable in zip(leaves, found, strict=True)]
            own_args, own_kwargs = tree_unflatten(own, spec)
            with torch.no_grad():
                node = rule(*own_args, **own_kwargs)
            if node is not None:
                return self._kept(node)
        result = func(*args, **kwargs)
        # What returns an argument itself, or no derivative, makes nothing.
        graph = [leaf for leaf in tree_flatten(result)[0] if isinstance(leaf, Tensor) and leaf.grad_fn is not None]
        if not graph:
            return result
        node = Opaque(inputs, graph)
        self._kept(node)
        instead = {id(out): variable.tensor for out, variable in zip(graph, node.outputs, strict=True)}
        return tree_map(lambda leaf: instead.get(id(leaf), leaf), result)

    def _kept(self, node: Node) -> Tensor:
        self.nodes.append(node)
        self._variables |= {id(variable.tensor): variable for variable in node.outputs}
        return node.outputs[0].tensor


class Record:
    """A recorded forward pass.

    Args:
        model: in training mode, at θ0; the pass leaves in its buffers what it leaves there.
        forward: the task's.
        batch: what it is run on, with the random state of the caller.

    Attributes:
        theta: trainable parameters θ0 by name, each once.
        terms: what the pass gave, without graph.

    Raises:
        NotRecordable: the pass does something that cannot be seen.
        TaskError: an output does not depend on θ.
    """

    def __init__(self, model: nn.Module, forward: Forward, batch: Any) -> None:
        self.theta: Stack = {name: p for name, p in model.named_parameters() if p.requires_grad}
        with torch.enable_grad(), Recording(self.theta) as recording:
            terms = as_terms(forward(model, batch))
        outputs = [recording.variable(term.output) for term in terms]
        if any(variable is None for variable in outputs):
            raise TaskError(
                "an output of the model carries no gradient, so no loss on it can be tuned: remove torch.no_grad() or "
                "detach() from model and forward."
            )
        self._outputs = [variable for variable in outputs if variable is not None]
        self.terms = tuple(_without_graph(term) for term in terms)
        self._nodes = _needed(recording.nodes, self._outputs)
        used = {id(variable.tensor) for node in self._nodes for variable in node.inputs}
        self._parameters = {name: recording.variable(p) for name, p in self.theta.items() if id(p) in used}

    @torch.no_grad()
    def pull(self, cotangents: Sequence[Tensor]) -> Stack:
        """Jᵀδ of each candidate, [P, ...] each; parameters that z does not depend on are left out.

        Args:
            cotangents: δ of each output, [P, *z.shape].
        """
        count = len(cotangents[0])
        deltas: dict[Variable | None, Many] = {}
        for variable, cotangent in zip(self._outputs, cotangents, strict=True):
            _accumulate(deltas, variable, leading(cotangent))
        for node in reversed(self._nodes):
            own = [deltas.pop(variable, None) for variable in node.outputs]
            if any(delta is not None for delta in own):
                for variable, delta in zip(node.inputs, node.pull(own, count), strict=True):
                    if delta is not None:
                        _accumulate(deltas, variable, delta)
        return {name: deltas[v].leading() for name, v in self._parameters.items() if v in deltas}

    @torch.no_grad()
    def push(self, directions: Mapping[str, Tensor]) -> list[Tensor]:
        """J·v of each candidate, [P, *z.shape] for each output.

        Args:
            directions: v for every parameter that `pull` returns, [P, ...] each.
        """
        tangents: dict[Variable | None, Many] = {
            variable: leading(directions[name]) for name, variable in self._parameters.items()
        }
        count = next(iter(tangents.values())).count
        for node in self._nodes:
            own = node.push([tangents[variable] for variable in node.inputs], count)
            tangents.update(zip(node.outputs, own, strict=True))
        return [tangents[variable].leading() for variable in self._outputs]


def _needed(nodes: Sequence[Node], outputs: Sequence[Variable]) -> list[Node]:
    """Those that an output depends on, in order."""
    wanted = {variable.maker for variable in outputs}
    kept: list[Node] = []
    for node in reversed(nodes):
        if node in wanted:
            kept.append(node)
            wanted |= {variable.maker for variable in node.inputs}
    return kept[::-1]


def _accumulate(deltas: dict[Variable | None, Many], variable: Variable, delta: Many) -> None:
    deltas[variable] = deltas[variable] + delta if variable in deltas else delta


def _without_graph(term: Terms) -> Terms:
    weight, group = (None if part is None else part.detach() for part in (term.weight, term.group))
    return Terms(term.output.detach(), term.target.detach(), weight, group)
