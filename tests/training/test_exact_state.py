"""Plain values and tensors come back from their document as what they were."""

from __future__ import annotations

import json
import math
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from lossmith.records import canonical_json
from lossmith.training.exact_state import NotStorable, decoded, encoded

CPU = torch.device("cpu")
PLAIN = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5)
NESTED = st.recursive(
    PLAIN,
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.lists(inner, max_size=3).map(tuple)
        | st.dictionaries(st.text(max_size=3) | st.integers(), inner, max_size=3)
    ),
    max_leaves=8,
)


def there_and_back(value: object) -> Any:
    tensors: dict[str, Tensor] = {}
    text = canonical_json(encoded(value, tensors, "x"))
    return decoded(json.loads(text), tensors, CPU)


@given(NESTED)
@settings(max_examples=150, deadline=None)
def test_plain_values_keep_value_and_type(value: object) -> None:
    assert repr(there_and_back(value)) == repr(value)  # repr: NaN, -0.0, True and 1, tuples and lists differ


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.int64, torch.bool, torch.uint8])
@pytest.mark.parametrize("shape", [(), (0,), (3,), (2, 3, 4, 5)])
def test_tensors_keep_their_bits(dtype: torch.dtype, shape: tuple[int, ...]) -> None:
    tensor = (torch.arange(math.prod(shape)).reshape(shape) * 0.37 - 1).to(dtype)
    (back,) = there_and_back([tensor])
    assert (back.dtype, back.shape) == (dtype, tensor.shape)
    assert back.equal(tensor)


def test_strides_are_kept_and_numbers_that_are_none() -> None:
    image = torch.randn(2, 3, 4, 5, generator=torch.Generator().manual_seed(0))
    image = image.contiguous(memory_format=torch.channels_last)
    image[0, 0, 0, :3] = torch.tensor([math.nan, math.inf, 1e-40])
    back = there_and_back({"x": image})["x"]
    assert back.stride() == image.stride() != torch.empty(2, 3, 4, 5).stride()
    assert back.view(torch.int32).equal(image.view(torch.int32))


@pytest.mark.parametrize("value", [object(), {1, 2}, b"x", 1j, torch.randn, [[torch.float32]]])
def test_what_has_no_exact_text_is_refused(value: object) -> None:
    with pytest.raises(NotStorable):
        encoded(value, {}, "x")


@pytest.mark.parametrize("document", [["code", "import os"], ["tensor", "y", [1], True], ["dict", [1]], 3, []])
def test_what_is_no_document_is_an_error(document: object) -> None:
    with pytest.raises((ValueError, KeyError, TypeError)):
        decoded(document, {"x": torch.zeros(1)}, CPU)
