"""`lm.online.AdaptiveLoss` in loops as users write them."""

from __future__ import annotations

import copy
import io
import pickle
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import torch
from by_hand import by_differences, copied, task_loss_after_step
from small_tasks import CLASSES, FEATURES, rows
from torch import Tensor, nn

import lossmith as lm
from lossmith.errors import LossError, UsageError
from lossmith.losses import Loss, OnlineRule, Replay, Taylor
from lossmith.online import AdaptiveLoss
from lossmith.rng import derive_seed, torch_global_scope
from lossmith.training.online.adaptation import Adaptation

GENOME = (1.2, -1.1, 0.8, 0.9, -0.7, 0.3, 0.5, 0.6)
X, Y = (part.double() if part.is_floating_point() else part for part in rows(96, 0))
VALID = tuple(part.double() if part.is_floating_point() else part for part in rows(30, 1))

OPTIMIZERS: dict[str, Callable[[Any], torch.optim.Optimizer]] = {
    "sgd": lambda p: torch.optim.SGD(p, lr=0.1),
    "momentum": lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9, weight_decay=0.01),
    "nesterov": lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9, nesterov=True),
    "adam": lambda p: torch.optim.Adam(p, lr=0.01, eps=1e-3),
    "adamw": lambda p: torch.optim.AdamW(p, lr=0.01, eps=1e-3, fused=True),
}


def model_of(kind: str = "plain") -> nn.Module:
    layers: dict[str, list[nn.Module]] = {
        "plain": [nn.Tanh()],
        "noisy": [nn.BatchNorm1d(8), nn.Tanh(), nn.Dropout(0.3)],
    }
    with torch_global_scope(0, "model"):
        return nn.Sequential(nn.Linear(FEATURES, 8), *layers[kind], nn.Linear(8, CLASSES)).double()


def start() -> Loss:
    return Loss(Taylor(GENOME))


def batches(count: int, size: int = 16) -> Iterator[tuple[Tensor, Tensor]]:
    for step in range(count):
        at = torch.arange(step * size, (step + 1) * size) % len(X)
        yield X[at], Y[at]


def seen_gradients(criterion: AdaptiveLoss) -> list[np.ndarray[Any, Any]]:
    """Filled with every gradient φ takes a step on."""
    found: list[np.ndarray[Any, Any]] = []
    own = criterion._adaptation
    own.move = lambda gradient, value: (  # type: ignore[method-assign]
        found.append(gradient) or Adaptation.move(own, gradient, value)  # type: ignore[func-returns-value]
    )
    return found


@pytest.mark.parametrize("kind", ["plain", "noisy"])
@pytest.mark.parametrize("name", OPTIMIZERS)
@pytest.mark.parametrize("loop", ["plain", "clipped", "accumulated"])
def test_gradients_agree_with_finite_differences(kind: str, name: str, loop: str) -> None:
    model = model_of(kind)
    optimizer = OPTIMIZERS[name](model.parameters())
    clip = 0.3 if loop == "clipped" else None
    criterion = AdaptiveLoss(model, optimizer, [VALID], start(), lr=0.01, grad_clip=clip)
    found = seen_gradients(criterion)
    parts = 2 if loop == "accumulated" else 1
    task_loss = lm.loss("cross_entropy")
    with torch_global_scope(5, "loop"):
        for step, (x, y) in enumerate(batches(3)):
            pieces = list(zip(x.chunk(parts), y.chunk(parts), strict=True))
            random, phi = torch.get_rng_state(), criterion._adaptation.phi
            before = copied(model, optimizer)
            optimizer.zero_grad()
            for a, b in pieces:
                (criterion(model(a), b) / parts).backward()
            if clip is not None:
                nn.utils.clip_grad_norm_(model.parameters(), clip)
            optimizer.step()
            with torch_global_scope(0, "online", step + 1):
                masks = torch.get_rng_state()

            def after(phi: np.ndarray[Any, Any]) -> float:
                return task_loss_after_step(
                    *before, start(), phi, pieces, VALID, task_loss,  # noqa: B023
                    clip=clip, random=random, valid_random=masks, share=1 / parts,  # noqa: B023
                )  # fmt: skip

            expected = by_differences(after, phi)
            assert np.abs(expected).max() > 1e-6
            assert np.abs(found[-1] - expected).max() < 1e-6 * np.abs(expected).max() + 1e-12
    assert len(found) == criterion.steps == 3


