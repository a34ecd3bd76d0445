"""Inputs against 60-digit arithmetic (mpmath): where p rounds to 0 or 1 in float32, logarithms must not."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from mpmath import mp, mpf
from torch import Tensor

from lossmith.errors import LossError
from lossmith.losses.inputs import INPUTS, LOWERED, PROTECTION, compute_inputs, head_name, inputs_from_prediction

LOGS = frozenset(LOWERED) | {"p"}
ROWS = [
    [2.0, 0.5, -1.0],
    [50.0, -50.0, 0.0],
    [-50.0, -49.0, 50.0],
    [1e4, -1e4, 0.0],
    [0.0, 0.0, 0.0],
    [20.0, 0.0, 0.0],  # p_0 rounds to 1 in float32, 1 − p_0 = 4e-9 does not round to 0
    [7.0, 7.0, -90.0],
]
ONE_HOT = torch.eye(3)[[0, 1, 2, 0, 1, 2, 0]]


def exact_softmax(row: list[float]) -> list[tuple[mpf, mpf]]:
    """(p, 1 − p) of every output, in 60 digits."""
    with mp.workdps(60):
        powers = [mp.exp(mpf(z)) for z in row]
        total = mp.fsum(powers)
        return [(power / total, mp.fsum(powers[:i] + powers[i + 1 :]) / total) for i, power in enumerate(powers)]


def of(reads: str, output: Tensor, target: Tensor, head: object = "softmax", **given_: object) -> Tensor:
    value = compute_inputs(frozenset({reads}), output, target, head, **given_)[reads]  # type: ignore[arg-type]
    assert isinstance(value, Tensor)
    return value


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("row", ROWS, ids=str)
def test_logs_of_a_softmax(row: list[float], dtype: torch.dtype) -> None:
    x = compute_inputs(LOGS, torch.tensor([row], dtype=dtype), ONE_HOT[:1].to(dtype))
    eps = torch.finfo(dtype).eps
    for i, (p, rest) in enumerate(exact_softmax(row)):
        scale = 4 * eps * max(1.0, abs(row[i]))  # the rounding of the largest number that is subtracted
        assert x["log_p"][0, i].item() == pytest.approx(float(mp.log(p)), rel=4 * eps, abs=scale)
        assert x["log_1mp"][0, i].item() == pytest.approx(float(mp.log(rest)), rel=8 * eps, abs=scale)
        limit = 80 if dtype == torch.float32 else 700  # beyond it 1/p is held, so that it and its gradient stay finite
        assert x["inv_p"][0, i].item() == pytest.approx(float(mp.exp(min(-mp.log(p), limit))), rel=200 * eps)
        assert x["p"][0, i].item() == pytest.approx(float(p), rel=64 * eps, abs=1e-30)


@pytest.mark.parametrize("z", [0.0, 3.0, -3.0, 20.0, 50.0, -50.0, 1e4, -1e4])
def test_logs_of_a_sigmoid_are_those_of_the_pair(z: float) -> None:
    x = compute_inputs(LOGS | {"t", "z", "n"}, torch.tensor([[z]]), torch.tensor([[0.25]]), "sigmoid")
    with mp.workdps(60):
        p = 1 / (1 + mp.exp(-mpf(z)))
        pair = [1 / (1 + mp.exp(mpf(z))), p]
    for i in (0, 1):
        assert x["log_p"][0, 0, i].item() == pytest.approx(float(mp.log(pair[i])), rel=1e-6)
        assert x["log_1mp"][0, 0, i].item() == pytest.approx(float(mp.log(pair[1 - i])), rel=1e-6)
        assert x["p"][0, 0, i].item() == pytest.approx(float(pair[i]), rel=1e-5, abs=1e-38)
    assert x["t"].tolist() == [[[0.75, 0.25]]]
    assert x["z"].tolist() == [[[0.0, z]]]
    assert x["n"] == 2.0


@pytest.mark.parametrize("head", ["softmax", "sigmoid", "identity", torch.tanh])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_every_input_is_finite_and_so_is_its_gradient(head: object, dtype: torch.dtype) -> None:
    reads = frozenset(INPUTS) | frozenset(LOWERED)
    if head == "identity":
        reads -= {"m", "p_t", "log_p_t"}
    output = torch.tensor(ROWS, dtype=dtype, requires_grad=True)
    prior = torch.full((2 if head == "sigmoid" else 3,), 0.3, dtype=dtype)
    x = compute_inputs(reads, output, ONE_HOT.to(dtype), head, prior=prior, progress=0.5)  # type: ignore[arg-type]
    assert set(x) == reads
    for name, value in x.items():
        if not isinstance(value, Tensor):
            continue
        assert torch.isfinite(value).all(), name
        torch.broadcast_shapes(value.shape, x["p"].shape)  # type: ignore[union-attr]
        if value.requires_grad:
            (slope,) = torch.autograd.grad(value.sum(), output, retain_graph=True)
            assert torch.isfinite(slope).all(), name


def test_gradients_of_the_logs_in_float32_are_those_of_float64() -> None:
    for name in ("log_p", "log_1mp"):
        slopes = []
        for dtype in (torch.float32, torch.float64):
            output = torch.tensor(ROWS, dtype=dtype, requires_grad=True)
            weights = torch.arange(21.0, dtype=dtype).reshape(7, 3)
            (slope,) = torch.autograd.grad((weights * of(name, output, ONE_HOT.to(dtype))).sum(), output)
            slopes.append(slope.double())
        torch.testing.assert_close(slopes[0], slopes[1], rtol=1e-5, atol=1e-5)


@settings(deadline=None)
@given(st.lists(st.lists(st.floats(-30, 30), min_size=4, max_size=4), min_size=1, max_size=4))
def test_the_inputs_agree_with_one_another(rows: list[list[float]]) -> None:
    output = torch.tensor(rows, dtype=torch.float64)
    target = torch.eye(4, dtype=torch.float64)[torch.arange(len(rows)) % 4]
    x = compute_inputs(frozenset(INPUTS) - {"prior", "tau"} | frozenset(LOWERED), output, target)
    p, z, m = (x[name] for name in ("p", "z", "m"))
    assert isinstance(p, Tensor)
    torch.testing.assert_close(p.sum(-1), torch.ones(len(rows), dtype=torch.float64))
    torch.testing.assert_close(p, torch.softmax(output, -1))
    torch.testing.assert_close(x["log_p"].exp(), p)  # type: ignore[union-attr]
    torch.testing.assert_close(x["log_1mp"].exp(), 1 - p, rtol=1e-9, atol=1e-15)  # type: ignore[union-attr]
    torch.testing.assert_close(x["inv_p"] * p, torch.ones_like(p))
    torch.testing.assert_close(x["r"], p - target)
    torch.testing.assert_close(x["p_t"], (p * target).sum(-1, keepdim=True))
    for row, (zs, chosen) in enumerate(zip(rows, target.argmax(1).tolist(), strict=True)):
        others = max(value for j, value in enumerate(zs) if j != chosen)
        assert m[row, 0].item() == pytest.approx(zs[chosen] - others)  # type: ignore[index]
    assert z is output


def test_identity_is_the_output_itself() -> None:
    output, target = torch.tensor([[-2.0, 0.0, 3.0]]), torch.tensor([[1.0, 1.0, 1.0]])
    x = compute_inputs(frozenset({"p", "z", "r", "n", "log_p", "inv_p"}), output, target, "identity")
    assert x["p"] is output
    assert x["r"].tolist() == [[-3.0, -1.0, 2.0]]  # type: ignore[union-attr]
    expected = torch.tensor([[2.0, PROTECTION, 3.0]]).log()
    torch.testing.assert_close(x["log_p"], expected)
    torch.testing.assert_close(x["inv_p"], torch.tensor([[-0.5, 1e7, 1 / 3]]))


def test_a_head_of_ones_own() -> None:
    output = torch.tensor([[0.3, 0.6]])
    x = compute_inputs(
        frozenset({"p", "z", "r", "log_p"}), output, torch.tensor([[1.0, 0.0]]), lambda z: z.clamp(0, 0.5)
    )
    torch.testing.assert_close(x["p"], torch.tensor([[0.3, 0.5]]))
    assert x["z"] is output
    torch.testing.assert_close(x["r"], torch.tensor([[-0.7, 0.5]]))
    torch.testing.assert_close(x["log_p"], torch.tensor([[0.3, 0.5]]).log())
    assert head_name(torch.tanh) == "custom"
    with pytest.raises(LossError, match=r"turned outputs of shape \(1, 2\) into \(1,\)"):
        of("p", output, output, lambda z: z.sum(-1))


def test_row_inputs_of_a_sigmoid_belong_to_each_output() -> None:
    output, target = torch.tensor([[2.0, -1.0]]), torch.tensor([[1.0, 0.0]])
    margin = of("m", output, target, "sigmoid")
    assert margin.tolist() == [[[2.0], [1.0]]]  # z − 0 where t = 1, 0 − z where t = 0
    p_t = of("p_t", output, target, "sigmoid")
    torch.testing.assert_close(p_t[0, :, 0], torch.sigmoid(torch.tensor([2.0, 1.0])))
    torch.testing.assert_close(of("log_p_t", output, target, "sigmoid"), p_t.log())


def test_the_logarithm_of_the_target_s_prediction_is_exact_where_it_underflows() -> None:
    output, target = torch.tensor([[400.0, 0.0, -300.0]]), torch.tensor([[0.0, 0.0, 1.0]])
    assert of("p_t", output, target).item() == 0.0
    assert of("log_p_t", output, target).tolist() == [[-700.0]]  # −300 − log(e^400 + …)
    assert of("log_p_t", torch.tensor([[-200.0]]), torch.tensor([[1.0]]), "sigmoid").item() == -200.0
    clamped = of("log_p_t", torch.tensor([[0.0, 1.0]]), torch.tensor([[1.0, 0.0]]), lambda z: z)
    assert clamped.item() == pytest.approx(-16.11809565095832)  # log 1e-7: a head of one's own has only p


def test_weight_progress_and_prior_are_handed_on() -> None:
    output, target = torch.zeros(2, 3), torch.eye(3)[:2]
    assert of("w", output, target).item() == 1.0
    assert of("w", output, target, weight=torch.tensor([2.0, 3.0])).tolist() == [[2.0], [3.0]]
    assert of("w", torch.zeros(2, 1), torch.zeros(2, 1), "sigmoid", weight=torch.tensor([2.0, 3.0])).shape == (2, 1, 1)
    prior = torch.tensor([0.5, 0.3, 0.2])
    assert of("prior", output, target, prior=prior) is prior
    assert compute_inputs(frozenset({"tau"}), output, target, progress=0.25) == {"tau": 0.25}


def test_from_the_prediction() -> None:
    p = torch.tensor([[0.7, 0.2, 0.1]], dtype=torch.float64)
    t = torch.tensor([[1.0, 0.0, 0.0]], dtype=torch.float64)
    x = inputs_from_prediction(frozenset(INPUTS) - {"w", "prior", "tau"} | frozenset(LOWERED), p, t)
    torch.testing.assert_close(x["z"], p.log())
    torch.testing.assert_close(torch.softmax(x["z"], -1), p)  # type: ignore[arg-type]
    torch.testing.assert_close(x["m"], torch.tensor([[0.7 / 0.2]], dtype=torch.float64).log())
    torch.testing.assert_close(x["log_1mp"], (1 - p).log())
    assert x["p"] is p
    assert x["n"] == 3.0


@pytest.mark.parametrize(
    ("name", "head", "sentence"),
    [
        ("m", "identity", "needs class targets"),
        ("p_t", "identity", "needs class targets"),
        ("log_p_t", "identity", "needs class targets"),
        ("tau", "softmax", "progress=step / steps"),
        ("prior", "softmax", "build it with prior="),
        ("gamma", "softmax", "unknown loss input 'gamma': one of t, p, z"),
        ("p", "logits", "unknown head 'logits': use one of softmax, sigmoid, identity or a function"),
        ("p", None, "unknown head None"),
        ("p", ["softmax"], "unknown head"),
    ],
)
def test_what_is_missing_is_said(name: str, head: object, sentence: str) -> None:
    with pytest.raises(LossError, match=sentence):
        of(name, torch.zeros(1, 2), torch.zeros(1, 2), head)


def test_shapes_that_cannot_be_meant() -> None:
    with pytest.raises(LossError, match='use head="sigmoid"'):
        of("p", torch.zeros(2, 1), torch.zeros(2, 1))
    with pytest.raises(LossError, match="only one output"):
        of("m", torch.zeros(2, 1), torch.zeros(2, 1), torch.sigmoid)
    with pytest.raises(LossError, match="a prior of 1 classes, here are 3"):
        of("prior", torch.zeros(2, 3), torch.zeros(2, 3), prior=torch.ones(1))  # would be broadcast without a word
