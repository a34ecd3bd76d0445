"""What is to be learned: tasks of both floors, recipes, schedules, metrics, data, modifiers, built-ins."""

from lossmith.tasks import metrics, schedules
from lossmith.tasks.base import AnyTask
from lossmith.tasks.builtin import TASKS, BuiltIn, task
from lossmith.tasks.data import Data, TensorData
from lossmith.tasks.dataset import DatasetData
from lossmith.tasks.function import FunctionTask, Outcome
from lossmith.tasks.modifiers import MODIFIERS
from lossmith.tasks.optimizers import SGD, Adam, AdamW, OptimizerFactory
from lossmith.tasks.recipe import Recipe
from lossmith.tasks.resolve import resolve_task
from lossmith.tasks.schedules import Schedule
from lossmith.tasks.several import SeveralTasks, all_parts, members_of
from lossmith.tasks.task import Task
from lossmith.tasks.terms import Forward, Terms, supervised
from lossmith.tasks.trial import Trial, TrialStopped

__all__ = [
    "MODIFIERS",
    "SGD",
    "TASKS",
    "Adam",
    "AdamW",
    "AnyTask",
    "BuiltIn",
    "Data",
    "DatasetData",
    "Forward",
    "FunctionTask",
    "OptimizerFactory",
    "Outcome",
    "Recipe",
    "Schedule",
    "SeveralTasks",
    "Task",
    "TensorData",
    "Terms",
    "Trial",
    "TrialStopped",
    "all_parts",
    "members_of",
    "metrics",
    "resolve_task",
    "schedules",
    "supervised",
    "task",
]
