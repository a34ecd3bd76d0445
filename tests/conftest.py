"""The test world is stricter than the real one: hidden draws from global random state fail, and one thread computes."""

from __future__ import annotations

import os
import random
from collections.abc import Iterator

import numpy as np
import pytest
import torch
from hypothesis.internal.entropy import deterministic_PRNG

torch.set_num_threads(1)
with deterministic_PRNG():  # hypothesis keeps numpy's own seed function, which it calls itself, before it is poisoned
    pass
os.environ.setdefault("LOSSMITH_DATA", "")


def _poisoned(name: str):  # type: ignore[no-untyped-def]
    def draw(*args: object, **kwargs: object) -> None:
        raise AssertionError(f"{name} draws from the process-global random state; pass a generator from lossmith.rng")

    return draw


@pytest.fixture(autouse=True)
def poisoned_global_random_state(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Every draw from numpy's or Python's global generator raises; torch's global state must come out as it went in."""
    for name in ("rand", "randn", "random", "randint", "normal", "uniform", "permutation", "shuffle", "choice", "seed"):
        monkeypatch.setattr(np.random, name, _poisoned(f"numpy.random.{name}"))
    for name in ("random", "randint", "uniform", "gauss", "choice", "shuffle", "sample"):
        monkeypatch.setattr(random, name, _poisoned(f"random.{name}"))
    before = torch.get_rng_state()
    yield
    assert torch.equal(before, torch.get_rng_state()), "the test or what it calls moved torch's global random state"
