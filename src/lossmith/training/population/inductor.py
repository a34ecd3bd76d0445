"""Torch's compiler for the CPU, set up for a function of stacked tensors; private names of torch are used here only."""

from __future__ import annotations

import shutil
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor

from lossmith.training.population.network import PopulationNetwork
from lossmith.training.population.slots import slots_of


class NotCompiled(Exception):
    """Why a forward pass is not compiled."""


def why_no_compiler() -> str:
    """Why torch cannot compile for the CPU of this machine, one sentence; "" if it can."""
    import torch._inductor.config as settings

    names = settings.cpp.cxx if isinstance(settings.cpp.cxx, list | tuple) else (settings.cpp.cxx,)
    if any(shutil.which(name) for name in names if name):
        return ""
    return "torch finds no C++ compiler: install g++ or clang++, or name one in the environment variable CXX."


@contextmanager
def compiling(
    network: PopulationNetwork, inputs: tuple[list[Tensor], list[Any], list[Tensor]]
) -> Iterator[Callable[[Callable[..., Any]], Callable[..., Any]]]:
    """What turns a function of `inputs` into a compiled one; its first call, in this block, compiles.

    The first axis of what every candidate has its own of is left open, all other shapes are fixed.
    """
    import torch._inductor.config as settings
    from torch._dynamo.source import ConstantSource
    from torch._functorch.aot_autograd import aot_function
    from torch._functorch.partitioners import min_cut_rematerialization_partition
    from torch._guards import TracingContext, tracing
    from torch._inductor.decomposition import select_decomp_table
    from torch._subclasses.fake_tensor import FakeTensorMode
    from torch.fx.experimental.symbolic_shapes import DimDynamic, ShapeEnv, StatefulSymbolicContext

    # A bias goes into the pass that the function behind it makes anyway, not into the product.
    decompositions = {**select_decomp_table(), torch.ops.aten.baddbmm.default: product_and_sum}
    context = TracingContext(FakeTensorMode(shape_env=ShapeEnv()))
    own = [slot.stacked for slot in slots_of(network)]
    tensors = [one for part in inputs for one in part]
    for i, tensor in enumerate(tensors):
        if isinstance(tensor, Tensor):
            sizes = [DimDynamic.STATIC] * tensor.dim()
            if i < len(own) and own[i]:
                sizes[0] = DimDynamic.DUCK  # equal sizes are one symbol: P
            context.tensor_to_context[tensor] = StatefulSymbolicContext(
                dynamic_sizes=sizes,
                dynamic_strides=[DimDynamic.INFER_STRIDE] * tensor.dim(),
                constraint_sizes=[None] * tensor.dim(),
                tensor_source=ConstantSource(f"input_{i}"),
                shape_env_to_source_to_symbol_cache={},
            )

    parts: Any = partial(min_cut_rematerialization_partition, compiler="inductor")
    compilers: list[Any] = [_inductor, _inductor_backward]

    def compiled(function: Callable[..., Any]) -> Callable[..., Any]:
        made: Any = aot_function
        found: Callable[..., Any] = made(function, *compilers, parts, decompositions, dynamic=True)
        return found

    with warnings.catch_warnings(), settings.patch(compile_threads=1), tracing(context):
        warnings.simplefilter("ignore")
        yield compiled


def product_and_sum(start: Tensor, x: Tensor, y: Tensor, *, beta: float = 1, alpha: float = 1) -> Tensor:
    found = torch.bmm(x, y)
    found = found if alpha == 1 else found * alpha
    return found + (start if beta == 1 else start * beta)


def _inductor(graph: Any, inputs: Sequence[Any]) -> Any:
    from torch._inductor.compile_fx import compile_fx_inner

    for node in graph.graph.nodes:
        if torch.Tag.nondeterministic_seeded in getattr(node.target, "tags", ()):
            raise NotCompiled(f"the model draws random numbers with {node.target}, which is no dropout.")
        if "max_pool" in str(node.target):  # LeNet-5: 16 ms per candidate and step in place of 7.6
            raise NotCompiled("maxima over windows are twice as slow compiled: the model runs as it is.")
    return compile_fx_inner(graph, inputs)


def _inductor_backward(graph: Any, inputs: Sequence[Any]) -> Any:
    from torch._inductor.compile_fx import compile_fx_inner

    return compile_fx_inner(graph, inputs, is_backward=True)
