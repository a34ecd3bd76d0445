"""Named random streams: every draw in Lossmith comes from a generator named by a seed and a path of words.

A stream is a pure function of its name, so nothing needs to be stored to continue one, and two parts of the program can
never disturb each other's draws, whatever the order or number of workers.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch


def derive_seed(seed: int, *names: str | int) -> int:
    """A 63-bit seed that depends on `seed` and every name, and on nothing else.

    >>> derive_seed(0, "theta") == derive_seed(0, "theta") != derive_seed(0, "batches")
    True
    """
    # int() so that a number names the same stream whether it came from Python or from numpy
    text = "\x1f".join([str(int(seed)), *(f"str:{n}" if isinstance(n, str) else f"int:{int(n)}" for n in names)])
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "little") >> 1


def stream(seed: int, *names: str | int) -> np.random.Generator:
    """A numpy generator for the named stream."""
    return np.random.Generator(np.random.PCG64(derive_seed(seed, *names)))


def torch_stream(seed: int, *names: str | int) -> torch.Generator:
    """A torch CPU generator for the named stream."""
    return torch.Generator().manual_seed(derive_seed(seed, *names))


@contextmanager
def torch_global_scope(seed: int, *names: str | int, device: torch.device | None = None) -> Iterator[None]:
    """Run a block with torch's *global* generator set to the named stream, and put it back afterwards.

    Layers draw their initial weights and dropout masks from the global generator; this is the one way to hand them
    ours. With a CUDA `device` its generator is set and put back too; those of all other devices are left alone.
    """
    value = derive_seed(seed, *names)
    cuda = device is not None and device.type == "cuda"
    with torch.random.fork_rng(devices=[device] if cuda else []):
        torch.default_generator.manual_seed(value)  # torch.manual_seed would also reseed every GPU of the user's
        if cuda:
            with torch.cuda.device(device):
                torch.cuda.manual_seed(value)
        yield
