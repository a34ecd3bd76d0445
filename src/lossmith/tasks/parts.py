"""The parts of a floor-B task, checked one by one as they are given."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

from torch import nn

from lossmith.errors import TaskError
from lossmith.losses.inputs import head_name
from lossmith.tasks import metrics
from lossmith.tasks.ranges import check_number
from lossmith.tasks.recipe import Recipe


def _check_model(model: Any) -> Any:
    if isinstance(model, nn.Module) or (inspect.isclass(model) and issubclass(model, nn.Module)) or not callable(model):
        shown = model.__name__ if inspect.isclass(model) else type(model).__name__
        raise TaskError(
            f"model is {shown}: it must be a function from a seed to a new module, e.g. model=lambda seed: Net()."
        )
    try:
        inspect.signature(model).bind(0)
    except TypeError:
        raise TaskError("model takes no seed: it is called as model(seed), e.g. model=lambda seed: Net().") from None
    except ValueError:  # a builtin without signature
        pass
    return model


def _check_forward(forward: Any) -> Any:
    if not callable(forward):
        raise TaskError(f"forward is {forward!r}: it must be a function (model, batch) -> lm.Terms(output, target).")
    return forward


def _check_head(head: Any) -> Any:
    head_name(head)
    return head


def _check_recipe(recipe: Any) -> Any:
    if not isinstance(recipe, Recipe):
        raise TaskError(f"recipe is {recipe!r}: give lm.Recipe(steps=...).")
    return recipe


def _check_partial(partial: Any) -> Any:
    if partial is not None:
        check_number("Task.partial", partial, least=1, whole=True)
    return partial


CHECKS: dict[str, Callable[[Any], Any]] = {
    "model": _check_model,
    "forward": _check_forward,
    "head": _check_head,
    "recipe": _check_recipe,
    "partial": _check_partial,
    "metric": metrics.resolve,
}
