"""Tune requests that continue others, on one task and on several: what they carry, and what is done at once."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
from small_tasks import rows, small_task
from torch import nn

from lossmith.evaluation import Plan, evaluate_chunk, make_plan, tuning
from lossmith.evaluation.chunks import divide, tuned_together
from lossmith.evaluation.unroll_room import free_memory, unroll_room
from lossmith.losses import Loss, Tree, from_json, to_json
from lossmith.losses.parser import parse
from lossmith.records import Evaluation, Implicit, Request, Screening, Tuning
from lossmith.tasks import SeveralTasks
from lossmith.training import tune

TASK = small_task()
PLAN = Plan(tune_chunk=3)
SHORT = Tuning(meta_steps=3, meta_lr=0.05)


def weighted(text: str, first: float = -1.0) -> Loss:
    root = parse(text)
    return Loss(Tree(root, (first, *[1.0] * (root.size - 2))))


LOSSES = [weighted("t*log(p)"), weighted("log(p)*t + p*p")]


def request(loss: str, how: Tuning = SHORT, **parts: Any) -> Request:
    return Request(loss, **{"seed": 5, "work": "tune", "settings": how.to_settings(), **parts})


def product(evaluation: Evaluation) -> Any:
    assert evaluation.status.ok, evaluation.status
    return json.loads(evaluation.product)


def blocks(task: Any, plan: Plan, how: Tuning, *counts: int) -> list[Any]:
    """The products of the last of several blocks of so many meta-steps."""
    at, found = [(to_json(loss), "") for loss in LOSSES], []
    for count in counts:
        asked = [request(loss, replace(how, meta_steps=count, state=state)) for loss, state in at]
        found = [product(one) for one in evaluate_chunk(task, asked, plan)]
        at = [(one["loss"], one["state"]) for one in found]
    return found


def two_tasks() -> SeveralTasks:
    x, y = rows(90, 7)
    other = small_task(
        model=lambda seed: nn.Sequential(nn.Linear(6, 5), nn.Tanh(), nn.Linear(5, 3)), train=(x, y), name="other"
    )
    return SeveralTasks([small_task(name="small"), other])


@pytest.mark.parametrize("several", [False, True], ids=["one task", "two tasks"])
@pytest.mark.parametrize("options", [{}, {"unroll_length": 2, "reinitialise": 2}], ids=["closed", "carried"])
def test_blocks_are_to_the_bit_one_tuning(options: Any, several: bool) -> None:
    task: Any = two_tasks() if several else TASK
    plan = make_plan(task) if several else PLAN
    how = replace(SHORT, **options)
    whole, parts = blocks(task, plan, how, 6), blocks(task, plan, how, 2, 4)
    for one, other, start in zip(whole, parts, LOSSES, strict=True):
        assert (one["loss"], one["state"]) == (other["loss"], other["state"])
        assert one["loss"] != to_json(start)
        assert (one["meta_steps"], other["meta_steps"]) == (6, 4)
        assert [step for step, _ in other["meta_loss"]] == [3, 4, 5, 6]
        assert other["meta_loss"] == one["meta_loss"][2:]


def test_states_of_equal_length_are_tuned_together(monkeypatch: pytest.MonkeyPatch) -> None:
    first = [product(one) for one in evaluate_chunk(TASK, [request(to_json(loss)) for loss in LOSSES], PLAN)]
    companies: list[int] = []

    def spied(task: Any, losses: Sequence[Loss], *rest: Any, **parts: Any) -> Any:
        companies.append(len(losses))
        return tune(task, losses, *rest, **parts)

    monkeypatch.setattr(tuning, "tune", spied)
    on = [request(one["loss"], replace(SHORT, state=one["state"])) for one in first]
    further = replace(SHORT, state=product(evaluate_chunk(TASK, on[:1], PLAN)[0])["state"])
    companies.clear()
    asked = [*on, request(to_json(LOSSES[0])), request(to_json(LOSSES[0]), further)]
    assert [len(chunk) for chunk in divide(asked, PLAN)] == [2, 1, 1]
    assert all(one.status.ok for one in evaluate_chunk(TASK, asked, PLAN))
    assert companies == [2, 1, 1]


@pytest.mark.parametrize("text", ['{"state":3}', '{"state":"x"', '["state"]', '{"state":"{"}'])
def test_settings_that_cannot_be_read_fail_for_themselves(text: str) -> None:
    assert tuned_together(text) is not None
    good = request(to_json(LOSSES[0]))
    bad, right = evaluate_chunk(TASK, [replace(good, settings=text), good], PLAN)
    assert (bad.status.kind, right.status.ok) == ("crashed", True)


def test_a_wrong_state_is_a_sentence() -> None:
    (one,) = evaluate_chunk(TASK, [request(to_json(LOSSES[0]), replace(SHORT, state='{"meta_steps":3}'))], PLAN)
    assert one.status.kind == "crashed"
    assert "is not the state a tuning goes on with" in one.status.sentence


def test_the_state_is_kept_unless_screens_follow() -> None:
    asked = [request(to_json(LOSSES[0]), replace(SHORT, screen_after=s)) for s in (None, Screening(50))]
    kept, ended = (product(one) for one in evaluate_chunk(TASK, asked, PLAN))
    assert "state" in kept
    assert "state" not in ended
    assert kept["loss"] == ended["loss"]


def test_what_diverges_gives_the_last_sound_loss_and_state() -> None:
    wild = weighted("exp(t)*square(p)", 1.0)
    wild = Loss(wild.kernel.with_phi((1.0, 100.0, 1.0, 1.0)))
    (one,) = evaluate_chunk(TASK, [request(to_json(wild))], PLAN)
    assert one.status.kind == "diverged"
    found = json.loads(one.product)
    assert from_json(found["loss"]).kernel == wild.kernel
    assert json.loads(found["state"])["meta_steps"] == 0


def test_notes_and_memory_are_told() -> None:
    concave = to_json(weighted("t*p", -1.0))
    how = replace(SHORT, unroll_length=2)
    asked = [request(concave, how), request(concave, replace(how, implicit=Implicit("cg", 5, 1e-6)))]
    unrolled, implicit = (product(one) for one in evaluate_chunk(TASK, asked, PLAN))
    assert unrolled["memory"] > 0
    assert "notes" not in unrolled
    assert "damping raised to" in implicit["notes"]
    assert "memory" not in implicit
    assert implicit["road"].startswith("implicit, ")


def test_screens_after_tuning_look_at_every_task() -> None:
    task = two_tasks()
    how = replace(SHORT, screen_after=Screening(50))
    good, bad = (to_json(weighted("t*log(p)", first)) for first in (-1.0, 1.0))
    kept, rejected = evaluate_chunk(task, [request(good, how), request(bad, how)], make_plan(task))
    assert kept.status.ok
    assert {"gradients", "loss"} <= product(kept).keys()
    assert (rejected.status.kind, rejected.status.detail) == ("screened", "rejection_protocol")
    assert rejected.status.sentence.startswith("after tuning: on small: ")
    assert kept.steps == 3 * 2


def test_an_unroll_that_does_not_fit_is_told_before_and_decides_nothing_afterwards(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    how = replace(SHORT, unroll_length=500)
    (said,) = unroll_room(TASK, LOSSES, how)
    assert "differentiates through 500 steps takes up to" in said
    assert unroll_room(TASK, LOSSES, SHORT) == []
    monkeypatch.setattr("lossmith.evaluation.unroll_room.available_memory", lambda: 2 << 20)
    with pytest.raises(
        Exception, match=r"needs up to [\d.]+ MiB .* and 2\.0 MiB are free: truncation = \d+ or unroll_"
    ):
        unroll_room(TASK, LOSSES, how)
    how = replace(how, unroll_length=20)
    (one,) = evaluate_chunk(TASK, [request(to_json(LOSSES[0]), how)], PLAN)
    monkeypatch.undo()
    (other,) = evaluate_chunk(TASK, [request(to_json(LOSSES[0]), how)], PLAN)
    assert one.status.ok
    assert json.loads(one.product)["loss"] == json.loads(other.product)["loss"]


def test_there_is_memory() -> None:
    assert free_memory("cpu") > 1 << 20
