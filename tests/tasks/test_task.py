"""Floor B: splits, the probe, priors, models from seeds, copies, fingerprints, the wire to workers."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import cloudpickle
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from lossmith.errors import LossError, TaskError, UnknownNameError
from lossmith.losses import Setting
from lossmith.tasks import Recipe, Task, Terms, supervised
from lossmith.tasks.terms import as_terms

RECIPE = Recipe(10)


def rows(n: int, classes: int = 3) -> tuple[Tensor, Tensor]:
    """n rows that can be told apart: x holds the row number."""
    return torch.arange(float(n))[:, None], torch.arange(n) % classes


def make_task(**parts: Any) -> Task:
    given = {"model": lambda seed: nn.Linear(1, 3), "train": rows(90), "recipe": RECIPE}
    return Task(**{**given, **parts})


def numbers(task: Task, split: str) -> set[float]:
    return set(task.data[split].batch(torch.arange(len(task.data[split])))[0][:, 0].tolist())


@settings(max_examples=40, deadline=None)
@given(n=st.integers(3, 120), m=st.integers(2, 60), seed=st.integers(0, 5), given_valid=st.booleans())
def test_splits_share_no_row_and_lose_none(n: int, m: int, seed: int, given_valid: bool) -> None:
    valid = (torch.arange(1000.0, 1000.0 + m)[:, None], torch.arange(m) % 3) if given_valid else None
    task = make_task(train=rows(n), valid=valid, seed=seed)
    parts = [numbers(task, split) for split in ("train", "fitness", "selection")]
    assert sum(map(len, parts)) == len(set().union(*parts)) == n + (m if given_valid else 0)
    assert all(parts)
    assert list(task.data) == ["train", "fitness", "selection"]  # test is not made up
    again = make_task(train=rows(n), valid=valid, seed=seed)
    assert [numbers(again, split) for split in again.data] == parts


def test_splits_are_stratified_and_seeded() -> None:
    task = make_task(train=rows(300))
    assert {split: data.targets.bincount().tolist() for split, data in task.data.items()} == {
        "train": [80, 80, 80],  # a fifth of 300 is 60, half of it 30, a third of each class
        "fitness": [10, 10, 10],
        "selection": [10, 10, 10],
    }
    assert numbers(make_task(train=rows(300), seed=1), "fitness") != numbers(task, "fitness")


def test_given_splits_are_taken_as_they_are() -> None:
    task = make_task(valid=rows(6), selection=rows(9), test=rows(12))
    assert [len(data) for data in task.data.values()] == [90, 6, 9, 12]


def test_equal_seeds_give_equal_models_and_the_global_state_is_put_back() -> None:
    task = make_task()
    before = torch.get_rng_state()
    first, second, third = (task.build_model(seed).weight for seed in (0, 0, 1))
    assert torch.equal(first, second)
    assert not torch.equal(first, third)
    assert torch.equal(before, torch.get_rng_state())


def test_outputs_setting_and_hard_targets() -> None:
    assert make_task().setting == Setting("softmax", 3, True)
    x, y = rows(90)
    soft = torch.full((90, 3), 1 / 3)
    assert make_task(train=(x, soft)).setting == Setting("softmax", 3, False)
    assert make_task(train=(x, torch.eye(3)[y])).hard_targets
    labels = make_task(train=(x, torch.eye(3)[y]), head="sigmoid", metric="error_rate")
    assert labels.setting == Setting("sigmoid", 3, True)
    regression = make_task(train=(x, torch.randn(90, 3, generator=torch.Generator().manual_seed(0))), head="identity")
    assert regression.setting == Setting("identity", 3, False)
    assert regression.metric.name == "mse"
    assert regression.controls == ("mse",)


def test_the_task_loss_is_the_first_control_under_the_head() -> None:
    loss = make_task().task_loss()
    output, target = torch.tensor([[2.0, 0.5, -1.0]]), torch.tensor([0])
    assert float(loss(output, target)) == pytest.approx(float(nn.functional.cross_entropy(output, target)))
    x, y = rows(90)
    assert make_task(train=(x, torch.eye(3)[y]), head="identity").task_loss().head == "identity"
    assert make_task(controls=["mse", "cross_entropy"]).task_loss().name == make_task(controls="mse").task_loss().name


def test_prior_counts_training_rows() -> None:
    x, y = torch.zeros(10, 1), torch.tensor([0] * 6 + [1] * 4)
    task = make_task(train=(x, y), valid=rows(4))
    # 6, 4, and half a row for the class that never occurs
    torch.testing.assert_close(task.prior(), torch.tensor([6, 4, 0.5], dtype=torch.float64) / 10.5)
    soft = make_task(
        train=(x, torch.tensor([[0.5, 0.25, 0.25]]).repeat(10, 1)), valid=(x[:4], torch.eye(3)[[0, 1, 2, 0]])
    )
    torch.testing.assert_close(soft.prior(), torch.tensor([0.5, 0.25, 0.25], dtype=torch.float64))
    one = make_task(model=lambda seed: nn.Linear(1, 1), train=(x, y.float()), valid=(x, y.float()), head="sigmoid")
    torch.testing.assert_close(one.prior(), torch.tensor([0.6, 0.4], dtype=torch.float64))
    assert make_task(train=(x, torch.eye(3)[y]), head="identity").prior() is None


def tagging(model: nn.Module, batch: dict[str, Tensor]) -> Terms:
    """A masked sequence: [B, T] tokens, tags and mask."""
    return Terms(model(batch["tokens"][..., None]), batch["tags"], weight=batch["mask"])


def tagging_task(**parts: Any) -> Task:
    mask = (torch.arange(5) < torch.arange(60)[:, None] % 5 + 1).float()
    tags = torch.where(mask > 0, 1, -100)
    tokens = torch.arange(300.0).reshape(60, 5)
    return make_task(train={"tokens": tokens, "tags": tags, "mask": mask}, forward=tagging, **parts)


def test_masked_positions_do_not_count() -> None:
    task = tagging_task()
    assert task.outputs == 3
    assert task.prior()[1] > 0.98  # every unmasked tag is 1; the two absent classes hold half a row each


def test_a_forward_may_return_several_terms() -> None:
    def both(model: nn.Module, batch: Any) -> tuple[Terms, Terms]:
        output = model(batch[0])
        return Terms(output, batch[1]), Terms(output.detach(), batch[1])

    task = make_task(forward=both)
    assert len(task.probe) == 2
    assert task.outputs == 3


def test_supervised_and_as_terms_refuse_in_a_sentence() -> None:
    with pytest.raises(TaskError, match="got 3 parts"):
        supervised(nn.Identity(), (1, 2, 3))
    with pytest.raises(TaskError, match="forward returned Tensor"):
        as_terms(torch.zeros(1))
    with pytest.raises(TaskError, match="forward returned tuple"):
        as_terms((torch.zeros(1), torch.zeros(1)))
    with pytest.raises(TaskError, match="forward returned tuple"):
        as_terms(())


@given(st.integers(0, 50), st.floats(0.01, 1), st.floats(0.01, 1))
def test_fractions_of_train_are_nested(seed: int, a: float, b: float) -> None:
    task = _TASK
    small, large = (set(task.train_rows(share, seed).tolist()) for share in sorted((a, b)))
    assert small <= large
    assert len(large) == max(1, round(max(a, b) * 72))


_TASK = make_task()


def test_train_rows() -> None:
    assert torch.equal(_TASK.train_rows(), torch.arange(72))
    half = _TASK.train_rows(0.5, seed=3)
    assert _TASK.data["train"].targets[half].bincount().tolist() == [12, 12, 12]
    assert not torch.equal(half, _TASK.train_rows(0.5, seed=4))
    with pytest.raises(TaskError, match=r"fraction is 0.*\(0, 1\]"):
        _TASK.train_rows(0)


def test_copies() -> None:
    task = make_task(recipe=Recipe(1000), partial=100)
    assert (task.fresh(steps=50).steps, task.fresh(steps=50).partial) == (50, 5)
    assert task.steps == 1000
    assert task.fresh(recipe=Recipe(7)).steps == 7
    assert task.fresh(steps=50).data is task.data
    wide = task.replace(model=lambda seed: nn.Linear(1, 4))
    assert (task.outputs, wide.outputs) == (3, 4)  # nothing stale
    assert task.replace(data={"test": rows(12)}).data["test"].targets.shape == (12,)
    with pytest.raises(UnknownNameError, match="'recipe'"):
        task.replace(recip=1)
    with pytest.raises(AttributeError):
        task.name = "other"  # type: ignore[misc]


def test_to_device() -> None:
    moved = make_task().to_device("meta")
    assert moved.device.type == "meta"
    assert {data.device.type for data in moved.data.values()} == {"meta"}


def test_the_fingerprint_knows_what_decides_results() -> None:
    task = make_task()
    mark = task.fingerprint()
    json.dumps(mark, allow_nan=False)
    assert make_task().fingerprint() == mark
    x, y = rows(90)
    others = [
        make_task(train=(x + 1, y)),
        make_task(train=(x, y.roll(1))),
        make_task(recipe=Recipe(11)),
        make_task(model=lambda seed: nn.Sequential(nn.Linear(1, 3))),
        make_task(metric="macro_f1"),
        make_task(controls=["mse"]),
        make_task(seed=1),
        make_task(train=(x, torch.eye(3)[y])),
        make_task(train=(x, torch.eye(3)[y]), head=torch.sigmoid),
    ]
    digests = {other.fingerprint()["digest"] for other in others}
    assert len(digests) == len(others)
    assert mark["digest"] not in digests
    assert make_task(name="n", reference="m:f").fingerprint()["digest"] == mark["digest"]
    mark["digest"] = "spoilt"
    assert task.fingerprint()["digest"] != "spoilt"


def test_repr_tells_sizes() -> None:
    assert repr(_TASK) == "Task('custom': 72/9/9 rows in train/fitness/selection, softmax head, error_rate, 10 steps)"


SCRIPT = """
import sys, cloudpickle, torch, lossmith.tasks as T
x, y = torch.arange(40.0)[:, None], torch.arange(40) % 2
task = T.Task(
    model=lambda seed: torch.nn.Linear(1, 2), train=(x, y), recipe=T.Recipe(5),
    forward=lambda model, batch: T.Terms(model(batch[0]), batch[1]),
)
function = T.Task.from_function(lambda loss, trial: 0.25 * trial.budget, outputs=2)
sys.stdout.buffer.write(cloudpickle.dumps((task, task.fingerprint(), task.build_model(3).weight.detach(), function)))
"""


def test_tasks_made_of_lambdas_in_main_reach_another_process() -> None:
    """The script's `__main__` is not ours, as a worker's is not the notebook's."""
    source = Path(__file__).parents[2] / "src"
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT], capture_output=True, check=True, env={"PYTHONPATH": str(source)}
    )
    task, mark, weight, function = cloudpickle.loads(done.stdout)
    assert task.fingerprint() == mark
    assert torch.equal(task.build_model(3).weight, weight)
    assert task.terms(task.build_model(0), task.data["train"].batch(torch.arange(4)))[0].output.shape == (4, 2)
    assert function.run(nn.Identity(), seed=0, budget=0.5).value == 0.125


