"""Lossmith discovers loss functions for your own PyTorch model and data, and says honestly whether they are better.

    import lossmith as lm

    task = lm.task("digits/mlp@noise=0.4")            # or lm.Task(model=..., train=..., ...), or lm.Task.from_function(train)
    shelf = lm.shelf(task, path="runs/shelf")         # the bar to beat
    run = lm.search(lm.TaylorGLO(order=3), task, generations=12, path="runs/mine", start_from=shelf)
    criterion = run.best.loss                         # an nn.Module: criterion(output, target)
    print(lm.evaluate(run, seeds=10).to_text())       # better, worse, no worse, or not shown
"""

from lossmith import errors, testing
from lossmith.analysis import Verdict
from lossmith.errors import LossmithError, UsageError
from lossmith.evaluation import Plan
from lossmith.experiment import Run, compare, evaluate, resume, search, shelf
from lossmith.losses import Loss, LossSet, from_json, loss, to_json
from lossmith.losses.export import export
from lossmith.search import METHODS, RandomSearch, TaylorGLO
from lossmith.tasks import (
    SGD,
    TASKS,
    Adam,
    AdamW,
    Recipe,
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
    "METHODS",
    "SGD",
    "TASKS",
    "Adam",
    "AdamW",
    "Loss",
    "LossSet",
    "LossmithError",
    "Plan",
    "RandomSearch",
    "Recipe",
    "Run",
    "Task",
    "TaylorGLO",
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
    "resume",
    "schedules",
    "search",
    "shelf",
    "supervised",
    "task",
    "testing",
    "to_json",
]
