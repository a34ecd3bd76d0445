"""Sine regression against the numbers of its source, and the texts that name waves and several tasks."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from lossmith.errors import SpecError, TaskError
from lossmith.losses import Setting
from lossmith.tasks import Task, task
from lossmith.tasks.references import split_references, take_wave
from lossmith.tasks.sine import Wave
from lossmith.testing import check_task
from lossmith.training import Training, train


def points(found: Task, split: str) -> tuple[np.ndarray, np.ndarray]:
    x, y = found.data[split].tree  # type: ignore[index]
    return x.numpy()[:, 0], y.numpy()[:, 0]


def test_the_training_wave_is_the_sources() -> None:
    found = task("sine/mlp")
    assert {split: len(data) for split, data in found.data.items()} == dict.fromkeys(
        ("train", "fitness", "selection", "test"), 100
    )
    assert found.setting == Setting("identity", 1, False)
    assert (found.metric.name, found.controls, found.reference) == ("mse", ("mse",), "sine/mlp")
    for split in found.data:
        x, y = points(found, split)
        np.testing.assert_allclose(y, np.sin(x - math.pi), atol=1e-6)  # ml3/sine_task_sampler.py: a·sin(f(x − φ))
        # The extremes of 100 uniform draws lie this far in one time in 10⁴ (0.91¹⁰⁰).
        assert -2 <= x.min() < -2 + 0.09 * 4
        assert 2 - 0.09 * 4 < x.max() <= 2
    check_task(found)


def test_loss_parameters_are_learned_on_the_training_points_and_judged_on_others() -> None:
    found = task("sine/mlp")
    seen = {split: set(points(found, split)[0].tolist()) for split in found.data}
    assert seen["fitness"] == seen["train"]
    assert len(seen["train"] | seen["selection"] | seen["test"]) == 300


def test_shared_rows_are_a_leak_where_they_are_not_asked_for() -> None:
    found = task("sine/mlp")
    with pytest.raises(TaskError, match="100 of 100 rows of the fitness split are training rows"):
        check_task(found.replace(same_rows=False))
    with pytest.raises(TaskError, match="rows of the test split are training rows"):
        check_task(found.replace(data={"test": found.data["train"]}))


def test_the_test_family_has_the_sources_ranges() -> None:
    waves = [Wave.member(number) for number in range(400)]
    amplitudes, phases = ([getattr(wave, name) for wave in waves] for name in ("amplitude", "phase"))
    # Of 400 uniform draws the extremes lie within 3 % of the ends but for one time in 10⁵ (0.97⁴⁰⁰).
    for values, low, high in ((amplitudes, 0.2, 5.0), (phases, -math.pi, math.pi)):
        assert low <= min(values) < low + 0.03 * (high - low)
        assert high - 0.03 * (high - low) < max(values) <= high
    assert {wave.reach for wave in waves} == {5.0}
    assert Wave.member(7) == Wave.member(7)


def test_a_member_is_a_task_of_its_own() -> None:
    found, wave = task("sine/mlp@wave=3"), Wave.member(3)
    x, y = points(found, "test")
    np.testing.assert_allclose(y, wave.amplitude * np.sin(x - wave.phase), atol=1e-5)
    assert x.max() > 4
    assert found.name == found.reference == "sine/mlp@wave=3"
    digests = {task(name).fingerprint()["digest"] for name in ("sine/mlp", "sine/mlp@wave=3", "sine/mlp@wave=4")}
    assert len(digests) == 3
    check_task(found)


def test_modifiers_work_on_waves() -> None:
    found = task("sine/mlp@noise=0.5@wave=3")
    assert found.name == "sine/mlp@wave=3@noise=0.5"
    assert task(found.name).fingerprint() == found.fingerprint()
    clean, noisy = points(task("sine/mlp@wave=3"), "train"), points(found, "train")
    assert np.array_equal(clean[0], noisy[0])
    assert 0.3 < (noisy[1] - clean[1]).std() / clean[1].std() < 0.7
    assert np.array_equal(points(found, "test")[1], points(task("sine/mlp@wave=3"), "test")[1])
    check_task(found)


def test_a_training_is_plain_full_batch_gradient_descent() -> None:
    found = task("sine/mlp", steps=20)
    trained = train(found, found.task_loss(), Training(seed=0, steps=20, splits=("test",)))
    model = found.build_model(0)
    x, y = found.data["train"].tree
    for _ in range(20):
        gradients = torch.autograd.grad(((model(x) - y) ** 2).mean(), [*model.parameters()])
        with torch.no_grad():
            for parameter, gradient in zip(model.parameters(), gradients, strict=True):
                parameter -= 1e-3 * gradient
    x, y = found.data["test"].tree
    start, by_hand = (float(((one(x) - y) ** 2).mean().detach()) for one in (found.build_model(0), model))
    assert abs(by_hand - start) > 0.01
    assert trained.metrics["test"] == pytest.approx(by_hand, abs=1e-4 * abs(by_hand - start))


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("digits/mlp", ["digits/mlp"]),
        (" digits/mlp , digits/lenet5 ", ["digits/mlp", "digits/lenet5"]),
        ("digits/mlp@noise=0.4,fraction=0.1", ["digits/mlp@noise=0.4,fraction=0.1"]),
        ("digits/mlp@noise=0.4,digits/lenet5@fraction=1", ["digits/mlp@noise=0.4", "digits/lenet5@fraction=1"]),
        ("digits/mlp@noise=0.4,fraction", ["digits/mlp@noise=0.4,fraction"]),  # whose sentence is the modifier's
        ("mine:make,other.tasks:make@noise=1", ["mine:make", "other.tasks:make@noise=1"]),
        ("sine/mlp@wave=9-11", ["sine/mlp@wave=9", "sine/mlp@wave=10", "sine/mlp@wave=11"]),
        ("sine/mlp@noise=1,wave=0-1", ["sine/mlp@noise=1,wave=0", "sine/mlp@noise=1,wave=1"]),
        ("sine/mlp@wave=2-2,sine/mlp", ["sine/mlp@wave=2", "sine/mlp"]),
        ("", [""]),
    ],
)
def test_what_texts_name(text: str, parts: list[str]) -> None:
    assert list(split_references(text)) == parts


@pytest.mark.parametrize(
    ("text", "error", "words"),
    [
        ("digits/mlp,", TaskError, "names nothing between two commas"),
        ("digits/mlp,,digits/lenet5", TaskError, "names nothing between two commas"),
        ("sine/mlp@wave=5-2", SpecError, "wave=5-2 names no task"),
        ("sine/mlp@wave=0-1000", SpecError, "more than 1,000 tasks"),
    ],
)
def test_texts_that_name_nothing(text: str, error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=words):
        split_references(text)


@pytest.mark.parametrize(
    ("reference", "error", "words"),
    [
        ("sine/mlp@wave=x", SpecError, "the modifier wave is 'x': it must be a whole number"),
        ("sine/mlp@wave=-1", SpecError, "the modifier wave is '-1'"),
        ("sine/mlp@wave", SpecError, "the modifier wave is ''"),
        ("sine/mlp@wave=1,wave=2", SpecError, "given twice"),
        ("digits/mlp@wave=2", SpecError, "digits/mlp has no waves"),
        ("sine/mlp@wave=0-9", TaskError, "names 10 tasks"),
        ("sine/mlp,digits/mlp", TaskError, "names 2 tasks"),
    ],
)
def test_one_task_is_wanted(reference: str, error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=words):
        task(reference)


def test_a_wave_among_other_modifiers() -> None:
    assert take_wave("sine/mlp", "noise=1@wave=4,fraction=0.5", waves=True) == (4, "noise=1@fraction=0.5")
    assert take_wave("digits/mlp", "noise=1", waves=False) == (None, "noise=1")
