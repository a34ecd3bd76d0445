"""Steps on φ by name, against torch's own optimisers."""

from __future__ import annotations

from typing import Any, get_args

import numpy as np
import pytest
import torch

from lossmith.records import MetaOptimizer
from lossmith.training.meta_adam import AdamState
from lossmith.training.meta_optimizers import META_STEPS, sgd_step

THEIRS: dict[str, Any] = {"adam": torch.optim.Adam, "sgd": torch.optim.SGD}


def test_every_meta_optimiser_of_the_records_has_a_step() -> None:
    assert set(META_STEPS) == set(get_args(MetaOptimizer)) == set(THEIRS)


@pytest.mark.parametrize("name", THEIRS)
def test_they_step_as_torchs_do(name: Any) -> None:
    generator = np.random.Generator(np.random.PCG64(3))
    start = generator.standard_normal(4)
    phi, state, theirs = start, AdamState.empty(4), torch.tensor(start, requires_grad=True)
    optimizer = THEIRS[name]([theirs], lr=0.02)
    for _ in range(20):
        gradient = generator.standard_normal(4)
        phi, state = META_STEPS[name](phi, gradient, state, 0.02)
        theirs.grad = torch.tensor(gradient)
        optimizer.step()
    moved = theirs.detach().numpy() - start
    assert np.abs(moved).min() > 1e-3
    assert np.allclose(phi - start, moved, rtol=1e-12, atol=0)
    assert state.steps == 20


def test_sgd_remembers_nothing_and_writes_to_nothing() -> None:
    phi, gradient, state = np.ones(2), np.full(2, 0.5), AdamState.empty(2)
    moved, after = sgd_step(phi, gradient, state, 0.1)
    assert moved.tolist() == [0.95, 0.95]
    assert (phi.tolist(), after.mean.tolist(), after.square.tolist(), after.steps) == ([1, 1], [0, 0], [0, 0], 1)
