"""From text to task: a built-in name, `package.module:function` for a user's own, or several of them with commas."""

from __future__ import annotations

import difflib
import importlib
import os
import sys
from collections.abc import Sequence
from os import PathLike

from lossmith.errors import TaskError, UnknownNameError
from lossmith.tasks.base import AnyTask
from lossmith.tasks.builtin import TASKS, task
from lossmith.tasks.function import FunctionTask
from lossmith.tasks.references import split_references
from lossmith.tasks.several import SeveralTasks
from lossmith.tasks.task import Task


def resolve_task(
    text: str, *, data_dir: str | PathLike[str] | None = None, steps: int | Sequence[int] | None = None
) -> AnyTask:
    """The task a text names; its `reference` is that text.

    Args:
        text: a built-in task ("digits/mlp@noise=0.4"), or "package.module:function", where the function takes no
            argument and returns a task (a task itself will do as well). Modifiers may follow either. The current
            folder is searched, too. Several of them, "digits/mlp,digits/lenet5" or "sine/mlp@wave=0-9", name
            `SeveralTasks`.
        data_dir: where a built-in's data files are.
        steps: steps of the full training instead of the task's own; of several tasks for all, or one number for each.

    Raises:
        UnknownNameError: no built-in task of that name.
        TaskError: the module cannot be imported, has no such function, or the function fails or returns no task;
            several tasks that do not go together, or another number of steps than of tasks.
        SpecError, DataMissingError: as in `task`.

    Example:
        >>> resolve_task("digits/mlp@noise=0.4,digits/lenet5").name
        'digits/mlp@noise=0.4 + digits/lenet5'
    """
    names = split_references(text)
    if len(names) == 1:
        found = _resolve_one(names[0], data_dir)
        return found if steps is None else _with_steps(found, steps)
    tasks = [_resolve_one(name, data_dir) for name in names]
    family = text.strip() if "," not in text and not any(isinstance(one, SeveralTasks) for one in tasks) else None
    several = SeveralTasks(tasks, name=family, reference=family)
    return several if steps is None else several.fresh(steps=steps)


def _with_steps(found: AnyTask, steps: int | Sequence[int]) -> AnyTask:
    if isinstance(found, SeveralTasks):
        return found.fresh(steps=steps)
    if isinstance(steps, int):
        return found.fresh(steps=steps)
    if len(steps) != 1:
        raise TaskError(f"{len(steps)} numbers of steps for the one task {found.name}: give one.")
    return found.fresh(steps=steps[0])


def _resolve_one(text: str, data_dir: str | PathLike[str] | None) -> AnyTask:
    """The task that a text without further tasks names."""
    if ":" not in text:
        name = text.partition("@")[0].strip()
        if name not in TASKS and "/" not in name and ("." in name or name.endswith(".py")):
            raise TaskError(
                f"{text!r} names no function: write {text.removesuffix('.py')}:FUNCTION, which returns a task."
            )
        return task(text, data_dir=data_dir)
    target, at, modifiers = text.strip().partition("@")
    found = _load(target)
    if isinstance(found, Task):
        found = found.replace(reference=target)
        return found.modified(modifiers) if at else found
    if at and isinstance(found, SeveralTasks):
        raise TaskError(f"{target} is several tasks: modify each where they are made, task.modified({modifiers!r}).")
    if at:
        raise TaskError(
            f"{target} trains by itself (floor A), so modifiers cannot change its data: leave out @{modifiers}."
        )
    if isinstance(found, SeveralTasks):
        return SeveralTasks(found.tasks, name=found.name, reference=target)
    return found.replace(reference=target)


def _load(target: str) -> Task | FunctionTask | SeveralTasks:
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
    if not isinstance(found, Task | FunctionTask | SeveralTasks):
        if not callable(found):
            raise TaskError(f"{target} is {type(found).__name__}: it must be a task or a function that returns one.")
        try:
            found = found()
        except UnknownNameError:
            raise
        except Exception as error:
            raise TaskError(f"{target}() failed with {type(error).__name__}: {error}") from error
    if not isinstance(found, Task | FunctionTask | SeveralTasks):
        raise TaskError(
            f"{target}() returned {type(found).__name__}: it must return lm.Task(...) or Task.from_function(...)."
        )
    return found
