"""Related losses against reference implementations written here, straight from the papers (ALGORITHMS §5)."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial

import pytest
import torch
import torch.nn.functional as F
from published_losses import made, prior_of
from torch import Tensor

from lossmith.errors import LossError
from lossmith.losses import PUBLISHED, Loss, Ratio, Tree, loss
from lossmith.losses.dynamical import Dynamical
from lossmith.losses.learning_rule import pull
from lossmith.losses.parser import parse

ROWS, CLASSES = 40, 5
PRIOR = prior_of(CLASSES)
COUNTS = torch.tensor([1000.0 * share for share in PRIOR], dtype=torch.float64)


def drawn(*shape: int, seed: int = 0) -> Tensor:
    return 2 * torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


OUTPUT = drawn(ROWS, CLASSES)
LABELS = torch.randint(CLASSES, (ROWS,), generator=torch.Generator().manual_seed(1))
ONE_HOT = F.one_hot(LABELS, CLASSES).double()
Criterion = Callable[[Tensor, Tensor], Tensor]


def assert_same(one: Criterion, other: Criterion, output: Tensor = OUTPUT, target: Tensor = LABELS) -> None:
    """Equal values and gradients, the latter not zero."""
    found = []
    for criterion in (one, other):
        z = output.clone().requires_grad_()
        value = criterion(z, target)
        (slope,) = torch.autograd.grad(value, z)
        found.append((value.detach(), slope))
    torch.testing.assert_close(found[0], found[1], rtol=1e-10, atol=1e-12)
    assert found[0][1].abs().max() > 1e-6


def test_unhinged_is_linear_and_symmetric() -> None:
    def reference(z: Tensor, labels: Tensor) -> Tensor:
        return (1 - z[torch.arange(len(z)), labels] + z.mean(1)).mean()

    unhinged = loss("unhinged")
    assert_same(unhinged, reference)
    # cross-entropy minus its mean over labels: the log-sum-exp goes out
    every = torch.stack([F.cross_entropy(OUTPUT, torch.full_like(LABELS, k)) for k in range(CLASSES)])
    expected = 1 + F.cross_entropy(OUTPUT, LABELS) - every.mean()
    torch.testing.assert_close(unhinged(OUTPUT, LABELS), expected, rtol=1e-12, atol=1e-12)
    # van Rooyen et al.: what makes it robust is that the sum over labels is a constant
    total = sum(unhinged(OUTPUT, torch.full_like(LABELS, k)) for k in range(CLASSES))
    assert float(total) == pytest.approx(CLASSES, rel=1e-12)
    # one logit z is the pair (0, z), the score of the positive class z/2: 1 − y·v of the paper
    z, t = drawn(ROWS, 1), (drawn(ROWS, 1, seed=2) > 0).double()
    assert_same(loss("unhinged", head="sigmoid"), lambda z, t: (1 - (2 * t - 1) * z / 2).mean(), z, t)


@pytest.mark.parametrize(
    ("alpha", "beta", "log_zero"), [(0.1, 1.0, -4.0), (6.0, 0.1, -4.0), (1.0, 1.0, math.log(1e-4))]
)
def test_symmetric_cross_entropy_as_in_the_authors_code(alpha: float, beta: float, log_zero: float) -> None:
    def reference(z: Tensor, labels: Tensor) -> Tensor:
        # a zero of the one-hot target is clamped so that its logarithm is A
        reverse = -(z.softmax(1) * F.one_hot(labels, CLASSES).double().clamp(min=math.exp(log_zero)).log()).sum(1)
        return alpha * F.cross_entropy(z, labels) + beta * reverse.mean()

    ours = loss("symmetric_cross_entropy", alpha=alpha, beta=beta, log_zero=log_zero)
    assert_same(ours, reference)
    p_t = OUTPUT.softmax(1)[torch.arange(ROWS), LABELS]
    expected = alpha * F.cross_entropy(OUTPUT, LABELS) - beta * log_zero * (1 - p_t).mean()
    torch.testing.assert_close(ours(OUTPUT, LABELS), expected)


def test_spectral_decoupling_is_its_formula() -> None:
    def reference(z: Tensor, labels: Tensor) -> Tensor:
        return F.cross_entropy(z, labels) + 0.3 / 2 * z.square().sum(1).mean()

    assert_same(loss("spectral_decoupling(lam=0.3)"), reference)
    z, t = drawn(ROWS, 1), (drawn(ROWS, 1, seed=2) > 0).double()

    def binary(z: Tensor, t: Tensor) -> Tensor:  # the paper's: log(1 + exp(−y·ŷ)) + λ/2·ŷ²
        return (F.softplus(-(2 * t - 1) * z) + 0.3 / 2 * z.square()).mean()

    assert_same(loss("spectral_decoupling(lam=0.3)", head="sigmoid"), binary, z, t)


@pytest.mark.parametrize("power", [1, 2])
@pytest.mark.parametrize("smooth", [0.0, 1.0])
def test_dice_is_its_formula(power: int, smooth: float) -> None:
    def reference(z: Tensor, labels: Tensor) -> Tensor:
        p, t = z.softmax(1), F.one_hot(labels, CLASSES).double()
        overlaps = []
        for k in range(CLASSES):
            both, each = 2 * (p[:, k] * t[:, k]).sum(), (p[:, k] ** power).sum() + (t[:, k] ** power).sum()
            overlaps.append((both + smooth) / (each + smooth))
        return 1 - torch.stack(overlaps).mean()

    assert_same(loss("dice", power=power, smooth=smooth), reference)


@pytest.mark.parametrize(("alpha", "beta"), [(0.3, 0.7), (0.5, 0.5), (1.0, 1.0)])
def test_tversky_is_its_formula(alpha: float, beta: float) -> None:
    def reference(z: Tensor, labels: Tensor) -> Tensor:
        p, t = z.softmax(1), F.one_hot(labels, CLASSES).double()
        true, false, missed = (p * t).sum(0), (p * (1 - t)).sum(0), ((1 - p) * t).sum(0)
        return (1 - (true + 1) / (true + alpha * false + beta * missed + 1)).mean()

    assert_same(loss("tversky", alpha=alpha, beta=beta), reference)


def test_tversky_of_halves_is_dice() -> None:
    assert_same(loss("tversky(alpha=0.5, beta=0.5, smooth=0.5)"), loss("dice(smooth=1)"))


def test_overlaps_are_of_the_batch_and_other_settings_of_them_are_one_line() -> None:
    halves = (loss("dice")(OUTPUT[:20], LABELS[:20]) + loss("dice")(OUTPUT[20:], LABELS[20:])) / 2
    assert abs(float(halves - loss("dice")(OUTPUT, LABELS))) > 1e-4
    of_everything = Loss(Tree(parse("2*t*p")), aggregation=Ratio(Tree(parse("t + p")), "batch", 0.0))
    expected = 1 - 2 * (OUTPUT.softmax(1) * ONE_HOT).sum() / (2 * ROWS)
    torch.testing.assert_close(of_everything(OUTPUT, LABELS), expected)


@pytest.mark.parametrize("kappa", [0.0, 0.5, 1.0])
def test_logit_adjustment_is_cross_entropy_of_shifted_outputs(kappa: float) -> None:
    def reference(z: Tensor, labels: Tensor) -> Tensor:
        return F.cross_entropy(z + kappa * torch.tensor(PRIOR, dtype=z.dtype).log(), labels)

    assert_same(loss("logit_adjustment", kappa=kappa, prior=PRIOR), reference)
    counts = loss("logit_adjustment", kappa=kappa, prior=COUNTS.tolist())  # only ratios of shares matter
    assert_same(counts, reference)


@pytest.mark.parametrize("beta", [0.0, 0.9, 0.999, 0.999999])
def test_class_balanced_weighs_by_the_effective_number(beta: float) -> None:
    weights = (1 - beta) / (1 - beta**COUNTS)  # eq. 9
    weights = weights / weights.sum() * CLASSES

    def reference(z: Tensor, labels: Tensor) -> Tensor:
        return (weights[labels] * F.cross_entropy(z, labels, reduction="none")).mean()

    ours = loss("class_balanced", beta=beta, rows=1000, prior=PRIOR)
    z = OUTPUT.clone().requires_grad_()
    torch.testing.assert_close(ours(z, LABELS), reference(z, LABELS), rtol=1e-8, atol=0)  # 1 − β^n cancels above
    if beta == 0:
        torch.testing.assert_close(ours(OUTPUT, LABELS), F.cross_entropy(OUTPUT, LABELS))
    else:
        assert weights.max() > 1.0001 * weights.min()


@pytest.mark.parametrize(("margin", "scale"), [(0.5, 1.0), (0.5, 30.0), (0.0, 1.0), (2.0, 3.0)])
def test_ldam_as_in_the_authors_code(margin: float, scale: float) -> None:
    margins = 1 / COUNTS.sqrt().sqrt()
    margins = margins * (margin / margins.max())

    def reference(z: Tensor, labels: Tensor) -> Tensor:
        index = F.one_hot(labels, CLASSES).bool()
        return F.cross_entropy(scale * torch.where(index, z - margins, z), labels)

    assert_same(loss("ldam", margin=margin, scale=scale, prior=PRIOR), reference)


def reference_weights(step: int, per_class: int, amplitude: float, classes: int) -> Tensor:
    """Γ by steps, as in the authors' notebook: one class after the other, each for `per_class` steps."""
    turn, at = divmod(step, per_class)
    slope = 2 * (amplitude - 1) / per_class
    highest = 1 + at * slope if at < per_class / 2 else 2 * amplitude - at * slope - 1
    weights = torch.ones(classes, dtype=torch.float64)
    weights[turn % classes] = highest
    return weights / weights.sum() * classes


