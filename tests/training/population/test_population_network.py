"""P models as one network against P models: outputs, gradients, buffers, draws, derivatives of any order."""

from __future__ import annotations

import warnings
from typing import Any

import pytest
import torch
import torch.autograd.forward_ad as fwAD
from stacked_models import MODELS, batch_of, built, curved, one_by_one, population, spread
from torch import Tensor, nn

from lossmith.rng import torch_global_scope
from lossmith.tasks import Terms
from lossmith.tasks.terms import supervised
from lossmith.training.population import NotStackable, PopulationNetwork

CLOSE: dict[str, Any] = {"rtol": 1e-9, "atol": 1e-11}


def stacked_pass(network: PopulationNetwork, batch: Any) -> Tensor:
    with torch_global_scope(0, "dropout"):
        (term,) = network(batch)
    total = sum(curved(output, place) for place, output in enumerate(term.output))
    total.backward()  # type: ignore[union-attr]
    return term.output.detach()


def compare(network: PopulationNetwork, models: list[nn.Module], batch: Any) -> None:
    outputs = stacked_pass(network, batch)
    expected = one_by_one(models, batch, curved)
    torch.testing.assert_close(outputs, torch.stack(expected), **CLOSE)
    own = [dict(model.named_parameters()) for model in models]
    for name, raw in network.parameters.items():
        gradients = [one[name].grad for one in own]
        if gradients[0] is None:  # of a parameter that the model does not use
            assert raw.grad is None
            continue
        torch.testing.assert_close(raw.grad, torch.stack(gradients), **CLOSE, msg=name)
    kept = [dict(model.named_buffers()) for model in models]
    for name, raw in network.buffers.items():
        torch.testing.assert_close(raw, torch.stack([one[name] for one in kept]), **CLOSE, msg=name)


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("channels_last", [False, True])
def test_three_models_as_one(name: str, channels_last: bool) -> None:
    if channels_last and len(MODELS[name][1]) != 3:
        pytest.skip("no images")
    network = population(name, channels_last=channels_last)
    models = [network.candidate(place) for place in range(3)]
    x, y = batch_of(name)
    if channels_last:
        models = [model.to(memory_format=torch.channels_last) for model in models]
        x = x.contiguous(memory_format=torch.channels_last)
    compare(network, models, (x, y))
    compare(network, models, (x, y))  # a second pass: buffers as the first left them, gradients on top
    network.train(False)
    for model in models:
        model.eval()
    with torch.no_grad():
        (term,) = network((x, y))
        torch.testing.assert_close(term.output, torch.stack([model(x) for model in models]), **CLOSE)


@pytest.mark.parametrize("name", ["mlp", "lenet5", "handwritten attention", "tied"])
def test_second_derivatives(name: str) -> None:
    network = population(name)
    network.train(False)
    batch = batch_of(name)
    theta = network.parameters
    output = network(batch)[0].output
    inner = sum(curved(output[place], place) for place in range(3))
    used = [raw for key, raw in theta.items()]
    first = torch.autograd.grad(inner, used, create_graph=True)
    second = torch.autograd.grad(sum(g.sin().sum() for g in first), used)
    for place in range(3):
        model = network.candidate(place)
        own = list(model.parameters())
        alone = torch.autograd.grad(curved(model(batch[0]), place), own, create_graph=True)
        expected = torch.autograd.grad(sum(g.sin().sum() for g in alone), own)
        for mine, theirs in zip(second, expected, strict=True):
            torch.testing.assert_close(mine[place], theirs, **CLOSE)


@pytest.mark.parametrize("name", ["mlp", "lenet5", "batch norm and dropout"])
def test_forward_derivatives(name: str) -> None:
    network = population(name)
    network.train(False)
    batch = batch_of(name)
    generator = torch.Generator().manual_seed(3)
    theta = {key: raw.detach() for key, raw in network.parameters.items()}
    along = {key: torch.randn(raw.shape, generator=generator, dtype=raw.dtype) for key, raw in theta.items()}
    with torch.no_grad(), fwAD.dual_level(), warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # torch's own, when it loads its forward derivatives
        duals = {key: fwAD.make_dual(raw, along[key]) for key, raw in theta.items()}
        with network.substituted(duals):
            found = fwAD.unpack_dual(network(batch)[0].output).tangent
    for place in range(3):
        model = network.candidate(place)
        with torch.no_grad():
            ends = []
            for sign in (1, -1):  # central differences: an oracle without any derivative
                for key, p in model.named_parameters():
                    p.copy_(theta[key][place] + sign * 1e-6 * along[key][place])
                ends.append(model(batch[0]))
        torch.testing.assert_close(found[place], (ends[0] - ends[1]) / 2e-6, rtol=1e-5, atol=1e-6)


def test_transforms_of_raw_tensors() -> None:
    network = population("mlp")
    batch = batch_of("mlp")

    def value(theta: dict[str, Tensor]) -> Tensor:
        with network.substituted(theta):
            return network(batch)[0].output.square().sum()

    theta = {key: raw.detach() for key, raw in network.parameters.items()}
    found = torch.func.grad(value)(theta)
    value(network.parameters).backward()  # type: ignore[no-untyped-call]
    for key, raw in network.parameters.items():
        torch.testing.assert_close(found[key], raw.grad, **CLOSE)


