"""The forward pass of a stacked base model and its backward pass, compiled by torch: `--compile`.

Captured once per process, model and shape of the batch, for any number of candidates from 2 on; every chunk and every
smaller stack of it uses the same code, so the numbers of a candidate do not depend on its companions here either. What
is captured are operations on tensors: parameters, buffers and the batch go in, the terms of the losses and the buffers
come out. Dropout masks are drawn outside, by the operations that draw them otherwise, and go in like the batch.

Compiled code fuses what lies between the products; the products themselves are the same. That pays for small layers and
is nothing for large ones (docs/performance.md). A model with max pooling runs as it is, because compiled pooling is
slower, and so does one that reads numbers, draws others than dropout does, or changes in other ways than through its
tensors. Each new stack is compared with the uncompiled pass before its first step.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor
from torch.utils._pytree import TreeSpec, tree_flatten, tree_unflatten

from lossmith.tasks import Task, Terms
from lossmith.training.population.fallback import gist
from lossmith.training.population.inductor import NotCompiled, compiling, why_no_compiler
from lossmith.training.population.masks import Draw, Masks
from lossmith.training.population.network import PopulationNetwork
from lossmith.training.population.slots import Slot, changed, plain_state, restore_plain, slots_of

AGREE = {torch.float64: 1e-9, torch.float32: 1e-3}  # of the largest number; fused sums round differently
ROUGHLY = 0.02  # where products are taken in half precision
_FIELDS = ("output", "target", "weight", "group")

Pass = Callable[[Any], tuple[Terms, ...]]


class CompiledPass:
    """A forward pass that runs compiled where it can.

    Args:
        network: what it runs. forward: its uncompiled pass, batch → Terms.
        task: whose compiled code is shared. key: whatever else the code depends on.
        exact: whether products are taken in the precision of the parameters.

    Attributes:
        reason: why it runs uncompiled, "" as long as it does not.
    """

    def __init__(
        self, network: PopulationNetwork, forward: Pass, task: Task, key: Hashable, *, exact: bool = True
    ) -> None:
        self._network, self._forward, self._exact = network, forward, exact
        self._slots = slots_of(network)
        self._shared, self._key = _CODE.setdefault(task, {}), key
        self._seen: set[int] = set()
        self.reason = "" if task.device.type == "cpu" else "steps are compiled on the CPU only."

    def __call__(self, batch: Any) -> tuple[Terms, ...]:
        """The Terms of one batch, with a graph."""
        if self.reason:
            return self._forward(batch)
        try:
            code = self._code(batch)
            if self._network.count not in self._seen:
                _compare(lambda one: code(self._slots, one), self._network, self._forward, batch, exact=self._exact)
                self._seen.add(self._network.count)
            return code(self._slots, batch)
        except NotCompiled as error:
            self.reason = str(error)
        return self._forward(batch)

    def _code(self, batch: Any) -> _Code:
        leaves, spec = tree_flatten(batch)
        shapes = tuple((leaf.shape, leaf.dtype, leaf.stride()) if isinstance(leaf, Tensor) else leaf for leaf in leaves)
        names = tuple((name, raw.shape[1:], raw.dtype) for name, raw in self._network.parameters.items())
        key = (self._key, spec, shapes, names, torch.get_num_threads())
        try:
            known = self._shared.get(key)
        except TypeError:
            raise NotCompiled("a batch holds something other than tensors and plain values.") from None
        if known is None:
            if self._network.count < 2:
                raise NotCompiled("one candidate alone runs uncompiled.")
            try:
                known = _Code(self._network, self._forward, batch)
            except Exception as error:
                known = str(error) if isinstance(error, NotCompiled) else f"torch cannot compile it ({gist(error)})."
            self._shared[key] = known
        if isinstance(known, str):
            raise NotCompiled(known)
        return known


_CODE: WeakKeyDictionary[Task, dict[Hashable, Any]] = WeakKeyDictionary()  # of this process; or why there is none


class _Code:
    """Compiled code of a forward and backward pass.

    Raises:
        NotCompiled: the pass does what cannot be captured. Anything torch's compiler raises.
    """

    def __init__(self, network: PopulationNetwork, forward: Pass, batch: Any) -> None:
        if reason := why_no_compiler():
            raise NotCompiled(reason)
        self.draws = _recorded(network, forward, batch)
        self.terms: list[list[bool]] = []  # of each Terms, which fields are there
        self.written: list[int] = []  # slots that get a new tensor
        tracing: list[Any] = [network, forward]
        spec = tree_flatten(batch)[1]
        with _without_trace(network):
            inputs = self._inputs(slots_of(network), batch)
            with compiling(network, inputs) as compiled:
                self._function = compiled(lambda *given: self._traced(tracing[0], tracing[1], spec, *given))
                self._function(*inputs)
        tracing.clear()  # the code is there, and the first stack of models need not stay for it

    def __call__(self, slots: Sequence[Slot], batch: Any) -> tuple[Terms, ...]:
        found = iter(self._function(*self._inputs(slots, batch)))
        terms = tuple(Terms(*(next(found) if one else None for one in there)) for there in self.terms)  # type: ignore[arg-type]
        for place in self.written:
            slots[place].put(next(found))
        return terms

    def _inputs(self, slots: Sequence[Slot], batch: Any) -> tuple[list[Tensor], list[Any], list[Tensor]]:
        return [slot.raw for slot in slots], tree_flatten(batch)[0], [draw() for draw in self.draws]

    def _traced(
        self,
        network: PopulationNetwork,
        forward: Pass,
        spec: TreeSpec,
        raws: list[Tensor],
        leaves: list[Any],
        masks: list[Tensor],
    ) -> list[Tensor]:
        slots = slots_of(network)
        before = [slot.saved() for slot in slots]
        try:
            for slot, raw in zip(slots, raws, strict=True):
                slot.put(raw)
            with Masks(masks):
                terms = forward(tree_unflatten(leaves, spec))
            self.terms = [[getattr(term, name) is not None for name in _FIELDS] for term in terms]
            self.written = [i for i, slot in enumerate(slots) if slot.raw is not raws[i]]
            found = [getattr(term, name) for term in terms for name in _FIELDS if getattr(term, name) is not None]
            return [*found, *(slots[i].raw for i in self.written)]
        finally:
            for slot, saved in zip(slots, before, strict=True):
                slot.restore(saved)


def _recorded(network: PopulationNetwork, forward: Pass, batch: Any) -> list[Draw]:
    """The dropout masks that one pass draws; the pass itself leaves no trace."""
    masks, state = Masks(), plain_state(network)
    with _without_trace(network), torch.no_grad():
        with masks:
            forward(batch)
        if reason := changed(state, network):
            raise NotCompiled(reason)
    return masks.draws


@contextmanager
def _without_trace(network: PopulationNetwork) -> Iterator[None]:
    """Buffers, plain attributes and torch's random state as they were, after a block."""
    slots, state = slots_of(network), plain_state(network)
    before = [(slot.saved(), slot.raw, None if slot.raw.requires_grad else slot.raw.clone()) for slot in slots]
    random = torch.get_rng_state()
    try:
        yield
    finally:
        torch.set_rng_state(random)
        for slot, (saved, raw, numbers) in zip(slots, before, strict=True):
            slot.restore(saved)
            if numbers is not None:
                raw.copy_(numbers)
        restore_plain(state, network)


