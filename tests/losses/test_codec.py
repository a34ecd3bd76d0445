"""Losses as JSON: there and back, versions, hashes, and documents that are none."""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from published_losses import PROGRESS, made

from lossmith.errors import ExpressionError, LossError, UsageError
from lossmith.losses import (
    PUBLISHED,
    Kernel,
    Loss,
    LossSet,
    Pairwise,
    Ratio,
    Taylor,
    Tree,
    from_json,
    loss,
    loss_hash,
    register,
    to_document,
    to_json,
)
from lossmith.losses.codec import FAMILIES, FORMAT
from lossmith.losses.parser import parse

names = st.one_of(st.none(), st.text(max_size=8))
shares = st.lists(st.floats(1e-3, 1.0), min_size=1, max_size=4)
coefficients = st.lists(st.floats(-1e6, 1e6), min_size=8, max_size=8)


@st.composite
def losses(draw: st.DrawFn) -> Loss:
    """Published losses, Taylor losses and ratios of them in every setting that exists."""
    published = PUBLISHED[draw(st.sampled_from(sorted(PUBLISHED)))]
    head = draw(st.sampled_from(published.heads))
    kernel = draw(st.one_of(st.just(published.kernel()), coefficients.map(lambda c: Taylor(tuple(c)))))
    ratio = st.builds(Ratio, st.just(published.kernel()), st.sampled_from(("class", "batch")), st.floats(0, 1e3))
    aggregation = draw(st.one_of(st.none(), ratio))
    return Loss(
        kernel,
        head=head,  # type: ignore[arg-type]
        aggregation=aggregation,
        reduction=draw(st.sampled_from(("mean",) if aggregation else ("mean", "sum", "none"))),  # type: ignore[arg-type]
        outputs=draw(st.sampled_from(("sum", "mean"))),  # type: ignore[arg-type]
        smoothing=0.0 if head == "identity" else draw(st.floats(0, 0.999)),
        prior=draw(st.one_of(st.none(), shares)),
        name=draw(names),
    )


@settings(deadline=None, max_examples=60)
@given(losses())
def test_there_and_back(original: Loss) -> None:
    text = to_json(original)
    for again in (from_json(text), from_json(to_document(original)), from_json(json.loads(text))):
        assert isinstance(again, Loss)
        assert to_json(again) == text
        assert again.kernel == original.kernel
        assert again.aggregation == original.aggregation
        assert (again.head, again.reduction, again.outputs) == (original.head, original.reduction, original.outputs)
        assert (again.smoothing, again.prior, again.name) == (original.smoothing, original.prior, original.name)
        assert str(again) == str(original)
        assert loss_hash(again) == loss_hash(original)


@pytest.mark.parametrize("name", sorted(PUBLISHED))
def test_a_published_loss_computes_the_same_afterwards(name: str) -> None:
    original = made(name, outputs="mean", smoothing=0.25)
    again = from_json(to_json(original))
    output = torch.randn(4, 3, generator=torch.Generator().manual_seed(0))
    target = torch.tensor([0, 1, 2, 0])
    assert again(output, target, progress=PROGRESS) == original(output, target, progress=PROGRESS)


def test_pairs_and_sets() -> None:
    ranking = Loss(Tree(parse("max(1 - z, 0)")), head="identity", aggregation=Pairwise(), reduction="sum")
    both = LossSet([ranking, loss("mse", head="identity")])
    again = from_json(to_json(both))
    assert isinstance(again, LossSet)
    assert to_json(again) == to_json(both)
    assert again[0].aggregation == Pairwise()


def test_the_text_is_canonical_and_plain() -> None:
    text = to_json(loss("focal(gamma=3)"))
    # written out by hand once: a change here breaks every stored run
    assert text == (
        '{"aggregation":{"kind":"pointwise"},"head":"softmax","kernel":{"expression":"-t*(1 - p)^3*log(p)",'
        '"family":"tree"},"lossmith":1,"name":"focal(gamma=3)","outputs":"sum","reduction":"mean","smoothing":0.0}'
    )


