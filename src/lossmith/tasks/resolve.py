"""From text to task: a built-in name, or `package.module:function` for a user's own."""

from __future__ import annotations

import difflib
import importlib
import os
import sys
from os import PathLike

from lossmith.errors import TaskError, UnknownNameError
from lossmith.tasks.base import AnyTask
from lossmith.tasks.builtin import TASKS, task
from lossmith.tasks.function import FunctionTask
from lossmith.tasks.task import Task


def resolve_task(text: str, *, data_dir: str | PathLike[str] | None = None, steps: int | None = None) -> AnyTask:
    """The task a text names; its `reference` is that text.

    Args:
        text: a built-in task ("digits/mlp@noise=0.4"), or "package.module:function", where the function takes no
            argument and returns a task (a task itself will do as well). Modifiers may follow either. The current
            folder is searched, too.
        data_dir: where a built-in's data files are.
        steps: steps of the full training instead of the task's own.

    Raises:
        UnknownNameError: no built-in task of that name.
        TaskError: the module cannot be imported, has no such function, or the function fails or returns no task.
        SpecError, DataMissingError: as in `task`.
    """
    if ":" not in text:
        name = text.partition("@")[0].strip()
        if name not in TASKS and "/" not in name and ("." in name or name.endswith(".py")):
            raise TaskError(
                f"{text!r} names no function: write {text.removesuffix('.py')}:FUNCTION, which returns a task."
            )
        return task(text, data_dir=data_dir, steps=steps)
    target, at, modifiers = text.strip().partition("@")
    found = _load(target)
    if isinstance(found, Task):
        found = found.replace(reference=target)
        found = found.modified(modifiers) if at else found
        return found if steps is None else found.fresh(steps=steps)
    if at:
        raise TaskError(
            f"{target} trains by itself (floor A), so modifiers cannot change its data: leave out @{modifiers}."
        )
    found = found.replace(reference=target)
    return found if steps is None else found.fresh(steps=steps)


def _load(target: str) -> Task | FunctionTask:
    module_name, _, path = target.partition(":")
    if not module_name or not path or "/" in module_name or module_name.endswith(".py"):
        raise TaskError(
            f"{target!r} is no package.module:function: write the module's import name, e.g. mytasks:make_task."
        )
    here = os.getcwd()
    if here not in sys.path:
        sys.path.insert(0, here)  # stays: workers and later imports of the module's own parts need it, too
    try:
        found: object = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        missing = error.name or module_name
        if module_name == missing or module_name.startswith(f"{missing}."):
            raise TaskError(
                f"cannot find the module {missing!r}: run from the folder that holds it, or install it."
            ) from error
        raise TaskError(f"{module_name} needs the module {missing!r}, which is not installed: install it.") from error
    except Exception as error:
        raise TaskError(f"importing {module_name} failed with {type(error).__name__}: {error}; repair it.") from error
    for part in path.split("."):
        if not hasattr(found, part):
            names = [name for name in vars(found) if not name.startswith("_")] if hasattr(found, "__dict__") else []
            near = difflib.get_close_matches(part, names, n=3)
            hint = f"; did you mean {' or '.join(near)}?" if near else "."
            raise TaskError(f"{module_name} has no {path!r}{hint}")
        found = getattr(found, part)
    if not isinstance(found, Task | FunctionTask):
        if not callable(found):
            raise TaskError(f"{target} is {type(found).__name__}: it must be a task or a function that returns one.")
        try:
            found = found()
        except UnknownNameError:
            raise
        except Exception as error:
            raise TaskError(f"{target}() failed with {type(error).__name__}: {error}") from error
    if not isinstance(found, Task | FunctionTask):
        raise TaskError(
            f"{target}() returned {type(found).__name__}: it must return lm.Task(...) or Task.from_function(...)."
        )
    return found
