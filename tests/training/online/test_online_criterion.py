"""AdaLFL in the training loop: gradients by brute force, resume, trajectory, what cannot work."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from by_hand import by_differences, task_loss_after_step
from small_tasks import CLASSES, FEATURES, rows, small_task
from torch import nn

from lossmith.errors import LossError, TaskError
from lossmith.losses import Loss, LossSet, Network, OnlineRule, Taylor, Tree
from lossmith.losses.parser import parse
from lossmith.records import Tuning
from lossmith.rng import torch_global_scope
from lossmith.tasks import SGD, Adam, AdamW, Task, Terms
from lossmith.training import Training, train, tune
from lossmith.training.criteria import criterion_of
from lossmith.training.keeping import Place
from lossmith.training.meta_gradient import draw
from lossmith.training.online.adaptation import Adaptation
from lossmith.training.online.criterion import OnlineCriterion
from lossmith.training.online.passes import ThroughLayers, ThroughModel
from lossmith.training.steps import initial_model, steps_of

GENOME = (1.2, -1.1, 0.8, 0.9, -0.7, 0.3, 0.5, 0.6)


def adaptive(kernel: Any = None, **rule: Any) -> Loss:
    return Loss(Taylor(GENOME) if kernel is None else kernel, online=OnlineRule(**{"lr": 0.01, **rule}))


def normed(seed: int) -> nn.Module:
    return nn.Sequential(nn.Linear(FEATURES, 8), nn.BatchNorm1d(8), nn.Tanh(), nn.Dropout(0.3), nn.Linear(8, CLASSES))


class WithoutForwardMode(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: torch.Tensor) -> torch.Tensor:
        ctx.save_for_backward(x)
        return x**3

    @staticmethod
    def backward(ctx: Any, slope: torch.Tensor) -> torch.Tensor:
        (x,) = ctx.saved_tensors
        return 3 * x**2 * slope


class Cube(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return WithoutForwardMode.apply(x)


def cubed(seed: int) -> nn.Module:
    return nn.Sequential(nn.Linear(FEATURES, 8), Cube(), nn.Linear(8, CLASSES))


def smooth(seed: int) -> nn.Module:
    return nn.Sequential(nn.Linear(FEATURES, 8), nn.Tanh(), nn.Linear(8, 7, bias=False), nn.Softplus(), nn.Linear(7, 3))


def in_float64(model: Callable[[int], nn.Module], **parts: Any) -> Task:
    doubled = {
        name: (x.double(), y)
        for name, (x, y) in {"train": rows(90, 0), "valid": rows(60, 1), "test": rows(30, 3)}.items()
    }
    return small_task(model=lambda seed: model(seed).double(), selection=None, **doubled, **parts)


class Watched:
    """A training step by step, each gradient by φ compared with finite differences through the real optimiser."""

    def __init__(self, task: Task, loss: Loss, steps: int = 4) -> None:
        self.how = Training(seed=3, steps=steps)
        self.task, self.loss = task, loss
        self.model = initial_model(task, self.how)
        self.optimizer = task.recipe.make_optimizer(self.model.parameters())
        criterion = criterion_of(task, self.model, self.optimizer, loss, self.how)
        assert isinstance(criterion, OnlineCriterion)
        self.criterion = criterion

    def errors(self) -> list[float]:
        """Largest relative difference per step."""
        with torch_global_scope(3, "dropout"):
            return [self._step(step) for step in steps_of(self.task, self.how)]

    def _step(self, step: Any) -> float:
        criterion, own, task = self.criterion, self.criterion._adaptation, self.task
        batch = task.data["train"].batch(step.rows)
        fitness = task.data["fitness"].batch(next(criterion._fitness_rows(own.done)))
        random, phi = torch.get_rng_state(), own.phi
        model, optimizer = self.model, self.optimizer
        task_loss = task.task_loss()

        def after(phi: np.ndarray[Any, Any]) -> float:
            with torch_global_scope(3, "online", step.done):
                masks = torch.get_rng_state()
            return task_loss_after_step(
                model, optimizer, self.loss, phi, [batch], fitness, task_loss,
                clip=task.recipe.grad_clip, random=random, valid_random=masks,
            )  # fmt: skip

        expected, expected_value = by_differences(after, phi), after(phi)
        seen: list[Any] = []
        criterion._adaptation.move = lambda gradient, value: (  # type: ignore[method-assign]
            seen.append((gradient, value)) or Adaptation.move(own, gradient, value)
        )
        criterion.before_pass()
        terms = (Terms(model(batch[0]), batch[1]),)
        optimizer.zero_grad()
        criterion.backward(batch, terms, step)
        if task.recipe.grad_clip is not None:
            nn.utils.clip_grad_norm_(model.parameters(), task.recipe.grad_clip)
        optimizer.step()
        assert criterion.after_step(step).ok
        ((gradient, value),) = seen
        assert value == pytest.approx(expected_value, rel=1e-9)
        assert np.abs(expected).max() > 1e-6
        return float(np.abs(gradient - expected).max() / np.abs(expected).max())


@pytest.mark.parametrize(
    "optimizer",
    # With an ε as small as usual Adam's first step hardly depends on the gradient's size, and its curvature is large.
    [
        SGD(0.1),
        SGD(0.1, 0.9, weight_decay=0.1),
        SGD(0.1, 0.9, nesterov=True),
        Adam(0.01, eps=1e-3),
        AdamW(0.01, eps=1e-3),
    ],
    ids=["sgd", "momentum", "nesterov", "adam", "adamw"],
)
@pytest.mark.parametrize("clip", [None, 0.3], ids=["free", "clipped"])
def test_meta_gradients_agree_with_finite_differences(optimizer: Any, clip: float | None) -> None:
    watched = Watched(in_float64(smooth, optimizer=optimizer, grad_clip=clip), adaptive())
    assert isinstance(watched.criterion._pass, ThroughLayers)
    assert max(watched.errors()) < 1e-6


@pytest.mark.parametrize("model", [normed, cubed], ids=["batch norm and dropout", "no forward derivative"])
def test_meta_gradients_of_other_models_do(model: Callable[[int], nn.Module]) -> None:
    watched = Watched(in_float64(model, optimizer=SGD(0.1, 0.9)), adaptive())
    assert isinstance(watched.criterion._pass, ThroughModel)
    assert max(watched.errors()) < 1e-6


def test_meta_gradients_of_a_loss_network_and_of_edge_weights_do() -> None:
    generator = np.random.default_rng(0)
    small = Network(tuple(generator.normal(size=2 * 4 + 16 + 4)), hidden=(4, 4), output="smooth_leaky_relu")
    tree = Tree(parse("-t*log(p)"), weights=(1.1, 0.9, 1.2, 0.8))
    for kernel in (small, tree):
        assert max(Watched(in_float64(smooth, optimizer=SGD(0.1, 0.9)), adaptive(kernel)).errors()) < 1e-6


def test_the_explicit_road_is_the_plain_one_layer_by_layer() -> None:
    task = in_float64(smooth, optimizer=SGD(0.1, 0.9))
    found = []
    for plain in (False, True):
        how = Training(seed=0, steps=5)
        model = initial_model(task, how)
        optimizer = task.recipe.make_optimizer(model.parameters())
        criterion = OnlineCriterion(task, model, optimizer, adaptive(), how)
        if plain:
            criterion._pass = ThroughModel(task, model, how)
        for step in steps_of(task, how):
            batch = task.data["train"].batch(step.rows)
            criterion.before_pass()
            optimizer.zero_grad()
            criterion.backward(batch, (task.forward(model, batch),), step)
            optimizer.step()
            criterion.after_step(step)
        found.append(criterion._adaptation.phi)
    np.testing.assert_allclose(found[0], found[1], rtol=1e-9)


def test_a_first_step_is_the_tuning_step_of_the_same_draw() -> None:
    """The closed form of tuning (K = 1) is another road to the gradient of a first step."""
    task = in_float64(smooth, optimizer=SGD(0.1, 0.9, nesterov=True))
    drawn = draw(task, 5, 0, 1)
    (tuned,) = tune(task, [replace_online(adaptive())], Tuning(meta_steps=1, meta_lr=1.0, meta_optimizer="sgd"), seed=5)
    optimizer = task.recipe.make_optimizer(drawn.model.parameters())
    loss = adaptive(lr=1.0, optimizer="sgd")
    criterion = OnlineCriterion(task, drawn.model, optimizer, loss, Training(seed=0, steps=1))
    criterion._task = AlwaysThisFitness(task, drawn.fitness)  # type: ignore[assignment]
    criterion.before_pass()
    (step,) = steps_of(task, Training(seed=0, steps=1))
    criterion.backward(drawn.train[0], (task.forward(drawn.model, drawn.train[0]),), step)
    optimizer.step()
    criterion.after_step(step)
    np.testing.assert_allclose(criterion._adaptation.phi, tuned.loss.kernel.phi, rtol=1e-9)


def replace_online(loss: Loss) -> Loss:
    return Loss(loss.kernel)


class AlwaysThisFitness:
    def __init__(self, task: Task, batch: Any) -> None:
        self.device, self.recipe = task.device, task.recipe
        self.data = {"fitness": self}
        self._batch = batch

    def batch(self, rows: Any) -> Any:
        return self._batch


def trajectory(trained: Any) -> tuple[list[int], np.ndarray[Any, Any]]:
    found = json.loads(trained.product)["trajectory"]
    return found["steps"], np.stack([np.frombuffer(base64.b64decode(text), "<f4") for text in found["phi"]])


def test_training_adapts_and_says_where_phi_has_been() -> None:
    task = small_task(steps=40, selection=None)
    trained = train(task, adaptive(lr=0.05), Training(seed=0, steps=40))
    assert trained.status.ok
    steps, phi = trajectory(trained)
    assert steps == list(range(0, 41, 4))
    np.testing.assert_allclose(phi[0], GENOME, rtol=1e-6)
    assert (np.abs(np.diff(phi, axis=0)).max(1) > 0.01).all()
    still = train(task, Loss(Taylor(GENOME)), Training(seed=0, steps=40))
    assert still.product == ""
    assert not torch.equal(next(trained.model.parameters()), next(still.model.parameters()))


def test_a_tiny_step_on_phi_leaves_training_as_it_is() -> None:
    task = small_task(steps=20, selection=None)
    moved = train(task, adaptive(lr=1e-300), Training(seed=0, steps=20))
    still = train(task, Loss(Taylor(GENOME)), Training(seed=0, steps=20))
    for a, b in zip(moved.model.parameters(), still.model.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-6)


def test_every_so_many_steps_only() -> None:
    task = small_task(steps=12, selection=None)
    trained = train(task, adaptive(lr=0.05, every=5), Training(seed=0, steps=12))
    steps, phi = trajectory(trained)
    changed = [b for a, b, x, y in zip(steps, steps[1:], phi, phi[1:], strict=False) if not np.array_equal(x, y)]
    assert changed == [5, 10]


def test_of_a_set_only_those_with_a_rule_move() -> None:
    task = small_task(steps=10, selection=None)
    moving, still = adaptive(lr=0.05), Loss(Taylor(GENOME))

    def two(model: nn.Module, batch: Any) -> tuple[Terms, ...]:
        z = model(batch[0])
        return Terms(z, batch[1]), Terms(0.5 * z, batch[1])

    trained = train(task.replace(forward=two), LossSet([moving, still]), Training(seed=0, steps=10))
    assert trained.status.ok
    _, phi = trajectory(trained)
    assert np.abs(phi[-1, :8] - phi[0, :8]).max() > 0.01
    np.testing.assert_array_equal(phi[-1, 8:], phi[0, 8:])


def test_a_training_goes_on_bit_for_bit_from_the_state_of_its_criterion() -> None:
    """Half-way, model and optimiser stay and the criterion is replaced by one that has loaded the other's state."""
    task = small_task(model=normed, steps=12, optimizer=Adam(0.01), selection=None)

    def run(change: bool) -> tuple[str, list[torch.Tensor]]:
        how = Training(seed=0, steps=12)
        model = initial_model(task, how)
        optimizer = task.recipe.make_optimizer(model.parameters())
        criterion = criterion_of(task, model, optimizer, adaptive(lr=0.05, every=2), how)
        with torch_global_scope(0, "dropout"):
            for step in steps_of(task, how):
                batch = task.data["train"].batch(step.rows)
                criterion.before_pass()
                optimizer.zero_grad()
                criterion.backward(batch, (task.forward(model, batch),), step)
                optimizer.step()
                assert criterion.after_step(step).ok
                if change and step.done == 5:
                    state = {name: part.clone() for name, part in criterion.state().items()}
                    criterion = criterion_of(task, model, optimizer, adaptive(lr=0.05, every=2), how)
                    criterion.load(state)
        return criterion.product(), [p.detach() for p in model.state_dict().values()]

    (whole, theta), (halves, again) = run(False), run(True)
    assert whole == halves
    assert all(torch.equal(a, b) for a, b in zip(theta, again, strict=True))


