from __future__ import annotations

import numpy as np
import torch

from lossmith.training.meta_adam import AdamState, adam_step


def test_it_steps_as_torchs_adam_does() -> None:
    generator = np.random.Generator(np.random.PCG64(0))
    start = generator.standard_normal(5)
    phi, state = start, AdamState.empty(5)
    theirs = torch.tensor(start, requires_grad=True)
    adam = torch.optim.Adam([theirs], lr=0.03)
    for _ in range(40):
        gradient = generator.standard_normal(5) * [1, 1e-3, 1e3, 1e-9, 0]
        phi, state = adam_step(phi, gradient, state, 0.03)
        theirs.grad = torch.tensor(gradient)
        adam.step()
    moved = theirs.detach().numpy() - start
    assert np.abs(moved[:4]).min() > 1e-3  # something to compare, even where gradients are hardly there
    assert moved[4] == 0
    assert np.allclose(phi - start, moved, rtol=1e-10, atol=0)
    assert state.steps == 40


def test_nothing_given_is_written_to() -> None:
    phi, gradient, state = np.ones(2), np.ones(2), AdamState.empty(2)
    adam_step(phi, gradient, state, 0.1)
    assert (phi.tolist(), gradient.tolist()) == ([1, 1], [1, 1])
    assert (state.mean.tolist(), state.square.tolist(), state.steps) == ([0, 0], [0, 0], 0)