@pytest.mark.parametrize("amplitude", [1.0, 5.0, 70.0])
def test_dynamical_cross_entropy_by_steps(amplitude: float) -> None:
    rounds, per_class = 3, 20
    steps = rounds * CLASSES * per_class
    criterion = loss("dynamical_cross_entropy", amplitude=amplitude, rounds=rounds)
    for step in range(0, steps + 1, 7):
        weights = reference_weights(step, per_class, amplitude, CLASSES)
        expected = (weights[LABELS] * F.cross_entropy(OUTPUT, LABELS, reduction="none")).mean()
        for progress in (step / steps, torch.tensor(step / steps, dtype=torch.float64)):
            found = criterion(OUTPUT, LABELS, progress=progress)
            torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-12)


def test_dynamical_weights_keep_their_sum_and_begin_and_end_at_one() -> None:
    kernel = Dynamical(70.0, 5.0)
    for progress in torch.linspace(0, 1, 301, dtype=torch.float64):
        weights = kernel.weights(progress, 7)
        assert float(weights.sum()) == pytest.approx(7)
        assert len(set(weights.tolist())) <= 2
    for end in (0.0, 1.0):
        torch.testing.assert_close(kernel.weights(torch.tensor(end, dtype=torch.float64), 7), torch.ones(7).double())
    assert float(kernel.weights(torch.tensor(0.1 / 7).double(), 7)[0]) == pytest.approx(70 * 7 / 76)  # A = 70, 6 ones


