"""Known losses as trees: exact whatever their reduction and smoothing, or refused with a reason."""

from __future__ import annotations

import json

import pytest
import torch
from published_losses import FORMULAS

from lossmith.errors import LossError
from lossmith.losses import PUBLISHED, Loss, LossSet, Pairwise, Ratio, Setting, Taylor, Tree, from_json, loss
from lossmith.losses.expression import Node
from lossmith.losses.parser import parse
from lossmith.losses.printer import to_text
from lossmith.search import Problem, method
from lossmith.search.starting_trees import starting_tree

HEADS = {"softmax": Setting("softmax", 4), "sigmoid": Setting("sigmoid", 3), "identity": Setting("identity", 2, False)}


def batch(setting: Setting) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(3)
    z = torch.randn(6, setting.classes, dtype=torch.float64, generator=generator)
    if setting.head == "softmax":
        return z, torch.tensor([0, 3, 1, 2, 2, 0])
    t = torch.randn(6, setting.classes, dtype=torch.float64, generator=generator)
    return z, (t > 0).double() if setting.head == "sigmoid" else t


def check_same(one: Loss, other: Loss, setting: Setting) -> None:
    """Both give the same value and the same gradient."""
    z, t = batch(setting)
    found = []
    for each in (one, other):
        output = z.clone().requires_grad_()
        value = each(output, t)
        value.backward()
        found.append((value.detach(), output.grad))
    torch.testing.assert_close(found[0][0], found[1][0], rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(found[0][1], found[1][1], rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("head", list(HEADS))
@pytest.mark.parametrize(("own", "wanted"), [("sum", "sum"), ("mean", "sum"), ("sum", "mean"), ("mean", "mean")])
def test_every_published_loss_is_held_exactly(head: str, own: str, wanted: str) -> None:
    problem = Problem(HEADS[head], outputs=wanted)  # type: ignore[arg-type]
    held = 0
    for name, entry in PUBLISHED.items():
        if head not in entry.heads or name not in FORMULAS:
            continue
        start = loss(name, head=head, outputs=own)
        assert isinstance(start, Loss)
        tree = starting_tree(start, problem, "gplfl")
        check_same(start, Loss(Tree(tree), head=head, outputs=wanted), problem.setting)  # type: ignore[arg-type]
        held += 1
    assert held >= 3


@pytest.mark.parametrize("head", ["softmax", "sigmoid"])
@pytest.mark.parametrize("text", ["-t*log(p)", "abs(r)", "t/p - log(p)", "square(t - p)*t"])
def test_label_smoothing_is_held_exactly(head: str, text: str) -> None:
    start = Loss(Tree(parse(text)), head=head, smoothing=0.3, outputs="mean")
    tree = starting_tree(start, Problem(HEADS[head]), "gplfl")
    check_same(start, Loss(Tree(tree), head=head), HEADS[head])


def test_whole_powers_are_products() -> None:
    for text, expected in (
        ("t*p^2", "t*square(p)"),
        ("t*p^3", "t*(square(p)*p)"),
        ("t*p^6", "t*square(square(p)*p)"),
        ("t*p^-2", "t*(1/square(p))"),
        ("t*p^1", "t*p"),
        ("t*p^0.7", "t*p^0.7"),
        ("t*p^9", "t*p^9"),
    ):
        tree = starting_tree(Loss(Tree(parse(text))), Problem(HEADS["softmax"]), "gplfl")
        assert to_text(tree) == expected
        check_same(Loss(Tree(parse(text))), Loss(Tree(tree)), HEADS["softmax"])


def test_a_tuned_tree_brings_its_weights() -> None:
    tuned = Loss(Tree(parse("t*log(p)"), (-1.5, 0.5, 2.0)))
    tree = starting_tree(tuned, Problem(HEADS["softmax"]), "evomal")
    check_same(tuned, Loss(Tree(tree)), HEADS["softmax"])


def test_a_custom_head() -> None:
    def head(output: torch.Tensor) -> torch.Tensor:
        return torch.sigmoid(output)

    problem = Problem(Setting("custom", 3))
    start = Loss(Tree(parse("square(p - t)")), head=head)
    m = method("gplfl", population=3)
    asked, _ = m.ask(m.init(Problem(problem.setting, start_from=(start,))))
    assert json.loads(asked[0].loss)["head"] == "custom"
    assert str(from_json(asked[0].loss, head=head)) == "square(p - t)"


class Opaque(Tree):
    """A loss without a formula."""

    def expression(self) -> Node:
        raise LossError("a network has no symbolic form")


@pytest.mark.parametrize(
    ("start", "sentence"),
    [
        (
            Loss(Tree(parse("square(p - t)")), head="identity", name="mse"),
            "mse has the identity head; a search under",
        ),
        (
            Loss(Tree(parse("z")), aggregation=Pairwise(), name="auc"),
            "it is a pairwise loss, candidates",
        ),
        (
            Loss(Tree(parse("p*t")), aggregation=Ratio(Tree(parse("p + t")))),
            "it is a ratio loss, cand",
        ),
        (Loss(Tree(parse("t*p")), reduction="sum"), 'it has reduction="sum": build it with "mean"'),
        (Loss(Tree(parse("t*p/prior")), prior=(0.25,) * 4), "candidates carry no class prior: start from a loss that"),
        (Loss(Tree(parse("square(t)"))), r"square\(t\) does not read the prediction, so it cannot train anything"),
        (Loss(Tree(parse("-log(p)"))), "does not read the target"),
        (
            Loss(Opaque(parse("t*p"))),
            r"it is no formula \(a network has no symbolic form\): start from",
        ),
        (LossSet([loss("mse"), loss("mse")]), "it holds several losses, a tree is one: start from one of them"),
    ],
)
def test_what_cannot_be_held_is_refused_at_once(start: Loss, sentence: str) -> None:
    for name in ("random_trees", "glo", "gplfl", "evomal"):
        with pytest.raises(LossError, match=sentence):
            method(name).init(Problem(HEADS["softmax"], start_from=(start,)))


def test_what_is_too_large_says_how_large_it_is() -> None:
    big = Loss(Taylor([0.1 * i for i in range(1, 18)], 5), name="order five")
    with pytest.raises(LossError, match=r"order five: its tree has \d+ nodes and height 1\d, the limits are max_size"):
        method("evomal").init(Problem(HEADS["softmax"], start_from=(big,)))
    method("evomal", max_size=250, max_height=20).init(Problem(HEADS["softmax"], start_from=(big,)))