def test_the_model_keeps_nothing_of_the_passes_for_phi() -> None:
    """Buffers and the stream of dropout masks go on as if φ stood still."""
    task = small_task(model=normed, steps=10, selection=None)
    moved = train(task, adaptive(lr=1e-300), Training(seed=0, steps=10))
    still = train(task, Loss(Taylor(GENOME)), Training(seed=0, steps=10))
    for a, b in zip(moved.model.state_dict().values(), still.model.state_dict().values(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)


def test_divergence_stops_training_and_keeps_the_last_finite_phi() -> None:
    task = small_task(steps=20, selection=None)
    trained = train(task, adaptive(lr=1e308, optimizer="sgd"), Training(seed=0, steps=20))
    assert trained.status.kind == "diverged"
    assert "non-finite at step" in trained.status.sentence
    _, phi = trajectory(trained)
    assert np.isfinite(phi[0]).all()


def test_a_state_of_another_loss_is_refused() -> None:
    with pytest.raises(ValueError, match="8 loss parameters, and this loss has 2"):
        Adaptation(_tunable(adaptive(Tree(parse("t*p"), weights=(1.0, 1.0))))).load(
            Adaptation(_tunable(adaptive())).state()
        )


def _tunable(loss: Loss) -> Any:
    from lossmith.training.tunable import Tunable

    return Tunable.of(loss, small_task())


def test_no_fitness_rows_and_foreign_optimisers_are_one_sentence() -> None:
    task = small_task()
    model = task.build_model(0)
    optimizer = torch.optim.RMSprop(model.parameters())
    with pytest.raises(TaskError, match="RMSprop is not supported"):
        criterion_of(task, model, optimizer, adaptive(), Training(seed=0, steps=1))
    bare = task.replace()
    object.__setattr__(bare, "data", {"train": task.data["train"]})
    with pytest.raises(TaskError, match="fitness rows, and the task has none"):
        criterion_of(bare, model, torch.optim.SGD(model.parameters()), adaptive(), Training(seed=0, steps=1))


def test_nothing_to_adapt_is_one_sentence() -> None:
    with pytest.raises(LossError, match="no loss parameters that could adapt"):
        Loss(Tree(parse("-t*log(p)")), online=OnlineRule())
    with pytest.raises(LossError, match="different online rules"):
        LossSet([adaptive(lr=0.1), adaptive(lr=0.2)])


class Killed(Exception):
    pass


def test_rolling_checkpoints_bring_an_adapting_training_back(tmp_path: Path) -> None:
    task = small_task(model=normed, steps=24, optimizer=Adam(0.01), selection=None)
    how, loss = Training(seed=0, steps=24), adaptive(lr=0.02, every=2)
    place = Place(tmp_path / "training" / "here.safetensors", every=0.0)

    def fail(done: int) -> None:
        if done == 15:
            raise Killed

    with pytest.raises(Killed):
        train(task, loss, how, on_step=fail, place=place)
    seen: list[int] = []
    again = train(task, loss, how, on_step=seen.append, place=place)
    assert seen[0] == 15  # the step that had not been stored
    whole = train(task, loss, how)
    assert again.product == whole.product
    assert again.metrics == whole.metrics
