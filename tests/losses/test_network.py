"""The network family: values against layers written out, initialisations, storage, export, and who needs a formula."""

from __future__ import annotations

import copy
import itertools
import json
import math
import pickle
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from lossmith.errors import LossError
from lossmith.losses import (
    Loss,
    Network,
    Pairwise,
    Ratio,
    Setting,
    TaylorFamily,
    from_json,
    loss_hash,
    readable,
    to_document,
    to_json,
)
from lossmith.losses.export import export
from lossmith.losses.learning_rule import pull
from lossmith.losses.network import LINEAR, activated, layer_sizes, weight_count
from lossmith.losses.signature import signature
from lossmith.losses.simplify import formula

ARCHITECTURES = [((50, 50), "softplus"), ((40, 40), "smooth_leaky_relu"), ((5,), "softplus"), ((4, 3, 6), "softplus")]


def drawn(seed: int = 0, hidden: tuple[int, ...] = (40, 40), output: str = "smooth_leaky_relu") -> Network:
    return Network.drawn(np.random.default_rng(seed), hidden, output)  # type: ignore[arg-type]


def by_hand(kernel: Network, p: NDArray[np.float64], t: NDArray[np.float64]) -> NDArray[np.float64]:
    """The definition, one element and one unit after the other's layer."""
    sizes, weights = layer_sizes(kernel.hidden), list(kernel.phi)
    found = []
    for pair in zip(p.ravel().tolist(), t.ravel().tolist(), strict=True):
        units, start = list(pair), 0
        for place, (fan_in, fan_out) in enumerate(itertools.pairwise(sizes)):
            inputs = units if place == 0 else [max(u, 0.0) for u in units]
            rows = [weights[start + i * fan_in : start + (i + 1) * fan_in] for i in range(fan_out)]
            units = [math.fsum(w * u for w, u in zip(row, inputs, strict=True)) for row in rows]
            start += fan_in * fan_out
        s = units[0]
        if kernel.output == "softplus":
            found.append(np.logaddexp(0.0, s))
        else:
            found.append(0.01 * s + 0.99 * np.logaddexp(0.0, 10.0 * s) / 10.0)
    return np.array(found).reshape(p.shape)


@pytest.mark.parametrize(("hidden", "output"), ARCHITECTURES)
def test_the_value_is_the_perceptron_of_the_papers(hidden: tuple[int, ...], output: str) -> None:
    kernel, generator = drawn(1, hidden, output), np.random.default_rng(2)
    p, t = generator.normal(size=(2, 6, 3))
    expected = by_hand(kernel, p, t)
    x: dict[str, Tensor | float] = {"p": torch.from_numpy(p), "t": torch.from_numpy(t)}
    np.testing.assert_allclose(kernel.value(x).numpy(), expected, rtol=1e-12)
    phi = torch.tensor(kernel.phi, dtype=torch.float64)
    np.testing.assert_allclose(kernel.value(x, kernel.phi).numpy(), expected, rtol=1e-12)
    np.testing.assert_allclose(kernel.value(x, phi).numpy(), expected, rtol=1e-12)
    single = {name: value.float() for name, value in x.items() if isinstance(value, Tensor)}
    np.testing.assert_allclose(kernel.value(single).numpy(), expected, rtol=2e-5, atol=2e-6)


