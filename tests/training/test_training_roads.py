"""Training through ∂loss/∂output from the interpreter, and training through the losses' graphs, are one training."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from small_tasks import network, small_task
from torch import Tensor, nn

from lossmith.losses import Loss, LossSet, Tree, loss
from lossmith.losses.parser import parse
from lossmith.tasks import Terms
from lossmith.training import Training, criteria, train


def tree(text: str, **settings: Any) -> Loss:
    return Loss(Tree(parse(text)), **settings)


def several_terms(model: nn.Module, batch: Any) -> tuple[Terms, ...]:
    x, y = batch
    z = model(x)
    return Terms(z, y, (y != 2).float()), Terms(2 * z, y), Terms(z.detach(), y)  # the last one trains nothing


def parameters(model: nn.Module | None) -> Tensor:
    assert model is not None
    return torch.cat([p.detach().reshape(-1) for p in model.parameters()])


@pytest.mark.parametrize(
    ("criterion", "parts"),
    [
        (loss("cross_entropy"), {}),
        (loss("baikal", smoothing=0.1), {}),
        (tree("aq(r, t + 0.5)*tanh(p) - t*protected_log(p)*(1 - tau)", outputs="mean"), {}),
        (LossSet([loss("brier"), loss("focal")]), {"forward": several_terms}),
        (LossSet([loss("brier"), tree("-log(p_t)")]), {"forward": several_terms}),
    ],
    ids=["cross_entropy", "baikal", "tree", "terms", "half_by_autograd"],
)
def test_both_roads_train_alike(criterion: Loss, parts: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    task = small_task(steps=20, **parts)
    found = train(task, criterion, Training(seed=1, steps=20))
    monkeypatch.setattr(criteria, "interpreted", lambda loss: False)
    expected = train(task, criterion, Training(seed=1, steps=20))
    start = parameters(task.build_model(1))
    moved = (parameters(expected.model) - start).norm()
    assert moved > 1e-2
    assert (parameters(found.model) - parameters(expected.model)).norm() < 1e-4 * moved
    assert found.status == expected.status
    assert found.metrics == expected.metrics


def test_a_loss_that_pulls_nothing_trains_nothing() -> None:
    trained = train(small_task(model=network), tree("t*n"), Training(seed=0, steps=3))
    assert trained.status.ok
    assert parameters(trained.model).equal(parameters(small_task().build_model(0)))
