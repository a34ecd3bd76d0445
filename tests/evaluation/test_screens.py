"""The screens keep what can be trained on and turn away what cannot, each candidate for itself."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest
import torch
from small_tasks import rows, small_task
from torch import Tensor, nn

from lossmith.evaluation import Plan, evaluate, evaluate_chunk, rejection, screens
from lossmith.evaluation.payload import Payload, digest, pack, run_chunk
from lossmith.evaluation.rejection import Rows, optimise_outputs
from lossmith.evaluation.screens import Screened, initial_rows, screen
from lossmith.losses import Loss, LossSet, Ratio, Tree, loss, to_json
from lossmith.losses.parser import parse
from lossmith.losses.population_loss import PopulationLoss
from lossmith.records import Evaluation, Request, Screening
from lossmith.tasks import Adam, Task, Terms
from lossmith.tasks.metrics import Metric, log_loss

PLAN = Plan()
SHORT = Screening(rejection_steps=100)
TASK = small_task()


def screened(name: str, task: Task = TASK, how: Screening = SHORT, **options: Any) -> Screened:
    (found,) = screen(task, [loss(name, head=task.head)], how, seed=3, **options)
    return found


def requested(*names: str, how: Screening = SHORT, seed: int = 3, head: Any = "softmax") -> list[Request]:
    settings = how.to_settings()
    return [Request(to_json(loss(n, head=head)), seed, work="screen", settings=settings) for n in names]


def products(found: list[Evaluation]) -> list[tuple[str, str]]:
    return [(str(e.status), e.product) for e in found]


# the rejection protocol


@pytest.mark.parametrize("name", ["cross_entropy", "mse", "baikal", "-t*p", "abs(log(t*p))"])
def test_what_pulls_towards_the_target_passes(name: str) -> None:
    found = screened(name)
    assert found.status.ok
    assert found.product["before"] == pytest.approx(56 / 90)  # error of the untrained network on all 90 rows
    assert found.product["after"] < found.product["before"]


@pytest.mark.parametrize("name", ["t*log(p)", "t*p", "-p*p", "sqrt(p - 2)"])
def test_what_pulls_elsewhere_is_rejected(name: str) -> None:
    found = screened(name)
    assert str(found.status) == "screened:rejection_protocol"
    assert (
        "100 steps of optimising the outputs on it did not better error_rate: 0.6222 before, " in found.status.sentence
    )
    assert found.product["after"] >= found.product["before"]


@pytest.mark.parametrize("name", ["p*0", "p/p", "p", "1/(p - p)", "log(0*p)", "t*3 + p*0"])
def test_what_does_not_move_the_outputs_is_rejected_at_once(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    # the sum over outputs of p is 1: constant, though rounding gives it slopes that Adam would make steps of
    monkeypatch.setattr(screens, "optimise_outputs", lambda losses, *_, **__: [1 / 0 for _ in losses])
    found = screened(name)
    assert str(found.status) == "screened:rejection_protocol"
    assert found.status.sentence == "it has no gradient at the outputs of an untrained network"


def test_the_default_is_the_published_protocol() -> None:
    for name, kept in (("cross_entropy", True), ("baikal", True), ("t*log(p)", False)):
        found = screened(name, how=Screening())
        assert found.status.ok == kept
        assert found.product["after"] == (0.0 if kept else 1.0)  # 1000 steps at lr 0.1 carry the outputs to the end


def test_without_steps_only_the_start_is_looked_at() -> None:
    how = replace(SHORT, rejection_steps=0)
    for name in ("t*log(p)", "p*0"):
        assert screened(name, how=how) == Screened(screened(name, how=how).status, screened(name, how=how).product)
        assert screened(name, how=how).status.ok
        assert set(screened(name, how=how).product) == {"gradients"}
    assert screened("cross_entropy", how=replace(how, gradient_equivalence=False)).product == {}


def test_the_learning_rate_is_the_recipes_times_the_candidates() -> None:
    def task(lr: float) -> Task:
        return small_task(optimizer=Adam(lr=lr), metric=log_loss)

    def after(lr: float, scale: float) -> float:
        found = screen(task(lr), [loss("cross_entropy")], SHORT, seed=3, lr_scales=[scale])
        return float(found[0].product["after"])

    assert after(0.02, 1.0) == after(0.01, 2.0) < after(0.01, 1.0)


def test_a_metric_to_be_maximised() -> None:
    task = small_task(metric="accuracy")
    assert screened("cross_entropy", task).status.ok
    assert screened("cross_entropy", task).product["after"] > screened("cross_entropy", task).product["before"]
    assert str(screened("t*log(p)", task).status) == "screened:rejection_protocol"


def one_value(output: Tensor, target: Tensor, weight: Tensor | None = None) -> float:
    if float(output.abs().max()) < 3:
        raise ValueError("only one class")
    return 0.5


def test_a_metric_without_a_value_at_the_start_judges_nobody() -> None:
    task = small_task(metric=Metric("auc", "min", one_value))
    for name in ("cross_entropy", "t*log(p)"):
        found = screened(name, task)
        assert found.status.ok
        assert found.product["note"] == "auc has no value on 90 examples of an untrained network"
    assert str(screened("p*0", task).status) == "screened:rejection_protocol"


# two roads to the same steps


def test_the_steps_are_adams() -> None:
    start = initial_rows(TASK, 20, seed=3)
    names = ["cross_entropy", "mse", "baikal"]
    found = optimise_outputs([loss(n) for n in names], start, lrs=[0.1, 0.02, 0.1], steps=40)
    for name, lr, end in zip(names, (0.1, 0.02, 0.1), found, strict=True):
        z = start.output.clone().requires_grad_()
        optimizer = torch.optim.Adam([z], lr=lr)
        for _ in range(40):
            optimizer.zero_grad()
            loss(name)(z, start.target).backward()  # type: ignore[no-untyped-call]
            optimizer.step()
        assert end.output is not None
        moved, expected = end.output - start.output, z.detach() - start.output
        assert expected.abs().max() > 0.5  # so nothing-moved cannot pass
        torch.testing.assert_close(moved, expected, rtol=1e-3, atol=1e-4)


def test_the_gradient_of_every_kind_of_loss() -> None:
    start = initial_rows(TASK, 20, seed=3)
    kinds = [
        loss("cross_entropy", outputs="mean"),
        loss("cross_entropy", smoothing=0.1),
        loss("-t*log(p)*(1 + tau)"),
        Loss(Tree(parse("2*p*t")), aggregation=Ratio(Tree(parse("p + t")))),
        loss("cross_entropy", reduction="sum"),
        Loss(Tree(parse("3"))),
    ]
    outputs = torch.stack([start.output + i for i in range(len(kinds))])
    values, deltas = rejection.values_and_deltas(PopulationLoss(kinds), outputs, start, progress=0.5)
    for one, z, value, delta in zip(kinds, outputs, values, deltas, strict=True):
        z = z.clone().requires_grad_()
        expected = one(z, start.target, progress=0.5)
        torch.testing.assert_close(value, expected.detach())
        if expected.requires_grad:
            (slope,) = torch.autograd.grad(expected, z)
            torch.testing.assert_close(delta, slope, rtol=1e-4, atol=1e-6)
        else:
            assert not delta.any()


# each candidate for itself

MIXED = ["cross_entropy", "t*log(p)", "p*0", "exp(99*z*z)*t*p", "baikal", "log(z - 9)*0 + sqrt(0*z)", "-t*p", "mse"]


def test_the_population_around_a_candidate_changes_no_bit() -> None:
    alone = [screened(name) for name in MIXED]
    together = screen(TASK, [loss(name) for name in MIXED], SHORT, seed=3)
    backwards = screen(TASK, [loss(name) for name in MIXED[::-1]], SHORT, seed=3)[::-1]
    assert together == alone == backwards
    assert {str(one.status) for one in alone} >= {"ok", "screened:rejection_protocol"}
    start = initial_rows(TASK, 37, seed=3)  # an odd number of elements: some fall into the tail of a vector loop
    names = ["cross_entropy", "baikal", "mse", "-t*p", "-t*log(p)*2"]
    ends = optimise_outputs([loss(n) for n in names], start, lrs=[0.1] * 5, steps=50)
    for name, end in zip(names, ends, strict=True):
        (single,) = optimise_outputs([loss(name)], start, lrs=[0.1], steps=50)
        assert single.output is not None
        assert end.output is not None
        assert torch.equal(single.output, end.output)


def test_what_is_no_number_at_the_start() -> None:
    found = screened("exp(1000 + z)*t")
    assert str(found.status) == "screened:non_finite"
    assert found.status.sentence == "its value at the outputs of an untrained network is not finite"
    assert found.product == {}


def test_what_breaks_on_the_way_is_dropped_and_disturbs_nobody() -> None:
    start = initial_rows(TASK, 30, seed=3)
    names = ["cross_entropy", "-exp(3*z*z)*t", "mse"]
    ends = optimise_outputs([loss(n) for n in names], start, lrs=[0.1, 0.5, 0.1], steps=60)
    assert ends[1].output is None
    assert 1 < ends[1].step < 60
    for place in (0, 2):
        (alone,) = optimise_outputs([loss(names[place])], start, lrs=[0.1], steps=60)
        assert torch.equal(ends[place].output, alone.output)  # type: ignore[arg-type]
    everyone = optimise_outputs([loss("-exp(3*z*z)*t")] * 2, start, lrs=[0.5, 0.5], steps=60)
    assert [end.step for end in everyone] == [ends[1].step] * 2
    found = screened("-exp(3*z*z)*t", lr_scales=[5.0])
    assert str(found.status) == "screened:rejection_protocol"
    assert "became non-finite at step" in found.status.sentence


def test_a_dropped_candidate_costs_nothing_any_more(monkeypatch: pytest.MonkeyPatch) -> None:
    sizes: list[int] = []
    original = rejection.values_and_deltas

    def counted(losses: Any, *rest: Any) -> Any:
        sizes.append(len(losses))
        return original(losses, *rest)

    monkeypatch.setattr(rejection, "values_and_deltas", counted)
    start = initial_rows(TASK, 30, seed=3)
    optimise_outputs([loss("cross_entropy"), loss("-exp(3*z*z)*t")], start, lrs=[0.1, 0.5], steps=60)
    assert sizes[0] == 2
    assert sizes[-1] == 1


def test_a_candidate_that_raises_costs_no_other(monkeypatch: pytest.MonkeyPatch) -> None:
    names = ["cross_entropy", "baikal", "-t*p"]
    right = [screened(name) for name in names]
    original = rejection.optimise_outputs

    def fragile(losses: Any, *rest: Any, **options: Any) -> Any:
        if any(one.name == "baikal" for one in losses):
            raise RuntimeError("out of luck")
        return original(losses, *rest, **options)

    monkeypatch.setattr(screens, "optimise_outputs", fragile)
    found = screen(TASK, [loss(name) for name in names], SHORT, seed=3)
    assert [found[0], found[2]] == [right[0], right[2]]
    assert (str(found[1].status), found[1].status.sentence) == ("crashed", "RuntimeError: out of luck")


# gradient equivalence


def gradients(name: str, **options: Any) -> str:
    return str(screened(name, **options).product["gradients"])


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("-t*log(p)", "cross_entropy"),
        ("-t*log(p)", "t*log(p)*-1"),
        ("(p - t)^2", "p^2 - 2*p*t + t^2"),
        ("-t*p", "t*(1 - p)"),
        ("-t*log(p)", "-t*log(p) + 7*p"),  # a constant under the softmax
        ("-t*log(p)", "-t*log(p) + 0*tau"),
    ],
)
def test_equal_losses_have_equal_signatures(one: str, other: str) -> None:
    assert gradients(one) == gradients(other)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("-t*log(p)", "-1.1*t*log(p)"),  # a factor matters: it is a learning rate
        ("-t*log(p)", "-t*log(p)*1000"),
        ("cross_entropy", "mse"),
        ("baikal", "cross_entropy"),
        ("-t*log(p)", "-t*log(p)*(1 - tau)"),  # equal at the start of training, not later
    ],
)
def test_other_losses_have_other_signatures(one: str, other: str) -> None:
    assert gradients(one) != gradients(other)


def test_a_signature_is_of_the_norms_to_two_digits() -> None:
    delta = torch.tensor([[3.0, 4.0], [0.0, 1.04]], dtype=torch.float64)
    assert screens.gradient_signature([delta]) == screens.gradient_signature([delta * 1.001])  # 5.0, 1.0
    assert screens.gradient_signature([delta]) != screens.gradient_signature([delta * 1.02])  # 5.1, 1.1
    assert screens.gradient_signature([delta]) == screens.gradient_signature([delta, delta])
    assert screens.gradient_signature([delta]) != screens.gradient_signature([delta, delta * 2])


def test_a_set_of_losses_is_screened_by_its_first_and_never_called_equal() -> None:
    pair = LossSet([loss("cross_entropy"), loss("baikal")])
    (found,) = screen(TASK, [pair], SHORT, seed=3)
    assert found.status.ok
    assert "gradients" not in found.product
    (found,) = screen(TASK, [LossSet([loss("t*log(p)"), loss("cross_entropy")])], SHORT, seed=3)
    assert str(found.status) == "screened:rejection_protocol"


# the examples


def test_examples_and_network_come_from_the_seed() -> None:
    one, again, other = (initial_rows(TASK, 30, seed) for seed in (3, 3, 4))
    assert torch.equal(one.output, again.output)
    assert not torch.equal(one.output, other.output)
    assert one.target.bincount().tolist() == [10, 10, 10]  # in proportion to the classes
    assert screened("cross_entropy") == screened("cross_entropy")
    dropout = small_task(model=lambda seed: nn.Sequential(nn.Linear(6, 3), nn.Dropout(0.5)))
    assert torch.equal(initial_rows(dropout, 30, 3).output, initial_rows(dropout, 30, 3).output)
    assert (initial_rows(dropout, 30, 3).output == 0).any()  # as at the first training step


def masked(model: nn.Module, batch: Any) -> Terms:
    x, y = batch
    z = model(x)[:, None].expand(-1, 4, -1)  # four positions per example, every other one padding
    return Terms(z, y[:, None].expand(-1, 4), weight=torch.tensor([1.0, 0.0, 2.0, 0.0]).expand(len(y), 4))


def test_of_many_positions_those_with_weight_and_no_more_than_asked_are_looked_at() -> None:
    task = small_task(forward=masked)
    few, most = initial_rows(task, 10, seed=3), initial_rows(task, 1000, seed=3)
    assert few.output.shape == (10, 3)
    assert most.output.shape == (180, 3)
    assert most.weight is not None
    assert most.weight.unique().tolist() == [1.0, 2.0]
    assert screened("cross_entropy", task).status.ok
    assert str(screened("t*log(p)", task).status) == "screened:rejection_protocol"


# other heads


def regression() -> Task:
    x, _ = rows(90, 0)
    data = (x, x @ torch.tensor([[1.0], [-1.0], [0.5], [0.0], [0.0], [0.2]]))
    return small_task(model=lambda seed: nn.Linear(6, 1), train=data, valid=data, selection=data, test=None,
                      head="identity")  # fmt: skip


def test_regression() -> None:
    task = regression()
    assert screened("mse", task).status.ok
    assert screened("mse", task).product["after"] < 0.5 * screened("mse", task).product["before"]
    assert str(screened("-(p - t)^2", task).status) == "screened:rejection_protocol"
    assert screened("abs(p - t)", task).status.ok
    assert gradients("(p - t)^2", task=task) == gradients("p*p - 2*p*t", task=task)
    assert str(screened("m*p", task).status) == "crashed"
    assert "needs class targets" in screened("m*p", task).status.sentence


def test_sigmoid() -> None:
    x, y = rows(90, 0)
    data = (x, (y == 0).float())
    task = small_task(model=lambda seed: nn.Linear(6, 1), train=data, valid=data, selection=data, test=None,
                      head="sigmoid")  # fmt: skip
    assert screened("cross_entropy", task).status.ok
    assert str(screened("t*log(p)", task).status) == "screened:rejection_protocol"
    assert str(screened("p", task).status) == "screened:rejection_protocol"
    assert gradients("-t*log(p)", task=task) == gradients("cross_entropy", task=task)


def test_a_head_of_the_tasks_own() -> None:
    def head(z: Tensor) -> Tensor:
        return torch.softmax(3 * z, -1)

    def forward(model: nn.Module, batch: Any) -> Terms:
        x, y = batch
        return Terms(model(x), torch.nn.functional.one_hot(y, 3).float())

    task = small_task(head=head, forward=forward)
    (found,) = evaluate_chunk(task, requested("cross_entropy", head=head), PLAN)
    assert found.status.ok


# requests


def test_a_request_is_answered_with_what_the_screens_say() -> None:
    names = ["cross_entropy", "t*log(p)", "exp(1000 + z)*t"]
    found = evaluate_chunk(TASK, requested(*names), PLAN)
    for request, one, name in zip(requested(*names), found, names, strict=True):
        right = screened(name)
        assert (one.request, one.status, one.metrics, one.steps) == (request.key, right.status, {}, 0)
        assert one.product == "" if not right.product else json.loads(one.product) == right.product
    assert len({one.seconds for one in found}) == 1  # they share their time
    assert found[0].seconds > 0
    assert evaluate(TASK, requested("cross_entropy")[0], PLAN).product == found[0].product


def test_requests_of_a_chunk_may_differ_in_everything() -> None:
    requests = [
        *requested("cross_entropy", "baikal"),
        *requested("cross_entropy", seed=4),
        *requested("cross_entropy", how=Screening(rejection_steps=5, rows=9)),
        replace(requested("mse")[0], lr_scale=0.1),
        Request("no loss", 3, work="screen", settings=SHORT.to_settings()),
        Request(to_json(loss("mse")), 3, work="screen", settings="nonsense"),
        *requested("t*log(p)"),
    ]
    found = evaluate_chunk(TASK, requests, PLAN)
    assert products(found) == [products(evaluate_chunk(TASK, [r], PLAN))[0] for r in requests]
    assert [e.request for e in found] == [r.key for r in requests]
    assert [str(e.status) for e in found] == ["ok"] * 5 + ["crashed"] * 2 + ["screened:rejection_protocol"]
    assert "this is not a loss in JSON" in found[5].status.sentence
    assert "no settings of a Screening" in found[6].status.sentence
    assert len({e.product for e in found[:5]}) == 5


def test_screens_and_trainings_in_one_chunk() -> None:
    (first, last), train = requested("cross_entropy", "t*log(p)"), Request(to_json(loss("mse")), 0, budget=0.1)
    found = evaluate_chunk(TASK, [first, train, last], PLAN)
    assert [e.request for e in found] == [first.key, train.key, last.key]
    assert found[1].metrics == evaluate(TASK, train, PLAN).metrics != {}
    assert found[1].product == ""
    assert products(found[::2]) == products(evaluate_chunk(TASK, [first, last], PLAN))


def test_a_worker_gives_the_same_bits() -> None:
    requests = requested("cross_entropy", "t*log(p)", "baikal")
    content = pack(TASK)
    there = run_chunk(Payload(digest(content), None, content), requests, PLAN)
    assert products(there) == products(evaluate_chunk(TASK, requests, PLAN))


def test_a_task_that_cannot_be_screened_is_a_crash_of_each() -> None:
    task = small_task(model=lambda seed: nn.Linear(5, 3))  # the data has six features
    found = evaluate_chunk(task, requested("cross_entropy", "mse"), PLAN)
    assert [str(e.status) for e in found] == ["crashed", "crashed"]
    assert "shapes" in found[0].status.sentence


def test_on_a_training_function_every_candidate_passes() -> None:
    task = Task.from_function(lambda loss, trial: 0.5, outputs=3)
    found = evaluate_chunk(task, requested("cross_entropy", "t*log(p)"), PLAN)
    assert [str(e.status) for e in found] == ["ok", "ok"]
    assert "need a task given by its parts" in json.loads(found[0].product)["note"]


def test_the_prior_comes_from_the_task() -> None:
    bare, given = loss("-t*log(p)/prior"), loss("-t*log(p)/prior", prior=[1 / 3] * 3)
    requests = [Request(to_json(one), 3, work="screen", settings=SHORT.to_settings()) for one in (bare, given)]
    one, other = evaluate_chunk(TASK, requests, PLAN)
    assert one.status.ok
    assert one.product == other.product


def test_rows_are_plain_data() -> None:
    start = initial_rows(TASK, 5, seed=0)
    assert isinstance(start, Rows)
    assert not start.output.requires_grad