def test_losses_of_several_passes_and_outputs_add_up() -> None:
    class TwoHeads(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body, self.a, self.b = nn.Linear(FEATURES, 8), nn.Linear(8, CLASSES), nn.Linear(8, CLASSES)

        def forward(self, x: Tensor) -> dict[str, Tensor]:
            h = self.body(x).tanh()
            return {"a": self.a(h), "b": self.b(h)}

    with torch_global_scope(0, "model"):
        model = TwoHeads().double()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)

    def forward(model: nn.Module, batch: Any) -> lm.Terms:
        return lm.Terms(model(batch[0])["a"], batch[1])

    criterion = AdaptiveLoss(model, optimizer, [VALID], start(), lr=0.01, forward=forward)
    found = seen_gradients(criterion)
    ((x, y),) = batches(1)
    phi, (again, other) = criterion._adaptation.phi, copied(model, optimizer)

    def total(model: nn.Module, loss: Callable[[Tensor, Tensor], Tensor]) -> Tensor:
        one, two = model(x), model(x.flip(0))
        return loss(one["a"], y) + 0.5 * loss(one["b"], y) + 2 * loss(two["a"], y.flip(0)) + one["a"].square().mean()

    total(model, criterion).backward()
    optimizer.step()

    def after(phi: np.ndarray[Any, Any]) -> float:
        moved, steps = copied(again, other)
        total(moved, Loss(Taylor(tuple(phi.tolist())))).backward()
        steps.step()
        return lm.loss("cross_entropy")(moved(VALID[0])["a"], VALID[1]).item()

    np.testing.assert_allclose(found[0], by_differences(after, phi), rtol=1e-6, atol=1e-9)


def test_looking_on_changes_nothing() -> None:
    """Evaluation, discarded gradients and steps without the loss leave φ and the user's random numbers alone."""
    model = model_of("noisy")
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    criterion = AdaptiveLoss(model, optimizer, [VALID], start(), lr=0.01)
    found = seen_gradients(criterion)
    with torch_global_scope(1, "loop"):
        model.eval()
        criterion(model(X), Y).backward()
        optimizer.step()
        model.train()
        with torch.no_grad():
            criterion(model(X), Y)
        optimizer.zero_grad()
        model(X).square().mean().backward()
        optimizer.step()
        assert not found
        assert criterion.steps == 0
        criterion(model(X[:20]), Y[:20]).backward()
        optimizer.zero_grad()  # thrown away
        state = torch.get_rng_state()
        buffers = [b.clone() for b in model.buffers()]
        criterion(model(X), Y).backward()
        passed, after = torch.get_rng_state(), [b.clone() for b in model.buffers()]
        optimizer.step()
        assert torch.equal(passed, torch.get_rng_state())
        assert not torch.equal(passed, state)
        assert all(torch.equal(a, b) for a, b in zip(after, model.buffers(), strict=True))
        assert not all(torch.equal(a, b) for a, b in zip(buffers, after, strict=True))
    assert len(found) == criterion.steps == 1


def test_discarded_gradients_do_not_count() -> None:
    results = []
    for discarded in ("", "to none", "to zero"):
        model = model_of()
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        criterion = AdaptiveLoss(model, optimizer, [VALID], start(), lr=0.01)
        if discarded:
            criterion(model(X[:30]), Y[:30]).backward()
            optimizer.zero_grad(set_to_none=discarded == "to none")
        criterion(model(X), Y).backward()
        optimizer.step()
        results.append(criterion.loss.kernel.phi)
    assert results[0] == results[1] == results[2]


