"""Identity of a task: what must be equal for a run to be resumed and for stored values to be comparable."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from lossmith.losses.inputs import head_name
from lossmith.records import content_hash
from lossmith.tasks.data import Data, TensorData
from lossmith.tasks.recipe import describe_callable
from lossmith.tasks.trees import tensors

if TYPE_CHECKING:
    from lossmith.tasks.function import FunctionTask
    from lossmith.tasks.several import SeveralTasks
    from lossmith.tasks.task import Task


def task_fingerprint(task: Task) -> dict[str, Any]:
    """Floor B: data, model (names and shapes of its state), recipe, metric, head, forward, controls, and their hash."""
    model = task.build_model(0)
    parameters = [[name, list(p.shape)] for name, p in model.state_dict(keep_vars=True).items()]
    document: dict[str, Any] = {
        "floor": task.floor,
        "name": task.name,
        "reference": task.reference,
        "data": {split: describe_data(data) for split, data in task.data.items()},
        "model": {"class": type(model).__qualname__, "parameters": content_hash(parameters), "outputs": task.outputs},
        "recipe": task.recipe.describe(),
        "forward": describe_callable(task.forward),
        "head": describe_head(task.head),
        "metric": task.metric.describe(),
        "controls": list(task.controls),
        "seed": task.seed,
    }
    return {**document, "digest": digest(document)}


def function_fingerprint(task: FunctionTask) -> dict[str, Any]:
    """Floor A: what can be known of a function that trains by itself."""
    document: dict[str, Any] = {
        "floor": task.floor,
        "name": task.name,
        "reference": task.reference,
        "function": describe_callable(task.train),
        "head": describe_head(task.head),
        "metric": task.metric.describe(),
        "controls": list(task.controls),
        "outputs": task.given_outputs,
        "steps": task.steps,
    }
    return {**document, "digest": digest(document)}


def several_fingerprint(task: SeveralTasks) -> dict[str, Any]:
    """Several tasks: the fingerprint of each, in order, and a hash of their hashes."""
    each = [one.fingerprint() for one in task.tasks]
    shared: dict[str, Any] = {
        "head": describe_head(task.head),
        "metric": task.metric.describe(),
        "controls": list(task.controls),
        "outputs": task.outputs,
    }
    document = {"name": task.name, "reference": task.reference, **shared}
    return {**document, "tasks": each, "digest": content_hash({**shared, "tasks": [one["digest"] for one in each]})}


def digest(document: dict[str, Any]) -> str:
    """Hash of what decides results: everything but the name and the reference, which only help to find the task."""
    return content_hash({key: value for key, value in document.items() if key not in ("name", "reference")})


def describe_data(data: Data) -> dict[str, Any]:
    """Rows, shapes and content hash of one split."""
    shapes = (
        [[str(leaf.dtype).removeprefix("torch."), *leaf.shape[1:]] for leaf in tensors(data.tree)]
        if (isinstance(data, TensorData))
        else None
    )
    return {"rows": len(data), "shapes": shapes, "digest": data.digest}


def describe_head(head: Any) -> str:
    """The head's name, or the function's."""
    return head if isinstance(head, str) else f"{head_name(head)}:{describe_callable(head)}"
