"""Several tasks as one: what they have in common, what they are told by, and which do not go together."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from small_tasks import FEATURES, rows, small_task
from torch import nn

import lossmith as lm
from lossmith.errors import SpecError, TaskError, UnknownNameError
from lossmith.losses import Setting
from lossmith.tasks import FunctionTask, SeveralTasks, Task, all_parts, members_of, resolve_task
from lossmith.testing import check_task


def binary_task() -> Task:
    """Two classes where the small task has three."""

    def two(count: int, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
        x, y = rows(count, seed)
        return x, (y == 0).long()

    parts = {"train": two(90, 0), "valid": two(30, 1), "selection": two(30, 2), "test": two(30, 3)}
    return small_task(model=lambda seed: nn.Linear(FEATURES, 2), name="binary", **parts)


def function_task() -> FunctionTask:
    return lm.Task.from_function(lambda loss, trial: 0.5, outputs=3, metric="error_rate", name="mine", steps=50)


def test_what_several_have_in_common() -> None:
    both = SeveralTasks([small_task(steps=30, name="three"), binary_task()])
    assert (both.name, both.head, both.metric.name, both.controls) == (
        "three + binary",
        "softmax",
        "error_rate",
        ("cross_entropy",),
    )
    assert (both.steps, both.partial, both.reference) == (60, None, None)
    assert both.setting == Setting("softmax", 3, True)  # the largest C
    assert both.task_loss().name == "cross_entropy"
    check_task(both)


def test_references_and_names_are_joined() -> None:
    both = resolve_task("digits/mlp@noise=0.4,digits/mlp2", steps=600)
    assert isinstance(both, SeveralTasks)
    assert both.reference == "digits/mlp@noise=0.4,digits/mlp2"
    assert (both.steps, both.partial, [one.steps for one in both.tasks]) == (1200, 200, [600, 600])
    three = SeveralTasks([both, lm.task("digits/lenet5")])
    assert three.name == "digits/mlp@noise=0.4 + digits/mlp2 + digits/lenet5"


def test_a_family_keeps_its_short_name() -> None:
    family = resolve_task("sine/mlp@wave=0-9@noise=0.1")
    assert isinstance(family, SeveralTasks)
    assert family.name == family.reference == "sine/mlp@wave=0-9@noise=0.1"
    assert [one.name for one in family.tasks][:2] == ["sine/mlp@wave=0@noise=0.1", "sine/mlp@wave=1@noise=0.1"]
    assert resolve_task("sine/mlp@wave=4-4").name == "sine/mlp@wave=4"
    many = resolve_task("sine/mlp,sine/mlp@wave=0-5")
    assert many.name.endswith("sine/mlp@wave=2 + 3 more")
    assert resolve_task(str(many.reference)).fingerprint() == many.fingerprint()


def test_the_fingerprint_is_of_all() -> None:
    def digest(text: str, steps: int | None = None) -> str:
        return str(resolve_task(text, steps=steps).fingerprint()["digest"])

    first = digest("sine/mlp,sine/mlp@wave=1")
    assert first == digest(" sine/mlp , sine/mlp@wave=1 ")
    others = [digest("sine/mlp,sine/mlp@wave=2"), digest("sine/mlp"), digest("sine/mlp,sine/mlp@wave=1", 50)]
    assert len({first, *others}) == 4
    found = resolve_task("sine/mlp,sine/mlp@wave=1").fingerprint()
    assert found["metric"]["name"] == "mse"
    assert [one["digest"] for one in found["tasks"]] == [digest("sine/mlp"), digest("sine/mlp@wave=1")]


def test_steps_are_for_all_or_for_each() -> None:
    both = resolve_task("digits/mlp,digits/mlp2", steps=[300, 30])
    assert isinstance(both, SeveralTasks)
    assert [one.steps for one in both.tasks] == [300, 30]
    assert both.fresh(steps=60).steps == 120
    assert both.fresh().fingerprint() == both.fingerprint()
    with pytest.raises(TaskError, match="3 numbers of steps for 2 tasks"):
        both.fresh(steps=[1, 2, 3])
    with pytest.raises(TaskError, match="2 numbers of steps for the one task digits/mlp"):
        resolve_task("digits/mlp", steps=(3, 4))


def test_members_and_floors() -> None:
    small, function = small_task(), function_task()
    mixed = SeveralTasks([small, function])
    assert members_of(mixed) == (small, function)
    assert members_of(small) == (small,)
    assert (all_parts(small), all_parts(mixed), all_parts(SeveralTasks([small, binary_task()]))) == (True, False, True)
    assert SeveralTasks([mixed, binary_task()]).tasks[:2] == (small, function)
    assert mixed.steps == 80


@pytest.mark.parametrize(
    ("other", "words"),
    [
        (lambda: small_task(), "is given twice"),
        (lambda: small_task(head="identity", metric="mse", train=(rows(9, 0)[0], torch.zeros(9, 3))), "heads"),
        (lambda: small_task(metric="balanced_error"), "metrics are error_rate"),
        (lambda: small_task(controls=["focal", "cross_entropy"]), "task losses .* are cross_entropy and focal"),
        (
            lambda: small_task(
                train=(rows(90, 0)[0], torch.full((90, 3), 1 / 3)),
                valid=(rows(30, 1)[0], torch.full((30, 3), 1 / 3)),
                selection=(rows(30, 2)[0], torch.full((30, 3), 1 / 3)),
                test=None,
            ),
            "targets are classes and soft or real values",
        ),
    ],
)
def test_tasks_that_do_not_go_together(other: object, words: str) -> None:
    with pytest.raises(TaskError, match=words):
        SeveralTasks([small_task(), other()])  # type: ignore[operator]


@pytest.mark.parametrize(
    ("tasks", "words"),
    [
        ([], "two or more, not 0"),
        ([small_task()], "two or more, not 1"),
        (small_task(), "in a list"),
        ("digits/mlp,digits/mlp2", "in a list"),
        ([small_task(), "digits/mlp"], "'digits/mlp' is no task"),
    ],
)
def test_what_is_no_list_of_tasks(tasks: object, words: str) -> None:
    with pytest.raises(TaskError, match=words):
        SeveralTasks(tasks)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("text", "error", "words"),
    [
        ("digits/mlp,diabetes/mlp", TaskError, "heads are softmax and identity"),
        ("digits/mlp,digits/mlp", TaskError, "given twice"),
        ("digits/mlp,digits/mpl", UnknownNameError, "digits/mpl"),
        ("digits/mlp,digits/mlp2@noise=7", SpecError, "noise"),
    ],
)
def test_texts_of_tasks_that_do_not_go_together(text: str, error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=words):
        resolve_task(text)


MODULE = """
import lossmith as lm
def make():
    return lm.SeveralTasks([lm.task("sine/mlp"), lm.task("sine/mlp@wave=1")])
"""


def test_a_users_function_may_return_several(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr("sys.dont_write_bytecode", True)
    (tmp_path / "two_tasks_of_mine.py").write_text(MODULE)
    found = resolve_task("two_tasks_of_mine:make", steps=7)
    assert (found.reference, found.steps) == ("two_tasks_of_mine:make", 14)
    with pytest.raises(TaskError, match="is several tasks: modify each"):
        resolve_task("two_tasks_of_mine:make@noise=1")


def test_what_is_wrong_with_one_is_said_by_its_name() -> None:
    bad = small_task(name="bad", train=(torch.full((90, FEATURES), torch.nan), rows(90, 0)[1]))
    with pytest.raises(TaskError, match=r"^bad: 90 of 90 rows of the train split"):
        check_task(SeveralTasks([small_task(), bad]))