def test_parts_in_evaluation_mode_stay_there() -> None:
    model = model_of("noisy")
    model[1].eval()  # batch norm, as in fine-tuning
    before = copy.deepcopy(model[1].state_dict())
    optimizer = torch.optim.SGD([*model[0].parameters(), *model[-1].parameters()], lr=0.1)
    criterion = AdaptiveLoss(model, optimizer, [VALID], start(), lr=0.01)
    with torch_global_scope(0, "loop"):  # dropout draws from it
        for x, y in batches(3):
            optimizer.zero_grad()
            criterion(model(x), y).backward()
            optimizer.step()
    assert criterion.steps == 3
    assert [module.training for module in model] == [True, False, True, True, True]
    for name, value in model[1].state_dict().items():
        assert torch.equal(value, before[name]), name


def test_it_is_the_loss_at_the_present_phi() -> None:
    model = model_of()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    criterion = AdaptiveLoss(model, optimizer, [VALID], start(), lr=0.1)
    for x, y in batches(3):
        optimizer.zero_grad()
        z = model(x)
        value = criterion(z, y)
        static = criterion.loss(z.detach(), y)
        torch.testing.assert_close(value.detach(), static)
        with torch.no_grad():
            torch.testing.assert_close(criterion(z, y), static)
        value.backward()
        optimizer.step()
    assert criterion.loss.online == OnlineRule(lr=0.1)
    assert np.abs(np.array(criterion.loss.kernel.phi) - GENOME).max() > 0.01


class Loop:
    """Ten steps with dropout, momentum and a shuffling loader; all that a user stores."""

    def __init__(self) -> None:
        self.model = model_of("noisy")
        self.optimizer = torch.optim.Adam(self.model.parameters(), lr=0.01)
        data = torch.utils.data.TensorDataset(*VALID)
        loader = torch.utils.data.DataLoader(data, batch_size=8, shuffle=True)
        self.criterion = AdaptiveLoss(self.model, self.optimizer, loader, start(), lr=0.02, every=2, seed=4)

    def run(self, steps: range) -> None:
        for step in steps:
            x, y = list(batches(10))[step]
            with torch_global_scope(7, "step", step):
                self.optimizer.zero_grad()
                self.criterion(self.model(x), y).backward()
                self.optimizer.step()

    def result(self) -> list[Tensor]:
        return [*self.model.state_dict().values(), *self.criterion.state_dict()["_extra_state"].values()]


def test_a_stored_state_goes_on_bit_for_bit() -> None:
    whole, first, second = Loop(), Loop(), Loop()
    whole.run(range(10))
    first.run(range(7))
    file = io.BytesIO()
    torch.save([part.state_dict() for part in (first.model, first.optimizer, first.criterion)], file)
    file.seek(0)
    stored = torch.load(file, weights_only=True)
    for part, state in zip((second.model, second.optimizer, second.criterion), stored, strict=True):
        part.load_state_dict(state)
    second.run(range(7, 10))
    for a, b in zip(whole.result(), second.result(), strict=True):
        assert torch.equal(a, b)
    assert second.criterion.steps == 10


def test_a_state_of_another_loss_is_one_sentence() -> None:
    loop = Loop()
    optimizer = torch.optim.SGD(loop.model.parameters(), lr=0.1)
    other = AdaptiveLoss(loop.model, optimizer, [VALID])
    with pytest.raises(LossError, match=r"8 loss parameters, and this loss has 1720.*build it with the same loss"):
        other.load_state_dict(loop.criterion.state_dict())


def test_the_course_can_be_replayed() -> None:
    model = model_of()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    criterion = AdaptiveLoss(model, optimizer, [VALID], start(), lr=0.01)
    seen = [np.array(criterion.loss.kernel.phi)]
    for x, y in batches(50):
        optimizer.zero_grad()
        criterion(model(x), y).backward()
        optimizer.step()
        seen.append(np.array(criterion.loss.kernel.phi))
    replay = criterion.replay()
    kernel = replay.kernel
    assert isinstance(kernel, Replay)
    assert 10 <= len(kernel.times) <= 21
    assert kernel.times[0] == 0
    assert kernel.times[-1] == 1
    for time, phi in zip(kernel.times, kernel.course, strict=True):
        np.testing.assert_allclose(phi, seen[round(50 * time)], rtol=1e-6)
    assert replay.online is None