@pytest.mark.parametrize(
    "name", ["mlp", "images with dropout", "lstm", "written buffers", "tied", "batch norm and dropout"]
)
def test_kept_candidates_go_on_as_before(name: str) -> None:
    network, smaller = population(name, 5), population(name, 5)
    batch = batch_of(name)
    for one in (network, smaller):
        stacked_pass(one, batch)
    before = smaller.parameters
    smaller.keep(torch.tensor([4, 1]))
    assert smaller.count == 2
    for key, raw in smaller.parameters.items():
        assert raw.is_leaf
        assert raw.requires_grad
        assert raw.grad is None
        assert torch.equal(raw, before[key][[4, 1]])
    with torch_global_scope(1, "dropout"):
        whole = network(batch)[0].output
    with torch_global_scope(1, "dropout"):
        part = smaller(batch)[0].output
    torch.testing.assert_close(part, whole[[4, 1]], **CLOSE)
    whole.square().sum().backward()
    part.square().sum().backward()
    for raw in smaller.parameters.values():
        assert raw.grad is None or raw.grad.shape == raw.shape
    for key, buffer in smaller.buffers.items():
        torch.testing.assert_close(buffer, network.buffers[key][[4, 1]], **CLOSE)


@pytest.mark.parametrize("name", ["mlp", "lenet5", "encoder", "lstm"])
def test_the_bits_of_a_candidate_do_not_depend_on_its_companions(name: str) -> None:
    bits = []  # in float32, where convolutions are those of oneDNN
    for places in ([0, 1, 2, 3, 4], [2, 4], [4, 3, 2]):
        network = PopulationNetwork(built(name, torch.float32), supervised, 5, channels_last=True)
        spread(network)
        with torch.no_grad():
            for raw in network.parameters.values():
                raw[0] = float("nan")  # and a diverged one harms nobody
        network.keep(torch.tensor(places))
        with torch_global_scope(0, "dropout"):
            output = network(batch_of(name, dtype=torch.float32))[0].output
        output.square().sum().backward()
        at = places.index(4)
        bits.append([output[at], *(raw.grad[at] for raw in network.parameters.values() if raw.grad is not None)])
    for other in bits[1:]:
        assert all(torch.equal(a, b) for a, b in zip(bits[0], other, strict=True))
    assert bits[0][0].isfinite().all()


@pytest.mark.parametrize("name", ["mlp", "lenet5", "batch norm and dropout", "encoder"])
def test_autocast(name: str) -> None:
    model = built(name, torch.float32)
    network = PopulationNetwork(model, supervised, 2)
    x, y = batch_of(name, dtype=torch.float32)
    with torch_global_scope(0, "dropout"), torch.autocast("cpu", torch.bfloat16):
        output = network((x, y))[0].output
    with torch_global_scope(0, "dropout"), torch.autocast("cpu", torch.bfloat16):
        expected = model(x)
    assert output.dtype == expected.dtype == torch.bfloat16
    torch.testing.assert_close(output[1], expected, rtol=0.03, atol=0.03)
    output.float().square().sum().backward()
    expected.float().square().sum().backward()
    for key, p in model.named_parameters():
        raw = network.parameters[key].grad
        assert raw is not None
        assert raw.dtype == torch.float32
        assert (raw[0] - p.grad).norm() <= 0.05 * p.grad.norm() + 0.02


def test_tied_weights_are_one_parameter() -> None:
    network = population("tied")
    assert sorted(network.parameters) == ["decoder.bias", "embedding.weight", "hidden.bias", "hidden.weight"]
    model = network.candidate(1)
    assert model.decoder.weight is model.embedding.weight


def test_the_model_given_is_left_alone() -> None:
    model = built("batch norm and dropout")
    before = {name: value.clone() for name, value in model.state_dict().items()}
    network = PopulationNetwork(model, supervised, 2)
    stacked_pass(network, batch_of("batch norm and dropout"))
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert all(isinstance(p, nn.Parameter) and p.grad is None for p in model.parameters())


def test_a_candidate_taken_out_is_on_its_own() -> None:
    network = population("batch norm and dropout")
    network.train(False)
    model = network.candidate(2)
    assert not model.training
    with torch.no_grad():
        for p in model.parameters():
            p.zero_()
    assert all(raw[2].abs().sum() > 0 for raw in network.parameters.values())


def test_a_constant_output_is_that_of_every_candidate() -> None:
    network = PopulationNetwork(built("mlp"), lambda model, batch: Terms(batch[0][:, :1], batch[1]), 3)
    assert network(batch_of("mlp"))[0].output.shape == (3, 6, 1)


def test_a_model_that_cannot_be_copied() -> None:
    model = built("mlp")
    model.stream = (i for i in range(3))
    with pytest.raises(NotStackable, match="cannot be copied"):
        PopulationNetwork(model, supervised, 2)
