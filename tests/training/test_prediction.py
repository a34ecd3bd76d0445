from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from small_tasks import dropout_network, rows, small_task
from torch import Tensor, nn

from lossmith.tasks import Terms
from lossmith.training import predict
from lossmith.training.prediction import CHUNK, arranged


def test_every_row_in_order_and_in_evaluation_mode() -> None:
    task = small_task(model=dropout_network)
    model = task.build_model(0)
    seen = predict(task, model, "fitness")
    x, y = rows(30, 1)
    assert model.training  # as it was before
    model.eval()
    assert seen.output.equal(model(x).detach())
    assert seen.target.equal(y)
    assert seen.weight is None
    assert not seen.output.requires_grad
    predict(task, model, "fitness")
    assert not model.training


def test_more_rows_than_one_pass_holds() -> None:
    x, y = rows(CHUNK + 7, 5)
    task = small_task(test=(x, y))
    model = task.build_model(0)
    seen = predict(task, model, "test")
    torch.testing.assert_close(seen.output, model(x).detach())
    assert seen.target.equal(y)


def masked(model: nn.Module, batch: dict[str, Tensor]) -> Terms:
    """Sequences of 4 positions; masked ones come out as NaN, as attention over nothing does."""
    output = model(batch["x"])  # [B, 4, C]
    output = torch.where(batch["mask"][..., None] > 0, output, math.nan)
    return Terms(output, batch["y"], weight=batch["mask"])


def sequences(count: int, seed: int) -> dict[str, Tensor]:
    x, y = rows(4 * count, seed)
    mask = (torch.arange(4 * count) % 4 < 3).float().reshape(count, 4)
    y = torch.where(mask > 0, y.reshape(count, 4), -100)
    return {"x": x.reshape(count, 4, -1), "y": y, "mask": mask}


def test_positions_become_rows_and_masked_ones_do_not_count() -> None:
    task = small_task(
        train=sequences(20, 0), valid=sequences(10, 1), selection=sequences(5, 2), test=None, forward=masked
    )
    model = task.build_model(0)
    seen = predict(task, model, "fitness")
    data = sequences(10, 1)
    assert seen.output.shape == (40, 3)
    assert seen.weight is not None
    assert seen.weight.equal(data["mask"].reshape(-1))
    assert seen.finite  # the NaNs have weight 0
    keep = seen.weight > 0
    wrong = (model(data["x"]).reshape(40, 3).argmax(1) != data["y"].reshape(40))[keep].double().mean()
    assert task.metric.value(seen.output, seen.target, seen.weight, head=task.head) == pytest.approx(wrong.item())
    broken = seen.output.clone()
    broken[0, 0] = math.inf
    assert not type(seen)(broken, seen.target, seen.weight).finite
    assert not type(seen)(broken, seen.target, None).finite


def test_one_batch_without_weights_counts_its_rows_once() -> None:
    def forward(model: nn.Module, batch: Any) -> Terms:
        x, y = batch
        return Terms(model(x), y, weight=torch.full((len(x),), 2.0) if len(x) < CHUNK else None)

    task = small_task(test=rows(CHUNK + 7, 5), forward=forward)
    weight = predict(task, task.build_model(0), "test").weight
    assert weight is not None
    assert weight.tolist() == [1.0] * CHUNK + [2.0] * 7


class Caching(nn.Module):
    """Keeps a table made in its first forward pass, as models with positions do."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(6, 3)
        self.scale: Tensor | None = None

    def forward(self, x: Tensor) -> Tensor:
        if self.scale is None:
            self.scale = torch.ones(6)
        return self.linear(x * self.scale)


def test_what_a_model_caches_can_be_trained_with() -> None:
    task = small_task(model=lambda seed: Caching())
    model = task.build_model(0)
    predict(task, model, "fitness")
    x, _ = rows(4, 0)
    model(x.requires_grad_()).sum().backward()  # "Inference tensors cannot be saved for backward" otherwise


def test_draws_while_predicting_are_its_own() -> None:
    def noisy(model: nn.Module, batch: Any) -> Terms:
        x, y = batch
        return Terms(model(x + torch.randn(x.shape)), y)  # draws from the global generator, as augmentations do

    task = small_task(forward=noisy)
    model = task.build_model(0)
    assert predict(task, model, "fitness").output.equal(predict(task, model, "fitness").output)


def test_arranging_images() -> None:
    image, vector = torch.zeros(2, 3, 4, 4), torch.zeros(2, 3)
    assert arranged((image, vector), False)[0] is image  # type: ignore[index]
    for batch, pick in (((image, vector), 0), ([image, vector], 0), ({"x": image, "y": vector}, "x")):
        found = arranged(batch, True)
        assert type(found) is type(batch)
        assert found[pick].is_contiguous(memory_format=torch.channels_last)  # type: ignore[index]
    assert arranged(vector, True) is vector
    assert arranged("text", True) == "text"