def test_the_hash_is_of_content() -> None:
    assert loss_hash(loss("-t*log(p)")) == loss_hash(loss("cross_entropy"))
    assert len(loss_hash(loss("cross_entropy"))) == 16
    unlike = [
        loss("cross_entropy"),
        loss("brier"),
        loss("cross_entropy", outputs="mean"),
        loss("cross_entropy", reduction="sum"),
        loss("cross_entropy", smoothing=0.1),
        loss("cross_entropy", head="sigmoid"),
        loss("cross_entropy", prior=(0.5, 0.5)),
        LossSet([loss("cross_entropy")]),
        LossSet([loss("cross_entropy"), loss("brier")]),
        LossSet([loss("brier"), loss("cross_entropy")]),
    ]
    assert len({loss_hash(one) for one in unlike}) == len(unlike)
    named = LossSet([loss("cross_entropy"), loss("-t*log(p)")])
    assert loss_hash(named) == loss_hash(LossSet([loss("-t*log(p)"), loss("cross_entropy")]))
    assert loss_hash(loss("mse", smoothing=-0.0)) == loss_hash(loss("mse"))


def test_the_hash_is_sha256_of_the_text_without_the_name() -> None:
    document = {key: value for key, value in to_document(loss("baikal")).items() if key != "name"}
    text = json.dumps(document, sort_keys=True, separators=(",", ":"))
    assert loss_hash(loss("baikal")) == hashlib.sha256(text.encode()).hexdigest()[:16]


def test_a_head_of_ones_own_is_given_again() -> None:
    text = to_json(loss("mse", head=torch.tanh))
    with pytest.raises(LossError, match="pass it again as head=function"):
        from_json(text)
    assert from_json(text, head=torch.tanh).head is torch.tanh
    assert from_json(to_json(loss("mse")), head="identity").head == "identity"


def changed(**fields: Any) -> dict[str, Any]:
    return {**to_document(loss("cross_entropy")), **fields}


def without(field: str) -> dict[str, Any]:
    return {k: v for k, v in to_document(loss("cross_entropy")).items() if k != field}


TREE = {"family": "tree", "expression": "p + t"}
TAYLOR = {"family": "taylor", "order": 1, "variables": ["residual"], "genome": [1.0, 0.0]}


@pytest.mark.parametrize(
    ("document", "sentence"),
    [
        ("-t*log(p)", "this is not a loss in JSON"),
        ("", "this is not a loss in JSON"),
        ("[" * 100_000, "this is not a loss in JSON"),
        ('{"lossmith": 1' + "0" * 5000 + "}", "this is not a loss in JSON"),
        ("[1]", 'no field "lossmith"'),
        ("null", 'no field "lossmith"'),
        ('"text"', 'no field "lossmith"'),
        ({"kernel": TREE}, 'no field "lossmith"'),
        (b"{}", 'no field "lossmith"'),
        (changed(lossmith=FORMAT + 1), f"the loss has format {FORMAT + 1}, this Lossmith reads up to 1: upgrade"),
        (changed(lossmith=0), "the loss has format 0"),
        (changed(lossmith=True), "the loss has format True"),
        (changed(lossmith="1"), "the loss has format '1'"),
        *[
            (without(field), f"lacks the field '{field}'")
            for field in ("kernel", "head", "aggregation", "reduction", "outputs", "smoothing")
        ],
        (changed(kernel="tree"), "the kernel of the loss is 'tree': an object with a \"family\""),
        (changed(kernel=None), "the kernel of the loss is None"),
        (changed(kernel={"expression": "p"}), "lacks the field 'family'"),
        (changed(kernel={**TREE, "family": "oak"}), "unknown loss family 'oak': this Lossmith has .*taylor, tree"),
        (changed(kernel={**TREE, "family": ["tree"]}), "unknown loss family"),
        (changed(kernel={"family": "tree"}), 'needs the field "expression"'),
        (changed(kernel={**TREE, "expression": 3}), 'needs the field "expression"'),
        (changed(kernel={**TAYLOR, "genome": [1.0]}), "takes 2"),
        (changed(kernel={**TAYLOR, "genome": [1.0, "0"]}), "a list of numbers was expected"),
        (changed(kernel={**TAYLOR, "genome": [1.0, 10**400]}), "malformed: int too large"),
        (changed(kernel={**TAYLOR, "genome": [1.0, float("nan")]}), "must be finite"),
        (changed(kernel={**TAYLOR, "order": 0}), "a whole number >= 1"),
        (changed(kernel={**TAYLOR, "variables": ["logit"]}), "distinct names out of"),
        (changed(head="logits"), "unknown head 'logits'"),
        (changed(head=None), "unknown head None"),
        (changed(head=["softmax"]), "unknown head"),
        (changed(aggregation="pointwise"), 'an object with a "kind"'),
        (changed(aggregation={"kind": "product"}), "unknown aggregation 'product': pointwise, ratio, pairwise or"),
        (changed(aggregation={"kind": "ratio", "denominator": TREE, "over": "class"}), "needs the field 'smooth'"),
        (changed(aggregation={"kind": "ratio", "denominator": TREE, "over": 1, "smooth": 1}), '"class" or "batch"'),
        (
            changed(aggregation={"kind": "ratio", "denominator": 1, "over": "class", "smooth": 1}),
            "kernel of the loss is 1",
        ),
        (changed(aggregation={"kind": "ratio", "denominator": TREE, "over": "class", "smooth": "1"}), "a number was"),
        (changed(aggregation={"kind": "trimmed"}), "a trimmed aggregation needs the field 'keep'"),
        (changed(aggregation={"kind": "trimmed", "keep": 0}), "trimmed keep 0.0: use a share"),
        (changed(aggregation={"kind": "pairwise"}), "a pairwise loss reads z"),
        (changed(reduction="max"), 'use "mean", "sum" or "none"'),
        (changed(reduction=["mean"]), 'use "mean", "sum" or "none"'),
        (changed(outputs=None), 'use "sum" or "mean"'),
        (changed(smoothing="0.1"), "the field 'smoothing' of the loss is '0.1': a number was expected"),
        (changed(smoothing=True), "a number was expected"),
        (changed(smoothing=1.5), r"in \[0, 1\)"),
        (changed(smoothing=10**400), "malformed: int too large"),
        (changed(prior="0.5"), 'the field "prior" is .*: a list of numbers'),
        (changed(prior=[0.5, None]), "malformed"),
        (changed(prior=[0.5, 0]), "above 0"),
        (changed(name=3), 'the field "name" is 3: a text was expected'),
        ({"lossmith": 1, "losses": {}}, 'the field "losses" must be a list'),
        ({"lossmith": 1, "losses": []}, 'the field "losses" must be a list'),
        ({"lossmith": 1, "losses": [1]}, 'no field "lossmith"'),
        (
            {"lossmith": 1, "losses": [changed(), {"lossmith": 1, "losses": [changed()]}]},
            "a set holds single losses only",
        ),
    ],
)
def test_malformed_documents(document: Any, sentence: str) -> None:
    forms = [document]
    if isinstance(document, dict):
        forms.append(json.dumps(document))
    for form in forms:
        with pytest.raises(
            LossError if "unknown symbol" not in sentence else ExpressionError, match=sentence
        ) as caught:
            from_json(form)
        assert str(caught.value).endswith((".", "?", "]"))
        assert len(str(caught.value)) < 400


