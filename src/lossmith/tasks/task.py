"""Floor B: a task given as its parts, so that Lossmith trains, stacks populations, screens and unrolls."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from functools import cached_property
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import torch
from torch import Tensor, nn

from lossmith.errors import TaskError, UnknownNameError
from lossmith.losses.inputs import Head, head_name
from lossmith.records import SPLITS, Split
from lossmith.rng import torch_global_scope
from lossmith.tasks import metrics
from lossmith.tasks.base import AnyTask, check_controls, default_metric
from lossmith.tasks.data import Data
from lossmith.tasks.given import as_data, divide_rows
from lossmith.tasks.parts import CHECKS
from lossmith.tasks.priors import class_prior
from lossmith.tasks.ranges import check_number
from lossmith.tasks.recipe import Recipe
from lossmith.tasks.splits import stratified_order
from lossmith.tasks.terms import Forward, Terms, as_terms, check_terms, supervised

if TYPE_CHECKING:
    from lossmith.tasks.function import FunctionTask

PROBE_ROWS = 8  # rows of the forward pass that finds the number of outputs
_CACHES = ("outputs", "hard_targets", "probe", "_prior", "_fingerprint")


@dataclass(frozen=True, init=False, eq=False, repr=False)
class Task(AnyTask):
    """A model, its data, a metric and a recipe: everything needed to train with a candidate loss and to judge it.

    Args:
        model: seed → a fresh `nn.Module`. It runs with torch's global generator set from the seed, so
            `lambda seed: nn.Sequential(...)` gives equal weights for equal seeds.
        train: rows the base model learns from: `(x, y)` tensors or arrays, a dict of tensors, a `TensorDataset`, or any
            map-style dataset (see `tasks.data`).
        valid: rows to judge candidates by; None takes a stratified, seeded fifth of `train`.
        selection: rows on which finalists are chosen; None cuts `valid` into two stratified halves, fitness and
            selection.
        test: rows for the verdict; None is allowed, and the verdict then says what is missing.
        forward: `(model, batch) -> Terms`, or a tuple of Terms for several losses.
        head: from output to prediction: "softmax", "sigmoid", "identity", or a callable.
        metric: a name, a `Metric`, or what `lm.metrics.metric` accepts; None is the error rate, under the identity
            head the mean squared error. It needs no gradient.
        recipe: the full training.
        controls: names of losses a verdict must beat; None is cross_entropy, or mse for regression.
        name: for people.
        reference: text from which `resolve_task` builds this task again, or None.
        seed: of all splits and subsets.
        partial: steps of a partial training by default; None leaves it to the search.
        same_rows: whether valid holds training rows on purpose, so that loss parameters are learned on the rows that
            the base model is trained on. Selection and test must be others all the same.
        stop_at_chance: whether a partial training may be stopped that is no better than a constant predictor once the
            task loss is; False where sound losses leave chance late or only from some θ0.

    Raises:
        TaskError: a part that cannot serve, with what to give instead.

    Example:
        >>> import torch, lossmith as lm
        >>> x = torch.linspace(-1, 1, 100)[:, None]
        >>> task = lm.Task(
        ...     model=lambda seed: torch.nn.Linear(1, 2), train=(x, (x[:, 0] > 0).long()), recipe=lm.Recipe(steps=10)
        ... )
        >>> task.outputs, {split: len(data) for split, data in task.data.items()}
        (2, {'train': 80, 'fitness': 10, 'selection': 10})
    """

    floor: ClassVar[Literal["A", "B"]] = "B"

    model: Callable[[int], nn.Module]
    data: Mapping[Split, Data]
    forward: Forward
    head: Head
    metric: metrics.Metric
    recipe: Recipe
    controls: tuple[str, ...]
    name: str
    reference: str | None
    seed: int
    partial: int | None
    same_rows: bool
    stop_at_chance: bool
    modifiers: tuple[tuple[str, float], ...]
    unmodified: Mapping[Split, Data] | None

    def __init__(
        self,
        *,
        model: Callable[[int], nn.Module],
        train: Any,
        valid: Any = None,
        selection: Any = None,
        test: Any = None,
        forward: Forward = supervised,
        head: Head = "softmax",
        metric: Any = None,
        recipe: Recipe,
        controls: Sequence[str] | None = None,
        name: str = "custom",
        reference: str | None = None,
        seed: int = 0,
        partial: int | None = None,
        same_rows: bool = False,
        stop_at_chance: bool = True,
    ) -> None:
        check_number("Task.seed", seed, least=0, whole=True)
        metric = default_metric(head) if metric is None else metric
        self._set(model=model, forward=forward, head=head, metric=metric, recipe=recipe, controls=controls)
        self._set(name=name, reference=reference, seed=seed, partial=partial, same_rows=same_rows)
        self._set(stop_at_chance=stop_at_chance, modifiers=(), unmodified=None)
        self._set(data=divide_rows(train, valid, selection, test, seed))

    def _set(self, **parts: Any) -> None:
        if "controls" in parts:
            parts["controls"] = check_controls(parts["controls"], parts.get("head") or self.head)
        for key, value in parts.items():
            object.__setattr__(self, key, CHECKS[key](value) if key in CHECKS else value)

    def replace(self, **parts: Any) -> Task:
        """A copy with other parts; data is given as `data={split: rows}` and merged into the present splits.

        Raises:
            UnknownNameError: no such part.
            TaskError: a part that cannot serve.
        """
        known = [field.name for field in fields(self)]
        for key in parts:
            if key not in known:
                raise UnknownNameError("part of a task", key, known)
        if "data" in parts:
            new = {split: as_data(rows, split) for split, rows in parts["data"].items()}
            parts.setdefault("unmodified", None)  # modifiers given later start from the new data
            parts["data"] = {split: {**self.data, **new}[split] for split in SPLITS if split in {**self.data, **new}}
        task = copy.copy(self)
        for key in _CACHES:
            task.__dict__.pop(key, None)
        task._set(**parts)
        return task

    def fresh(self, steps: int | None = None, recipe: Recipe | None = None) -> Task:
        """A copy with another number of full steps (`partial` changes in proportion) or another recipe."""
        import dataclasses

        recipe = self.recipe if recipe is None else recipe
        if steps is None:
            return self.replace(recipe=recipe)
        scaled = None if self.partial is None else max(1, round(self.partial * steps / recipe.steps))
        return self.replace(recipe=dataclasses.replace(recipe, steps=steps), partial=scaled)

    def modified(self, text: str) -> Task:
        """A copy with data modifiers applied, e.g. `"noise=0.4,fraction=0.1"` (see `tasks.modifiers`)."""
        from lossmith.tasks.modifiers import modify

        return modify(self, text)

    def to_device(self, device: torch.device | str) -> Task:
        """A copy whose data is served on another device."""
        moved = {split: data.to(device) for split, data in self.data.items()}
        return self.replace(data=moved, unmodified=self.unmodified)

    @property
    def device(self) -> torch.device:
        """Where batches are served."""
        return self.data["train"].device

    @property
    def steps(self) -> int:
        """Steps of the full training."""
        return self.recipe.steps

    def build_model(self, seed: int) -> nn.Module:
        """A fresh base model θ0 for a seed, on the CPU, in training mode.

        Raises:
            TaskError: the factory returned no module.
        """
        with torch_global_scope(seed, "theta"):
            model = self.model(seed)
        if not isinstance(model, nn.Module):
            raise TaskError(
                f"model returned {type(model).__name__}: it must return a torch.nn.Module, e.g. lambda seed: Net()."
            )
        return model.train()

    def terms(self, model: nn.Module, batch: Any) -> tuple[Terms, ...]:
        """One forward pass: what the loss is applied to."""
        return as_terms(self.forward(model, batch))

    @cached_property
    def probe(self) -> tuple[Terms, ...]:
        """Terms of a freshly built model on the first few training rows (in evaluation mode, without gradients).

        Raises:
            TaskError: the forward pass failed, or its output is no tensor of floats with a last axis of outputs.
        """
        model = self.build_model(0).to(self.device).eval()
        rows = min(PROBE_ROWS, len(self.data["train"]))
        try:
            with torch_global_scope(0, "probe"), torch.no_grad():
                found = self.terms(model, self.data["train"].batch(torch.arange(rows)))
        except TaskError:
            raise
        except Exception as error:
            raise TaskError(
                f"the forward pass failed on the first {rows} training rows ({type(error).__name__}: {error}): "
                "make model and data fit, then try lm.testing.check_task(task)."
            ) from error
        for terms in found:
            check_terms(terms, self.head)
        return found

    @cached_property
    def outputs(self) -> int:
        """Number of outputs C, found by one forward pass."""
        return self.probe[0].output.shape[-1]

    @cached_property
    def hard_targets(self) -> bool:
        """Whether targets are classes: integers, or (judged on a few rows) nothing but 0 and 1."""
        target = self.probe[0].target
        if self.head == "identity":
            return False
        return not target.is_floating_point() or bool(((target == 0) | (target == 1)).all())

    def prior(self) -> Tensor | None:
        """Share of each class in the training targets, `[C]` float64 on the CPU; None where there are no classes.

        A class without a row counts half a row, so that its logarithm is finite. With a sigmoid head of one output it
        is (1 − π, π). Counted over all rows if the forward is `supervised` and targets are known, otherwise over the
        terms of a forward pass on up to 4,096 rows, weighted by their weights, so that masked positions do not count.
        """
        return self._prior

    @cached_property
    def _prior(self) -> Tensor | None:
        return class_prior(self)

    def train_rows(self, fraction: float = 1.0, seed: int = 0) -> Tensor:
        """Sorted row indices of a stratified fraction of the training rows; for one seed smaller fractions are nested.

        Raises:
            TaskError: fraction out of (0, 1].
        """
        check_number("fraction", fraction, above=0, most=1)
        rows = len(self.data["train"])
        if fraction == 1:
            return torch.arange(rows)
        order = stratified_order(self.data["train"].targets, rows, seed, "fraction")
        return order[: max(1, round(fraction * rows))].sort().values

    def fingerprint(self) -> dict[str, Any]:
        return copy.deepcopy(self._fingerprint)

    @cached_property
    def _fingerprint(self) -> dict[str, Any]:
        from lossmith.tasks.fingerprint import task_fingerprint

        return task_fingerprint(self)

    @staticmethod
    def from_function(train: Callable[..., Any], **options: Any) -> FunctionTask:
        """Floor A: a task from your own training function; see `FunctionTask` for the options."""
        from lossmith.tasks.function import FunctionTask

        return FunctionTask(train, **options)

    def __repr__(self) -> str:
        rows = "/".join(f"{len(data):,}" for data in self.data.values())
        return (
            f"Task({self.name!r}: {rows} rows in {'/'.join(self.data)}, {head_name(self.head)} head, "
            f"{self.metric.name}, {self.steps:,} steps)"
        )
