"""Lossmith discovers loss functions for your own PyTorch model and data, and says honestly whether they are better.

import lossmith as lm

task = lm.task("digits/mlp@noise=0.4")            # or lm.Task(model=..., ...), or lm.Task.from_function(train)
shelf = lm.shelf(task, path="runs/shelf")         # the bar to beat
run = lm.search(lm.TaylorGLO(order=3), task, generations=12, path="runs/mine", start_from=shelf)
criterion = run.best.loss                         # an nn.Module: criterion(output, target)
print(lm.evaluate(run, seeds=10).to_text())       # better, worse, no worse, or not shown
"""

import sys
from importlib import import_module
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # the same names as `_HOMES`, for type checkers and editors
    from lossmith import errors, online, testing
    from lossmith.analysis import Verdict
    from lossmith.errors import LossmithError, UsageError
    from lossmith.evaluation import Plan
    from lossmith.experiment.api import compare, evaluate, resume, search, shelf
    from lossmith.experiment.run import Run
    from lossmith.losses import Loss, LossSet, from_json, loss, to_json
    from lossmith.losses.export import export
    from lossmith.search import (
        GLO,
        GPLFL,
        METHODS,
        ML3,
        AdaLFL,
        EvoMAL,
        RandomSearch,
        RandomTrees,
        TaylorGLO,
        TaylorUnroll,
    )
    from lossmith.tasks import (
        SGD,
        TASKS,
        Adam,
        AdamW,
        Recipe,
        SeveralTasks,
        Task,
        Terms,
        Trial,
        metrics,
        schedules,
        supervised,
        task,
    )

__version__ = "0.1.0"

__all__ = [
    "GLO",
    "GPLFL",
    "METHODS",
    "ML3",
    "SGD",
    "TASKS",
    "AdaLFL",
    "Adam",
    "AdamW",
    "EvoMAL",
    "Loss",
    "LossSet",
    "LossmithError",
    "Plan",
    "RandomSearch",
    "RandomTrees",
    "Recipe",
    "Run",
    "SeveralTasks",
    "Task",
    "TaylorGLO",
    "TaylorUnroll",
    "Terms",
    "Trial",
    "UsageError",
    "Verdict",
    "compare",
    "errors",
    "evaluate",
    "export",
    "from_json",
    "loss",
    "metrics",
    "online",
    "resume",
    "schedules",
    "search",
    "shelf",
    "supervised",
    "task",
    "testing",
    "to_json",
]

_HOMES = {
    "AdaLFL": "lossmith.search",
    "Adam": "lossmith.tasks",
    "AdamW": "lossmith.tasks",
    "EvoMAL": "lossmith.search",
    "GLO": "lossmith.search",
    "GPLFL": "lossmith.search",
    "Loss": "lossmith.losses",
    "LossSet": "lossmith.losses",
    "LossmithError": "lossmith.errors",
    "METHODS": "lossmith.search",
    "ML3": "lossmith.search",
    "Plan": "lossmith.evaluation",
    "RandomSearch": "lossmith.search",
    "RandomTrees": "lossmith.search",
    "Recipe": "lossmith.tasks",
    "Run": "lossmith.experiment",
    "SGD": "lossmith.tasks",
    "SeveralTasks": "lossmith.tasks",
    "TASKS": "lossmith.tasks",
    "Task": "lossmith.tasks",
    "TaylorGLO": "lossmith.search",
    "TaylorUnroll": "lossmith.search",
    "Terms": "lossmith.tasks",
    "Trial": "lossmith.tasks",
    "UsageError": "lossmith.errors",
    "Verdict": "lossmith.analysis",
    "compare": "lossmith.experiment",
    "errors": "lossmith",
    "evaluate": "lossmith.experiment",
    "export": "lossmith.losses.export",
    "from_json": "lossmith.losses",
    "loss": "lossmith.losses",
    "metrics": "lossmith.tasks",
    "online": "lossmith",
    "resume": "lossmith.experiment",
    "schedules": "lossmith.tasks",
    "search": "lossmith.experiment",
    "shelf": "lossmith.experiment",
    "supervised": "lossmith.tasks",
    "task": "lossmith.tasks",
    "testing": "lossmith",
    "to_json": "lossmith.losses",
}


def __getattr__(name: str) -> Any:
    """A public name, imported when it is first asked for, so that `lossmith --help` need not wait for torch."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    home = _HOMES[name]
    if home == __name__:
        return import_module(f"{home}.{name}")
    found = getattr(import_module(home), name)
    globals()[name] = found
    return found


def __dir__() -> list[str]:
    return sorted(__all__)


class _Package(ModuleType):
    """Keeps `lm.search` the verb: importing the room of the same name would put the room in its place."""

    def __setattr__(self, name: str, value: Any) -> None:
        if not (isinstance(value, ModuleType) and _HOMES.get(name, __name__) != __name__):
            super().__setattr__(name, value)


sys.modules[__name__].__class__ = _Package
