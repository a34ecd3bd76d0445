from __future__ import annotations

import hashlib
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lossmith.rng import derive_seed, stream, torch_global_scope, torch_stream

words = st.lists(st.one_of(st.integers(-5, 5), st.text("ab:1", max_size=3)), max_size=3)


def test_a_seed_is_a_hash_of_its_names() -> None:
    # by hand; a change here would change every stored run
    digest = hashlib.sha256(b"7\x1fstr:batches\x1fint:3").digest()
    assert derive_seed(7, "batches", 3) == int.from_bytes(digest[:8], "little") >> 1
    assert derive_seed(0) != derive_seed(1)


@given(st.integers(0, 3), words, st.integers(0, 3), words)
def test_different_names_are_different_streams(a: int, first: list[Any], b: int, second: list[Any]) -> None:
    assert (derive_seed(a, *first) == derive_seed(b, *second)) == ((a, first) == (b, second))
    assert 0 <= derive_seed(a, *first) < 2**63


def test_a_number_is_a_number_wherever_it_comes_from() -> None:
    assert derive_seed(np.int64(3), "x", np.int32(4)) == derive_seed(3, "x", 4)
    assert derive_seed(3, "4") != derive_seed(3, 4)


def test_streams_are_repeatable_and_independent() -> None:
    assert stream(1, "a").random(3).tolist() == stream(1, "a").random(3).tolist()
    assert stream(1, "a").random(3).tolist() != stream(1, "b").random(3).tolist()
    draw = lambda *names: torch.rand(3, generator=torch_stream(*names)).tolist()  # noqa: E731
    assert draw(1, "a") == draw(1, "a")
    assert draw(1, "a") != draw(2, "a")


def test_the_global_scope_sets_and_restores() -> None:
    before = torch.get_rng_state()
    with torch_global_scope(3, "theta"):
        first = torch.rand(4)
        with torch_global_scope(3, "dropout"):
            inner = torch.rand(4)
        second = torch.rand(4)
    assert torch.equal(torch.get_rng_state(), before)
    expected = torch.rand(8, generator=torch_stream(3, "theta"))
    assert torch.cat((first, second)).equal(expected)  # the inner scope did not disturb the outer one
    assert inner.equal(torch.rand(4, generator=torch_stream(3, "dropout")))
    with pytest.raises(ZeroDivisionError), torch_global_scope(3, "theta"):
        torch.rand(1 // 0)
    assert torch.equal(torch.get_rng_state(), before)


def test_generators_of_devices_that_are_not_used_are_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    seeded: list[int] = []
    monkeypatch.setattr(torch, "manual_seed", lambda seed: seeded.append(seed))  # it reseeds every GPU, too
    monkeypatch.setattr(torch.cuda, "manual_seed_all", lambda seed: seeded.append(seed))
    with torch_global_scope(3, "theta", device=torch.device("cpu")):
        torch.rand(1)
    assert seeded == []