def _compare(code: Pass, network: PopulationNetwork, forward: Pass, batch: Any, *, exact: bool) -> None:
    """NotCompiled unless compiled and uncompiled pass agree in outputs, gradients and buffers; leaves no trace."""
    try:
        expected = _numbers(network, forward, batch)
        found = _numbers(network, code, batch)
    except Exception as error:
        raise NotCompiled(f"the compiled step fails ({gist(error)}).") from error
    scale = 0.0
    for a, b in zip(expected, found, strict=True):
        if a.shape != b.shape:
            raise NotCompiled(f"the compiled step gives shape {tuple(b.shape)} in place of {tuple(a.shape)}.")
        # NaN and infinity may come from a candidate that diverges; where there is none, there must be none.
        there = a.isfinite() if a.is_floating_point() else torch.ones_like(a, dtype=torch.bool)
        far = (a - b)[there].abs().max().item() if bool(there.any()) else 0.0
        scale = max(scale, a[there].abs().max().item() if bool(there.any()) else 0.0)
        if not far <= (AGREE.get(a.dtype, ROUGHLY) if exact else ROUGHLY) * scale:
            raise NotCompiled(f"the compiled step gives other numbers ({far:.2g} apart, of {scale:.2g}).")


def _numbers(network: PopulationNetwork, forward: Pass, batch: Any) -> list[Tensor]:
    """Outputs, gradients and buffers of a pass."""
    slots = slots_of(network)
    leaves = [slot.raw for slot in slots if slot.raw.requires_grad]
    with _without_trace(network):
        terms = forward(batch)
        outputs = [term.output for term in terms]
        total = sum((output.float().sin().sum() for output in outputs), torch.zeros(()))
        slopes = torch.autograd.grad(total, leaves, allow_unused=True) if total.requires_grad else ()
        found = [*outputs, *(slope for slope in slopes if slope is not None)]
        found += [slot.raw.clone() for slot in slots if not slot.raw.requires_grad]
    return [one.detach() for one in found]
