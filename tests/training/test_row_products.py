"""Products with a Jacobian per row, against einsum."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from lossmith.training.row_products import pulled, push

TOLERANCE = {torch.float32: 1e-5, torch.float64: 1e-13, torch.bfloat16: 2e-2}


def random(*shape: int, dtype: torch.dtype) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(sum(shape)), dtype=torch.float64).to(dtype)


@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
@pytest.mark.parametrize("outputs", [1, 2, 3, 4, 5, 10])
def test_they_are_what_einsum_says(outputs: int, dtype: torch.dtype) -> None:
    delta, jacobian = random(3, 7, outputs, dtype=dtype), random(7, outputs, 33, dtype=dtype)
    tangent, before = random(3, 7, 33, dtype=dtype), random(3, 7, outputs, dtype=dtype)
    down = pulled(delta, jacobian, torch.empty(3, 7, 33, dtype=dtype))
    expected = torch.einsum("pnc,nco->pno", delta.double(), jacobian.double())
    assert (down - expected).abs().max() < TOLERANCE[dtype] * expected.abs().max()
    into = before.clone()
    push(tangent, jacobian, into)
    expected = before.double() + torch.einsum("pno,nco->pnc", tangent.double(), jacobian.double())
    assert (into - expected).abs().max() < TOLERANCE[dtype] * expected.abs().max()


@pytest.mark.parametrize("count", [1, 2, 5, 8])
def test_a_candidate_has_the_same_bits_in_any_company(count: int) -> None:
    kind: Any = {"dtype": torch.float32}
    delta, jacobian, tangent = random(9, 16, 10, **kind), random(16, 10, 50, **kind), random(9, 16, 50, **kind)
    whole = pulled(delta, jacobian, torch.empty(9, 16, 50)), torch.zeros(9, 16, 10)
    push(tangent, jacobian, whole[1])
    for some in (slice(0, count), slice(9 - count, 9)):
        part = pulled(delta[some], jacobian, torch.empty(count, 16, 50)), torch.zeros(count, 16, 10)
        push(tangent[some], jacobian, part[1])
        assert all(torch.equal(a, b[some]) for a, b in zip(part, whole, strict=True))


def test_transposed_arguments_and_numbers_that_are_none() -> None:
    delta = random(2, 3, 4, dtype=torch.float64).transpose(1, 2)
    delta[0, 1, 0] = torch.nan
    jacobian = random(4, 3, 5, dtype=torch.float64)
    found = pulled(delta, jacobian, torch.empty(2, 4, 5, dtype=torch.float64))
    assert found[0, 1].isnan().all()
    assert found.isnan().sum() == 5
