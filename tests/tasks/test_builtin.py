"""The built-in tasks against the design's table, and tasks named by text."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from lossmith.errors import DataMissingError, SpecError, TaskError, UnknownNameError
from lossmith.losses import Setting
from lossmith.tasks import SGD, TASKS, FunctionTask, Recipe, Task, resolve_task, schedules, task
from lossmith.tasks.datasets import RawData
from lossmith.tasks.prepare import Shares, colour_images, divide, grey_images, standardised, upsampled_digits

NESTEROV = SGD(0.01, momentum=0.9, nesterov=True, weight_decay=5e-4)
TABLE = {  # DESIGN §6
    "digits/mlp": (Recipe(3_000, 128, SGD(0.01)), 500),
    "digits/mlp2": (Recipe(3_000, 128, SGD(0.01)), 500),
    "digits/lenet5": (Recipe(3_000, 128, SGD(0.01)), 500),
    "diabetes/mlp": (Recipe(3_000, 128, NESTEROV), 500),
    "california/mlp": (Recipe(10_000, 128, NESTEROV), 500),
    "sine/mlp": (Recipe(100, 100, SGD(0.001)), 100),  # ALGORITHMS §5; the whole of train in every batch
    "mnist/cnn": (Recipe(20_000, 100, SGD(0.01)), 2_000),
    "mnist/lenet5": (Recipe(10_000, 128, SGD(0.01)), 500),
    "fashion_mnist/lenet5": (Recipe(10_000, 128, SGD(0.01)), 500),
    "cifar10/preresnet20": (
        Recipe(78_000, 128, SGD(0.1, 0.9, weight_decay=1e-4), schedule=schedules.step((0.5, 0.75), 0.1)),
        7_800,
    ),
}
PARAMETERS = {  # weights and biases counted by hand from the table's layer sizes
    "digits/mlp": 64 * 256 + 256 + 256 * 10 + 10,
    "digits/mlp2": 64 * 256 + 256 + 256 * 256 + 256 + 256 * 10 + 10,
    "diabetes/mlp": 10 * 64 + 64 + 64 * 64 + 64 + 64 + 1,
    "california/mlp": 8 * 128 + 128 + 128 * 128 + 128 + 128 + 1,
    "sine/mlp": 100 + 100 + 100 * 10 + 10 + 10 + 1,
    "mnist/cnn": 832 + 51_264 + 64 * 49 * 1024 + 1024 + 10_250,
    "digits/lenet5": 61_706,  # LeCun et al. 1998's layer sizes with full connections, 156+2416+48120+10164+850
}


def test_the_catalogue_is_the_designs_table() -> None:
    assert {name: (built.recipe, built.partial) for name, built in TASKS.items()} == TABLE


@pytest.mark.parametrize("name", sorted(PARAMETERS))
def test_networks(name: str) -> None:
    torch_state = torch.get_rng_state()
    with torch.random.fork_rng():
        model = TASKS[name].model(0)
    assert sum(p.numel() for p in model.parameters()) == PARAMETERS[name]
    assert torch.equal(torch_state, torch.get_rng_state())


@pytest.mark.parametrize("name", ["digits/mlp", "digits/mlp2", "digits/lenet5"])
def test_digits(name: str) -> None:
    found = task(name)
    assert [len(data) for data in found.data.values()] == [898, 270, 270, 359]  # 50, 15, 15, 20 % of 1,797
    assert found.setting == Setting("softmax", 10, True)
    x = found.data["train"].tree[0]
    assert x.shape[1:] == ((1, 28, 28) if name == "digits/lenet5" else (64,))
    assert float(x.min()) == 0.0
    assert 0.99 < float(x.max()) <= 1.0
    assert found.prior().max() - found.prior().min() < 0.01
    assert (found.name, found.reference, found.partial) == (name, name, 500)
    whole = np.concatenate([data.tree[1].numpy() for data in found.data.values()])
    assert len(whole) == 1797


def test_diabetes_is_standardised_with_training_statistics() -> None:
    found = task("diabetes/mlp")
    assert [len(data) for data in found.data.values()] == [222, 66, 66, 88]  # 50, 15, 15, 20 % of 442
    assert found.setting == Setting("identity", 1, False)
    assert found.metric.name == "mse"
    for part in found.data["train"].tree:
        torch.testing.assert_close(part.mean(0), torch.zeros(part.shape[1]), atol=1e-5, rtol=0)
        torch.testing.assert_close(part.std(0, correction=0), torch.ones(part.shape[1]), atol=1e-5, rtol=0)
    assert float(found.data["test"].tree[0].mean().abs()) > 1e-4  # not by its own statistics


def test_one_full_step_of_every_bundled_task_learns_something() -> None:
    for name in ("digits/mlp", "diabetes/mlp"):
        found = task(name)
        model, batch = found.build_model(0), found.data["train"].batch(torch.arange(128))
        optimizer, losses = found.recipe.make_optimizer(model.parameters()), []
        for _ in range(20):
            terms = found.terms(model, batch)[0]
            loss = found.task_loss()(terms.output, terms.target)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(float(loss.detach()))
        assert losses[-1] < losses[0]


def test_steps_scale_the_partial_training() -> None:
    found = task("digits/mlp", steps=600)
    assert (found.steps, found.partial) == (600, 100)


def test_modifiers_in_the_reference() -> None:
    found = task("digits/mlp@fraction=0.1@noise=0.4")
    assert found.name == found.reference == "digits/mlp@noise=0.4@fraction=0.1"
    assert len(found.data["train"]) == 90
    assert found.fingerprint() == task(found.name).fingerprint()
    assert found.fingerprint()["digest"] != task("digits/mlp@fraction=0.1").fingerprint()["digest"]


@pytest.mark.parametrize(
    ("reference", "error", "words"),
    [
        ("digits/mpl", UnknownNameError, ["task", "'digits/mpl'", "'digits/mlp'", "lossmith tasks"]),
        ("digits/mlp@nose=0.4", UnknownNameError, ["modifier", "'nose'", "'noise'"]),
        ("digits/mlp@noise=1.4", SpecError, ["noise", "1.4", "[0, 1]"]),
        ("digits/mlp@", UnknownNameError, ["modifier"]),
        ("mnist/lenet5", DataMissingError, ["mnist", "lossmith data"]),
    ],
)
def test_bad_references(
    reference: str, error: type[Exception], words: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LOSSMITH_DATA", str(tmp_path))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    with pytest.raises(error) as caught:
        task(reference)
    for word in words:
        assert word in str(caught.value)


def test_steps_out_of_range() -> None:
    with pytest.raises(TaskError, match=r"Recipe\.steps is 0"):
        task("digits/mlp", steps=0)


def test_official_test_rows_stay_the_test_split() -> None:
    x, y = torch.arange(100.0)[:, None], torch.arange(100) % 4
    raw = RawData("toy", (x, y), (x + 100, y), 4, "", "", "")
    splits = divide(raw, Shares(10, 20))
    assert {split: len(pair[0]) for split, pair in splits.items()} == {
        "train": 70,
        "fitness": 10,
        "selection": 20,
        "test": 100,
    }
    assert torch.cat([pair[0] for pair in splits.values()]).unique().numel() == 200
    assert torch.equal(splits["test"][0], x + 100)


def test_images_are_scaled() -> None:
    pixels = torch.arange(2 * 3 * 1024, dtype=torch.int64).remainder(256).to(torch.uint8).reshape(2, 3, 32, 32)
    splits = colour_images({"train": (pixels, torch.zeros(2)), "test": (pixels[:1], torch.zeros(1))})
    train = splits["train"][0].transpose(0, 1).reshape(3, -1)
    torch.testing.assert_close(train.mean(1), torch.zeros(3), atol=1e-5, rtol=0)
    torch.testing.assert_close(train.std(1, correction=0), torch.ones(3), atol=1e-5, rtol=0)
    torch.testing.assert_close(splits["test"][0][0], splits["train"][0][0])
    grey = grey_images({"train": (torch.full((1, 1, 28, 28), 51, dtype=torch.uint8), torch.zeros(1))})
    assert float(grey["train"][0].mean()) == pytest.approx(0.2)  # 51/255


def test_digits_are_upsampled_bilinearly() -> None:
    ramp = torch.arange(8).repeat(8, 1)[None, None] * 2.0  # brightness grows by 2/16 per column
    image = upsampled_digits({"train": (ramp, torch.zeros(1))})["train"][0]
    assert image.shape == (1, 1, 28, 28)
    columns = image[0, 0, 0]
    inner = columns[2:-2].diff()  # between the centres of the outermost pixels a straight line: 8/28 pixel per step
    torch.testing.assert_close(inner, torch.full_like(inner, 8 / 28 * 2 / 16))


def test_a_constant_column_is_not_divided_by_zero() -> None:
    table = torch.tensor([[1.0, 5.0], [2.0, 5.0]])
    splits = standardised({"train": (table, torch.tensor([1.0, 3.0]))})
    assert splits["train"][0].tolist() == [[-1.0, 0.0], [1.0, 0.0]]
    assert splits["train"][1].tolist() == [[-1.0], [1.0]]


MODULE = """
import torch, lossmith.tasks as T
x, y = torch.arange(40.0)[:, None], torch.arange(40) % 2
def make():
    return T.Task(model=lambda seed: torch.nn.Linear(1, 2), train=(x, y), recipe=T.Recipe(50), name="mine")
