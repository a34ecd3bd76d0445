"""Value and ∂ℓ/∂output on both roads: heads, targets, weights, masks, extremes, populations, and derivatives by φ."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from published_losses import made
from random_losses import random_trees
from torch import Tensor

from lossmith.errors import LossError
from lossmith.losses import PUBLISHED, Loss, Pairwise, Ratio, Taylor, Tree, loss
from lossmith.losses.autograd_road import mixed_by_autograd, rows_by_autograd, value_and_delta_by_autograd
from lossmith.losses.delta import interpreted, mixed_with_direction, population_value_and_delta, value_and_delta
from lossmith.losses.expression import Apply, Symbol
from lossmith.losses.parser import parse
from lossmith.losses.primitive_sets import EVOMAL
from lossmith.losses.primitives import PRIMITIVES, Primitive

ROWS, CLASSES = 9, 4
TEXTS = (
    "-t*log(p)", "t/p - log(p)", "-t*(1 - p)^1.5*log(p)", "-t*log(p) - (1 - t)*log(1 - p)", "z*t + z*p^2", "z",
    "max(r, 0.1) + min(p^2, t)", "tanh(r)*exp(p) + sqrt(p)*sign(p - 0.3)", "aq(p, t) + protected_log(p)*abs(r)",
    "p^r + r^n", "(1 - tau)*r^2 + p^tau", "w*r^2", "prior*log(p/prior)", "t*n", "1", "p/(t - 0.5)",
)  # fmt: skip


def tree(text: str, **settings: Any) -> Loss:
    return Loss(Tree(parse(text)), **settings)


def outputs(dtype: torch.dtype = torch.float64, seed: int = 0, scale: float = 2.0) -> Tensor:
    return scale * torch.randn(ROWS, CLASSES, generator=torch.Generator().manual_seed(seed), dtype=dtype)


LABELS = torch.arange(ROWS) % CLASSES
SOFT = torch.rand(ROWS, CLASSES, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
WEIGHT = torch.tensor([0.5, 0.0, 2.0, 1.0, 0.0, 0.25, 1.0, 1.0, 3.0], dtype=torch.float64)
TARGETS = {"softmax": LABELS, "sigmoid": (SOFT > 0.5).double(), "identity": 4 * SOFT - 2}
PRIORS = {"softmax": (0.1, 0.2, 0.3, 0.4), "sigmoid": (0.4, 0.6), "identity": (0.1, 0.2, 0.3, 0.4)}


def assert_same(
    found: tuple[Tensor, Tensor], expected: tuple[Tensor, Tensor], tolerance: float, what: object = ""
) -> None:
    for one, other in zip(found, expected, strict=True):
        assert one.shape == other.shape
        assert not one.requires_grad
        scale = max(1.0, float(other.abs().max()))
        assert (one - other).abs().max() <= tolerance * scale, f"{what}: {one} and {other}"


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=["float32", "float64"])
@pytest.mark.parametrize("head", ["softmax", "sigmoid", "identity"])
@pytest.mark.parametrize("text", TEXTS)
def test_both_roads_agree(text: str, head: str, dtype: torch.dtype) -> None:
    z, target = outputs(dtype), TARGETS[head]
    soft = SOFT / SOFT.sum(1, keepdim=True)
    for settings in (
        {},
        {"reduction": "sum"},
        {"outputs": "mean"},
        {"smoothing": 0.1} if head != "identity" else {"reduction": "sum", "outputs": "mean"},
    ):
        criterion = tree(text, head=head, prior=PRIORS[head], **settings)
        assert interpreted(criterion)
        for t in (target, soft):
            for weight in (None, WEIGHT, torch.zeros(ROWS)):
                found = value_and_delta(criterion, z, t, weight, 0.3)
                expected = value_and_delta_by_autograd(criterion, z, t, weight, 0.3)
                assert found[1].dtype == z.dtype
                assert_same(found, expected, 1e-5 if dtype == torch.float32 else 1e-12, (settings, weight))


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_losses(name: str) -> None:
    criterion = made(name, classes=4)
    for dtype, tolerance in ((torch.float32, 1e-5), (torch.float64, 1e-11)):
        found = value_and_delta(criterion, outputs(dtype), LABELS, None, 0.3)
        assert_same(found, value_and_delta_by_autograd(criterion, outputs(dtype), LABELS, None, 0.3), tolerance)


def test_far_out_outputs_keep_their_gradient() -> None:
    # log(1 − p) where p rounds to 1, log p where p rounds to 0: float32 against autograd in float64
    z = torch.tensor([[200.0, 0.0, -50.0], [0.0, 0.0, 300.0], [90.0, 89.0, -400.0]])
    target = torch.tensor([1, 2, 2])
    for text in ("-t*log(p)", "-(1 - t)*log(1 - p)", "-t*log(p) - (1 - t)*log(1 - p)", "-log(1 - p)*p"):
        criterion = tree(text)
        expected = value_and_delta_by_autograd(criterion, z.double(), target)
        assert expected[1].abs().max() > 0.1
        value, delta = value_and_delta(criterion, z, target)
        assert_same((value.double(), delta.double()), expected, 1e-6, text)
        direction = torch.randn(1, 3, 3, generator=torch.Generator().manual_seed(0))
        weighted = Loss(criterion.kernel.with_phi([1.0] * (criterion.kernel.root.size - 1)))  # type: ignore[attr-defined]
        (found,) = mixed_with_direction([weighted], z, target, direction)
        exact = mixed_by_autograd(weighted, z.double(), target, direction[0].double())
        torch.testing.assert_close(found.double(), exact, rtol=1e-4, atol=1e-3)
    baikal = loss("baikal")  # 1/p is held below e^80, in value and gradient
    far = torch.tensor([[0.0, -80.0, -100.0]])
    for label in (1, 2):
        found = value_and_delta(baikal, far, torch.tensor([label]))
        expected = value_and_delta_by_autograd(baikal, far, torch.tensor([label]))
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=0)
    for head, target in (("identity", torch.ones(1, 3)), ("sigmoid", torch.ones(1, 3))):
        z = torch.tensor([[1e-7, -1e-7, 0.0], [1.0, 0.5e-7, -3.0]])
        for text in ("1/p", "log(p)", "log(1 - p)"):
            criterion = tree(text, head=head)
            found = value_and_delta(criterion, z, target.expand(2, 3))
            expected = value_and_delta_by_autograd(criterion, z, target.expand(2, 3))
            torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)


def test_masked_rows_may_hold_anything() -> None:
    z, labels = outputs(), LABELS.clone()
    z[WEIGHT == 0] = torch.tensor([math.nan, math.inf, -math.inf, 1e300], dtype=torch.float64)
    labels[WEIGHT == 0] = -100
    for text in TEXTS:
        criterion = tree(text, prior=PRIORS["softmax"])
        found = value_and_delta(criterion, z, labels, WEIGHT, 0.3)
        kept = WEIGHT != 0
        assert found[0].isfinite()
        assert found[1][~kept].eq(0).all()
        alone = value_and_delta(criterion, z[kept], labels[kept], WEIGHT[kept], 0.3)
        assert_same((found[0], found[1][kept]), alone, 1e-14)
        direction = torch.full((1, ROWS, CLASSES), math.nan, dtype=torch.float64)
        direction[:, kept] = 1.0
        weighted = Loss(Tree(criterion.kernel.root, (1.5,) * (criterion.kernel.root.size - 1)), prior=PRIORS["softmax"])  # type: ignore[attr-defined]
        (gradient,) = mixed_with_direction([weighted], z, labels, direction, WEIGHT, 0.3)
        assert gradient.isfinite().all()


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_what_is_not_finite_is_so_on_both_roads(bad: float) -> None:
    z = outputs()
    z[2, 1] = bad
    for text in ("-t*log(p)", "r^2", "t/p", "z*t", "sign(p)", "max(p, t)", "protected_log(p)*t"):
        for head in ("softmax", "sigmoid", "identity"):
            criterion = tree(text, head=head)
            value, delta = value_and_delta(criterion, z, TARGETS[head])
            expected, slope = value_and_delta_by_autograd(criterion, z, TARGETS[head])
            torch.testing.assert_close(value, expected, equal_nan=True)
            rest = torch.arange(ROWS) != 2
            torch.testing.assert_close(delta[rest], slope[rest])
            if math.isnan(bad) and head == "softmax":
                assert delta[2].isnan().all()
    huge = tree("exp(exp(z))", head="identity")
    assert value_and_delta(huge, torch.full((1, 1), 9.0), torch.zeros(1, 1))[0] == math.inf
    many = tree("z*1e38", head="identity", outputs="mean")  # every value is finite, their float32 sum is not
    assert (
        value_and_delta(many, torch.ones(8, 4), torch.zeros(8, 4))[0]
        == math.inf
        == many(torch.ones(8, 4), torch.zeros(8, 4))
    )


def test_shapes_and_types_of_the_output() -> None:
    criterion = tree("-t*log(p) + w*r^2")
    z = torch.randn(2, 3, 4, generator=torch.Generator().manual_seed(0))
    labels, weight = torch.arange(6).reshape(2, 3) % 4, torch.arange(6.0).reshape(2, 3)
    for target in (labels, torch.nn.functional.one_hot(labels, 4)):
        found = value_and_delta(criterion, z, target, weight)
        assert found[1].shape == z.shape
        assert_same(found, value_and_delta_by_autograd(criterion, z, target, weight), 1e-6)
    across = z.movedim(1, -1).contiguous().movedim(-1, 1)  # another order in memory
    assert_same(value_and_delta(criterion, across, labels, weight), value_and_delta(criterion, z, labels, weight), 0.0)
    assert_same(
        value_and_delta(criterion, z[0], labels[0], weight[0].double()),
        value_and_delta(criterion, z[0], labels[0], weight[0]),
        0.0,
    )
    half = z.bfloat16()
    value, delta = value_and_delta(criterion, half, labels, weight)
    expected = value_and_delta_by_autograd(criterion, half, labels, weight)
    assert (value.dtype, delta.dtype) == (torch.float32, torch.bfloat16)
    torch.testing.assert_close((value, delta), expected)
    single = value_and_delta(criterion, z[0, 0], labels[0, 0])
    assert_same(single, value_and_delta_by_autograd(criterion, z[0, 0], labels[0, 0]), 1e-6)
    column = tree("r^2", head="identity")
    assert_same(
        value_and_delta(column, z[0, :, :1], z[0, :, 1]),
        value_and_delta_by_autograd(column, z[0, :, :1], z[0, :, 1]),
        1e-6,
    )
    nothing = value_and_delta(criterion, torch.empty(0, 4), torch.empty(0, dtype=torch.int64))
    assert (float(nothing[0]), nothing[1].shape) == (0.0, (0, 4))
    int32 = value_and_delta(criterion, z[0], labels[0].int())
    assert_same(int32, value_and_delta(criterion, z[0], labels[0]), 0.0)
    with torch.autocast("cpu"):
        assert_same(
            value_and_delta(criterion, z, labels, weight),
            value_and_delta_by_autograd(criterion, z, labels, weight),
            1e-6,
        )


class Doubled(Loss):
    def forward(self, output: Tensor, target: Tensor, **arguments: Any) -> Tensor:
        return 2 * super().forward(output, target, **arguments)


def test_losses_that_only_autograd_can_compute(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(PRIMITIVES, "cube", Primitive("cube", 1, lambda a: a * a * a, "{0}^3", "{0}**3"))
    z, groups = outputs(), torch.arange(ROWS) // 3
    hooked = tree("r^2")
    hooked.register_forward_hook(lambda module, given, result: 3 * result)
    for criterion in (
        Loss(Tree(Apply("cube", (Symbol("p"),)))),
        tree("-log(p_t)"),
        tree("max(1 - m, 0)"),
        tree("r^2", head=torch.tanh),
        tree("t*p", aggregation=Ratio(Tree(parse("t + p")))),
        tree("max(1 - z, 0)", head="identity", aggregation=Pairwise()),
        Doubled(Tree(parse("r^2"))),
        hooked,
    ):
        assert not interpreted(criterion)
        target = torch.eye(CLASSES, dtype=torch.float64)[LABELS]
        own = z.clone().requires_grad_()
        expected = criterion(own, target, group=groups)
        expected.backward()
        assert own.grad is not None
        assert own.grad.abs().max() > 0
        assert_same(value_and_delta(criterion, z, target, group=groups), (expected.detach(), own.grad), 1e-14)
    timed = tree("r^2*tau")
    assert_same(
        value_and_delta(timed, z, LABELS, progress=torch.tensor(0.5)),
        value_and_delta(timed, z, LABELS, None, 0.5),
        1e-14,
    )


def test_a_loss_without_influence_has_no_gradient() -> None:
    for criterion in (tree("t*n"), tree("1"), tree("t", head=torch.tanh), Doubled(Tree(parse("t")))):
        value, delta = value_and_delta(criterion, outputs(), torch.eye(CLASSES, dtype=torch.float64)[LABELS])
        assert value > 0
        assert delta.eq(0).all()


@pytest.mark.parametrize(
    "call",
    [
        lambda f: f(tree("r^2"), outputs(), LABELS + 1),
        lambda f: f(tree("r^2"), outputs().reshape(3, 3, CLASSES), LABELS.reshape(3, 3) + 1),
        lambda f: f(tree("r^2"), outputs(), LABELS[:3]),
        lambda f: f(tree("r^2"), outputs().reshape(3, 3, CLASSES), LABELS),
        lambda f: f(tree("r^2"), outputs(), LABELS, torch.ones(3)),
        lambda f: f(tree("r^2"), outputs().reshape(3, 3, CLASSES), LABELS.reshape(3, 3), torch.ones(9)),
        lambda f: f(tree("r^2*tau"), outputs(), LABELS),
        lambda f: f(tree("r^2*prior"), outputs(), LABELS),
        lambda f: f(tree("r^2*prior", prior=(0.5, 0.5)), outputs(), LABELS),
        lambda f: f(tree("r^2"), outputs()[:, :1], LABELS[:, None] * 0),
        lambda f: f(tree("r^2", head="identity"), outputs()[:, 0], LABELS),
    ],
)
def test_misuse_is_reported_alike(call: Any) -> None:
    sentences = []
    for road in (value_and_delta, value_and_delta_by_autograd):
        with pytest.raises(LossError) as caught:
            call(road)
        sentences.append(str(caught.value))
    assert sentences[0] == sentences[1]


def test_misuse_of_its_own() -> None:
    rows = tree("r^2", reduction="none")
    for call in (
        lambda: value_and_delta(rows, outputs(), LABELS),
        lambda: population_value_and_delta([rows], outputs(), LABELS),
        lambda: mixed_with_direction([rows], outputs(), LABELS, outputs()[None]),
    ):
        with pytest.raises(LossError, match="has no single gradient"):
            call()
    with pytest.raises(LossError, match=r"expected \(N, C\) or \(2, N, C\)"):
        population_value_and_delta([tree("p"), tree("t")], outputs()[None], LABELS)
    with pytest.raises(LossError, match=r"expected \(N, C\) and \(1, N, C\)"):
        mixed_with_direction([tree("p")], outputs(), LABELS, outputs())


def mixture() -> list[Loss]:
    """Losses that one call cannot serve: several settings, kernels for autograd, a subclass."""
    weighted = [Loss(kernel) for kernel in random_trees(EVOMAL, 3, seed=4, height=3, weighted=True)]
    return [
        tree("-t*log(p)"), *weighted, tree("-log(p_t)"), tree("r^2", smoothing=0.1), tree("r^2*w"),
        tree("t*r", outputs="mean"), Loss(Taylor((1.0, -1.0, 0.0, 2.0, 0.0, 0.0, 0.5, 0.5))),
        Doubled(Tree(parse("r^2"))), tree("log(1 - p)*z"), tree("t"),
    ]  # fmt: skip


@pytest.mark.parametrize("weight", [None, WEIGHT], ids=["plain", "weighted"])
def test_a_population_is_its_members(weight: Tensor | None) -> None:
    losses = mixture()
    own = torch.stack([outputs(seed=seed) for seed in range(len(losses))])
    for z in (own, outputs()):
        values, deltas = population_value_and_delta(losses, z, LABELS, weight, 0.3)
        rows, _ = population_value_and_delta(losses, z, LABELS, weight, 0.3, per_row=True)
        assert deltas.shape == own.shape
        for i, criterion in enumerate(losses):
            zi = z[i] if z.dim() == 3 else z
            assert_same((values[i], deltas[i]), value_and_delta(criterion, zi, LABELS, weight, 0.3), 1e-14)
            torch.testing.assert_close(rows[i], rows_by_autograd(criterion, zi, LABELS, weight, 0.3))
    nobody = population_value_and_delta([], outputs(), LABELS)
    assert (nobody[0].shape, nobody[1].shape) == ((0,), (0, ROWS, CLASSES))
    assert mixed_with_direction([], outputs(), LABELS, torch.empty(0, ROWS, CLASSES)) == []


def test_a_broken_candidate_leaves_the_others_as_they_are() -> None:
    losses = [Loss(kernel) for kernel in random_trees(EVOMAL, 6, seed=2)]
    z = torch.stack([outputs(torch.float32, seed) for seed in range(6)])
    before = population_value_and_delta(losses, z, LABELS)
    z[3, 5, 1] = math.nan
    after = population_value_and_delta(losses, z, LABELS)
    others = torch.arange(6) != 3
    for one, other in zip(before, after, strict=True):
        assert torch.equal(one[others], other[others])
    assert after[0][3].isnan() or after[1][3].isnan().any()


def test_parameters_given_replace_the_losses_own() -> None:
    losses = mixture()
    generator = torch.Generator().manual_seed(1)
    phi = [torch.tensor(c.kernel.phi) + 0.1 * torch.randn(len(c.kernel.phi), generator=generator) for c in losses]
    values, deltas = population_value_and_delta(losses, outputs(), LABELS, None, 0.3, phi=phi)
    changed = 0
    for i, (criterion, numbers) in enumerate(zip(losses, phi, strict=True)):
        kernel = criterion.kernel.with_phi(numbers.tolist()) if len(numbers) else criterion.kernel
        same = type(criterion)(kernel, smoothing=criterion.smoothing, outputs=criterion.outputs)
        assert_same((values[i], deltas[i]), value_and_delta(same, outputs(), LABELS, None, 0.3), 1e-6)
        changed += not torch.allclose(deltas[i], value_and_delta(criterion, outputs(), LABELS, None, 0.3)[1])
    assert changed >= 2


MIXED = (
    "-t*log(p)",
    "t/p - log(1 - p)*p",
    "z*p + z*t",
    "(r + 2)^t*tanh(p)",
    "aq(p, t) + max(p, r*2)",
    "p^2*w + n",
    "(p + 0.1)^0.7",
)


@pytest.mark.parametrize("head", ["softmax", "sigmoid", "identity"])
def test_mixed_derivatives_on_both_roads_and_by_finite_differences(head: str) -> None:
    generator = torch.Generator().manual_seed(5)
    kernels = [Tree(parse(text)) for text in MIXED]
    kernels = [k.with_phi((1 + 0.1 * torch.randn(k.root.size - 1, generator=generator)).tolist()) for k in kernels]
    kernels += list(random_trees(EVOMAL, 40, seed=9, height=4, weighted=True)) if head == "softmax" else []
    smoothing = 0.1 if head == "sigmoid" else 0.0
    losses = [Loss(kernel, head=head, smoothing=smoothing) for kernel in kernels]
    losses += [Loss(Taylor((1.0, -1.0, 0.0, 2.0, 0.5, 0.0, 0.5, 0.5)), head=head), tree("r^2", head=head)]
    assert sum(interpreted(criterion, tunable=True) for criterion in losses) == len(losses)
    z, target = outputs(scale=1.0), TARGETS[head]
    directions = torch.randn(len(losses), ROWS, CLASSES, generator=generator, dtype=torch.float64)
    for weight in (None, WEIGHT):
        found = mixed_with_direction(losses, z, target, directions, weight, 0.3)
        for criterion, u, gradient in zip(losses, directions, found, strict=True):
            assert gradient.shape == (len(criterion.kernel.phi),)
            expected = mixed_by_autograd(criterion, z, target, u, weight, 0.3)
            scale = max(1.0, float(expected.abs().max())) if expected.numel() else 1.0
            assert ((gradient - expected).abs() <= 1e-10 * scale).all(), str(criterion)
    for i in range(len(MIXED)):  # a third road: the derivative of the slope, by differences of δ
        phi, h = torch.tensor(losses[i].kernel.phi, dtype=torch.float64), 1e-6
        k = int(found[i].abs().argmax())
        step = h * torch.eye(len(phi), dtype=torch.float64)[k]
        pulls = [
            (
                population_value_and_delta([losses[i]], z, target, WEIGHT, 0.3, phi=[phi + s * step])[1][0]
                * directions[i]
            ).sum()
            for s in (1, -1)
        ]
        torch.testing.assert_close((pulls[0] - pulls[1]) / (2 * h), found[i][k], rtol=1e-5, atol=1e-8)
    shifted = [torch.tensor(c.kernel.phi, dtype=torch.float64) * 1.1 for c in losses]
    given = mixed_with_direction(losses, z, target, directions, None, 0.3, phi=shifted)
    for criterion, u, phi, gradient in zip(losses, directions, shifted, given, strict=True):
        expected = mixed_by_autograd(criterion, z, target, u, None, 0.3, phi)
        torch.testing.assert_close(gradient, expected, rtol=1e-8, atol=1e-10)


def test_mixed_derivatives_in_single_precision() -> None:
    losses = [Loss(kernel) for kernel in random_trees(EVOMAL, 20, seed=11, height=3, weighted=True)]
    directions = torch.randn(20, ROWS, CLASSES, generator=torch.Generator().manual_seed(0))
    z = outputs(torch.float32, scale=1.0)
    found = mixed_with_direction(losses, z, LABELS, directions)
    moved = 0
    for criterion, u, gradient in zip(losses, directions, found, strict=True):
        assert gradient.dtype == torch.float32
        expected = mixed_by_autograd(criterion, z.double(), LABELS, u.double())
        assert (gradient - expected).abs().max() <= 1e-4 * max(1.0, float(expected.abs().max()))
        moved += int((expected != 0).any())
    assert moved > 10
