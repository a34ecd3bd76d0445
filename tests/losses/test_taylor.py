"""The Taylor family: golden values, genome layout, evaluation on two roads, conversions, expansion of other losses."""

from __future__ import annotations

import copy
import math
import pickle
from itertools import product

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from lossmith import rng
from lossmith.errors import LossError
from lossmith.losses import Loss, Pairwise, from_json, to_json
from lossmith.losses.inputs import compute_inputs
from lossmith.losses.lowering import evaluate
from lossmith.losses.parser import parse
from lossmith.losses.printer import to_text
from lossmith.losses.taylor import Taylor, genome_size, kept_terms
from lossmith.losses.taylor_family import TaylorFamily
from lossmith.losses.tree import Tree

EVOLVED_1 = (1.5742, -1.4446, 2.3616, -0.6632, -2.8569, -1.1313, 0.8439, 1.4872)
EVOLVED_2 = (8.2896, 0.2415, 7.8726, 8.9666, 2.0184, 7.0513, -10.9408, 7.5216)
LOGITS = torch.tensor([[2.0, 0.5, -1.0], [0.1, 0.2, 0.3]], dtype=torch.float64)
LABELS = torch.tensor([0, 2])
EVERYTHING = ("target", "prediction", "logits", "residual", "progress")
FAMILIES = [
    (1, ("target", "prediction")),
    (3, ("target", "prediction")),
    (4, ("prediction", "target")),
    (3, ("residual",)),
    (2, ("target", "prediction", "logits")),
    (3, ("target", "prediction", "progress")),
    (2, EVERYTHING),
]


def some_genome(order: int, variables: tuple[str, ...], name: str = "genome") -> tuple[float, ...]:
    return TaylorFamily(order, variables).sample(rng.stream(0, "test", name, order, *variables))


def some_inputs(kernel: Taylor, rows: int = 5, classes: int = 4) -> dict[str, Tensor | float]:
    generator = rng.torch_stream(0, "test", "inputs")
    output = torch.randn(rows, classes, generator=generator, dtype=torch.float64)
    target = torch.softmax(torch.randn(rows, classes, generator=generator, dtype=torch.float64), -1)
    return compute_inputs(kernel.reads, output, target, "softmax", progress=0.3)


@pytest.mark.parametrize(
    ("genome", "golden"),
    [(EVOLVED_1, 15.2945959561), (EVOLVED_2, 26916.3491647)],  # derived in ALGORITHMS §2
)
def test_golden_values(genome: tuple[float, ...], golden: float) -> None:
    assert Loss(Taylor(genome))(LOGITS, LABELS).item() == pytest.approx(golden, rel=1e-8)


def test_the_formula_of_the_paper() -> None:
    a, b, c, d, e, f, t0, p0 = EVOLVED_1  # stored order: [θ2, θ3, θ4, θ5, θ6, θ7, θ0, θ1], factorials absorbed
    x = some_inputs(Taylor(EVOLVED_1))
    t, p = x["t"] - t0, x["p"] - p0
    by_hand = a * p + b * p**2 + c * p**3 + d * t * p + e * t * p**2 + f * t**2 * p
    torch.testing.assert_close(Taylor(EVOLVED_1).value(x), -by_hand, rtol=1e-13, atol=0)


def test_genome_sizes() -> None:
    # derived in ALGORITHMS §2
    assert [genome_size(k, ("target", "prediction")) for k in range(1, 10)] == [3, 5, 8, 12, 17, 23, 30, 38, 47]
    assert [genome_size(k, ("residual",)) for k in range(1, 10)] == list(range(2, 11))
    assert [genome_size(k, ("target", "prediction", "logits")) for k in (2, 3)] == [10, 19]
    assert [genome_size(k, ("target", "prediction", "progress")) for k in (2, 3)] == [7, 13]


def test_genome_order_and_names() -> None:
    digits = ["".join(map(str, e)) for e in kept_terms(3, ("target", "prediction"))]
    assert digits == ["01", "02", "03", "11", "12", "21"]  # ALGORITHMS §2
    assert TaylorFamily().names == ("θ2", "θ3", "θ4", "θ5", "θ6", "θ7", "θ0", "θ1")
    assert TaylorFamily(losses=2).names[:2] == ("θ2[0]", "θ3[0]")
    assert len(TaylorFamily(losses=2).names) == TaylorFamily(losses=2).size == 16


