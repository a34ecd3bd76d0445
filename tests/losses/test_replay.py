"""A loss that follows a stored course of φ, as it is, as JSON, and as torch text."""

from __future__ import annotations

import base64
import json
from typing import Any

import numpy as np
import pytest
import torch

from lossmith.errors import LossError
from lossmith.losses import Loss, LossSet, Network, OnlineRule, Replay, Taylor, Tree, from_json, replay_of, to_json
from lossmith.losses.delta import value_and_delta
from lossmith.losses.export import export
from lossmith.losses.parser import parse

COURSE = ((1.0, -1.0, 0.5, 2.0, -0.5, 0.3, 0.4, 0.6), (0.5, 2.0, 0.3, 1.0, 0.7, -1.0, 0.6, 0.3), (3.0,) * 8)
TIMES = (0.0, 0.5, 1.0)


def of_taylor() -> Loss:
    return Loss(Replay(Taylor(COURSE[0]), TIMES, COURSE))


def of_network() -> Loss:
    generator = np.random.default_rng(0)
    networks = [Network.drawn(generator, (5, 4), "smooth_leaky_relu") for _ in TIMES]
    return Loss(Replay(networks[0], TIMES, tuple(n.phi for n in networks)), smoothing=0.1)


def of_tree() -> Loss:
    tree = Tree(parse("-t*log(p)"), weights=(1.0, 1.0, 1.0, 1.0))
    return Loss(Replay(tree, (0.0, 1.0), ((1.0, 0.5, 1.0, 1.0), (2.0, 1.0, 1.5, 1.0))), head="sigmoid")


def batch(head: str = "softmax") -> tuple[torch.Tensor, torch.Tensor]:
    z = 3 * torch.randn(7, 4, generator=torch.Generator().manual_seed(0))
    y = torch.arange(7) % 4
    return z, y if head == "softmax" else torch.nn.functional.one_hot(y, 4).float()


@pytest.mark.parametrize(("tau", "place"), [(0.0, 0), (0.24, 0), (0.25, 0), (0.26, 1), (0.7, 1), (0.8, 2), (1.0, 2)])
def test_it_is_the_loss_of_the_nearest_time(tau: float, place: int) -> None:
    z, y = batch()
    member = Loss(Taylor(tuple(np.float32(COURSE[place]).tolist())))
    assert torch.equal(of_taylor()(z, y, progress=tau), member(z, y))
    assert torch.equal(of_taylor()(z, y, progress=torch.tensor(tau, dtype=torch.float64)), member(z, y))
    value, delta = value_and_delta(of_taylor(), z, y, None, tau)
    expected, slope = value_and_delta(member, z, y)
    torch.testing.assert_close(value, expected)
    torch.testing.assert_close(delta, slope)


def test_it_says_that_it_needs_the_progress() -> None:
    z, y = batch()
    with pytest.raises(LossError, match="progress=step / steps"):
        of_taylor()(z, y)
    with pytest.raises(LossError, match="one number for all rows"):
        of_taylor()(z, y, progress=torch.rand(7, 1, generator=torch.Generator().manual_seed(0)))


@pytest.mark.parametrize("make", [of_taylor, of_network, of_tree])
def test_it_comes_back_from_json_as_it_was(make: Any) -> None:
    loss = make()
    again = from_json(to_json(loss))
    assert isinstance(again, Loss)
    assert again.kernel == loss.kernel
    assert to_json(again) == to_json(loss)
    assert again.key(4) == loss.key(4)


@pytest.mark.parametrize("make", [of_taylor, of_network, of_tree])
@pytest.mark.parametrize("tau", [0.0, 0.4, 1.0])
def test_its_torch_text_is_the_same_loss(make: Any, tau: float) -> None:
    loss = make()
    z, target = batch(str(loss.head))
    space: dict[str, Any] = {}
    text = export(loss, "torch")
    assert "lossmith" not in text.split('"""', 2)[2].lower()
    exec(text, space)
    torch.testing.assert_close(space["loss"](z, target, progress=tau), loss(z, target, progress=tau))
    if tau:
        assert not torch.allclose(space["loss"](z, target, progress=0.0), loss(z, target, progress=1.0))


def test_it_has_no_formula() -> None:
    with pytest.raises(LossError, match="no single formula: export it to torch or json"):
        export(of_taylor(), "latex")


