"""`check_task`: silent on what is right, one sentence on each thing that is wrong."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import Dataset

from lossmith.errors import LossmithError, TaskError
from lossmith.tasks import Data, Recipe, Task, Terms, metrics, task
from lossmith.testing import check_task

X, Y = torch.randn(120, 4, generator=torch.Generator().manual_seed(0)), torch.arange(120) % 3


def make_task(**parts: Any) -> Task:
    given = {"model": lambda seed: nn.Linear(4, 3), "train": (X, Y), "recipe": Recipe(10)}
    return Task(**{**given, **parts})


class Items(Dataset):  # type: ignore[type-arg]
    def __init__(self, x: Tensor = X) -> None:
        self.x = x

    def __len__(self) -> int:
        return 120

    def __getitem__(self, i: int) -> dict[str, Any]:
        return {"x": self.x[i], "label": int(Y[i])}


def from_items(model: nn.Module, batch: dict[str, Tensor]) -> Terms:
    return Terms(model(batch["x"]), batch["label"])


def masked(model: nn.Module, batch: Any) -> Terms:
    x, y = batch
    return Terms(model(x), y, weight=(y >= 0).float())


class Unlucky(Exception):
    pass


@pytest.mark.parametrize(
    "good",
    [
        lambda: make_task(),
        lambda: make_task(train=Items(), forward=from_items),
        lambda: make_task(train=(X, Y.where(torch.arange(120) % 7 > 0, -100)), forward=masked),
        lambda: make_task(train=(X, torch.full((120, 3), 1 / 3)), metric="log_loss"),
        lambda: make_task(train=(X, torch.eye(3)[Y]), head="sigmoid"),
        lambda: make_task(model=lambda seed: nn.Linear(4, 1), train=(X, (Y > 0).float()), head="sigmoid"),
        lambda: make_task(model=lambda seed: nn.Linear(4, 1), train=(X, X[:, :1]), head="identity"),
        lambda: make_task(
            model=lambda seed: nn.Linear(4, 1), train=(X, X[:, 0]), head="identity", test=(X + 9, X[:, 0])
        ),
        lambda: make_task(train=(X.double(), Y), model=lambda seed: nn.Linear(4, 3).double()),
        lambda: make_task(train=((Y % 2)[:, None].float().repeat(1, 4), Y)),  # few distinct rows repeat by nature
        lambda: make_task(
            model=lambda seed: nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.Dropout(), nn.Linear(8, 3))
        ),
        lambda: make_task(metric="roc_auc", train=(X, Y.clamp(max=1)), model=lambda seed: nn.Linear(4, 2)),
        lambda: make_task().modified("noise=0.4"),
        lambda: task("digits/mlp@imbalance=50"),
        lambda: Task.from_function(lambda loss, trial: 0.5, outputs=2),
    ],
)
def test_a_good_task_passes(good: Any) -> None:
    assert check_task(good()) is None


def test_one_rare_class_does_not_fail_a_metric_that_needs_it() -> None:
    x = torch.randn(4000, 4, generator=torch.Generator().manual_seed(1))
    y = (torch.arange(4000) % 400 == 0).long()  # one positive row in 400
    check_task(make_task(model=lambda seed: nn.Linear(4, 2), train=(x, y), valid=(x + 5, y), metric="roc_auc"))


class Constant(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        with torch.no_grad():
            return self.layer(x)


class Nothing(Data):
    device, targets = torch.device("cpu"), None  # type: ignore[assignment]

    def __init__(self) -> None:
        self.rows = 1

    def __len__(self) -> int:
        return self.rows

    batch = subset = to = _digest = lambda self, _=None: self  # type: ignore[assignment]


def emptied() -> Task:
    nothing = Nothing()
    made = make_task(test=nothing)
    nothing.rows = 0
    return made


def broken_rows(x: Tensor, value: float) -> Tensor:
    x = x.clone()
    x[[5, 70], 2] = value
    return x


def unlucky(output: Tensor, target: Tensor) -> float:
    raise Unlucky("no number today")


_MODULE = nn.Linear(4, 3)

WRONG: list[tuple[Any, list[str]]] = [
    (
        lambda: make_task(model=lambda seed: nn.Sequential(nn.Linear(4, 3), nn.Flatten(0))),
        ["shape [24]", "[N, C]"],  # 8 probe rows of 3 outputs
    ),
    (
        lambda: make_task(train=(X[:, :, None].expand(-1, 4, 5).transpose(1, 2), Y)),
        ["shape [8, 5, 3]", "targets of shape [8]", "[8, 'C']"],
    ),
    (lambda: make_task(model=lambda seed: nn.Linear(4, 1)), ["one output", "sigmoid"]),
    (
        lambda: make_task(model=lambda seed: nn.Linear(4, 2), head="identity", train=(X, X)),
        ["[8, 2]", "[8, 4]", "identity"],
    ),
    (lambda: make_task(head="identity", train=(X, torch.eye(3).long()[Y])), ["int64", "identity", "y.float()"]),
    (lambda: make_task(train=(X, Y + 1), valid=(X + 9, Y)), ["target 3", "row 2", "train", "0…2"]),
    (lambda: make_task(valid=(X + 9, Y - 1), selection=(X + 18, Y)), ["target -1", "row 0", "fitness", "0…2"]),
    (lambda: make_task(test=(X + 9, Y.where(torch.arange(120) != 77, 40))), ["target 40", "row 77", "test"]),
    (lambda: make_task(train=Items(), forward=lambda m, b: Terms(m(b["x"]), b["label"] + 1)), ["target 3", "0…2"]),
    (lambda: make_task(train=(X, 2 * torch.eye(3)[Y])), ["target 2", "[0, 1]", "softmax"]),
    (lambda: make_task(train=(X, -torch.eye(3)[Y]), head="sigmoid"), ["target -1", "[0, 1]", "sigmoid"]),
    (
        lambda: make_task(
            head="identity", model=lambda seed: nn.Linear(4, 4), train=(X, broken_rows(X, math.nan)), valid=(X, X)
        ),
        ["target nan", "row 5", "train", "finite"],
    ),
    (lambda: make_task(train=(broken_rows(X, math.nan), Y), valid=(X + 9, Y)), ["2 of 120", "train", "row 5", "NaN"]),
    (lambda: make_task(test=(broken_rows(X, math.inf), Y)), ["2 of 120", "test", "infinite"]),
    (lambda: make_task(train=Items(broken_rows(X, math.nan)), forward=from_items), ["NaN", "row"]),
    (lambda: make_task(forward=lambda model, batch: model(batch[0])), ["forward returned Tensor", "lm.Terms"]),
    (lambda: make_task(forward=lambda model, batch: None), ["forward returned NoneType", "lm.Terms"]),
    (lambda: make_task(forward=lambda model, batch: Terms(model(batch[0]), 3)), ["int as target", "tensors"]),
    (lambda: make_task(forward=lambda model, batch: Terms(batch[1], batch[1])), ["int64", "floating-point"]),
    (lambda: make_task(model=lambda seed: Constant()), ["no gradient", "no_grad"]),
    (lambda: make_task(model=lambda seed: nn.Flatten(), train=(X[:, :3], Y)), ["no trainable parameter"]),
    (lambda: make_task(model=lambda seed: _MODULE), ["same module twice", "lambda seed"]),
    (lambda: make_task(model=lambda seed: fresh_every_time()), ["other initial weights", "global generator"]),
    (lambda: make_task(model=lambda seed: None), ["model returned NoneType", "nn.Module"]),
    (emptied, ["test split has no rows"]),
    (lambda: make_task(test=(X, Y)), ["of 120 rows of the test split", "training rows"]),
    (lambda: make_task(metric=metrics.metric(unlucky, "min")), ["'unlucky'", "fitness", "Unlucky: no number today"]),
    (lambda: make_task(metric=metrics.metric(lambda o, t: math.nan, "min", name="odd")), ["'odd'", "nan", "fitness"]),
    (lambda: make_task(metric=metrics.metric(lambda o, t: None, "min", name="odd")), ["'odd'", "NoneType"]),
    (lambda: make_task(metric="top_k_error(k=5)"), ["top_k_error(k=5)", "3"]),
    (lambda: make_task(recipe=Recipe(5, optimizer=lambda params, lr: None, lr=0.1)), ["Recipe.optimizer", "NoneType"]),
    (lambda: make_task(train=(X * 1e38 * 1e38, Y)), ["infinite"]),
    (lambda: make_task(train=(X * 1e30, X[:, :3] * 1e30), head="identity"), ["task loss mse is", "inf"]),
    (lambda: Task.from_function(lambda loss, trial: None, outputs=2), ["returned nothing"]),
    (lambda: Task.from_function(lambda loss, trial: math.nan, outputs=2), ["cross_entropy", "nan", "learning rate"]),
    (lambda: Task.from_function(lambda loss, trial: [][0], outputs=2), ["IndexError", "cross_entropy"]),
    (lambda: Task.from_function(lambda loss, trial: 0.5), ["never called the loss"]),
    (lambda: object_with_metric(), ["object_with_metric", "no task"]),
]

_COUNT = iter(range(1000))


def fresh_every_time() -> nn.Module:
    model = nn.Linear(4, 3)
    with torch.no_grad():
        model.weight.fill_(next(_COUNT))
    return model


def object_with_metric() -> Any:
    class object_with_metric:
        metric = metrics.metric("error_rate")

    return object_with_metric()


@pytest.mark.parametrize(("wrong", "words"), WRONG, ids=[" ".join(words)[:40] for _, words in WRONG])
def test_what_is_wrong_is_told_in_one_sentence(wrong: Any, words: list[str]) -> None:
    with pytest.raises(LossmithError) as caught:
        check_task(wrong())
    message = str(caught.value)
    for word in words:
        assert word in message
    assert isinstance(caught.value, TaskError)
    assert "\n" not in message


def test_a_metric_without_direction_is_caught_where_it_is_given() -> None:
    with pytest.raises(TaskError, match="no direction"):
        make_task(metric=unlucky)
