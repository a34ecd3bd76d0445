"""A tuning of so many meta-steps is to the bit two that follow each other, with every option."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest
from small_tasks import dropout_network, small_task
from unrolled_by_hand import NAMES, losses, network, tree

from lossmith.errors import SpecError
from lossmith.losses import Loss, LossSet, from_json, loss, to_json
from lossmith.records import Implicit, Tuning, canonical_json
from lossmith.tasks import SGD
from lossmith.training import Tuned, tune
from lossmith.training.tuning_state import TuningState

OPTIONS: dict[str, dict[str, Any]] = {
    "closed form": {},
    "sgd": {"meta_optimizer": "sgd", "meta_lr": 0.5},
    "unrolled": {"unroll_length": 3},
    "truncated": {"unroll_length": 3, "truncation": 1},
    "carried": {"reinitialise": 3},
    "carried, truncated": {"reinitialise": 3, "unroll_length": 2, "truncation": 1},
    "implicit": {"unroll_length": 2, "implicit": Implicit("neumann", 3)},
    "another task loss": {"task_loss": "mse"},
}
MOMENTUM = SGD(lr=0.1, momentum=0.8, nesterov=True)


def in_parts(task: Any, candidates: Any, tuning: Tuning, *parts: int) -> list[Tuned]:
    """Tunings of so many meta-steps one after the other, loss and state by way of their texts."""
    states = [""] * len(candidates)
    done: list[Tuned] = []
    for count in parts:
        done = tune(task, candidates, replace(tuning, meta_steps=count), seed=3, states=states)
        candidates, states = [from_json(to_json(one.loss)) for one in done], [one.state for one in done]
    return done


@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
def test_nine_meta_steps_are_three_and_six(options: Any) -> None:
    task = small_task(model=dropout_network, optimizer=MOMENTUM)
    tuning = Tuning(**{"meta_lr": 0.05, **options})
    whole = in_parts(task, losses(*NAMES), tuning, 9)
    for parts in ((3, 6), (6, 3)):
        for one, other in zip(whole, in_parts(task, losses(*NAMES), tuning, *parts), strict=True):
            assert one.loss.kernel == other.loss.kernel
            assert one.state == other.state
            assert json.loads(one.state)["meta_steps"] == 9
            assert one.history[-1] == other.history[-1]
            assert (other.meta_steps, other.steps) == (parts[1], parts[1] * tuning.unroll_length)
            assert other.history[0][0] == parts[0] + 1
    assert all(one.loss.kernel != loss.kernel for one, loss in zip(whole, losses(*NAMES), strict=True))


def test_what_was_forgotten_would_be_noticed() -> None:
    """Neither the means of Adam nor the number of the meta-step can be left out."""
    task, tuning = small_task(), Tuning(meta_steps=3, meta_lr=0.05)
    (first,) = tune(task, losses("tanh"), tuning, seed=3)
    (right,) = tune(task, [first.loss], tuning, seed=3, states=[first.state])
    renumbered = canonical_json({**json.loads(first.state), "meta_steps": 0})
    empty = replace(TuningState.begin("adam", 7), meta_steps=3).to_text()
    for state in (renumbered, empty):
        (wrong,) = tune(task, [first.loss], tuning, seed=3, states=[state])
        assert wrong.loss.kernel != right.loss.kernel


def test_networks_and_sets_of_losses_go_on_too() -> None:
    task = small_task()
    company = [Loss(network(1, 5, 4)), LossSet(losses("tanh", "taylor"))]
    whole, parts = (in_parts(task, company, Tuning(meta_lr=0.02), *some) for some in ((6,), (2, 4)))
    for one, other in zip(whole, parts, strict=True):
        assert to_json(one.loss) == to_json(other.loss)
        assert one.state == other.state


def test_one_state_in_the_tuning_is_that_of_all() -> None:
    task, tuning = small_task(), Tuning(meta_steps=2, meta_lr=0.05)
    (first,) = tune(task, losses("tanh"), tuning, seed=0)
    (a,) = tune(task, [first.loss], replace(tuning, state=first.state), seed=0)
    (b,) = tune(task, [first.loss], tuning, seed=0, states=[first.state])
    assert (to_json(a.loss), a.state, a.history) == (to_json(b.loss), b.state, b.history)
    assert a.history[0][0] == 3


def test_a_loss_without_parameters_has_no_state_and_disturbs_none() -> None:
    task, tuning = small_task(), Tuning(meta_steps=2, meta_lr=0.05)
    plain, first = tune(task, [loss("cross_entropy"), *losses("tanh")], tuning, seed=0)
    assert plain.state == ""
    again = tune(task, [plain.loss, first.loss], tuning, seed=0, states=[plain.state, first.state])
    assert again[1].history[0][0] == 3


def test_a_candidate_that_diverges_keeps_the_state_before() -> None:
    wild, calm = (Loss(tree("exp(t)*square(p)", 1.0, size, 1.0, 1.0)) for size in (100.0, 1.0))
    one, other = tune(small_task(), [wild, calm], Tuning(meta_steps=4), seed=0)
    assert (one.status.kind, one.meta_steps, json.loads(one.state)["meta_steps"]) == ("diverged", 1, 0)
    assert json.loads(other.state)["meta_steps"] == 4
    assert one.loss.kernel == wild.kernel


def test_states_that_do_not_go_together_are_refused() -> None:
    task, tuning = small_task(), Tuning(meta_steps=2)
    two = tune(task, losses("tanh"), tuning, seed=0)[0].state
    three = tune(task, losses("tanh"), replace(tuning, meta_steps=3), seed=0)[0].state
    with pytest.raises(SpecError, match="go on from 2 and 3 meta-steps cannot be tuned side by side"):
        tune(task, losses("tanh", "tanh"), tuning, seed=0, states=[three, two])
    with pytest.raises(SpecError, match=r"after 3 meta-steps, in the midst of 2 that share one training"):
        tune(task, losses("tanh"), replace(tuning, reinitialise=2), seed=0, states=[three])
    with pytest.raises(SpecError, match="belongs to 7 loss parameters, and this loss has 3"):
        tune(task, losses("squared"), tuning, seed=0, states=[two])