@pytest.mark.parametrize(("order", "variables"), FAMILIES)
def test_fast_evaluation_is_the_plain_sum_of_terms(order: int, variables: tuple[str, ...]) -> None:
    genome = some_genome(order, variables)
    kernel = Taylor(genome, order, variables)
    x = some_inputs(kernel)
    symbols = {"target": "t", "prediction": "p", "logits": "z", "residual": "r", "progress": "tau"}
    total = torch.zeros(5, 4, dtype=torch.float64)
    like = [i for i, v in enumerate(variables) if v in ("prediction", "logits", "residual")]
    kept = [e for e in product(range(order + 1), repeat=len(variables)) if sum(e) <= order and any(e[i] for i in like)]
    for e, c in zip(kept, genome, strict=False):
        term = torch.full((5, 4), c, dtype=torch.float64)
        for name, centre, power in zip(variables, genome[len(kept) :], e, strict=True):
            term = term * (x[symbols[name]] - centre) ** power
        total -= term
    torch.testing.assert_close(kernel.value(x), total, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(("order", "variables"), FAMILIES)
def test_expression_is_the_same_loss(order: int, variables: tuple[str, ...]) -> None:
    kernel = Taylor(some_genome(order, variables), order, variables)
    x = some_inputs(kernel)
    torch.testing.assert_close(evaluate(kernel.expression(), x), kernel.value(x), rtol=1e-12, atol=1e-12)
    assert parse(to_text(kernel.expression())) == kernel.expression()


def test_expression_leaves_out_what_is_zero() -> None:
    assert str(Taylor((0.0, -1.0, 0.0, 2.0, 0.0, 0.0, 0.0, 0.5))) == "(p - 0.5)^2 - 2*t*(p - 0.5)"
    assert str(Taylor((0.0,) * 8)) == "0"


@pytest.mark.parametrize("variables", [("target", "prediction"), ("prediction", "target"), ("residual",), EVERYTHING])
@pytest.mark.parametrize("order", [1, 2, 3, 4, 5])
def test_every_kept_coefficient_moves_the_gradient_and_every_centre_from_order_two(
    order: int, variables: tuple[str, ...]
) -> None:
    # The trap of ALGORITHMS §2: in EvoMAL's port three parameters had no gradient.
    if len(variables) == 5 and order > 3:
        pytest.skip("the same code path, thousands of terms")
    kernel = Taylor(some_genome(order, variables), order, variables)
    x = {k: v.requires_grad_() if isinstance(v, Tensor) else v for k, v in some_inputs(kernel).items()}
    phi = torch.tensor(kernel.genome, dtype=torch.float64, requires_grad=True)
    like = [x[s] for s in ("p", "z", "r") if s in x]
    pulls = torch.autograd.grad(kernel.value(x, phi).sum(), like, create_graph=True)
    moved = torch.zeros_like(phi)
    for pull in pulls:
        for entry in pull.flatten():
            if entry.requires_grad:
                moved += torch.autograd.grad(entry, phi, retain_graph=True)[0].abs()
    coefficients = len(kernel.terms)
    assert (moved[:coefficients] > 1e-6).all()
    if order >= 2:
        assert (moved[coefficients:] > 1e-6).all()
    else:
        assert (moved[coefficients:] == 0).all()  # the gradient of a linear loss knows no centre


def test_phi_as_a_tensor_carries_gradients_and_batches() -> None:
    family = TaylorFamily()
    genomes = [some_genome(3, family.variables, f"genome {i}") for i in range(6)]
    x = some_inputs(Taylor(genomes[0]))
    phi = torch.tensor(genomes, dtype=torch.float64, requires_grad=True)
    together = Taylor(genomes[0]).value(x, phi)  # [P, N, C]
    assert together.shape == (6, 5, 4)
    for row, genome in zip(together, genomes, strict=True):
        torch.testing.assert_close(row, Taylor(genome).value(x), rtol=1e-13, atol=1e-13)
        torch.testing.assert_close(row, Taylor(genomes[0]).value(x, genome), rtol=1e-13, atol=1e-13)
    assert torch.autograd.gradcheck(lambda phi: Taylor(genomes[0]).value(x, phi).sum(0), (phi,))
    assert torch.autograd.gradcheck(lambda phi: Taylor(genomes[0]).value(x, phi), (phi[0].detach().requires_grad_(),))
    with pytest.raises(LossError, match="phi has 7 numbers"):
        Taylor(genomes[0]).value(x, phi[:, :7])


@settings(deadline=None)
@given(
    st.sampled_from(FAMILIES).flatmap(
        lambda family: st.tuples(
            st.just(family),
            st.lists(
                st.floats(-1e6, 1e6, allow_nan=False), min_size=genome_size(*family), max_size=genome_size(*family)
            ),
        )
    )
)
def test_documents_round_trip_exactly(case: tuple[tuple[int, tuple[str, ...]], list[float]]) -> None:
    (order, variables), genome = case
    kernel = Taylor(tuple(genome), order, variables)
    assert Taylor.from_document(kernel.document()) == kernel
    again = from_json(to_json(Loss(kernel)))
    assert isinstance(again, Loss)
    assert again.kernel == kernel


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (
            ((1.0,) * 7,),
            "genome has 7 numbers; order 3 in .target, prediction. takes 8: 6 coefficients, then 2 centres",
        ),
        (((1.0,) * 7 + (math.nan,),), r"genome\[7\] = nan"),
        ((("one",) * 8,), "a list of numbers"),
        (((1.0,) * 8, 0), "order = 0: the order is a whole number >= 1"),
        (((1.0,) * 8, True), "order = True"),
        (((1.0,) * 8, 3, ("target", "predictoin")), "distinct names out of target, prediction"),
        (((1.0,) * 8, 3, ("target", "target")), "distinct names"),
        (((1.0,) * 8, 3, "target"), "distinct names"),
        (((1.0,) * 8, 3, ("target", "progress")), "one of logits, prediction, residual is needed"),
    ],
)
def test_bad_losses_are_refused(arguments: tuple[object, ...], sentence: str) -> None:
    with pytest.raises(LossError, match=sentence):
        Taylor(*arguments)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"order": None}, "lacks the field 'order'"),
        ({"genome": "1,2,3"}, "genome = '1,2,3': a list was expected"),
        ({"genome": [1.0, "2"] + [0.0] * 6}, "a list of numbers"),
        ({"genome": [0.0] * 9}, "has 9 numbers"),
        ({"order": "3"}, "order = '3'"),
        ({"variables": [["target"]]}, "variables"),
    ],
)
def test_bad_documents_are_refused(change: dict[str, object], sentence: str) -> None:
    document = {**Taylor(EVOLVED_1).document(), **change}
    if change.get("order", 1) is None:
        del document["order"]
    with pytest.raises(LossError, match=sentence):
        Taylor.from_document(document)