def test_models_are_copied_and_stored_without_their_loss() -> None:
    model = model_of()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    criterion = AdaptiveLoss(model, optimizer, [VALID], start(), lr=0.01)
    assert list(criterion.parameters()) == []
    assert set(criterion.state_dict()) == {"_extra_state"}
    twin = copy.deepcopy(model)
    stored = pickle.loads(pickle.dumps(model))
    for other in (twin, stored):
        other(X).sum().backward()
        assert not criterion._passes._seen
    criterion(model(X), Y).backward()
    optimizer.step()
    assert criterion.steps == 1


def test_a_drawn_network_is_a_function_of_the_seed() -> None:
    model = model_of()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    a, b, c = (AdaptiveLoss(model, optimizer, [VALID], seed=seed).loss for seed in (0, 0, 1))
    assert str(a) == "network(2-40-40-1, smooth leaky relu), online(lr=1e-05)"
    assert a.kernel == b.kernel != c.kernel


def test_phi_that_diverges_stands_still_and_says_so() -> None:
    model = model_of()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    loss = Loss(Taylor(GENOME), online=OnlineRule(lr=1e308, optimizer="sgd"))
    criterion = AdaptiveLoss(model, optimizer, [VALID], loss)
    criterion(model(X), Y).backward()
    with pytest.warns(UserWarning, match="AdaptiveLoss stands still from here on: .*non-finite at step 1"):
        optimizer.step()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        criterion(model(X), Y).backward()
        optimizer.step()
    assert criterion.status.kind == "diverged"
    assert criterion.loss.kernel.phi == GENOME
    other = AdaptiveLoss(model, optimizer, [VALID], loss)
    other.load_state_dict(criterion.state_dict())
    assert other.status == criterion.status


def step_with(change: Callable[[nn.Module], None], **settings: Any) -> None:
    model = model_of()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    criterion = AdaptiveLoss(model, optimizer, [VALID], start(), **settings)
    criterion(model(X), Y).backward()
    change(model)
    optimizer.step()


def test_gradients_changed_behind_its_back_are_one_sentence() -> None:
    with pytest.raises(UsageError, match="max_norm as grad_clip"):
        step_with(lambda model: nn.utils.clip_grad_norm_(model.parameters(), 1.0))
    step_with(lambda model: nn.utils.clip_grad_norm_(model.parameters(), 1.0), grad_clip=1.0)
    model = model_of()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    criterion = AdaptiveLoss(model, optimizer, [VALID], start())
    criterion(model(X), Y).backward()
    nn.utils.clip_grad_norm_(model.parameters(), 1e-3)
    with pytest.raises(UsageError, match="gradients were changed"):
        criterion(model(X), Y).backward()


def test_misuse_is_one_sentence() -> None:
    model = model_of()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with pytest.raises(UsageError, match="RMSprop is not supported"):
        AdaptiveLoss(model, torch.optim.RMSprop(model.parameters()), [VALID])
    with pytest.raises(UsageError, match="ends for good"):
        AdaptiveLoss(model, optimizer, iter([VALID]))
    with pytest.raises(LossError, match="no loss parameters that could adapt"):
        AdaptiveLoss(model, optimizer, [VALID], lm.loss("cross_entropy"))
    with pytest.raises(LossError, match=r"give one lm\.Loss with parameters"):
        AdaptiveLoss(model, optimizer, [VALID], "baikal")  # type: ignore[arg-type]
    criterion = AdaptiveLoss(model, optimizer, [VALID], start())
    with pytest.raises(UsageError, match="none that Sequential returned in training mode"):
        criterion(2 * model(X), Y)
    criterion(model(X), Y).backward()
    with pytest.raises(UsageError, match="closure"):
        optimizer.step(lambda: torch.zeros(()))
    model = model_of()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    empty = AdaptiveLoss(model, optimizer, [], start())
    empty(model(X), Y).backward()
    with pytest.raises(UsageError, match="gives no batches"):
        optimizer.step()


def test_its_random_streams_are_named_by_the_seed_and_the_step() -> None:
    assert derive_seed(0, "online", 1) != derive_seed(0, "online", 2) != derive_seed(1, "online", 2)
