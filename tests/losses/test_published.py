from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from published_losses import PROGRESS, made
from scipy.special import xlogy

from lossmith.errors import ExpressionError, LossError, UnknownNameError
from lossmith.losses import PUBLISHED, Loss, LossSet, Published, Taylor, loss, to_json
from lossmith.losses.printer import to_text

OUTPUT = torch.tensor([[2.0, 0.5, -1.0], [0.1, 0.2, 0.3]], dtype=torch.float64)  # ALGORITHMS §1
TARGET = torch.tensor([0, 2])
NAMES = list(PUBLISHED)


def logits(rows: int = 64, classes: int = 5, scale: float = 3.0, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return scale * torch.randn(rows, classes, generator=generator, dtype=torch.float64)


def labels(rows: int = 64, classes: int = 5, seed: int = 1) -> torch.Tensor:
    return torch.randint(classes, (rows,), generator=torch.Generator().manual_seed(seed))


def value_and_gradient(
    criterion: Callable[..., torch.Tensor], output: torch.Tensor, target: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    output = output.clone().requires_grad_()
    value = criterion(output, target)
    value.backward()
    assert output.grad is not None
    return value.detach(), output.grad


def assert_same(one: Callable[..., torch.Tensor], other: Callable[..., torch.Tensor], *data: torch.Tensor) -> None:
    for ours, theirs in zip(value_and_gradient(one, *data), value_and_gradient(other, *data), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize(
    ("name", "total", "mean"),
    [
        # derived in ALGORITHMS §1
        ("cross_entropy", 0.6216270724, 0.2072090241),
        ("mse", 0.3397221786, 0.1132407262),
        ("brier", 0.3397221786, 0.1132407262),
        ("baikal", 6.2631239171, 2.0877079724),
        ("baikal_cma", 17.9127950358, 5.9709316786),
        # derived in ALGORITHMS §2
        ("taylor_evolved_1", 15.2945959561, 15.2945959561 / 3),
        ("taylor_evolved_2", 26916.3491647, 26916.3491647 / 3),
    ],
)
def test_golden_values(name: str, total: float, mean: float) -> None:
    assert float(loss(name)(OUTPUT, TARGET)) == pytest.approx(total, rel=1e-11, abs=1e-8)
    assert float(loss(name, outputs="mean")(OUTPUT, TARGET)) == pytest.approx(mean, rel=1e-11, abs=1e-8)


def test_cross_entropy_is_torchs() -> None:
    assert_same(loss("cross_entropy"), F.cross_entropy, logits(), labels())
    soft = torch.softmax(logits(seed=3), -1)
    assert_same(loss("cross_entropy"), F.cross_entropy, logits(), soft)


def test_label_smoothing_is_torchs() -> None:
    for alpha in (0.0, 0.1, 0.4):
        theirs = torch.nn.CrossEntropyLoss(label_smoothing=alpha)
        assert_same(loss(f"label_smoothing(alpha={alpha})"), theirs, logits(), labels())
        assert_same(loss("cross_entropy", smoothing=alpha), theirs, logits(), labels())


def test_focal_generalized_and_sparse_are_their_formulas_in_p_t() -> None:
    def by_formula(formula: Callable[[torch.Tensor], torch.Tensor]) -> Callable[..., torch.Tensor]:
        return lambda output, target: formula(output.softmax(-1).gather(1, target[:, None]).squeeze(1)).mean()

    for gamma in (0.0, 0.5, 2.0, 3.0):
        focal = by_formula(lambda p, g=gamma: -((1 - p) ** g) * p.log())  # type: ignore[misc]
        assert_same(loss("focal", gamma=gamma), focal, logits(), labels())
    for q in (0.3, 0.7, 1.0):
        gce = by_formula(lambda p, q=q: (1 - p**q) / q)  # type: ignore[misc]
        assert_same(loss("generalized_cross_entropy", q=q), gce, logits(), labels())
    for xi in (0.0, 0.1, 0.5):
        # ALGORITHMS §4: −(1−ξ+ξ/C)·log p_t − ξ(C−1)/C·log((1−p_t)/(C−1)), C = 5
        sparse = by_formula(
            lambda p, xi=xi: -(1 - xi + xi / 5) * p.log() - xi * 4 / 5 * ((1 - p) / 4).log()  # type: ignore[misc]
        )
        assert_same(loss("sparse_label_smoothing", xi=xi), sparse, logits(), labels())


def test_absolute_cross_entropy_is_its_formula() -> None:
    one_hot = F.one_hot(labels(), 5).double()

    def formula(output: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        return (0.5 * (3.0 * target * output.softmax(-1) + 1e-7).log().abs()).sum(1).mean()  # ALGORITHMS §4

    assert_same(loss("absolute_cross_entropy(phi0=0.5, phi1=3)"), formula, logits(), one_hot)


def test_regression_losses_are_torchs() -> None:
    output, target = logits(classes=2), logits(classes=2, seed=5)
    for name, theirs in (("mse", F.mse_loss), ("mae", F.l1_loss)):
        assert_same(loss(name, head="identity", outputs="mean"), theirs, output, target)
    for delta in (0.5, 1.0, 2.0):
        theirs = torch.nn.HuberLoss(delta=delta)
        assert_same(loss(f"huber(delta={delta})", head="identity", outputs="mean"), theirs, output, target)


def test_huber_is_exact_at_the_joint() -> None:
    output = torch.tensor([[1.0], [-1.0], [0.0]], dtype=torch.float64)  # |r| = delta, and r = 0
    assert_same(loss("huber", head="identity"), torch.nn.HuberLoss(), output, torch.zeros(3, 1, dtype=torch.float64))


def test_one_logit_is_binary_cross_entropy() -> None:
    output, target = logits(classes=1), (logits(classes=1, seed=7) > 0).double()
    assert_same(loss("cross_entropy", head="sigmoid"), F.binary_cross_entropy_with_logits, output, target)
    # as in torchvision.ops.sigmoid_focal_loss without its alpha: −(1−p_t)^γ log p_t per output
    p_t = lambda z, t: torch.where(t > 0.5, torch.sigmoid(z), torch.sigmoid(-z))  # noqa: E731
    focal = lambda z, t: (-((1 - p_t(z, t)) ** 2) * p_t(z, t).log()).mean()  # noqa: E731
    assert_same(loss("focal", head="sigmoid"), focal, output, target)


def test_cross_entropy_of_soft_targets_is_scipys() -> None:
    p, t = torch.softmax(OUTPUT, -1), torch.softmax(OUTPUT.flip(0), -1)
    expected = -xlogy(t.numpy(), p.numpy()).sum(1).mean()
    assert float(loss("cross_entropy")(OUTPUT, t)) == pytest.approx(expected, rel=1e-13)  # scipy 1.17


def test_baikal_alone_rests_at_one_over_root_n() -> None:
    for n, p_target in ((2, 0.7071), (10, 0.3162)):  # derived in ALGORITHMS §1
        z = torch.zeros(1, n, dtype=torch.float64)
        z[0, 0] = math.log((n - 1) * p_target / (1 - p_target))
        _, gradient = value_and_gradient(loss("baikal"), z, torch.tensor([0]))
        assert float(gradient.abs().max()) < 2e-3
        z[0, 0] += 1.0
        assert float(value_and_gradient(loss("baikal"), z, torch.tensor([0]))[1][0, 0]) > 0.1  # pushed back


def test_taylor_cross_entropy_of_order_3_is_the_stated_genome() -> None:
    kernel = loss("taylor_cross_entropy").kernel
    # ALGORITHMS §2: θ2=1, θ3=−1, θ4=4/3, θ5=2, θ6=−2, θ7=0, θ0=θ1=.5
    assert kernel == Taylor((1.0, -1.0, 4 / 3, 2.0, -2.0, 0.0, 0.5, 0.5))


def test_taylor_cross_entropy_approaches_cross_entropy_with_its_order() -> None:
    output, target = 0.1 * logits(classes=2), labels(classes=2)  # p stays within the radius of convergence about 1/2
    exact = value_and_gradient(loss("cross_entropy"), output, target)[1]
    errors = [
        float((value_and_gradient(loss("taylor_cross_entropy", order=k), output, target)[1] - exact).abs().max())
        for k in (2, 4, 8, 16)
    ]
    assert errors == sorted(errors, reverse=True)
    assert errors[-1] < 1e-2 * errors[0]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("outputs", ["sum", "mean"])
def test_saturated_outputs_give_numbers(name: str, outputs: str) -> None:
    for head in PUBLISHED[name].heads:
        criterion = partial(made(name, head=head, outputs=outputs), progress=PROGRESS)
        for size in (0.0, 1.0, 10.0, 50.0, 1e4):
            output = torch.tensor([[size, -size, 0.0], [-size, -size, size], [size, size, size]])
            target = torch.tensor([0, 1, 2]) if head == "softmax" else torch.eye(3)
            value, gradient = value_and_gradient(criterion, output, target)
            assert torch.isfinite(value), (head, size)
            assert torch.isfinite(gradient).all(), (head, size)


@pytest.mark.parametrize("name", [name for name in NAMES if not PUBLISHED[name].name.startswith("taylor")])
def test_float32_gradient_is_right_where_the_naive_formula_is_not(name: str) -> None:
    # float32 against float64 at ±50, where 1 − p and p round to 0 in float32
    output, target = torch.tensor([[50.0, -50.0, 0.0], [-40.0, 0.0, 30.0]]), torch.tensor([0, 1])
    criterion = partial(made(name), progress=PROGRESS)
    _, single = value_and_gradient(criterion, output, target)
    _, double = value_and_gradient(criterion, output.double(), target)
    torch.testing.assert_close(single.double(), double, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("name", NAMES)
def test_every_entry_is_complete(name: str) -> None:
    entry = PUBLISHED[name]
    assert name == entry.name
    assert any(year.isdigit() and len(year) == 4 for year in entry.reference.replace(",", " ").split())
    assert entry.summary.endswith(".")
    assert entry.gradient.endswith(".")
    assert entry.ranges.keys() <= entry.parameters.keys()
    assert entry.formula()
    made = loss(name, head=entry.heads[0])
    assert made.name == str(made) == name
    for parameter in entry.parameters:
        # a number of parameters can be given; NaN is outside every range
        with pytest.raises(LossError, match=f"{name}: {parameter} = nan is outside"):
            loss(name, **{parameter: math.nan})


def test_names_with_options() -> None:
    made = loss(" focal ( gamma = 3, outputs=mean, smoothing=0.1, reduction=sum, head=sigmoid ) ")
    assert (made.outputs, made.smoothing, made.reduction, made.head) == ("mean", 0.1, "sum", "sigmoid")
    assert str(made) == "focal(gamma=3), smoothing=0.1, outputs=mean"
    assert made.kernel == loss("focal", gamma=3).kernel != loss("focal").kernel
    assert str(loss("focal(gamma=2)")) == "focal"
    assert loss("baikal()").kernel == loss("baikal").kernel
    assert loss("taylor_cross_entropy(order=5)").kernel.order == 5  # type: ignore[attr-defined]


def test_expressions() -> None:
    made = loss("t*(1 - p^q)/q", q=0.7)
    assert made.kernel == loss("generalized_cross_entropy").kernel
    assert made.name is None
    assert str(made) == "t*(1 - p^0.7)/0.7"
    assert to_text(loss("p").kernel.expression()) == "p"  # an input's name is an expression, no loss is called so
    head = torch.nn.Softplus()
    assert loss("r^2", head=head).head is head


def test_files(tmp_path: Path) -> None:
    path = tmp_path / "mine.json"
    original = loss("huber(delta=2)", head="identity", outputs="mean")
    path.write_text(to_json(original))
    again = loss(str(path))
    assert to_json(again) == to_json(original)
    with pytest.raises(LossError, match="carries its own settings: leave out outputs, gamma"):
        loss(str(path), outputs="mean", gamma=3)
    with pytest.raises(LossError, match=r"cannot read the loss .*other.json: No such file"):
        loss(str(tmp_path / "other.json"))
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(LossError, match=r"cannot read the loss .*: it is no text file"):
        loss(str(path))
    path.write_text("-t*log(p)")
    with pytest.raises(LossError, match="not a loss in JSON"):
        loss(str(path))
    path.write_text(to_json(LossSet([original, original])))
    with pytest.raises(LossError, match="holds a set of 2 losses"):
        loss(str(path))


@pytest.mark.parametrize(
    ("text", "parameters", "error", "message"),
    [
        ("fokal", {}, UnknownNameError, "unknown loss 'fokal': did you mean 'focal'"),
        ("fokal(gamma=2)", {}, UnknownNameError, "`lossmith losses` lists them all"),
        ("focal(3)", {}, LossError, "options are written with their names, as in focal(gamma=2)"),
        ("baikal(3)", {}, LossError, "as in baikal(outputs=mean)"),
        ("focal(gama=3)", {}, LossError, "focal has no parameter 'gama': did you mean gamma?"),
        ("baikal", {"gamma": 3}, LossError, "baikal has no parameter 'gamma'"),
        ("focal(gamma=3, gamma=2)", {}, LossError, "gamma is given twice"),
        ("focal(gamma=3)", {"gamma": 2}, LossError, "gamma is given twice"),
        ("focal(gamma=two)", {}, LossError, "focal: gamma = 'two' must be a number"),
        ("focal(gamma=-1)", {}, LossError, "focal: gamma = -1.0 is outside [0, inf)"),
        ("generalized_cross_entropy(q=0)", {}, LossError, "q = 0.0 is outside (0, 1]"),
        ("label_smoothing(alpha=1)", {}, LossError, "alpha = 1.0 is outside [0, 1)"),
        ("taylor_cross_entropy(order=2.5)", {}, LossError, "order = 2.5 must be a whole number"),
        ("focal(smoothing=lots)", {}, LossError, "smoothing = 'lots' must be a number"),
        ("focal(outputs=max)", {}, LossError, 'use "sum" or "mean"'),
        ("baikal(head=identity)", {}, LossError, 'head="identity" goes with mse, mae, huber'),
        ("mse(head=relu)", {}, LossError, "unknown head 'relu'"),
        ("-t*log(p)", {"gamma": 2}, LossError, "gamma is given but does not occur"),
        ("t + n", {}, LossError, "does not depend on the model"),
        ("-t*lgo(p)", {}, ExpressionError, "did you mean log"),
        ("log", {}, ExpressionError, "write log(...)"),
        ("", {}, ExpressionError, "is empty"),
    ],
)
def test_misuse(text: str, parameters: dict[str, float], error: type[Exception], message: str) -> None:
    with pytest.raises(error) as caught:
        loss(text, **parameters)
    assert message in str(caught.value)


def test_only_text_names_a_loss() -> None:
    with pytest.raises(LossError, match="not a Loss"):
        loss(loss("mse"))  # type: ignore[arg-type]


def test_kernels_of_a_published_loss_check_their_parameters() -> None:
    entry: Published = PUBLISHED["focal"]
    with pytest.raises(LossError, match="focal has no parameter 'alpha': it takes gamma"):
        entry.kernel({"alpha": 1.0})
    assert entry.title({"gamma": 3.0}) == "focal(gamma=3)"
    assert isinstance(Loss(entry.kernel()), Loss)