def test_it_compiles_copies_and_pickles() -> None:
    loss, z = Loss(Taylor(EVOLVED_1)), LOGITS.clone().requires_grad_()
    compiled = torch.compile(loss, backend="eager", fullgraph=True)
    assert compiled(z, LABELS).item() == loss(z, LABELS).item()
    for twin in (copy.deepcopy(loss), pickle.loads(pickle.dumps(loss))):
        assert twin.kernel == loss.kernel
        assert hash(twin.kernel) == hash(loss.kernel)
        assert twin(z, LABELS).item() == loss(z, LABELS).item()


# --- families ---


@pytest.mark.parametrize(("order", "variables"), FAMILIES)
def test_decode_encode_and_paper_form_are_inverse(order: int, variables: tuple[str, ...]) -> None:
    family = TaylorFamily(order, variables, losses=2)
    genome = family.sample(rng.stream(0, "test"))
    assert family.encode(family.decode(genome)) == genome
    assert [k.genome for k in family.decode(genome)] == [genome[: family.size // 2], genome[family.size // 2 :]]
    assert family.from_paper_form(family.to_paper_form(genome)) == pytest.approx(genome, rel=1e-15)


def test_paper_form_divides_by_the_factorials_of_the_exponents() -> None:
    paper = TaylorFamily().to_paper_form((1.0,) * 8)
    assert paper == (1.0, 2.0, 6.0, 1.0, 2.0, 2.0, 1.0, 1.0)  # α! of 01 02 03 11 12 21, not |α|! (2 2 6 2 6 6)


def test_sample_is_normal_with_the_asked_spread() -> None:
    family = TaylorFamily()
    sample = np.array([family.sample(rng.stream(i, "test")) for i in range(4000)])
    assert abs(sample.std() - 1.2) < 0.02  # standard error of the spread of 32,000 normal numbers: 0.005
    assert family.sample(rng.stream(1, "test")) == family.sample(rng.stream(1, "test"))
    assert np.array(family.sample(rng.stream(1, "x"), sigma=3.0)) == pytest.approx(
        3 * np.array(family.sample(rng.stream(1, "x"), sigma=1.0))
    )


def test_expansion_of_cross_entropy() -> None:
    expanded = TaylorFamily().expand(Tree(parse("-t*log(p)")))
    # derived in ALGORITHMS §2: θ2 = 1, θ3 = −1, θ4 = 4/3, θ5 = 2, θ6 = −2, θ7 = 0, θ0 = θ1 = .5
    assert expanded.genome == pytest.approx((1, -1, 4 / 3, 2, -2, 0, 0.5, 0.5), rel=1e-14, abs=1e-14)


@pytest.mark.parametrize(
    "text", ["-t*log(p)", "(t - p)^2", "-t*log(p) + t/p", "-(1 - p)^2*(t*log(p))", "exp(-t*p) - p"]
)
def test_expansions_approach_their_loss(text: str) -> None:
    kernel = Tree(parse(text))
    p = torch.linspace(0.35, 0.65, 7, dtype=torch.float64)
    t = torch.tensor([[0.4], [0.5], [0.62]], dtype=torch.float64)
    x = compute_inputs(kernel.reads, p.log().expand(3, 7), t.expand(3, 7), torch.exp)
    at_centre = compute_inputs(kernel.reads, torch.full((3, 7), 0.5).double().log(), t.expand(3, 7), torch.exp)
    truth = kernel.value(x) - kernel.value(at_centre)  # what has no p in it is not kept
    errors = []
    for order in (2, 4, 6):
        taylor = TaylorFamily(order).expand(kernel)
        errors.append(float((taylor.value({"t": t, "p": p}) - truth).abs().max()))
    assert errors[2] < 1e-2 * float(truth.abs().max())
    assert errors[0] > 4 * errors[1] > 16 * errors[2] or max(errors) < 1e-12


def test_expansion_takes_a_loss_of_the_family_over_as_it_is() -> None:
    taylor = Taylor(EVOLVED_2)
    assert TaylorFamily().expand(taylor) is not taylor
    assert TaylorFamily().expand(taylor) == taylor
    x = some_inputs(taylor)
    torch.testing.assert_close(TaylorFamily(order=5).expand(taylor).value(x), taylor.value(x), rtol=1e-13, atol=0)
    wider = TaylorFamily(variables=("target", "prediction", "progress")).expand(Tree(parse("(t - p)^2")))
    x = some_inputs(wider)
    difference = wider.value(x) - (x["t"] - x["p"]) ** 2  # only a function of t is left out
    at_other_p = wider.value({**x, "p": x["p"] * 0.3}) - (x["t"] - x["p"] * 0.3) ** 2
    torch.testing.assert_close(difference, at_other_p)


@pytest.mark.parametrize("order", [2, 3, 4])
@pytest.mark.parametrize("alpha", [0.0, 0.1, 0.4])
def test_label_smoothing_of_a_taylor_loss_is_a_taylor_loss(order: int, alpha: float) -> None:
    family = TaylorFamily(order)
    genome = some_genome(order, family.variables)
    output = LOGITS.clone().requires_grad_()
    smoothed = Loss(Taylor(family.label_smoothing(genome, alpha, 3), order))
    (gradient,) = torch.autograd.grad(smoothed(output, LABELS), output)
    (expected,) = torch.autograd.grad(Loss(Taylor(genome, order), smoothing=alpha)(output, LABELS), output)
    torch.testing.assert_close(gradient, expected, rtol=1e-12, atol=1e-12)


def test_label_smoothing_at_order_three_is_the_published_conversion() -> None:
    alpha, n = 0.2, 10
    t2, t3, t4, t5, t6, t7, t0, t1 = EVOLVED_1
    expected = (
        t2,
        t3,
        t4,
        (1 - alpha) * t5,
        (1 - alpha) * t6,
        (1 - alpha) ** 2 * t7,
        (t0 - alpha / n) / (1 - alpha),
        t1,
    )
    assert TaylorFamily().label_smoothing(EVOLVED_1, alpha, n) == pytest.approx(expected, rel=1e-15)  # ALGORITHMS §3


def test_a_smoothed_loss_is_expanded_with_its_smoothing() -> None:
    family = TaylorFamily(order=3)
    square = Tree(parse("(t - p)^2"))
    output = LOGITS.clone().requires_grad_()
    (expected,) = torch.autograd.grad(Loss(square, smoothing=0.3)(output, LABELS), output)
    expanded = Loss(family.expand(Loss(square, smoothing=0.3), classes=3))
    (gradient,) = torch.autograd.grad(expanded(output, LABELS), output)
    torch.testing.assert_close(gradient, expected, rtol=1e-12, atol=1e-12)
    with pytest.raises(LossError, match="classes="):
        family.expand(Loss(square, smoothing=0.3))


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("abs(t - p)", "kink at t = p = 0.5"),
        ("0.001*abs(t - p)", "kink"),
        ("max(p - 0.5, 0)*t", "kink"),
        ("1 - m", "also reads m"),
        ("t*z", "also reads z"),
        ("-p_t*p", "reads p_t at outputs other than the target"),
        ("n*p", "number of classes"),
    ],
)
def test_what_cannot_be_expanded_says_why(text: str, sentence: str) -> None:
    with pytest.raises(LossError, match=sentence):
        TaylorFamily().expand(Tree(parse(text)))