def function():
    return T.Task.from_function(lambda loss, trial: 0.5, outputs=2)
def broken():
    return 1 / 0
def nothing():
    pass
ready = make()
number = 3
class Holder:
    @staticmethod
    def make():
        return make()
"""


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    (tmp_path / "my_own_tasks.py").write_text(MODULE)
    (tmp_path / "my_broken_module.py").write_text("import a_module_nobody_has")
    (tmp_path / "my_failing_module.py").write_text("raise OSError('disk on fire')")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    yield "my_own_tasks"
    for name in ("my_own_tasks", "my_broken_module", "my_failing_module"):
        sys.modules.pop(name, None)


def test_a_users_task_by_module_and_function(module: str) -> None:
    found = resolve_task(f"{module}:make")
    assert isinstance(found, Task)
    assert (found.name, found.reference) == ("mine", f"{module}:make")
    assert resolve_task(f"{module}:ready").fingerprint()["digest"] == found.fingerprint()["digest"]
    assert resolve_task(f"{module}:Holder.make").outputs == 2
    noisy = resolve_task(f"{module}:make@noise=0.2", steps=20)
    assert isinstance(noisy, Task)
    assert (noisy.reference, noisy.name, noisy.steps) == (f"{module}:make@noise=0.2", "mine@noise=0.2", 20)
    function = resolve_task(f"{module}:function", steps=20)
    assert isinstance(function, FunctionTask)
    assert (function.reference, function.steps) == (f"{module}:function", 20)
    assert os.getcwd() in sys.path


def test_resolve_also_takes_built_ins() -> None:
    assert resolve_task("digits/mlp", steps=10).name == "digits/mlp"


@pytest.mark.parametrize(
    ("text", "error", "words"),
    [
        ("no_such_module:make", TaskError, ["'no_such_module'", "install"]),
        ("my_broken_module:make", TaskError, ["my_broken_module", "'a_module_nobody_has'", "install"]),
        ("my_failing_module:make", TaskError, ["my_failing_module", "OSError", "disk on fire"]),
        ("my_own_tasks:mak", TaskError, ["my_own_tasks", "'mak'", "did you mean make"]),
        ("my_own_tasks:nothing", TaskError, ["nothing()", "NoneType", "lm.Task"]),
        ("my_own_tasks:number", TaskError, ["number", "int", "function"]),
        ("my_own_tasks:broken", TaskError, ["broken()", "ZeroDivisionError"]),
        ("my_own_tasks:", TaskError, ["package.module:function"]),
        ("folder/my_own_tasks.py:make", TaskError, ["import name"]),
        ("my_own_tasks.py", TaskError, ["my_own_tasks:FUNCTION"]),
        ("my_own_tasks:function@noise=0.1", TaskError, ["floor A", "@noise=0.1"]),
        ("my_own_tasks:make@noise=7", SpecError, ["noise", "7"]),
        ("digit", UnknownNameError, ["task", "'digit'"]),
    ],
)
def test_bad_texts(text: str, error: type[Exception], words: list[str], module: str) -> None:
    with pytest.raises(error) as caught:
        resolve_task(text)
    for word in words:
        assert word in str(caught.value)


@pytest.mark.real_data
@pytest.mark.parametrize(
    ("name", "rows", "shape"),
    [
        ("mnist/cnn", [55_000, 2_500, 2_500, 10_000], (1, 28, 28)),
        ("fashion_mnist/lenet5", [55_000, 2_500, 2_500, 10_000], (1, 28, 28)),
        ("cifar10/preresnet20", [45_000, 2_500, 2_500, 10_000], (3, 32, 32)),
        ("california/mlp", [12_384, 2_064, 2_064, 4_128], (8,)),
    ],
)
def test_real_files(name: str, rows: list[int], shape: tuple[int, ...]) -> None:
    try:
        found = task(name)
    except DataMissingError as missing:
        pytest.skip(str(missing))
    assert [len(data) for data in found.data.values()] == rows
    assert found.data["train"].tree[0].shape[1:] == shape
    assert found.outputs == (1 if name == "california/mlp" else 10)
