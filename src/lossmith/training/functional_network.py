"""A base model as a function of its parameters, for several candidates at once or for one.

Parameters of candidates are stacked along a first axis, [P, ...]. Stacked, a chunk of candidates is one `vmap`; one at
a time, P is 1 and the model runs as it is written, which is always right and, for large layers and convolutions on a
CPU, no slower (DESIGN §4). Buffers are copied for every candidate, so that none sees what another one left there.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any

import torch
import torch.autograd.forward_ad as fwAD
from torch import Tensor, nn
from torch.func import functional_call, vmap

from lossmith.errors import TaskError
from lossmith.tasks import Terms
from lossmith.tasks.terms import Forward, as_terms

Stack = dict[str, Tensor]
_PARTS = ("output", "target", "weight", "group")


class Whole(nn.Module):
    """Model and forward function as one module, so that its parameters can be replaced during one call."""

    def __init__(self, model: nn.Module, forward: Forward) -> None:
        super().__init__()
        self.model = model
        self.function = forward

    def forward(self, batch: Any) -> tuple[Terms, ...]:
        return as_terms(self.function(self.model, batch))


class Network:
    """A freshly built base model at θ0.

    Args:
        model: in training mode; its buffers are used up by `start`.
        forward: the task's.
        stacked: whether candidates go through it together.
        forward_mode: whether `Start.push` differentiates forward; one candidate at a time only.

    Attributes:
        theta: its trainable parameters θ0 by name, each once.
    """

    def __init__(
        self, model: nn.Module, forward: Forward, *, stacked: bool = False, forward_mode: bool = False
    ) -> None:
        self._stacked, self._forward_mode = stacked, forward_mode
        self._whole = Whole(model, forward)
        self._tied = shares_tensors(model.named_parameters) or shares_tensors(model.named_buffers)
        self.theta: Stack = {name: p for name, p in self._whole.named_parameters() if p.requires_grad}

    def start(self, batch: Any, scope: Callable[[], AbstractContextManager[None]]) -> Start:
        """The forward pass at θ0, which all candidates share.

        Args:
            scope: the random state of the pass: dropout masks are the same wherever it has to be repeated.
        """
        before = {name: buffer.clone() for name, buffer in self._whole.named_buffers()}
        with scope():
            terms: tuple[Terms, ...] = self._whole(batch)

        def tangents(directions: Mapping[str, Tensor]) -> list[Tensor]:
            own = {name: buffer.clone() for name, buffer in before.items()}
            with scope(), torch.no_grad(), fwAD.dual_level():
                moving, _ = self._one(duals(self.theta, directions), own, batch)
                return [tangent_of(term.output) for term in moving]

        return Start(terms, self.theta, tangents if self._forward_mode else None, stacked=self._stacked)

    def buffers(self, count: int) -> Stack:
        """The model's buffers as they are now, for `count` candidates, [P, ...] each."""
        return {name: _repeated(buffer, count) for name, buffer in self._whole.named_buffers()}

    def __call__(self, parameters: Mapping[str, Tensor], buffers: Stack, batch: Any) -> tuple[list[Terms], Stack]:
        """The forward pass of P candidates.

        Args:
            parameters: those of `theta`, [P, ...] each; P = 1 unless stacked.
            buffers: likewise; not written to.
            batch: the same for all.

        Returns:
            Terms with a first axis of P candidates (of stride 0 where they share something), and the buffers after it.
        """
        copies = {name: buffer.clone() for name, buffer in buffers.items()}
        if self._stacked:
            return self._all(parameters, copies, batch)
        # squeeze, not an index: the gradient of an index is a copy into zeros
        theta, own = ({name: part.squeeze(0) for name, part in parts.items()} for parts in (parameters, copies))
        terms, after = self._one(theta, own, batch)
        return [_alone(term) for term in terms], {k: v[None] for k, v in after.items()}

    def _one(self, parameters: Stack, buffers: Stack, batch: Any) -> tuple[tuple[Terms, ...], Stack]:
        own = {**parameters, **buffers}  # functional_call leaves here what a forward pass puts in a buffer's place
        terms: tuple[Terms, ...] = functional_call(self._whole, own, (batch,), tie_weights=self._tied)
        return terms, {name: own[name] for name in buffers}

    def _all(self, parameters: Mapping[str, Tensor], buffers: Stack, batch: Any) -> tuple[list[Terms], Stack]:
        given: list[list[str]] = []  # which parts each of the Terms has; vmap carries tensors only

        def one(theta: Stack, own: Stack) -> tuple[list[list[Tensor]], Stack]:
            terms, after = self._one(theta, own, batch)
            given[:] = [[part for part in _PARTS if getattr(term, part) is not None] for term in terms]
            parts = [[getattr(term, part) for part in has] for term, has in zip(terms, given, strict=True)]
            return parts, after

        # One dropout mask for all candidates; without any buffer the second argument is an empty tree.
        outputs, after = vmap(one, randomness="same")(dict(parameters), buffers)
        return [Terms(**dict(zip(has, parts, strict=True))) for has, parts in zip(given, outputs, strict=True)], after