@pytest.mark.parametrize("name", ["logit_adjustment", "class_balanced", "ldam", "dynamical_cross_entropy"])
def test_losses_of_a_row_say_what_they_are(name: str) -> None:
    criterion = made(name, classes=CLASSES)
    assert criterion.kernel.phi == ()
    with pytest.raises(LossError, match="looks at a row as a whole, so it has no formula of one output"):
        criterion.kernel.expression()
    with pytest.raises(LossError, match="has no parameters"):
        criterion.kernel.with_phi([1.0])
    # a learning rule all the same, by autograd; at τ = 0 and for an even prior it is that of cross-entropy
    p, t = OUTPUT.softmax(1), ONE_HOT
    if name != "ldam":
        criterion.prior = None
        torch.testing.assert_close(
            p * (pull(criterion, p, t) - (pull(criterion, p, t) * p).sum(1, keepdim=True)), t - p, rtol=1e-6, atol=1e-7
        )


@pytest.mark.parametrize(
    ("given", "arguments", "message"),
    [
        (partial(loss, "ldam"), {}, r"uses the class prior: build it with prior=\(share of each class"),
        (partial(loss, "logit_adjustment", prior=(0.5, 0.5)), {}, "a prior of 2 classes, here are 5"),
        (
            partial(loss, "class_balanced", prior=PRIOR),
            {},
            r"number of training rows: give it as class_balanced\(rows=",
        ),
        (partial(loss, "dynamical_cross_entropy"), {}, "call it as loss.output, target, progress=step / steps."),
        (partial(loss, "dice", head="identity"), {}, 'dice needs class probabilities .head="softmax"'),
        (partial(loss, "dice", reduction="none"), {}, "a ratio loss has no value per row"),
        (partial(loss, "dice", reduction="sum"), {}, "a ratio loss is no sum over rows"),
        (partial(loss, "tversky(alpha=-1)"), {}, r"tversky: alpha = -1.0 is outside \[0, inf\)"),
        (partial(loss, "trimmed_mse(keep=0)"), {}, r"keep = 0.0 is outside \(0, 1\]"),
        (partial(loss, "trimmed_mse", reduction="none"), {}, "a trimmed loss has no value per row"),
        (partial(loss, "dynamical_cross_entropy(amplitude=0.5)"), {}, r"amplitude = 0.5 is outside \[1, inf\)"),
        (partial(loss, "ldam(scale=0)"), {}, r"scale = 0.0 is outside \(0, inf\)"),
        (partial(loss, "logit_adjustment(kappa=inf)"), {}, r"outside \(-inf, inf\)"),
        (partial(Dynamical, 0.5, 1.0), {}, "the amplitude must be at least 1"),
        (partial(Dynamical, "high"), {}, "dynamical: amplitude = 'high' must be a finite number"),
    ],
)
def test_misuse(given: Callable[[], Loss], arguments: dict[str, float], message: str) -> None:
    with pytest.raises(LossError, match=message):
        given()(OUTPUT, LABELS, **arguments)


def test_the_catalogue_says_what_each_needs() -> None:
    needs = {name: entry.needs for name, entry in PUBLISHED.items() if entry.needs}
    assert needs == {
        "trimmed_cross_entropy": ("the whole batch",),
        "trimmed_mse": ("the whole batch",),
        "dynamical_cross_entropy": ("training progress",),
        "dice": ("the whole batch",),
        "tversky": ("the whole batch",),
        "logit_adjustment": ("the class prior",),
        "class_balanced": ("the class prior",),
        "ldam": ("the class prior",),
    }
