"""What a stack of perceptrons promises beyond being right, which is for `test_perceptron`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from unrolled_by_hand import NAMES, losses, phi

from lossmith.errors import UsageError
from lossmith.losses import loss
from lossmith.records import Tuning
from lossmith.tasks import SGD, Recipe, Task
from lossmith.training import perceptron_step, tune
from lossmith.training.closed_form import closed_form
from lossmith.training.functional_sgd import Descent
from lossmith.training.kept import Kept
from lossmith.training.meta_gradient import MetaGradient, Road, Unroll, draw
from lossmith.training.perceptron import layers_of
from lossmith.training.perceptron_step import Perceptron, stack_size
from lossmith.training.tunable import Tunable


def wide(seed: int) -> nn.Module:
    return nn.Sequential(
        nn.Linear(64, 128), nn.ReLU(), nn.Linear(128, 96), nn.ReLU(), nn.Linear(96, 96), nn.Tanh(), nn.Linear(96, 3)
    )


def wide_task(model: Any = wide) -> Task:
    y = torch.arange(400) % 3
    noise = torch.randn(400, 64, generator=torch.Generator().manual_seed(3))
    sgd = SGD(0.1, momentum=0.9, nesterov=True, weight_decay=1e-3)
    recipe = Recipe(steps=50, batch_size=128, optimizer=sgd)
    return Task(model=model, train=(torch.eye(3, 64)[y] + noise, y), recipe=recipe)


def found(
    task: Task, names: Sequence[str], chunks: tuple[tuple[int, ...], ...], *, kept: Kept | None = None, **how: Any
) -> dict[int, MetaGradient]:
    sgd = task.recipe.optimizer
    assert isinstance(sgd, SGD)
    candidates = [Tunable.of(one, task) for one in losses(*names)]
    unroll = Unroll(
        task, loss("cross_entropy"), Descent(sgd, 0.1), 1, Road("layers", 9), chunks, kept=kept or Kept(), **how
    )
    return closed_form(unroll, draw(task, 5, 0, 1), candidates, [one.phi for one in candidates])


def error(a: MetaGradient, b: MetaGradient) -> float:
    return float(np.abs(a.gradient - b.gradient).max() / np.abs(b.gradient).max())


def test_a_candidate_has_the_same_bits_in_any_company() -> None:
    task, names = wide_task(), [*NAMES, *NAMES, "tanh"]
    whole, kept = found(task, names, (tuple(range(9)),)), Kept()
    for size in (1, 2, 3, 4, 7):
        chunks = tuple(tuple(range(at, min(at + size, 9))) for at in range(0, 9, size))
        parts = found(task, names, chunks, kept=kept)  # memory goes from chunk to chunk
        for i in range(9):
            assert np.array_equal(parts[i].gradient, whole[i].gradient)
            assert (parts[i].value, parts[i].inner) == (whole[i].value, whole[i].inner)
    (alone,) = found(task, ["taylor"], ((0,),)).values()
    assert np.array_equal(alone.gradient, whole[names.index("taylor")].gradient)


def test_jacobians_are_taken_where_outputs_are_few(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Any] = []
    honest = perceptron_step.pulled

    def spied(delta: Tensor, jacobian: Tensor, out: Tensor) -> Tensor:
        asked.append(tuple(jacobian.shape))
        return honest(delta, jacobian, out)

    monkeypatch.setattr(perceptron_step, "pulled", spied)
    task = wide_task()
    with_them = found(task, NAMES, ((0, 1, 2, 3),))
    assert asked == [(128, 3, 96), (128, 3, 128)]
    many = wide_task(lambda seed: nn.Sequential(nn.Linear(64, 96), nn.ReLU(), nn.Linear(96, 96), nn.Linear(96, 20)))
    found(many, NAMES, ((0, 1, 2, 3),))
    assert len(asked) == 2
    monkeypatch.setattr(perceptron_step, "_pays", lambda outputs, width: False)
    without = found(task, NAMES, ((0, 1, 2, 3),))
    assert len(asked) == 2
    assert all(error(with_them[i], without[i]) < 1e-4 for i in range(4))


def test_bfloat16_is_float32_with_less_to_it() -> None:
    task = wide_task()
    exact, rough = (found(task, NAMES, ((0, 1, 2, 3),), dtype=dtype) for dtype in ("float32", "bfloat16"))
    for i in range(4):
        assert 1e-6 < error(rough[i], exact[i]) < 0.05
        assert rough[i].value == pytest.approx(exact[i].value, rel=1e-2)
        assert rough[i].inner == exact[i].inner  # losses at θ0 are not touched
    double = wide_task(lambda seed: wide(seed).double())
    double = double.replace(data={split: (rows.tree[0].double(), rows.tree[1]) for split, rows in double.data.items()})
    same = [found(double, NAMES, ((0, 1, 2, 3),), dtype=dtype) for dtype in ("float32", "bfloat16")]
    assert all(np.array_equal(same[0][i].gradient, same[1][i].gradient) for i in range(4))


def test_a_tuning_says_that_it_was_done_in_bfloat16() -> None:
    task, tuning = wide_task(), Tuning(meta_steps=3, meta_lr=0.05)
    exact, rough = (tune(task, losses("taylor"), tuning, seed=0, dtype=dtype)[0] for dtype in ("float32", "bfloat16"))
    assert (exact.road, rough.road) == ("closed form, layer by layer", "closed form, layer by layer in bfloat16")
    assert 0 < np.abs(phi(exact) - phi(rough)).max() < 0.05 * np.abs(phi(exact) - losses("taylor")[0].kernel.phi).max()
    two = replace(tuning, unroll_length=2)
    assert "bfloat16" not in tune(task, losses("taylor"), two, seed=0, dtype="bfloat16")[0].road
    with pytest.raises(UsageError, match="dtype 'float16' of a tuning: use 'float32' or 'bfloat16'"):
        tune(task, losses("taylor"), tuning, seed=0, dtype="float16")


def test_what_is_given_is_not_written_to() -> None:
    task = wide_task(lambda seed: nn.Sequential(nn.Linear(64, 8), nn.ReLU(), nn.Linear(8, 3), nn.ReLU()))
    drawn = draw(task, 0, 0, 1)
    (x, _), (after, _) = drawn.train[0], drawn.fitness
    before = [x.clone(), after.clone(), *(p.detach().clone() for p in drawn.model.parameters())]
    perceptron = Perceptron(
        layers_of(task, drawn.model), x, after, rate=0.1, decay=0.0, kept=Kept(), dtype=torch.float32
    )
    delta, back = torch.full((2, 128, 3), 1e-4), torch.ones(2, len(after), 3)
    _, pull = perceptron.step(delta)
    assert pull(back).abs().max() > 0
    assert all(map(torch.equal, before, [x, after, *drawn.model.parameters()]))
    assert delta.equal(torch.full_like(delta, 1e-4))
    assert back.equal(torch.ones_like(back))


def test_larger_networks_come_in_smaller_stacks() -> None:
    def size(*widths: int) -> int:
        modules = [nn.Linear(*pair, device="meta") for pair in pairwise(widths)]
        return stack_size(layers_of(wide_task(), nn.Sequential(*modules)), 128)

    assert size(8192, 8192, 10) == 1
    assert 1 < size(64, 256, 256, 10) < size(64, 256, 10)
