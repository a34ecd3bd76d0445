"""The stratified order and everything cut from it, as laws."""

from __future__ import annotations

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lossmith.tasks.splits import split_rows, strata, stratified_order

labels = st.lists(st.integers(0, 4), min_size=2, max_size=200).map(torch.tensor)


@given(labels, st.integers(0, 99))
def test_the_order_is_a_permutation_and_a_function_of_the_seed(targets: torch.Tensor, seed: int) -> None:
    order = stratified_order(targets, len(targets), seed, "x")
    assert torch.equal(order.sort().values, torch.arange(len(targets)))
    assert torch.equal(order, stratified_order(targets, len(targets), seed, "x"))


@given(labels, st.integers(0, 99), st.floats(0, 1))
def test_every_prefix_is_stratified(targets: torch.Tensor, seed: int, share: float) -> None:
    rows = len(targets)
    size = round(share * rows)
    counts, total = (
        targets[stratified_order(targets, rows, seed)[:size]].bincount(minlength=5),
        targets.bincount(minlength=5),
    )
    present = int((total > 0).sum())
    for count, of in zip(counts.tolist(), total.tolist(), strict=True):
        # Up to a key x every class has n·x rows to within 1, so the prefix has N·x to within the number of classes.
        assert abs(count - size * of / rows) <= 1 + present * of / rows


@settings(max_examples=50)
@given(labels, st.floats(0.05, 0.4), st.floats(0.05, 0.4), st.integers(0, 9))
def test_parts_share_no_row_and_are_all_rows(targets: torch.Tensor, a: float, b: float, seed: int) -> None:
    parts = split_rows(targets, len(targets), (a, b, 0.0), seed, "x")
    assert len(parts) == 3
    assert torch.equal(torch.cat(parts).sort().values, torch.arange(len(targets)))
    assert [len(parts[0]), len(parts[1])] == [round(a * len(targets)), round(b * len(targets))]


def test_other_seeds_and_names_give_other_orders() -> None:
    targets = torch.arange(100) % 3
    orders = [
        stratified_order(targets, 100, 0, "x"),
        stratified_order(targets, 100, 1, "x"),
        stratified_order(targets, 100, 0, "y"),
    ]
    assert not torch.equal(orders[0], orders[1])
    assert not torch.equal(orders[0], orders[2])


def test_counts_are_taken_as_they_are() -> None:
    assert [len(part) for part in split_rows(torch.arange(60) % 10, 60, (20, 10, 0), 0)] == [20, 10, 30]


def test_continuous_targets_are_stratified_by_decile() -> None:
    values = torch.linspace(-3, 7, 100).flip(0)
    assert strata(values, 100).tolist() == [9 - i // 10 for i in range(100)]
    assert strata(values[:, None], 100).tolist() == strata(values, 100).tolist()
    half = split_rows(values, 100, (0.5, 0.0), 3, "x")[0]
    per_decile = torch.bincount(torch.from_numpy(strata(values, 100))[half], minlength=10)
    assert per_decile.min() >= 4
    assert per_decile.max() <= 6


def test_without_classes_it_is_a_plain_shuffle() -> None:
    for targets in (None, torch.zeros(10, 3), torch.zeros(10, 3, dtype=torch.long)):
        assert strata(targets, 10).tolist() == [0] * 10
        assert torch.equal(stratified_order(targets, 10, 0).sort().values, torch.arange(10))