def test_other_refusals_of_a_family() -> None:
    square = Tree(parse("(t - p)^2"))
    with pytest.raises(LossError, match="pairwise loss: only pointwise"):
        TaylorFamily().expand(Loss(Tree(parse("(t - z)^2")), aggregation=Pairwise()))
    with pytest.raises(LossError, match="target and prediction are needed"):
        TaylorFamily(variables=("residual",)).expand(square)
    with pytest.raises(LossError, match="residual"):
        TaylorFamily(variables=("residual",)).label_smoothing((0.0,) * 4, 0.1, 3)
    with pytest.raises(LossError, match="a number in"):
        TaylorFamily().label_smoothing((0.0,) * 8, 1.0, 3)
    with pytest.raises(LossError, match=r"genome has 9 numbers.* take 8"):
        TaylorFamily().decode((0.0,) * 9)
    with pytest.raises(LossError, match="no member of the family"):
        TaylorFamily(order=4).encode([Taylor(EVOLVED_1)])
    with pytest.raises(LossError, match="losses = 0"):
        TaylorFamily(losses=0)


def test_generalized_cross_entropy_is_expanded_through_p_t() -> None:
    through_p_t = TaylorFamily().expand(Tree(parse("t*(1 - p_t^0.7)/0.7")))
    through_p = TaylorFamily().expand(Tree(parse("t*(1 - p^0.7)/0.7")))
    assert through_p_t.genome == pytest.approx(through_p.genome, rel=1e-12, abs=1e-12)
    logs = [TaylorFamily().expand(Tree(parse(text))).genome for text in ("-t*log(p_t)", "-t*log(p)")]
    assert logs[0] == pytest.approx(logs[1], rel=1e-12, abs=1e-12)
    with pytest.raises(LossError, match="reads p_t at outputs other than the target"):
        TaylorFamily().expand(Tree(parse("-log(p_t)")))