def test_many_losses_at_once() -> None:
    kernels, generator = [drawn(seed) for seed in range(3)], torch.Generator().manual_seed(0)
    phi = torch.tensor([kernel.phi for kernel in kernels], dtype=torch.float64)
    p, t = torch.rand(2, 3, 5, 4, generator=generator, dtype=torch.float64)
    shared = kernels[0].value({"p": p[0], "t": t[0]}, phi)
    own = kernels[0].value({"p": p, "t": t[0]}, phi)
    assert shared.shape == own.shape == (3, 5, 4)
    for i, kernel in enumerate(kernels):
        torch.testing.assert_close(shared[i], kernel.value({"p": p[0], "t": t[0]}), rtol=1e-12, atol=1e-12)
        torch.testing.assert_close(own[i], kernel.value({"p": p[i], "t": t[0]}), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("output", ["softplus", "smooth_leaky_relu"])
def test_the_output_and_its_two_derivatives_stay_finite_and_exact(output: str, dtype: torch.dtype) -> None:
    s = torch.tensor([-1e30, -1e3, -50.0, -1.0, 0.0, 1e-6, 1.0, 3.9, 4.1, LINEAR, 1e3, 1e30], dtype=dtype)
    s.requires_grad_()
    value = activated(s, output)  # type: ignore[arg-type]
    (slope,) = torch.autograd.grad(value.sum(), s, create_graph=True)
    (curvature,) = torch.autograd.grad(slope.sum(), s)
    exact, sharp = s.detach().double(), 1.0 if output == "softplus" else 10.0
    share = torch.sigmoid(sharp * exact)
    soft = torch.logaddexp(sharp * exact, torch.zeros_like(exact)) / sharp
    rise, bend = share, sharp * share * torch.sigmoid(-sharp * exact)
    if output == "smooth_leaky_relu":
        soft, rise, bend = 0.01 * exact + 0.99 * soft, 0.01 + 0.99 * rise, 0.99 * bend
    for ours, expected in ((value, soft), (slope, rise), (curvature, bend)):
        assert torch.isfinite(ours).all()
        accuracy = 2e-6 if dtype == torch.float32 else 1e-13
        torch.testing.assert_close(ours.detach().double(), expected, rtol=accuracy, atol=accuracy)


@pytest.mark.parametrize("head", ["softmax", "sigmoid", "identity"])
def test_extreme_outputs_have_finite_losses_and_gradients(head: str) -> None:
    z = torch.tensor([[200.0, -200.0, 0.0], [1e4, 1e4, -1e4]], requires_grad=True)
    target = torch.tensor([1, 2]) if head == "softmax" else torch.tensor([[0.0, 1.0, 0.0], [1.0, 0.0, 1.0]])
    value = Loss(drawn(), head=head)(z, target)
    value.backward()
    assert z.grad is not None
    assert torch.isfinite(value)
    assert torch.isfinite(z.grad).all()


def test_the_published_architectures_and_initialisations() -> None:
    ml3, adalfl = Network.ml3(np.random.default_rng(0)), Network.adalfl(np.random.default_rng(0))
    assert (ml3.hidden, ml3.output, len(ml3.phi)) == ((50, 50), "softplus", 2650)
    assert (adalfl.hidden, adalfl.output, len(adalfl.phi)) == ((40, 40), "smooth_leaky_relu", 1720)
    assert (str(ml3), str(adalfl)) == ("network(2-50-50-1, softplus)", "network(2-40-40-1, smooth leaky relu)")
    assert ml3 == Network.ml3(np.random.default_rng(0)) != Network.ml3(np.random.default_rng(1))
    ends, layers = np.cumsum([0, 100, 2500, 50]), [(2, 50), (50, 50), (50, 1)]
    kaiming = np.array([Network.ml3(np.random.default_rng(seed)).phi for seed in range(100)])
    xavier = np.array([Network.ml3(np.random.default_rng(s), initialisation="xavier").phi for s in range(100)])
    for (fan_in, fan_out), a, b in zip(layers, ends, ends[1:], strict=False):
        spread = 4 / math.sqrt(2 * 100 * (b - a))  # four standard errors of a standard deviation
        assert kaiming[:, a:b].std() == pytest.approx(math.sqrt(2 / fan_in), rel=spread)
        bound = math.sqrt(6 / (fan_in + fan_out))
        assert 0.99 * bound < np.abs(xavier[:, a:b]).max() <= bound
        assert xavier[:, a:b].std() == pytest.approx(bound / math.sqrt(3), rel=spread)


def test_storage_brings_back_every_bit() -> None:
    for hidden, output in ARCHITECTURES:
        loss = Loss(drawn(3, hidden, output), smoothing=0.1, name="mine")
        back = from_json(to_json(loss))
        assert isinstance(back, Loss)
        assert back.kernel == loss.kernel
        assert loss_hash(back) == loss_hash(loss)
        assert from_json(export(loss, "json")).key(10) == loss.key(10)
        for same in (pickle.loads(pickle.dumps(loss.kernel)), copy.deepcopy(loss.kernel)):
            assert same == loss.kernel
    kernel = drawn()
    other = kernel.with_phi([*kernel.phi[:-1], 0.5])
    assert other.phi[-1] == 0.5
    assert other.hidden == kernel.hidden
    assert other.key(Setting("softmax", 10)) != kernel.key(Setting("softmax", 10))
    assert str(Network((-0.0,) * 6, (2,)).phi[0]) == "0.0"


def test_what_is_no_network_is_refused_in_a_sentence() -> None:
    good = drawn(0, (3, 2))
    document = to_document(Loss(good))
    kernel = document["kernel"]
    cases: list[tuple[Callable[[], Any], str]] = [
        (lambda: Network((1.0,) * 5), "2-50-50-1 has 2650 weights"),
        (lambda: good.with_phi((math.nan, *good.phi[1:])), r"weights\[0\] = nan"),
        (lambda: Network((1.0,) * 2650, output="tanh"), "use softplus or smooth_leaky_relu"),  # type: ignore[arg-type]
        (lambda: Network((), ()), "the units of each hidden layer"),
        (lambda: Network("abc"), "a list of numbers"),  # type: ignore[arg-type]
        (lambda: drawn(0, (0,)), "the units of each hidden layer"),
        (lambda: Network.ml3(np.random.default_rng(0), initialisation="zeros"), "kaiming, xavier"),  # type: ignore[arg-type]
        (lambda: good.value({"p": torch.zeros(3), "t": 0.0}, torch.ones(5)), "this network has 14 weights"),
        (lambda: from_json({**document, "kernel": {**kernel, "weights": [True] * 14}}), "a list of numbers"),
        (lambda: from_json({**document, "kernel": {**kernel, "weights": "1, 2"}}), "a list was expected"),
        (lambda: from_json({**document, "kernel": {**kernel, "hidden": [1e9]}}), "the units of each hidden layer"),
        (lambda: from_json({**document, "kernel": {**kernel, "hidden": [10**9, 4]}}), "the units of each hidden layer"),
        (lambda: from_json({**document, "kernel": {**kernel, "output": ["softplus"]}}), "use softplus or"),
        (lambda: from_json({**document, "kernel": {k: v for k, v in kernel.items() if k != "hidden"}}), "lacks"),
        (lambda: Loss(good, aggregation=Pairwise()), "pairwise"),
    ]
    for made, sentence in cases:
        with pytest.raises(LossError, match=sentence):
            made()
    assert weight_count(good.hidden) == len(good.phi)


def test_those_who_need_a_formula_say_so_and_the_others_do_without() -> None:
    loss = Loss(Network.adalfl(np.random.default_rng(4)))
    for needing in (loss.kernel.expression, lambda: readable(loss), lambda: export(loss, "latex")):
        with pytest.raises(LossError, match="a loss without a formula: show it as curves, or export it to torch"):
            needing()
    assert formula(loss) == str(loss) == "network(2-40-40-1, smooth leaky relu)"
    assert len(signature(loss, 10).values) == 64
    # The expansion about t = p = 0.5 has the network's own slope there.
    p = torch.full((1, 1), 0.5, dtype=torch.float64)
    taylor = TaylorFamily(3, ("target", "prediction")).expand(loss)
    torch.testing.assert_close(pull(taylor, p, p), pull(loss, p, p), rtol=1e-10, atol=0)
    ratio = Loss(loss.kernel, aggregation=Ratio(loss.kernel))
    assert ratio(torch.eye(4, 3), torch.tensor([0, 1, 2, 0])).item() == pytest.approx(0.0, abs=1e-6)


def run_text(text: str) -> Callable[..., Tensor]:
    """What the exported module defines; executed in tests only."""
    space: dict[str, Any] = {}
    exec(compile(text, "exported", "exec"), space)
    function: Callable[..., Tensor] = space["loss"]
    return function


@pytest.mark.parametrize("head", ["softmax", "sigmoid", "identity"])
@pytest.mark.parametrize(("hidden", "output"), ARCHITECTURES)
def test_the_printed_module_is_the_loss(hidden: tuple[int, ...], output: str, head: str) -> None:
    smoothing = 0.0 if head == "identity" else 0.1
    original = Loss(drawn(5, hidden, output), head=head, smoothing=smoothing, outputs="mean", name="mine")
    text = export(original)
    assert "lossmith" not in text
    assert max(map(len, text.splitlines())) <= 120
    exported, generator = run_text(text), torch.Generator().manual_seed(6)
    z = 3 * torch.randn(16, 4, generator=generator, dtype=torch.float64)
    target = torch.randint(4, (16,), generator=generator)
    if head != "softmax":
        target = torch.rand(16, 4, generator=generator, dtype=torch.float64)
    weight = torch.rand(16, generator=generator, dtype=torch.float64)
    for dtype, accuracy in ((torch.float64, 1e-13), (torch.float32, 1e-5)):
        results = []
        for criterion in (original, exported):
            own = z.to(dtype).requires_grad_()
            value = criterion(own, target, weight=weight.to(dtype))
            (gradient,) = torch.autograd.grad(value, own)
            results.append((value.detach(), gradient))
        for ours, theirs in zip(*results, strict=True):
            torch.testing.assert_close(theirs, ours, rtol=accuracy, atol=accuracy)


def test_the_printed_module_is_exact_inside_autocast() -> None:
    original, z = Loss(drawn(7)), torch.randn(8, 5, generator=torch.Generator().manual_seed(8))
    exported, target = run_text(export(original)), torch.arange(8) % 5
    with torch.autocast("cpu", dtype=torch.bfloat16):
        inside = exported(z, target)
    torch.testing.assert_close(inside, original(z, target), rtol=1e-6, atol=1e-6)


def test_a_name_cannot_smuggle_code_into_the_printed_module() -> None:
    loss = Loss(drawn(0, (2, 2)), name='"""\nimport os\nos.abort()\n"""')
    run_text(export(loss))(torch.eye(2, 3), torch.tensor([0, 1]))


def test_it_compiles_and_takes_inference_mode_and_vmap() -> None:
    loss, target = Loss(drawn()), torch.arange(6) % 3
    z = torch.randn(6, 3, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        plain = loss(z, target)
    compiled = torch.compile(loss, backend="eager", fullgraph=True)
    own = z.clone().requires_grad_()
    compiled(own, target).backward()
    assert own.grad is not None
    assert torch.isfinite(own.grad).all()
    torch.testing.assert_close(compiled(z, target), plain)
    both = torch.func.vmap(lambda z: loss(z, target))(torch.stack((z, z)))
    torch.testing.assert_close(both, torch.stack((plain, plain)))


def test_the_document_is_plain_data() -> None:
    document = json.loads(to_json(Loss(drawn(0, (2, 2)))))
    assert document["kernel"]["family"] == "network"
    assert document["kernel"]["hidden"] == [2, 2]
    assert len(document["kernel"]["weights"]) == 10
