"""In which precision a forward pass computes: as the model is, or in bfloat16 by autocast, the loss never."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import torch

from lossmith.tasks import Terms

DTYPES = ("float32", "bfloat16")


def in_precision(forward: Callable[[], tuple[Terms, ...]], device: torch.device, dtype: str) -> tuple[Terms, ...]:
    """The Terms of a forward pass, their outputs ready for a loss.

    Args:
        forward: the pass. device: where it computes.
        dtype: "float32": as the model is; "bfloat16": under autocast, the outputs then converted to float32.
    """
    if dtype == "float32":
        return forward()
    with torch.autocast(device.type, dtype=torch.bfloat16):
        found = forward()
    # A model in float64 is left alone by autocast, and so are its outputs here.
    return tuple(t if t.output.dtype == torch.float64 else replace(t, output=t.output.float()) for t in found)
