"""Every row of ALGORITHMS §0: outputs, reductions, weights, targets, heads, smoothing, prior and progress."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from published_losses import PROGRESS, made
from torch import Tensor

from lossmith.errors import LossError
from lossmith.losses import PUBLISHED, Loss, LossSet, Pairwise, Pointwise, Ratio, Setting, Taylor, Tree, loss
from lossmith.losses.expression import Number
from lossmith.losses.parser import parse


def tree(text: str, **settings: Any) -> Loss:
    return Loss(Tree(parse(text)), **settings)


def normal(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def classes(*shape: int, count: int = 5, seed: int = 1) -> Tensor:
    return torch.randint(count, shape, generator=torch.Generator().manual_seed(seed))


def value_and_slope(criterion: Callable[[Tensor], Tensor], output: Tensor) -> tuple[Tensor, Tensor]:
    output = output.clone().requires_grad_()
    value = criterion(output)
    (slope,) = torch.autograd.grad(value.sum(), output)
    return value.detach(), slope


def assert_equal(one: Callable[[Tensor], Tensor], other: Callable[[Tensor], Tensor], output: Tensor) -> None:
    for ours, theirs in zip(value_and_slope(one, output), value_and_slope(other, output), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-13)


def test_reductions() -> None:
    output, target = normal(6, 5), classes(6)
    rows = F.cross_entropy(output, target, reduction="none")
    torch.testing.assert_close(loss("cross_entropy", reduction="none")(output, target), rows)
    torch.testing.assert_close(loss("cross_entropy", reduction="sum")(output, target), rows.sum())
    torch.testing.assert_close(loss("cross_entropy")(output, target), rows.mean())
    for reduction in ("none", "sum", "mean"):
        mean = loss("baikal", outputs="mean", reduction=reduction)(output, target)
        torch.testing.assert_close(mean, loss("baikal", reduction=reduction)(output, target) / 5)


def test_weighted_means() -> None:
    output, target, weight = normal(6, 5), classes(6), torch.tensor([1.0, 0.0, 2.0, 0.5, 3.0, 0.0])
    rows = F.cross_entropy(output, target, reduction="none")
    total = (weight * rows).sum()
    criterion = loss("cross_entropy")
    torch.testing.assert_close(criterion(output, target, weight=weight), total / 6.5)  # Σw = 1 + 2 + .5 + 3
    torch.testing.assert_close(criterion(output, target, weight=weight, num_items=4), total / 4)
    torch.testing.assert_close(criterion(output, target, num_items=torch.tensor(4)), rows.sum() / 4)
    torch.testing.assert_close(loss("cross_entropy", reduction="sum")(output, target, weight=weight), total)
    none = loss("cross_entropy", reduction="none")(output, target, weight=weight)
    torch.testing.assert_close(none, weight * rows)
    assert criterion(output, target, weight=torch.zeros(6)).item() == 0.0
    assert criterion(output[:0], target[:0]).item() == 0.0
    assert criterion(output, target, weight=torch.zeros(6), num_items=torch.tensor(0)).item() == 0.0


@pytest.mark.parametrize("weighted", [False, True])
def test_accumulated_batches_add_up_to_one(weighted: bool) -> None:
    output, target = normal(6, 5), classes(6)
    weight = torch.tensor([1.0, 0.0, 2.0, 0.5, 3.0, 0.25]) if weighted else None
    criterion = loss("focal")
    whole = value_and_slope(lambda z: criterion(z, target, weight=weight), output)
    items = 6.0 if weight is None else weight.sum()

    def in_parts(z: Tensor) -> Tensor:
        total = torch.zeros((), dtype=z.dtype)
        for part in (slice(0, 1), slice(1, 6)):  # of unequal size: the mean of their means would be another number
            w = None if weight is None else weight[part]
            total = total + criterion(z[part], target[part], weight=w, num_items=items)
        return total

    for ours, theirs in zip(value_and_slope(in_parts, output), whole, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-13, atol=1e-15)


@pytest.mark.parametrize("garbage", [math.nan, math.inf, -math.inf, 1e30])
@pytest.mark.parametrize(
    ("name", "head"), [(name, head) for name in sorted(PUBLISHED) for head in PUBLISHED[name].heads]
)
def test_rows_of_weight_zero_contribute_nothing(name: str, head: str, garbage: float) -> None:
    target: Tensor = classes(4, count=3) if head == "softmax" else torch.eye(3, dtype=torch.float64)[[0, 1, 2, 0]]
    output, weight = normal(4, 3), torch.tensor([1.0, 0.0, 2.0, 0.0])
    keep = weight > 0
    criterion = partial(made(name, head=head), progress=PROGRESS)
    alone = value_and_slope(lambda z: criterion(z[keep], target[keep], weight=weight[keep]), output)
    output[~keep] = garbage
    masked = target.masked_fill(~keep if head == "softmax" else ~keep[:, None], -100 if head == "softmax" else garbage)
    both = value_and_slope(lambda z: criterion(z, masked, weight=weight), output)
    torch.testing.assert_close(both, alone, rtol=0, atol=0)
    if not isinstance(PUBLISHED[name].aggregation(), Pointwise):
        return
    rows = made(name, head=head, reduction="none")(output, masked, weight=weight, progress=PROGRESS)
    assert rows[~keep].tolist() == [0.0, 0.0]


@pytest.mark.filterwarnings("ignore:Anomaly Detection has been enabled")
def test_padding_raises_no_alarm_in_anomaly_mode() -> None:
    output = torch.tensor([[1.0], [2.0]], requires_grad=True)
    target, weight = torch.tensor([[0.0], [math.nan]]), torch.tensor([1.0, 0.0])
    with torch.autograd.detect_anomaly():  # complains of every NaN inside the backward pass, used or not
        loss("mse", head="identity")(output, target, weight=weight).backward()
    assert output.grad is not None
    assert output.grad.tolist() == [[2.0], [0.0]]


def test_targets_in_every_form_are_one_loss() -> None:
    output, target = normal(4, 5), classes(4)
    one_hot = F.one_hot(target, 5)
    expected = F.cross_entropy(output, target)
    criterion = loss("cross_entropy")
    for form in (target, target.int(), target.to(torch.uint8), one_hot, one_hot.double(), one_hot.float()):
        torch.testing.assert_close(criterion(output, form), expected)
    soft = torch.softmax(normal(4, 5, seed=9), -1)
    assert_equal(lambda z: criterion(z, soft), lambda z: F.cross_entropy(z, soft), output)


@pytest.mark.parametrize("columns", [1, 3])
def test_a_sigmoid_head_is_binary_cross_entropy_per_output(columns: int) -> None:
    output = 3 * normal(6, columns)
    hard = (normal(6, columns, seed=2) > 0).double()
    soft = torch.sigmoid(normal(6, columns, seed=3))
    bce = F.binary_cross_entropy_with_logits
    for target in (hard, soft):
        assert_equal(
            lambda z, t=target: loss("cross_entropy", head="sigmoid")(z, t),  # type: ignore[misc]
            lambda z, t=target: bce(z, t, reduction="none").sum(-1).mean(),  # type: ignore[misc]
            output,
        )
    if columns == 1:  # the last axis of one output may be left out; labels may be whole numbers
        torch.testing.assert_close(loss("cross_entropy", head="sigmoid")(output, hard[:, 0].long()), bce(output, hard))
    smooth = loss("cross_entropy", head="sigmoid", smoothing=0.2)
    assert_equal(lambda z: smooth(z, hard), lambda z: bce(z, 0.8 * hard + 0.1, reduction="none").sum(-1).mean(), output)


@pytest.mark.parametrize("name", sorted(n for n, p in PUBLISHED.items() if p.heads == ("softmax", "sigmoid")))
def test_one_logit_is_two_softmax_outputs(name: str) -> None:
    z, t = 2 * normal(6, 1), (normal(6, 1, seed=2) > 0).long()
    one = made(name, head="sigmoid")(z, t, progress=PROGRESS)
    pair = torch.cat((torch.zeros_like(z), z), 1)  # "read as (1−p, p)", ALGORITHMS §0
    two = made(name, classes=2)(pair, t[:, 0], progress=PROGRESS)
    torch.testing.assert_close(one, two, rtol=1e-9, atol=1e-12)


def test_identity_head() -> None:
    output, target = normal(6, 2), normal(6, 2, seed=4)
    assert_equal(
        lambda z: loss("mse", head="identity", outputs="mean")(z, target), lambda z: F.mse_loss(z, target), output
    )
    one = loss("mse", head="identity")
    torch.testing.assert_close(one(output[:, :1], target[:, 0]), F.mse_loss(output[:, 0], target[:, 0]))


def test_a_head_of_ones_own() -> None:
    output, target = normal(6, 3), F.one_hot(classes(6, count=3), 3)
    own = loss("brier", head=lambda z: torch.softmax(2 * z, -1))
    assert_equal(lambda z: own(z, target), lambda z: loss("brier")(2 * z, target), output)


def test_leading_axes_are_rows() -> None:
    output, target, weight = normal(2, 3, 4, 5), classes(2, 3, 4), normal(2, 3, 4, seed=5).abs()
    flat = (output.reshape(24, 5), target.reshape(24))
    for name in ("cross_entropy", "baikal"):
        criterion = loss(name)
        torch.testing.assert_close(criterion(output, target), criterion(*flat))
        torch.testing.assert_close(
            criterion(output, target, weight=weight), criterion(*flat, weight=weight.reshape(-1))
        )
        rows = loss(name, reduction="none")(output, target)
        assert rows.shape == (2, 3, 4)
        torch.testing.assert_close(rows.mean(), criterion(output, target))
    soft = torch.softmax(normal(2, 3, 4, 5, seed=8), -1)
    torch.testing.assert_close(loss("brier")(output, soft), loss("brier")(flat[0], soft.reshape(24, 5)))
    alone = loss("cross_entropy")(output[0, 0, 0], target[0, 0, 0])  # one row of a softmax, as under torch.func.vmap
    torch.testing.assert_close(alone, F.cross_entropy(output[0, 0, 0], target[0, 0, 0]))


def test_smoothing_is_torchs_and_makes_targets_soft() -> None:
    output, target = normal(6, 5), classes(6)
    criterion = loss("cross_entropy", smoothing=0.3)
    assert_equal(lambda z: criterion(z, target), lambda z: F.cross_entropy(z, target, label_smoothing=0.3), output)
    assert criterion.setting(5) == Setting("softmax", 5, hard_targets=False)
    assert loss("cross_entropy").setting(5) == Setting("softmax", 5, hard_targets=True)
    assert loss("cross_entropy").setting(5, hard_targets=False) == Setting("softmax", 5, hard_targets=False)


def test_progress_is_needed_by_those_that_use_it() -> None:
    criterion = tree("tau*t*r^2 - (1 - tau)*t*log(p)")
    output, target = normal(6, 5), classes(6)
    torch.testing.assert_close(criterion(output, target, progress=0.0), F.cross_entropy(output, target))
    squared = (1 - torch.softmax(output, -1).gather(1, target[:, None])).square().mean()
    torch.testing.assert_close(criterion(output, target, progress=1.0), squared)
    torch.testing.assert_close(criterion(output, target, progress=torch.tensor(1.0)), squared)
    with pytest.raises(LossError, match="progress=step / steps"):
        criterion(output, target)
    loss("cross_entropy")(output, target, progress=0.5)  # offered to all, used by some


def test_a_prior_tells_classes_apart() -> None:
    prior = (0.5, 0.3, 0.2)
    output, target = normal(6, 3), classes(6, count=3)
    rare_first = tree("-t*log(p)/(n*prior)", prior=prior)
    by_hand = F.cross_entropy(
        output, target, weight=1 / (3 * torch.tensor(prior, dtype=torch.float64)), reduction="sum"
    )
    torch.testing.assert_close(rare_first(output, target), by_hand / 6)
    with pytest.raises(LossError, match="build it with prior="):
        tree("-t*log(p)/prior")(output, target)
    for wrong in ((0.5, 0.5, 0.0), (0.5, math.nan), (-1.0, 2.0), ()):
        with pytest.raises(LossError, match="above 0"):
            tree("prior*p", prior=wrong)
    with pytest.raises(LossError, match="a prior of 2 classes, here are 3"):
        tree("prior*p", prior=(0.5, 0.5))(output, target)


def test_row_inputs() -> None:
    output, target = normal(6, 5), classes(6)
    p_t = torch.softmax(output, -1).gather(1, target[:, None])[:, 0]
    for q in (0.7, 1.5):  # written with p_t on every output and with t·p: the same sum
        torch.testing.assert_close(tree(f"t*(1 - p_t^{q})/{q}")(output, target), ((1 - p_t**q) / q).mean())
    z_t = output.gather(1, target[:, None])[:, 0]
    rest = output.scatter(1, target[:, None], -math.inf).amax(1)
    hinge = tree("t*max(1 - m, 0)")
    torch.testing.assert_close(hinge(output, target), (1 - (z_t - rest)).clamp(min=0).mean())
    weight = torch.tensor([1.0, 2.0, 0.0, 1.0, 1.0, 4.0])
    rows = F.cross_entropy(output, target, reduction="none")
    doubled = tree("-w*t*log(p)", reduction="sum")  # as an input, and as the weight of the row
    torch.testing.assert_close(doubled(output, target, weight=weight), (weight**2 * rows).sum(), check_dtype=False)


def test_float32_and_float64() -> None:
    output, target = normal(6, 5, dtype=torch.float32), classes(6)
    assert loss("baikal")(output, target).dtype == torch.float32
    assert loss("baikal")(output.double(), target).dtype == torch.float64
    half = loss("baikal")(output.bfloat16(), target)
    assert half.dtype == torch.float32
    assert half == loss("baikal")(output.bfloat16().float(), target)


def test_a_kernel_that_is_a_number() -> None:
    constant = Loss(Tree(Number(0.25)))
    assert constant(normal(6, 5), classes(6)).item() == 1.25  # 5 outputs of ¼
    assert loss("t*0 + p*0")(normal(6, 5), classes(6)).item() == 0.0


@pytest.mark.parametrize(
    ("output", "target", "arguments", "sentence"),
    [
        (
            (4, 3),
            torch.zeros(4),
            {},
            r"target of shape \(4,\) and type torch.float32 does not fit.*expected \(4,\) of class",
        ),
        ((4, 3), torch.zeros(3, dtype=torch.long), {}, r"expected \(4,\) of class indices or \(4, 3\)"),
        ((2, 3, 8, 8), torch.zeros(2, 8, 8, dtype=torch.long), {}, r"output.movedim\(1, -1\)"),
        ((4, 3), torch.tensor([0, 1, 2, 3]), {}, r"label 3 in row 3 is outside the classes 0…2"),
        ((4, 3), torch.tensor([0, -100, 2, 1]), {}, r"label -100 in row 1.*give padding rows weight 0"),
        ((4, 1), torch.zeros(4), {}, r'use head="sigmoid"'),
        ((), torch.tensor(0), {}, r"output of shape \(\): expected"),
        ((4, 3), torch.zeros(4, dtype=torch.long), {"weight": torch.ones(3)}, r"weight of shape \(3,\)"),
        ((4, 3), torch.zeros(4, dtype=torch.long), {"weight": torch.ones(4, 3)}, r"weight of shape \(4, 3\)"),
    ],
)
def test_shapes_and_labels_that_do_not_fit(
    output: tuple[int, ...], target: Tensor, arguments: dict[str, Tensor], sentence: str
) -> None:
    with pytest.raises(LossError, match=sentence):
        loss("cross_entropy")(torch.zeros(output), target, **arguments)


@pytest.mark.parametrize("head", ["sigmoid", "identity", torch.sigmoid])
def test_a_forgotten_output_axis_is_no_row_of_many_outputs(head: Any) -> None:
    # as one row of 8 outputs the loss would silently be 8 times as large
    with pytest.raises(LossError, match=r"use output\[..., None\]"):
        loss("mse", head=head)(torch.zeros(8), torch.zeros(8))


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"head": "logits"}, "unknown head 'logits'"),
        ({"head": 3}, "unknown head 3"),
        ({"reduction": "max"}, 'use "mean", "sum" or "none"'),
        ({"outputs": "none"}, 'use "sum" or "mean"'),
        ({"smoothing": 1.0}, r"in \[0, 1\)"),
        ({"smoothing": math.nan}, r"in \[0, 1\)"),
        ({"smoothing": 0.1, "head": "identity"}, "needs class targets"),
        ({"reduction": "none", "aggregation": Ratio(Tree(parse("p + t")))}, "no value per row"),
        ({"reduction": "sum", "aggregation": Ratio(Tree(parse("p + t")))}, "no sum over rows"),
        ({"aggregation": Pairwise()}, r"reads z \(= z_i − z_j\) and t only, not p"),
    ],
)
def test_settings_that_do_not_exist(settings: dict[str, Any], sentence: str) -> None:
    with pytest.raises(LossError, match=sentence):
        tree("p*t", **settings)


def test_num_items_divides_only_means() -> None:
    output, target = normal(4, 3), classes(4, count=3)
    for criterion in (
        loss("mse", reduction="sum"),
        loss("mse", reduction="none"),
        tree("p", aggregation=Ratio(Tree(parse("t")))),
    ):
        with pytest.raises(LossError, match="leave num_items out"):
            criterion(output, target, num_items=4)


def test_text_and_key() -> None:
    assert str(tree("-t*log(p)")) == "-t*log(p)"
    assert str(loss("focal", gamma=3, smoothing=0.1, outputs="mean")) == "focal(gamma=3), smoothing=0.1, outputs=mean"
    assert str(tree("p*t", aggregation=Ratio(Tree(parse("p + t"))))) == "1 - sum(p*t)/sum(p + t)"
    assert str(tree("max(1 - z, 0)", aggregation=Pairwise())) == "pairwise(max(1 - z, 0))"
    assert repr(loss("mse", head="identity")) == "Loss(mse, head=identity)"
    key = loss("cross_entropy").key(10)
    assert tree("-t*log(p)", name="mine").key(10) == key
    different = [
        loss("cross_entropy", outputs="mean"),
        loss("cross_entropy", reduction="sum"),
        loss("cross_entropy", smoothing=0.1),
        loss("cross_entropy", head="sigmoid"),
        loss("cross_entropy", prior=(0.5, 0.5)),
        loss("focal"),
    ]
    assert len({key, *(other.key(10) for other in different)}) == 7


def test_a_key_of_a_ratio_is_stricter_than_that_of_its_kernel() -> None:
    genome = (1.0, -1.0, 0.5, 2.0, 0.3, 0.7, 0.5, 0.5)
    a, b = Taylor(genome), Taylor((2.0, *genome[1:]))  # θ2 adds a constant to every γ: nothing under a softmax
    assert Loss(a).key(3) == Loss(b).key(3)
    for aggregation in (Ratio(Tree(parse("p + t"))), Ratio(a)):
        assert Loss(a, aggregation=aggregation).key(3) != Loss(b, aggregation=aggregation).key(3)


def test_a_set_of_losses() -> None:
    output, target = normal(4, 3), classes(4, count=3)
    both = LossSet([loss("cross_entropy"), loss("brier")])
    assert both(output, target) == loss("cross_entropy")(output, target)
    assert both[1](output, target) == loss("brier")(output, target)
    assert (len(both), [str(one) for one in both], str(both)) == (
        2,
        ["cross_entropy", "brier"],
        "cross_entropy | brier",
    )
    assert both.key(3) == f"{loss('cross_entropy').key(3)}+{loss('brier').key(3)}"
    with pytest.raises(LossError, match="at least one loss"):
        LossSet([])
