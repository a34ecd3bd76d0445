"""The wrapper: it looks like one candidate's tensor, and what has no rule is done otherwise or refused."""

from __future__ import annotations

import copy
import warnings

import pytest
import torch
import torch.nn.functional as F

from lossmith.rng import torch_global_scope
from lossmith.training.population import fallback, rules  # noqa: F401 (it registers them)
from lossmith.training.population.stacked import (
    RULES,
    NotStackable,
    Stacked,
    leading,
    memory_order,
    stacked,
    stacked_images,
    to_images,
)


def numbers(*shape: int) -> torch.Tensor:
    return torch.linspace(-1, 1, torch.Size(shape).numel(), dtype=torch.float64).view(shape)


def test_it_looks_like_one_candidate() -> None:
    x = stacked(numbers(3, 2, 5).requires_grad_())
    assert (x.shape, x.size(-1), x.dim(), x.ndim, len(x), x.numel()) == (torch.Size([2, 5]), 5, 2, 2, 2, 10)
    assert x.dtype == torch.float64
    assert x.device == torch.device("cpu")
    assert x.is_floating_point()
    assert x.requires_grad
    assert not x.detach().requires_grad
    assert repr(x) == "Stacked(3 × [2, 5], torch.float64, leading)"


def test_images_are_the_same_tensor_in_another_layout() -> None:
    raw = numbers(3, 2, 4, 5, 6)
    x = stacked_images(to_images(raw), 3)
    assert x.raw.shape == (2, 12, 5, 6)
    assert x.raw.is_contiguous(memory_format=torch.channels_last)
    assert x.shape == (2, 4, 5, 6)
    assert torch.equal(leading(x), raw)
    assert memory_order(x) == (0, 2, 3, 1)


def test_every_rule_belongs_to_a_function_that_torch_hands_over() -> None:
    overridable = set(torch.overrides.get_testing_overrides()) | {F.dropout1d}
    known = sum(function in overridable for function in RULES)
    assert known > 300


def test_a_function_without_a_rule_is_vmapped() -> None:
    assert torch.linalg.det not in RULES
    raw = numbers(3, 2, 2) ** 2 + torch.eye(2, dtype=torch.float64)
    torch.testing.assert_close(leading(torch.linalg.det(stacked(raw))), torch.linalg.det(raw))


def test_where_vmap_fails_candidates_take_turns_and_draw_the_same() -> None:
    with torch_global_scope(0, "theta"):
        layer = torch.nn.LSTM(2, 3, num_layers=2, dropout=0.5).double()
    raw = numbers(3, 4, 1, 2)
    with torch_global_scope(0, "dropout"):
        found = leading(layer(stacked(raw))[0])
    with torch_global_scope(0, "dropout"):
        expected = layer(raw[2])[0]
    assert torch.equal(found[2], expected)


def test_nothing_is_said_about_speed() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = torch.linalg.lstsq(stacked(numbers(3, 4, 2) ** 3), stacked(numbers(3, 4, 1)))[0]
    assert found.shape == (2, 1)


def test_candidates_with_different_answers_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(RULES, torch.equal)
    with pytest.raises(NotStackable, match="a different answer for each candidate"):
        torch.equal(stacked(numbers(3, 2)), torch.tensor([-1, -0.6], dtype=torch.float64))


def test_a_function_that_fails_says_why() -> None:
    with pytest.raises(NotStackable, match="fails on stacked tensors"):
        torch.linalg.inv(stacked(numbers(3, 2, 5)))


def test_it_can_be_neither_copied_nor_stored() -> None:
    x = stacked(numbers(3, 2))
    with pytest.raises(NotStackable, match="candidate"):
        copy.deepcopy(x)
    with pytest.raises(NotStackable, match="candidate"):
        x.__reduce_ex__(4)


def test_nothing_reaches_past_the_rules() -> None:
    with torch._C.DisableTorchFunctionSubclass(), pytest.raises(NotStackable, match="reaches past"):
        torch.relu(stacked(numbers(3, 2)))


def test_attributes_that_can_be_set() -> None:
    x = stacked(numbers(3, 2))
    x.data = torch.ones(2, dtype=torch.float64)
    assert torch.equal(x.raw, torch.ones(3, 2, dtype=torch.float64))
    x.requires_grad_()
    (x * 2).sum().raw.sum().backward()
    assert isinstance(x.grad, Stacked)
    assert torch.equal(x.grad.raw, torch.full((3, 2), 2.0, dtype=torch.float64))