class Start:
    """The outputs z = f(θ0), and products with the Jacobian J = ∂z/∂θ there, for many candidates by one forward pass.

    Args:
        terms: of the forward pass, with its graph. theta: the leaves of that graph.
        tangents: J·v of one v by another forward pass, or None: then by differentiating Jᵀu once more by u. For
            convolutions the former takes half the time, for anything else the latter.
        stacked: whether several candidates are computed at once.
    """

    def __init__(
        self,
        terms: tuple[Terms, ...],
        theta: Stack,
        tangents: Callable[[Mapping[str, Tensor]], list[Tensor]] | None = None,
        *,
        stacked: bool,
    ) -> None:
        self.terms = terms
        self._outputs = [term.output for term in terms]
        self._tangents, self._stacked = tangents, stacked
        if not all(z.requires_grad for z in self._outputs):
            raise TaskError(
                "an output of the model carries no gradient, so no loss on it can be tuned: remove torch.no_grad() or "
                "detach() from model and forward."
            )
        # Jᵀu is linear in u: differentiating it once more gives J, whatever u is, without another forward pass.
        self._zeros = [torch.zeros_like(z).requires_grad_(tangents is None) for z in self._outputs]
        pulled = torch.autograd.grad(
            self._outputs,
            list(theta.values()),
            self._zeros,
            create_graph=tangents is None,
            retain_graph=True,
            allow_unused=True,
        )
        self._theta = {name: theta[name] for name, g in zip(theta, pulled, strict=True) if g is not None}
        self._pulled = [g for g in pulled if g is not None]

    def pull(self, cotangents: Sequence[Tensor]) -> Stack:
        """Jᵀδ of each candidate, [P, ...] each; parameters that z does not depend on are left out.

        Args:
            cotangents: δ of each output, [P, *z.shape].
        """
        found = self._grad(self._outputs, list(self._theta.values()), cotangents)
        return dict(zip(self._theta, found, strict=True))

    def push(self, directions: Mapping[str, Tensor]) -> list[Tensor]:
        """J·v of each candidate, [P, *z.shape] for each output.

        Args:
            directions: v for every parameter that `pull` returns, [P, ...] each.
        """
        if self._tangents is not None:
            return [u[None] for u in self._tangents({name: directions[name].squeeze(0) for name in self._theta})]
        return self._grad(self._pulled, self._zeros, [directions[name] for name in self._theta])

    def _grad(self, of: list[Tensor], by: list[Tensor], along: Sequence[Tensor]) -> list[Tensor]:
        if self._stacked:
            found = torch.autograd.grad(of, by, list(along), retain_graph=True, is_grads_batched=True)
            return list(found)
        return [g[None] for g in torch.autograd.grad(of, by, [part.squeeze(0) for part in along], retain_graph=True)]


def duals(theta: Stack, directions: Mapping[str, Tensor]) -> Stack:
    with warnings.catch_warnings():
        # On its first use torch loads rules for it that torch itself calls deprecated.
        warnings.filterwarnings("ignore", message=".*torch.jit.script", category=DeprecationWarning)
        return {name: fwAD.make_dual(theta[name], v) for name, v in directions.items()}  # type: ignore[no-untyped-call]


def tangent_of(output: Tensor) -> Tensor:
    found: Tensor | None = fwAD.unpack_dual(output).tangent  # type: ignore[no-untyped-call]
    return torch.zeros_like(output) if found is None else found


def shares_tensors(named: Callable[..., Any]) -> bool:
    """Whether one tensor bears several names."""
    return sum(1 for _ in named()) < sum(1 for _ in named(remove_duplicate=False))


def _alone(term: Terms) -> Terms:
    """The Terms of one candidate as those of a stack of one."""
    weight, group = (None if part is None else part[None] for part in (term.weight, term.group))
    return Terms(term.output[None], term.target[None], weight, group)


def _repeated(tensor: Tensor, count: int) -> Tensor:
    return tensor.detach().expand(count, *tensor.shape)