junk = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=6)),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(st.text(max_size=6), inner, max_size=3)),
    max_leaves=6,
)


@settings(deadline=None, max_examples=150)
@given(st.sampled_from(sorted(changed())), junk)
def test_whatever_stands_in_a_field_it_is_a_loss_or_a_usage_error(field: str, value: Any) -> None:
    with contextlib.suppress(UsageError):
        to_json(from_json(changed(**{field: value})))  # any other exception is a failure


@pytest.mark.parametrize(
    "text", ["__import__('os').system('touch {0}')", "open('{0}', 'w')", "exec(open('{0}', 'w'))", "().__class__"]
)
@pytest.mark.parametrize("place", ["expression", "family", "head", "name", "genome"])
def test_nothing_in_a_document_is_executed(text: str, place: str, tmp_path: Any) -> None:
    marker = tmp_path / "executed"
    code = text.format(marker)
    document = {
        "expression": changed(kernel={**TREE, "expression": code}),
        "family": changed(kernel={**TREE, "family": code}),
        "head": changed(head=code),
        "name": changed(name=code),
        "genome": changed(kernel={**TAYLOR, "genome": [code, code]}),
    }[place]
    if place == "name":  # a name may be any text: it is printed, and no more
        assert str(from_json(document)) == code
    else:
        with pytest.raises(UsageError):
            from_json(document)
    assert not marker.exists()


def test_a_family_of_ones_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lossmith.losses.codec.FAMILIES", dict(FAMILIES))
    make: Callable[[str], type[Kernel]] = lambda name: type(name, (Tree,), {"family": "mine"})  # noqa: E731
    mine = make("Mine")
    assert register(mine) is mine
    assert type(from_json(changed(kernel={**TREE, "family": "mine"})).kernel) is mine  # type: ignore[union-attr]
    register(make("Mine"))  # defined again, as a notebook does
    with pytest.raises(LossError, match=r"a loss family 'mine' exists already \(Mine\): give yours another name"):
        register(make("Other"))