class Net(nn.Linear):
    def __init__(self, width: int = 3) -> None:
        super().__init__(1, width)


@pytest.mark.parametrize(
    ("parts", "words"),
    [
        ({"model": Net}, ["model", "Net", "lambda seed: Net()"]),
        ({"model": 3}, ["model", "int"]),
        ({"model": lambda: None}, ["model", "no seed", "lambda seed"]),
        ({"forward": None}, ["forward", "Terms"]),
        ({"recipe": {"steps": 3}}, ["recipe", "lm.Recipe"]),
        ({"controls": []}, ["controls", "[]"]),
        ({"controls": [None]}, ["controls"]),
        ({"partial": 0}, ["Task.partial", "0", "[1, inf)"]),
        ({"seed": -1}, ["Task.seed", "-1"]),
        ({"train": rows(2)}, ["train", "2 rows", "valid="]),
        ({"valid": rows(1)}, ["valid", "one row"]),
        ({"selection": rows(0)}, ["selection", "no rows"]),
        ({"test": "mnist"}, ["test", "str"]),
        ({"metric": lambda output, target: 0.0}, ["direction"]),
    ],
)
def test_bad_parts_are_refused_in_a_sentence(parts: dict[str, Any], words: list[str]) -> None:
    with pytest.raises(TaskError) as caught:
        make_task(**parts)
    for word in words:
        assert word in str(caught.value)


def test_an_unknown_head() -> None:
    with pytest.raises(LossError, match="softmx"):
        make_task(head="softmx")


def test_a_model_factory_that_returns_nothing() -> None:
    with pytest.raises(TaskError, match=r"model returned NoneType.*nn\.Module"):
        make_task(model=lambda seed: None).build_model(0)


def test_a_failing_forward_pass_is_told_with_its_reason() -> None:
    with pytest.raises(TaskError, match=r"failed on the first 8 training rows \(RuntimeError: .*check_task"):
        make_task(model=lambda seed: nn.Linear(2, 3)).outputs  # noqa: B018
