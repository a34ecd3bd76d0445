"""How much memory an unroll takes, measured on the task, and what to do where it does not fit.

What is kept for the way back grows by the same amount with every step: activations, gradients and parameters of that
step. Two short unrolls of one candidate, of one step and of two, tell both parts:

    bytes = candidates in a stack · (fixed + T · step) + K · batch

with the T ≤ K steps that are differentiated through. Counted is every piece of memory that automatic differentiation
saves, once. On the CPU the process grows by that much where the pieces are large (LeNet-5: 0.97 of it) and by up to
1.9 of it where they are small, because of the gaps that the C library's allocator leaves between them (digits/mlp, K =
50 to 400; 1.02 with every piece mapped by itself): `MARGIN` covers that.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from lossmith.errors import TaskError
from lossmith.tasks.trees import tensors
from lossmith.training.meta_gradient import Draw, Road, Unroll
from lossmith.training.tunable import Tunable
from lossmith.training.unrolled import unrolled

MIB = 1 << 20
MARGIN = 2  # of what is taken over what is counted
# Of a stack. Chunks are a function of task, losses and settings only, never of what happens to be free (DESIGN §4).
STACK_BYTES = {"cpu": 1024 * MIB, "cuda": 8192 * MIB}


@dataclass(frozen=True)
class UnrollMemory:
    """Bytes of an unroll, as they are counted.

    Args:
        fixed: of a candidate, whatever K is. step: of a candidate for each step that is differentiated through.
        batch: for each training batch, which candidates share.
    """

    fixed: int
    step: int
    batch: int

    def needed(self, length: int, truncation: int = 0, chunk: int = 1) -> int:
        """Bytes to be had for so many candidates at once, the margin included.

        Args:
            length: K. truncation: as `Tuning.truncation`.
        """
        return MARGIN * chunk * (self.fixed + (truncation or length) * self.step) + length * self.batch

    def chunk(self, length: int, truncation: int, most: int, budget: int) -> int:
        """How many candidates go into a stack, at least one."""
        return max(1, min(most, budget // max(1, self.needed(length, truncation))))

    def describe(self, length: int, truncation: int = 0) -> str:
        """A sentence for a plan."""
        through = truncation or length
        return (
            f"a meta-step that differentiates through {through} step{'s' * (through > 1)} takes up to "
            f"{amount(self.needed(length, truncation))} per candidate, {amount(MARGIN * self.step)} for each of them"
        )


def unroll_memory(how: Unroll, drawn: Draw, candidate: Tunable) -> UnrollMemory:
    """What the unrolls of a candidate take.

    Args:
        how: its road, length and truncation are not looked at.
        drawn: of any meta-step, with two batches or more. candidate: of several the one with most to compute.
    """
    one, two = (_saved(how, drawn, candidate, length) for length in (1, 2))
    batch = max(sum(leaf.nbytes for leaf in tensors(batch)) for batch in drawn.train[:2])
    return UnrollMemory(max(0, 2 * one - two), max(0, two - one), batch)


def fitting_chunk(how: Unroll, memory: UnrollMemory, free: int | None) -> int:
    """How many candidates go through an unroll at once.

    Args:
        how: with its road. free: bytes that can be had, None where that is not asked.

    Raises:
        TaskError: the unroll needs more; the sentence says how much, and what fits.
    """
    budget = STACK_BYTES["cpu" if how.task.device.type == "cpu" else "cuda"]

    def needed(length: int, truncation: int) -> int:
        chunk = memory.chunk(length, truncation, how.road.chunk, budget)
        return memory.needed(length, truncation, chunk)

    need = needed(how.length, how.truncation)
    if free is not None and need > free:
        raise TaskError(
            f"unroll_length = {how.length}{_cut(how)}: a meta-step needs up to {amount(need)} "
            f"({amount(MARGIN * memory.step)} for each step that is differentiated through), and {amount(free)} are "
            f"free: "
            f"{_instead(how, needed, free)}."
        )
    return memory.chunk(how.length, how.truncation, how.road.chunk, budget)


def _instead(how: Unroll, needed: Callable[[int, int], int], free: int) -> str:
    """What fits, as the end of a sentence."""
    through = how.truncation or how.length
    cut = next((t for t in range(through - 1, 0, -1) if needed(how.length, t) <= free), None)
    short = next((k for k in range(how.length - 1, 0, -1) if needed(k, min(how.truncation, k)) <= free), None)
    found = [f"truncation = {cut}"] * (cut is not None) + [f"unroll_length = {short}"] * (short is not None)
    if not found:
        return "not even one step fits; take a smaller batch or model"
    return f"{' or '.join(found)} fits, and an implicit hypergradient takes no more for more steps"


def _saved(how: Unroll, drawn: Draw, candidate: Tunable, length: int) -> int:
    """Bytes that automatic differentiation keeps for an unroll of one candidate."""
    # Kept as long as we count, so that no address is given out twice.
    kept: dict[int, torch.UntypedStorage] = {}

    def noted(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        kept[storage.data_ptr()] = storage
        return tensor

    alone = replace(how, road=Road(), chunks=((0,),), length=length, truncation=0, implicit=None, carried=None)
    with torch.autograd.graph.saved_tensors_hooks(noted, lambda tensor: tensor):
        unrolled(alone, replace(drawn, train=drawn.train[:length]), [candidate], [candidate.phi])
    return sum(storage.nbytes() for storage in kept.values())


def _cut(how: Unroll) -> str:
    return f" with truncation = {how.truncation}" if how.truncation else ""


def amount(size: int) -> str:
    """Bytes for people."""
    return f"{size / 1024 / MIB:.1f} GiB" if size >= 1024 * MIB else f"{max(size / MIB, 0.1):,.1f} MiB"
