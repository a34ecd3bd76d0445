from __future__ import annotations

import ast
import json
from collections.abc import Callable
from typing import Any

import pytest
import torch
from expression_trees import trees
from hypothesis import given, settings
from hypothesis import strategies as st
from published_losses import PROGRESS, made

from lossmith.errors import LossError
from lossmith.losses import PUBLISHED, Loss, LossSet, Pairwise, Ratio, Tree, from_json, loss, to_json
from lossmith.losses.export import export
from lossmith.losses.expression import Node, Number
from lossmith.losses.inputs import LOWERED
from lossmith.losses.parser import parse

CASES = [(name, head) for name, entry in PUBLISHED.items() for head in entry.heads]


def run_text(text: str) -> Callable[..., torch.Tensor]:
    """What the exported module defines; the one place where text is executed, and only in tests."""
    space: dict[str, Any] = {}
    exec(compile(text, "exported", "exec"), space)
    function: Callable[..., torch.Tensor] = space["loss"]
    return function


def data(head: str, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    output = 3 * torch.randn(16, 4, generator=generator, dtype=torch.float64)
    weight = torch.rand(16, generator=generator, dtype=torch.float64)
    weight[3] = 0.0
    if head == "softmax":
        return output, torch.randint(4, (16,), generator=generator), weight
    target = torch.rand(16, 4, generator=generator, dtype=torch.float64)
    return output, target.round() if head == "sigmoid" else 4 * target, weight


def assert_same(original: Loss, text: str, output: torch.Tensor, *args: Any, **more: Any) -> None:
    function = run_text(text)
    results = []
    for criterion in (original, function):
        z = output.clone().requires_grad_()
        value = criterion(z, *args, **more)
        (gradient,) = torch.autograd.grad(value.sum(), z, materialize_grads=True)
        results.append((value.detach(), gradient))
    for ours, exported in zip(*results, strict=True):
        accuracy = 1e-12 if ours.dtype == torch.float64 else 1e-5
        torch.testing.assert_close(exported, ours, rtol=accuracy, atol=accuracy * float(ours.abs().max()))


@pytest.mark.parametrize(("name", "head"), CASES)
@pytest.mark.parametrize("outputs", ["sum", "mean"])
def test_the_printed_module_is_the_loss(name: str, head: str, outputs: str) -> None:
    original = made(name, head=head, outputs=outputs, classes=4)
    output, target, weight = data(head)
    more = {"progress": PROGRESS} if "tau" in original.reads else {}
    for text in (export(original), export(original, classes=4)):
        assert_same(original, text, output, target, **more)
        assert_same(original, text, output, target, weight=weight, **more)
        assert_same(original, text, output.float(), target, weight=weight.float(), **more)


@pytest.mark.parametrize("head", ["softmax", "sigmoid"])
def test_smoothing_soft_targets_reductions_and_more_axes(head: str) -> None:
    output, target, weight = data(head)
    soft = torch.softmax(output.flip(0), -1)
    for reduction in ("mean", "sum", "none"):
        original = loss("baikal", head=head, smoothing=0.1, reduction=reduction)  # type: ignore[arg-type]
        text = export(original)
        assert_same(original, text, output, target, weight=weight)
        assert_same(original, text, output, soft)
        shape = (2, 8) if head == "softmax" else (2, 8, 4)
        assert_same(original, text, output.reshape(2, 8, 4), target.reshape(shape), weight=weight.reshape(2, 8))


def test_extreme_outputs_stay_exact() -> None:
    output = torch.tensor([[1e4, -1e4, 0.0], [-50.0, 50.0, 50.0]])
    for name in ("baikal", "sparse_label_smoothing", "generalized_cross_entropy", "focal(gamma=1.5)"):
        assert_same(loss(name), export(loss(name)), output, torch.tensor([1, 0]))


def test_every_input_is_exported() -> None:
    text = "t*r + p*z/(1 + m^2) + p_t*prior + w*tau + log(n - 1)*p + inv_p*0.001 + p^0.5 + 1/p"
    for head in ("softmax", "sigmoid"):
        prior = (0.1, 0.2, 0.3, 0.4) if head == "softmax" else (0.4, 0.6)
        original = Loss(Tree(parse(text)), head=head, prior=prior)
        output, target, weight = data(head)
        assert_same(original, export(original), output, target, weight=weight, progress=0.3)
        assert_same(original, export(original), output, target, progress=torch.tensor(0.3))
    original = Loss(Tree(parse("r^2 + log(p) + log(1 - p) + t/p + n*z + p^1.5")), head="identity")
    output, target, _ = data("identity")
    assert_same(original, export(original), output, target)


def test_values_that_do_not_fill_the_row() -> None:
    for text in ("-p_t", "n*p_t/p_t", "exp(-m)", "-log(p_t)"):
        original = Loss(Tree(parse(text)))
        assert_same(original, export(original), *data("softmax")[:2])


@given(st.data())
@settings(max_examples=60, deadline=None)
def test_any_tree_is_exported(data_: st.DataObject) -> None:
    moderate = st.sampled_from([0.5, 1.0, 2.0, 3.0, -1.0, -1.5, 0.0]).map(Number)
    tree: Node = data_.draw(trees(symbols=("t", "p", "z", "r", "n", *LOWERED), numbers=moderate, max_leaves=10))
    original = Loss(Tree(tree))
    output, target, _ = data("softmax")
    function = run_text(export(original))
    ours, exported = original(output, target), function(output, target)
    torch.testing.assert_close(exported, ours, rtol=1e-9, atol=1e-9, equal_nan=True)


def test_the_text_imports_torch_only_and_is_documented() -> None:
    text = export(loss("focal(gamma=3)"))
    tree = ast.parse(text)
    imported = [alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names]
    assert imported == ["torch", "torch.nn.functional"]
    assert not any(isinstance(node, ast.ImportFrom) for node in ast.walk(tree))
    documentation = run_text(text).__doc__
    assert documentation is not None
    assert documentation.startswith("focal(gamma=3): sum over outputs of -t*(1 - p)^3*log(p)")
    assert max(len(line) for line in export(loss("taylor_cross_entropy(order=9)")).splitlines()) <= 120


def test_a_name_from_elsewhere_cannot_smuggle_code() -> None:
    document = json.loads(to_json(loss("mse")))
    document["name"] = '"""\nimport os\n"""\\'
    text = export(from_json(document))
    assert run_text(text).__doc__ is not None
    assert "\nimport os" not in text


@pytest.mark.parametrize(
    ("made", "latex"),
    [
        (loss("baikal"), r"\ell(p, t) = \frac{t}{p} - \log\left(p\right)"),
        (loss("cross_entropy", outputs="mean"), r"\ell(p, t) = \frac{1}{n} \, \left(-t \, \log\left(p\right)\right)"),
        (
            loss("cross_entropy", smoothing=0.1),
            r"\ell(p, t) = -\left(0.9 \, t + \frac{0.1}{n}\right) \, \log\left(p\right)",
        ),
        (loss("r^2*tau", head="identity"), r"\ell(r, \tau) = r^{2} \, \tau"),
        (loss("r/n", smoothing=0.5), r"\ell(p, t) = \frac{p - \left(0.5 \, t + \frac{0.5}{n}\right)}{n}"),
        (loss("p/n", head="sigmoid", outputs="mean"), r"\ell(p) = \frac{1}{2 \, C} \, \frac{p}{2}"),
    ],
)
def test_latex(made: Loss, latex: str) -> None:
    assert export(made, to="latex") == latex


def test_latex_with_a_number_of_classes() -> None:
    assert export(loss("p/n"), to="latex", classes=10) == r"\ell(p) = \frac{p}{10}"


def test_json_reads_back() -> None:
    original = loss("focal(gamma=3)", outputs="mean", smoothing=0.2)
    text = export(original, to="json")
    assert to_json(from_json(text)) == to_json(original)
    assert text.count("\n") > 5
    pair = LossSet([original, original])
    assert to_json(from_json(export(pair, to="json"))) == to_json(pair)


@pytest.mark.parametrize(
    ("given", "to", "message"),
    [
        (loss("mse"), "onnx", "use torch, latex, json"),
        (loss("mse", head=torch.nn.Softplus()), "torch", "a head of your own cannot be exported"),
        (LossSet([loss("mse"), loss("mae")]), "torch", "a set of 2 losses has no single formula"),
        (Loss(Tree(parse("exp(-z)")), aggregation=Pairwise()), "torch", "a pairwise loss cannot be exported to torch"),
        (Loss(Tree(parse("2*t*p")), aggregation=Ratio(Tree(parse("t + p")))), "latex", "a ratio loss cannot"),
        (loss("trimmed_mse"), "latex", "a trimmed loss cannot be exported to latex: use torch or json"),
        (loss("ldam"), "latex", "looks at a row as a whole, so it has no formula of one output"),
        (loss("logit_adjustment"), "torch", "with prior="),
        (loss("class_balanced", prior=(0.9, 0.1)), "torch", r"give it as class_balanced\(rows=...\)"),
        (Loss(Tree(parse("prior*p"))), "torch", "with prior="),
        (Loss(Tree(parse("m")), head="identity"), "torch", "the identity head has no target class"),
    ],
)
def test_what_cannot_be_exported_says_so(given: Loss | LossSet, to: str, message: str) -> None:
    with pytest.raises(LossError, match=message):
        export(given, to=to)
