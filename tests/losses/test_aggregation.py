"""Ratios, pairs and trimmed means against the formulas they are known by, written out by hand."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import roc_auc_score
from torch import Tensor

from lossmith.errors import LossError
from lossmith.losses import Loss, Pairwise, Ratio, Tree, Trimmed
from lossmith.losses.aggregation import weighted_mean
from lossmith.losses.parser import parse


def tree(text: str) -> Tree:
    return Tree(parse(text))


def dice(over: str = "class", smooth: float = 1.0, **settings_: object) -> Loss:
    # Milletari et al. 2016, V-Net, arXiv 1606.04797: 1 − 2Σpt / Σ(p + t)
    return Loss(tree("2*p*t"), aggregation=Ratio(tree("p + t"), over, smooth), **settings_)  # type: ignore[arg-type]


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


OUTPUT, TARGET = normal(7, 3), torch.tensor([0, 1, 2, 0, 0, 1, 0])
P, T = torch.softmax(OUTPUT, -1), F.one_hot(TARGET, 3).double()


def test_dice_by_hand() -> None:
    per_class = [1 - (2 * (P[:, c] * T[:, c]).sum() + 1) / (P[:, c].sum() + T[:, c].sum() + 1) for c in range(3)]
    torch.testing.assert_close(dice()(OUTPUT, TARGET), sum(per_class) / 3)
    whole = 1 - 2 * (P * T).sum() / (P.sum() + T.sum())
    torch.testing.assert_close(dice("batch", smooth=0.0)(OUTPUT, TARGET), whole)


def test_a_perfect_prediction_loses_nothing() -> None:
    assert dice(smooth=0.0)(100 * T, TARGET).item() == pytest.approx(0.0, abs=1e-12)
    assert dice(smooth=0.0)(-100 * T, TARGET).item() == pytest.approx(1.0, abs=1e-12)


def test_tversky_by_hand() -> None:
    # Salehi et al. 2017, arXiv 1706.05721: TP / (TP + α FP + β FN), here α = 0.3, β = 0.7
    tversky = Loss(tree("p*t"), aggregation=Ratio(tree("p*t + 0.3*p*(1 - t) + 0.7*(1 - p)*t"), "class", 0.0))
    tp, fp, fn = (P * T).sum(0), (P * (1 - T)).sum(0), ((1 - P) * T).sum(0)
    torch.testing.assert_close(tversky(OUTPUT, TARGET), (1 - tp / (tp + 0.3 * fp + 0.7 * fn)).mean())


def test_dice_of_a_mask() -> None:
    z, t = normal(2, 4, 4, 1), (normal(2, 4, 4, seed=3) > 0).double()  # two images of one output per pixel
    p = torch.sigmoid(z[..., 0])
    both = [1 - (2 * (a * b).sum() + 1) / ((a + b).sum() + 1) for a, b in ((1 - p, 1 - t), (p, t))]
    torch.testing.assert_close(dice(head="sigmoid")(z, t), (both[0] + both[1]) / 2)  # background and object


@pytest.mark.parametrize("over", ["class", "batch"])
def test_weights_repeat_rows_of_a_ratio(over: str) -> None:
    weight = torch.tensor([2.0, 1.0, 1.0, 0.0, 3.0, 1.0, 0.0])
    index = torch.repeat_interleave(torch.arange(7), weight.long())
    expected = dice(over)(OUTPUT[index], TARGET[index])
    torch.testing.assert_close(dice(over)(OUTPUT, TARGET, weight=weight), expected)
    garbage, labels = OUTPUT.clone(), TARGET.clone()
    garbage[weight == 0], labels[weight == 0] = math.nan, -100
    garbage.requires_grad_()
    value = dice(over)(garbage, labels, weight=weight)
    torch.testing.assert_close(value.detach(), expected)
    (slope,) = torch.autograd.grad(value, garbage)
    assert torch.isfinite(slope).all()


def test_an_absent_class_is_no_nan() -> None:
    nothing = Loss(tree("2*p*t"), head="identity", aggregation=Ratio(tree("p + t"), "class", 0.0))
    output = torch.tensor([[1.0, 0.0], [1.0, 0.0]], requires_grad=True)
    value = nothing(output, torch.tensor([[1.0, 0.0], [1.0, 0.0]]))
    assert value.item() == 0.0  # 1 − 4/4 for the first output, 0/0 for the second
    (slope,) = torch.autograd.grad(value, output)
    assert torch.isfinite(slope).all()
    assert dice(smooth=0.0)(OUTPUT, TARGET, weight=torch.zeros(7)).item() == 0.0


def pairs(text: str, **settings_: object) -> Loss:
    return Loss(tree(text), head="identity", aggregation=Pairwise(), **settings_)  # type: ignore[arg-type]


def brute_force(
    output: Tensor, target: Tensor, weight: Tensor | None = None, group: Tensor | None = None, margin: float = 1.0
) -> tuple[float, float]:
    """Hinge over ordered pairs of single numbers: (weighted total, total weight), one pair at a time."""
    total = mass = 0.0
    for i in range(len(output)):
        for j in range(len(output)):
            if target[i] > target[j] and (group is None or group[i] == group[j]):
                w = 1.0 if weight is None else float(weight[i] * weight[j])
                total += w * max(margin - float(output[i] - output[j]), 0.0)
                mass += w
    return total, mass


@settings(deadline=None, max_examples=40)
@given(st.integers(0, 10_000), st.integers(2, 9))
def test_pairs_by_brute_force(seed: int, n: int) -> None:
    output = normal(n, 1, seed=seed)
    target = torch.randint(3, (n,), generator=torch.Generator().manual_seed(seed)).double()
    weight = torch.arange(n).double() % 3
    group = torch.arange(n) % 2
    hinge = "max(1 - z, 0)"
    for w in (None, weight):
        for g in (None, group):
            total, mass = brute_force(output[:, 0], target, w, g)
            expected = total / mass if mass else 0.0
            assert pairs(hinge)(output, target, weight=w, group=g).item() == pytest.approx(expected)
            assert pairs(hinge, reduction="sum")(output, target, weight=w, group=g).item() == pytest.approx(total)
            assert pairs(hinge)(output, target, weight=w, group=g, num_items=5).item() == pytest.approx(total / 5)


def test_pairs_count_what_the_auc_counts() -> None:
    output, target = normal(40, 1, seed=4), (normal(40, seed=5) > 0.3).double()
    wrong_order = pairs("(1 - sign(z))/2")  # 1 for a pair in the wrong order, ½ for a tie
    assert wrong_order(output, target).item() == pytest.approx(1 - roc_auc_score(target, output[:, 0]))
    ties = output.round()
    assert wrong_order(ties, target).item() == pytest.approx(1 - roc_auc_score(target, ties[:, 0]))


def test_pairs_read_the_difference_of_targets() -> None:
    output, target = torch.tensor([[3.0], [1.0]]), torch.tensor([[5.0], [2.0]])
    assert pairs("(z - t)^2")(output, target).item() == 1.0  # (2 − 3)²
    assert pairs("t + 0*z")(output, target).item() == 3.0
    assert pairs("z")(output[:1], target[:1]).item() == 0.0  # no pair
    assert pairs("z")(output, torch.ones(2, 1)).item() == 0.0  # no order


def test_columns_of_pairs_are_ranked_separately() -> None:
    output, target = normal(6, 2, seed=1), normal(6, 2, seed=2)
    totals = [brute_force(output[:, c], target[:, c]) for c in range(2)]
    expected = sum(total for total, _ in totals) / sum(mass for _, mass in totals)
    assert pairs("max(1 - z, 0)")(output, target).item() == pytest.approx(expected)


def test_gradients_of_pairs_survive_what_does_not_count() -> None:
    # the pair in reverse order has z = −200: exp(200) is infinite in float32, and 0·∞ in its gradient no number
    output = torch.tensor([[100.0], [-100.0], [0.0]], requires_grad=True)
    value = pairs("log(1 + exp(-z))")(output, torch.tensor([2.0, 0.0, 1.0]))
    (slope,) = torch.autograd.grad(value, output)
    assert value.item() == pytest.approx(0.0, abs=1e-6)
    assert torch.isfinite(slope).all()
    broken = torch.tensor([[1.0], [math.nan], [0.0]], requires_grad=True)
    target, weight = torch.tensor([1.0, math.nan, 0.0]), torch.tensor([1.0, 0.0, 1.0])
    value = pairs("max(2 - z, 0)")(broken, target, weight=weight)
    assert value.item() == 1.0
    assert torch.autograd.grad(value, broken)[0].tolist() == [[-1.0], [0.0], [1.0]]


def test_weighted_mean() -> None:
    rows = torch.tensor([1.0, math.nan, 3.0])
    weight = torch.tensor([1.0, 0.0, 3.0])
    assert weighted_mean(rows, weight, None, "mean").item() == 2.5
    assert weighted_mean(rows, weight, 2, "mean").item() == 5.0
    assert weighted_mean(rows, weight, None, "sum").item() == 10.0
    assert weighted_mean(rows, weight, None, "none").tolist() == [1.0, 0.0, 9.0]
    assert weighted_mean(rows[:0], None, None, "mean").item() == 0.0


def test_what_cannot_be_an_aggregation() -> None:
    with pytest.raises(LossError, match='use "class" or "batch"'):
        Ratio(tree("p + t"), over="row")  # type: ignore[arg-type]
    for smooth in (-1.0, math.nan, math.inf):
        with pytest.raises(LossError, match="a finite number >= 0"):
            Ratio(tree("p + t"), smooth=smooth)
    with pytest.raises(LossError, match=r"group of shape \(3,\) does not fit rows of shape \(2,\)"):
        pairs("z")(torch.zeros(2, 1), torch.zeros(2), group=torch.zeros(3))
    for keep in (0.0, 1.1, math.nan):
        with pytest.raises(LossError, match="use a share in"):
            Trimmed(keep)
    with pytest.raises(LossError, match="a trimmed loss has no value per row"):
        Loss(tree("p"), aggregation=Trimmed(0.5), reduction="none")
    assert str(Loss(tree("-t*log(p)"), aggregation=Trimmed(0.5))) == "trimmed(-t*log(p), keep=0.5)"


def trimmed_by_hand(values: list[float], weights: list[float], keep: float) -> float:
    """The weighted mean of the smallest ones, row by row."""
    present = sorted((value, place) for place, value in enumerate(values) if weights[place] != 0)
    kept = present[: max(1, math.floor(keep * len(present) + 1e-9))]
    return sum(weights[place] * value for value, place in kept) / sum(weights[place] for _, place in kept)


@pytest.mark.parametrize("keep", [0.05, 0.29, 0.5, 0.9, 1.0])
def test_a_trimmed_loss_is_the_mean_of_the_smallest(keep: float) -> None:
    criterion = Loss(tree("square(p - t)"), head="identity", aggregation=Trimmed(keep))
    generator = torch.Generator().manual_seed(0)
    z, t = torch.randn(2, 100, 2, generator=generator, dtype=torch.float64)
    weight = torch.rand(100, generator=generator, dtype=torch.float64)
    weight[::7] = 0
    rows = (z - t).square().sum(1)
    found = criterion(z.requires_grad_(), t)
    assert found.item() == pytest.approx(trimmed_by_hand(rows.tolist(), [1.0] * 100, keep), rel=1e-12)
    (slope,) = torch.autograd.grad(found, z)
    kept = math.floor(keep * 100 + 1e-9)
    assert int((slope.abs().sum(1) > 0).sum()) == kept  # 0.29·100 is 29
    assert rows[slope.abs().sum(1) > 0].max() <= rows.sort().values[kept - 1]
    assert criterion(z, t, weight=weight).item() == pytest.approx(
        trimmed_by_hand(rows.tolist(), weight.tolist(), keep), rel=1e-12
    )
    if keep == 1:
        torch.testing.assert_close(found, Loss(tree("square(p - t)"), head="identity")(z, t))


def test_what_is_trimmed_has_no_say() -> None:
    criterion = Loss(tree("abs(p - t)"), head="identity", aggregation=Trimmed(0.75))
    t = torch.zeros(4, 1)
    for outlier in (50.0, 1e30):
        z = torch.tensor([[1.0], [outlier], [2.0], [-3.0]])
        assert float(criterion(z, t)) == 2.0
    z = torch.ones(4, 1, requires_grad=True)
    (slope,) = torch.autograd.grad(criterion(z, t), z)
    torch.testing.assert_close(slope[:, 0], torch.tensor([1 / 3, 1 / 3, 1 / 3, 0.0]))  # of equal rows the first


def test_a_trimmed_loss_of_nothing_and_of_no_number() -> None:
    criterion = Loss(tree("abs(p - t)"), head="identity", aggregation=Trimmed(0.75))
    assert float(criterion(torch.zeros(0, 1), torch.zeros(0, 1))) == 0.0
    z, weight = torch.tensor([[1.0], [math.nan], [2.0], [3.0]]), torch.zeros(4)
    assert float(criterion(z, torch.zeros(4, 1), weight=weight)) == 0.0
    # what is no number is never trimmed away, in whatever row it is: its gradient would not be finite all the same
    assert math.isnan(float(criterion(z, torch.zeros(4, 1))))
    everything = Loss(tree("abs(p - t)"), head="identity", aggregation=Trimmed(1.0))
    assert math.isnan(float(everything(z, torch.zeros(4, 1))))
    weight = torch.tensor([0.0, 1.0, 0.0, 1.0])
    assert math.isnan(float(everything(z, torch.zeros(4, 1), weight=weight)))  # what is masked takes no place


def test_accumulated_batches_of_a_trimmed_loss() -> None:
    criterion = Loss(tree("square(p - t)"), head="identity", aggregation=Trimmed(0.5))
    z, t = normal(12, 1), normal(12, 1, seed=1)
    parts = [slice(0, 8), slice(8, 12)]
    total = sum(criterion(z[part], t[part], num_items=12) for part in parts)
    expected = sum(criterion(z[part], t[part]) * len(z[part]) / 12 for part in parts)
    torch.testing.assert_close(total, expected)
    kept = Loss(tree("square(p - t)"), head="identity", aggregation=Trimmed(0.5), reduction="sum")
    torch.testing.assert_close(kept(z, t) / 6, criterion(z, t))


def test_a_trimmed_loss_of_label_noise_ignores_what_is_wrong() -> None:
    z = torch.eye(4, dtype=torch.float64)[[0, 1, 2, 3, 0, 1, 2, 3]] * 5
    wrong = torch.tensor([0, 1, 2, 3, 0, 1, 3, 2])  # the last two
    clean = Loss(tree("-t*log(p)"))(z[:6], wrong[:6])
    torch.testing.assert_close(Loss(tree("-t*log(p)"), aggregation=Trimmed(0.75))(z, wrong), clean)