def packed(phi: tuple[float, ...]) -> str:
    return base64.b64encode(np.asarray(phi, "<f4").tobytes()).decode()


def test_a_trajectory_becomes_a_replay_and_a_rule_ends() -> None:
    loss = Loss(Taylor(COURSE[0]), online=OnlineRule(), smoothing=0.2, name="mine")
    found = replay_of(loss, {"steps": [0, 50, 100], "phi": [packed(phi) for phi in COURSE]}, 200)
    assert isinstance(found, Loss)
    assert found.online is None
    assert found.name is None
    assert found.smoothing == 0.2
    assert isinstance(found.kernel, Replay)
    assert found.kernel.times == (0.0, 0.25, 0.5)
    assert found.kernel.at(0.9).phi == COURSE[2]
    assert loss.online is not None


def test_of_a_set_each_member_has_its_own_part() -> None:
    still, moving = Loss(Taylor(COURSE[1])), Loss(Tree(parse("t*p"), weights=(1.0, 2.0)), online=OnlineRule())
    course = [(*COURSE[1], 1.0, 2.0), (*COURSE[1], 3.0, 4.0)]
    found = replay_of(LossSet([still, moving]), {"steps": [0, 10], "phi": [packed(phi) for phi in course]}, 10)
    assert isinstance(found, LossSet)
    assert found[0] is still
    assert found[1].kernel.at(1.0).phi == (3.0, 4.0)


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"times": [0.5, 0.2, 0.1]}, "ascending numbers in"),
        ({"times": []}, "ascending numbers in"),
        ({"times": "0"}, "a list was expected"),
        ({"times": [0.0]}, "one φ for each of its 1 times"),
        ({"phi": ["?", "?", "?"]}, "numbers in base64"),
        ({"phi": [packed((1.0,))] * 3}, "genome"),
        ({"kernel": {"family": "replay"}}, "replay of a replay"),
        ({"kernel": {"family": "nothing"}}, "unknown loss family"),
        ({"phi": [packed((float("nan"),) * 8)] * 3}, "finite"),
    ],
)
def test_a_malformed_replay_is_one_sentence(change: dict[str, Any], sentence: str) -> None:
    document = json.loads(to_json(of_taylor()))
    document["kernel"].update(change)
    with pytest.raises(LossError, match=sentence):
        from_json(document)


@pytest.mark.parametrize(
    "trajectory", [{}, {"steps": [0]}, {"steps": [], "phi": []}, {"steps": [0, 1], "phi": [packed(COURSE[0])]}]
)
def test_a_malformed_trajectory_is_one_sentence(trajectory: dict[str, Any]) -> None:
    with pytest.raises(LossError, match="this is no trajectory"):
        replay_of(Loss(Taylor(COURSE[0]), online=OnlineRule()), trajectory, 10)


def test_a_trajectory_of_another_loss_is_one_sentence() -> None:
    with pytest.raises(LossError, match="of 2 loss parameters, and this loss has 8"):
        replay_of(Loss(Taylor(COURSE[0]), online=OnlineRule()), {"steps": [0], "phi": [packed((1.0, 2.0))]}, 10)


def test_an_online_rule_is_part_of_document_key_and_text() -> None:
    plain, adaptive = Loss(Taylor(COURSE[0])), Loss(Taylor(COURSE[0]), online=OnlineRule(lr=1, every=3))
    assert "online" not in to_json(plain)
    again = from_json(to_json(adaptive))
    assert isinstance(again, Loss)
    assert again.online == OnlineRule(lr=1.0, every=3)
    assert len({loss.key(4) for loss in (plain, adaptive, Loss(plain.kernel, online=OnlineRule(lr=2)))}) == 3
    assert str(adaptive) == f"{plain}, online(lr=1, every=3)"
    z, y = batch()
    assert torch.equal(plain(z, y), adaptive(z, y))


@pytest.mark.parametrize(
    ("field", "value"), [("lr", 0), ("lr", "1"), ("optimizer", "lbfgs"), ("every", 0), ("every", 1.5), ("lr", True)]
)
def test_a_malformed_rule_is_one_sentence(field: str, value: Any) -> None:
    document = json.loads(to_json(Loss(Taylor(COURSE[0]), online=OnlineRule())))
    document["online"][field] = value
    with pytest.raises(LossError):
        from_json(document)
    del document["online"][field]
    with pytest.raises(LossError, match="lacks the field"):
        from_json(document)
