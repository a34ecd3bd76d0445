"""Data modifiers: their definitions, measured; which splits they touch; how they combine."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torch.utils.data import Dataset

from lossmith.errors import SpecError, TaskError, UnknownNameError
from lossmith.tasks import Recipe, Task
from lossmith.tasks.modifiers import MODIFIERS, add_noise, long_tail, parse_modifiers, print_modifiers

N, C = 20_000, 5


def make_task(targets: torch.Tensor | None = None, head: str = "softmax", outputs: int = C, seed: int = 0) -> Task:
    targets = torch.arange(N) % C if targets is None else targets
    x = torch.arange(float(len(targets)))[:, None]
    return Task(
        model=lambda seed: nn.Linear(1, outputs),
        train=(x, targets),
        valid=(x + N, targets),
        test=(x + 2 * N, targets),
        head=head,
        recipe=Recipe(10),
        seed=seed,
    )


CLEAN = make_task()


def changed(task: Task, split: str, clean: Task = CLEAN) -> torch.Tensor:
    return task.data[split].targets != clean.data[split].targets


def test_symmetric_noise_is_a_uniform_other_class() -> None:
    noisy = CLEAN.modified("noise=0.4")
    for split in ("train", "fitness", "selection"):
        rows = len(CLEAN.data[split])
        share = float(changed(noisy, split).float().mean())
        assert abs(share - 0.4) < 5 * (0.24 / rows) ** 0.5, split  # five standard deviations of a share of 0.4
    before, after = CLEAN.data["train"].targets, noisy.data["train"].targets
    shifts = ((after - before) % C)[changed(noisy, "train")].bincount(minlength=C)
    assert shifts[0] == 0
    assert (shifts[1:] - 2000).abs().max() < 5 * 2000**0.5  # 8,000 wrong labels among 4 other classes
    assert not changed(noisy, "test").any()
    assert torch.equal(noisy.data["train"].batch(torch.arange(9))[0], CLEAN.data["train"].batch(torch.arange(9))[0])


def test_splits_have_their_own_noise() -> None:
    noisy = CLEAN.modified("noise=0.4")
    assert not torch.equal(changed(noisy, "fitness"), changed(noisy, "selection"))
    assert not torch.equal(changed(noisy, "train"), changed(make_task(seed=1).modified("noise=0.4"), "train"))
    assert torch.equal(changed(noisy, "train"), changed(make_task().modified("noise=0.4"), "train"))


def test_noise_valid_sets_the_judging_splits_apart() -> None:
    kept = CLEAN.modified("noise=0.4,noise_valid=0")
    assert not changed(kept, "fitness").any()
    assert not changed(kept, "selection").any()
    assert torch.equal(kept.data["train"].targets, CLEAN.modified("noise=0.4").data["train"].targets)


def test_noise_of_one_leaves_no_label() -> None:
    assert changed(CLEAN.modified("noise=1"), "train").all()
    assert not changed(CLEAN.modified("noise=0"), "train").any()


def test_continuous_targets_get_gaussian_noise_in_training_deviations() -> None:
    targets = 3.0 * (torch.arange(N) % 2).float()[:, None]  # standard deviation 1.5
    clean = make_task(targets, "identity", 1)
    noisy = clean.modified("noise=0.2")
    difference = noisy.data["fitness"].targets - clean.data["fitness"].targets
    assert float(difference.std()) == pytest.approx(0.3, rel=0.05)
    assert abs(float(difference.mean())) < 5 * 0.3 / 100
    assert difference.shape == (N // 2, 1)
    assert torch.equal(noisy.data["test"].targets, clean.data["test"].targets)


def test_labels_under_a_sigmoid_are_flipped() -> None:
    clean = make_task((torch.arange(N) % 2).float(), "sigmoid", 1)
    noisy = clean.modified("noise=0.25").data["train"].targets
    assert set(noisy.tolist()) == {0.0, 1.0}
    assert float((noisy != clean.data["train"].targets).float().mean()) == pytest.approx(0.25, abs=0.02)
    several = make_task(torch.eye(3)[torch.arange(N) % 3], "sigmoid", 3)
    flipped = several.modified("noise=0.25").data["train"].targets
    assert float((flipped != several.data["train"].targets).float().mean()) == pytest.approx(0.25, abs=0.02)
    whole = make_task(torch.arange(N) % 2, "sigmoid", 1).modified("noise=1").data["train"].targets
    assert torch.equal(whole, 1 - make_task(torch.arange(N) % 2, "sigmoid", 1).data["train"].targets)


def test_a_long_tail_is_exponential() -> None:
    counts = CLEAN.modified("imbalance=50").data["train"].targets.bincount()
    expected = [4000 * 50 ** (-c / 4) for c in range(5)]  # 4,000 rows of each class; n·r^(−c/(C−1))
    assert counts.tolist() == [round(n) for n in expected]
    assert counts[0] / counts[4] == 50
    for split in ("fitness", "selection", "test"):
        assert torch.equal(CLEAN.modified("imbalance=50").data[split].targets, CLEAN.data[split].targets)


@given(st.lists(st.integers(5, 80), min_size=2, max_size=6), st.floats(1, 20))
def test_a_long_tail_takes_what_every_class_allows(counts: list[int], ratio: float) -> None:
    targets = torch.cat([torch.full((n,), c) for c, n in enumerate(counts)])
    rows = long_tail(targets, len(counts), ratio, seed=0)
    assert len(set(rows.tolist())) == len(rows)
    kept = targets[rows].bincount(minlength=len(counts)).tolist()
    assert all(k <= n for k, n in zip(kept, counts, strict=True))
    assert any(k == n for k, n in zip(kept, counts, strict=True))  # no larger n would do
    scale = kept[0] + 0.5
    profile = [scale * ratio ** (-c / (len(counts) - 1)) for c in range(len(counts))]
    assert all(k <= max(1, p + 1) for k, p in zip(kept, profile, strict=True))


def test_fraction_is_stratified() -> None:
    assert CLEAN.modified("fraction=0.1").data["train"].targets.bincount().tolist() == [400] * 5
    assert len(CLEAN.modified("fraction=1e-9").data["train"]) == 1


def test_order_does_not_matter_in_one_text_or_several() -> None:
    one = CLEAN.modified("noise=0.4,fraction=0.1@imbalance=10")
    two = CLEAN.modified("@imbalance=10@fraction=0.1@noise=0.4")
    three = CLEAN.modified("noise=0.4").modified("fraction=0.1").modified("imbalance=10")
    assert one.name == two.name == three.name == "custom@noise=0.4@imbalance=10@fraction=0.1"
    assert len({task.fingerprint()["digest"] for task in (one, two, three)}) == 1
    assert one.fingerprint()["digest"] != CLEAN.fingerprint()["digest"]


def test_the_reference_carries_the_modifiers() -> None:
    task = CLEAN.replace(reference="m:f").modified("noise=0.1").modified("fraction=0.5")
    assert task.reference == "m:f@noise=0.1@fraction=0.5"
    assert CLEAN.modified("noise=0.1").reference is None


def test_new_data_starts_afresh() -> None:
    noisy = CLEAN.modified("noise=0.4")
    again = noisy.replace(data={"train": noisy.data["train"].subset(torch.arange(100))}).modified("fraction=0.5")
    assert len(again.data["train"]) == 50
    assert torch.equal(again.data["fitness"].targets, noisy.data["fitness"].targets)  # no second noise


@given(st.dictionaries(st.sampled_from(MODIFIERS), st.floats(0, 1e4, allow_nan=False), min_size=1))
def test_print_and_parse_agree(modifiers: dict[str, float]) -> None:
    parsed = parse_modifiers(print_modifiers(modifiers))
    assert parsed.keys() == modifiers.keys()
    assert parsed == pytest.approx(modifiers)


@pytest.mark.parametrize(
    ("text", "error", "words"),
    [
        ("nois=0.4", UnknownNameError, ["modifier", "'nois'", "'noise'", "lossmith tasks"]),
        ("", UnknownNameError, ["modifier"]),
        ("noise=1.2", SpecError, ["noise", "1.2", "[0, 1]"]),
        ("noise=nan", SpecError, ["noise", "nan", "[0, 1]"]),
        ("noise=much", SpecError, ["noise", "'much'", "noise=0.4"]),
        ("noise", SpecError, ["noise", "noise=0.4"]),
        ("noise=0.1,noise=0.2", SpecError, ["noise", "twice"]),
        ("noise_valid=0", SpecError, ["noise_valid", "noise="]),
        ("imbalance=0.5", SpecError, ["imbalance", "0.5", "[1, 10000]"]),
        ("fraction=0", SpecError, ["fraction", "0", "(0, 1]"]),
        ("fraction=1.5", SpecError, ["fraction", "1.5"]),
    ],
)
def test_bad_modifiers(text: str, error: type[Exception], words: list[str]) -> None:
    with pytest.raises(error) as caught:
        CLEAN.modified(text)
    for word in words:
        assert word in str(caught.value)


def test_a_modifier_is_applied_once() -> None:
    with pytest.raises(SpecError, match=r"already has noise=0\.4"):
        CLEAN.modified("noise=0.4").modified("noise=0.1")


class Pairs(Dataset):  # type: ignore[type-arg]
    def __len__(self) -> int:
        return 30

    def __getitem__(self, i: int) -> Any:
        return torch.zeros(1), i % C


def test_what_cannot_be_modified_says_so() -> None:
    task = CLEAN.replace(data={"train": Pairs()})
    with pytest.raises(TaskError, match="noise works on data in memory"):
        task.modified("noise=0.1")
    assert len(task.modified("fraction=0.5").data["train"]) == 15
    with pytest.raises(TaskError, match="imbalance needs integer classes"):
        make_task(torch.rand(60, 1, generator=torch.Generator().manual_seed(0)), "identity", 1).modified("imbalance=5")
    with pytest.raises(TaskError, match="every class"):
        make_task(torch.zeros(60, dtype=torch.long)).modified("imbalance=5")


def test_noise_leaves_what_it_was_given() -> None:
    targets = torch.arange(100) % C
    add_noise(targets, C, 0.5, 0, "train")
    assert torch.equal(targets, torch.arange(100) % C)
