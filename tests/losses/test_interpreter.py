"""The interpreter against torch: values and slopes of random trees, every primitive at its edges, derivatives by φ."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numba
import numpy as np
import pytest
import torch
from random_losses import random_trees
from torch import Tensor

from lossmith.errors import LossError
from lossmith.losses import Taylor, Tree
from lossmith.losses import interpreter_kernel as machine
from lossmith.losses.expression import Apply, Symbol
from lossmith.losses.family import Kernel
from lossmith.losses.inputs import INPUTS, LOWERED, compute_inputs
from lossmith.losses.interpreter import Population, supported
from lossmith.losses.lowering import Program
from lossmith.losses.parser import parse
from lossmith.losses.primitive_sets import EVOMAL, GLO, PrimitiveSet
from lossmith.losses.primitives import PRIMITIVES, Primitive
from lossmith.losses.taylor import genome_size

Named = dict[str, Tensor]


def tree(text: str) -> Tree:
    return Tree(parse(text, symbols=(*INPUTS, *LOWERED)))


def arrays(names: Sequence[str], x: Named) -> np.ndarray:
    rows = [x[name].reshape(-1).numpy() for name in names]
    return (
        np.stack(rows) if rows else np.empty((0, next(iter(x.values())).numel()), next(iter(x.values())).numpy().dtype)
    )


def interpreted(kernel: Tree, x: Named, dx: Named) -> tuple[Tensor, Tensor]:
    population = Population.of((kernel,))
    moving = population.reads[: population.moving]
    values, slopes = population.values_and_slopes(arrays(population.reads, x), arrays(moving, dx), (4.0, 0.3))
    return torch.from_numpy(values[0]), torch.from_numpy(slopes[0])


def by_torch(program: Program, x: Named, dx: Named) -> tuple[list[Tensor], list[Tensor]]:
    """Values of all leaves and steps of a program, and their slopes by torch's own forward mode."""
    names = list(x)
    shape, dtype = next(iter(x.values())).shape, next(iter(x.values())).dtype

    def run(*tensors: Tensor) -> tuple[Tensor, ...]:
        given = {**dict(zip(names, tensors, strict=True)), "n": 4.0, "tau": 0.3}
        values = [given[leaf] if isinstance(leaf, str) else leaf for leaf in program.leaves]
        for op, places in program.steps:
            values.append(PRIMITIVES[op].function(*(values[place] for place in places)))
        return tuple(v.expand(shape) if isinstance(v, Tensor) else torch.full(shape, v, dtype=dtype) for v in values)

    values, slopes = torch.func.jvp(run, tuple(x.values()), tuple(dx.values()))
    return list(values), list(slopes)


def near_a_kink(program: Program, values: Sequence[Tensor]) -> Tensor:
    """Where a step works within 1e-6 of a place at which its primitive has a kink or jump."""
    near = torch.zeros(values[0].shape, dtype=torch.bool)
    for op, places in program.steps:
        a, b = values[places[0]], values[places[-1]]
        if op in ("abs", "sign"):
            near |= a.abs() < 1e-6
        elif op in ("log", "protected_log", "sqrt", "div"):
            near |= (b.abs() - 1e-7).abs() < 1e-6
        elif op in ("min", "max"):
            near |= (a - b).abs() < 1e-6
    return near


@pytest.mark.filterwarnings(
    "ignore:.torch.jit.script. is deprecated:DeprecationWarning"
)  # torch's forward mode says it
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=["float32", "float64"])
@pytest.mark.parametrize("primitives", [EVOMAL, GLO], ids=["evomal", "glo"])
def test_random_trees_agree_with_torch(primitives: PrimitiveSet, dtype: torch.dtype) -> None:
    """On 2,000 trees, relative to max(|value|, largest intermediate, 1).

    Left out are points that disagree within 1e-6 of a kink, and in float32 those where torch itself is further than
    1e-6 from its own answer in float64: a logarithm of a logarithm near 1 makes anything of the last bit.
    """
    tolerance = 1e-5 if dtype == torch.float32 else 1e-10
    generator = torch.Generator().manual_seed(0)
    points = left_out = 0
    for number, kernel in enumerate(random_trees(primitives, 500, seed=1)):
        z = 2 * torch.randn(8, 4, generator=generator, dtype=dtype)
        t = torch.eye(4, dtype=dtype)[torch.randint(0, 4, (8,), generator=generator)]
        t = 0.9 * t + 0.025 if number % 2 else t
        x = compute_inputs(frozenset({"p", "t", "log_p", "log_1mp", "inv_p"}), z, t)
        x = {name: value.reshape(-1) for name, value in sorted(x.items())}
        dx = {name: torch.randn(32, generator=generator, dtype=dtype) for name in x}
        dx["t"] = torch.zeros_like(dx["t"])
        value, slope = interpreted(kernel, x, dx)
        values, slopes = by_torch(kernel.program, x, dx)
        assert torch.equal(value.isfinite(), values[-1].isfinite()), str(kernel)
        steps = torch.stack([*values, *slopes])
        scale = steps.abs().amax(0).clamp(min=1)
        error = torch.maximum((value - values[-1]).abs(), (slope - slopes[-1]).abs()) / scale
        wrong = ~(error <= tolerance) & steps.isfinite().all(0)
        excused = wrong & near_a_kink(kernel.program, values)
        if dtype == torch.float32 and (wrong & ~excused).any():
            precise = [
                side[-1] for side in by_torch(kernel.program, *({k: v.double() for k, v in d.items()} for d in (x, dx)))
            ]
            own = torch.maximum((precise[0] - values[-1]).abs(), (precise[1] - slopes[-1]).abs()) / scale
            excused |= wrong & (own > 1e-6)
        assert not (wrong & ~excused).any(), f"{kernel} at {x['p'][wrong]}: {error[wrong]}"
        points, left_out = points + 32, left_out + int(excused.sum())
    print(f"{primitives.name}, {dtype}: {left_out} of {points} points left out")
    assert left_out <= 0.001 * points


EDGES = (0.0, -0.0, 1e-7, -1e-7, 0.99e-7, -0.99e-7, 1.01e-7, 1.0, -1.0, 0.5, -0.5, 2.0, -3.0, 1e3, math.inf, math.nan)
AT_EDGES = (
    "protected_log(p)", "sqrt(p)", "abs(p)", "sign(p)", "square(p)", "tanh(p)", "exp(p)", "-p",
    "r/(p + 0)", "p/(r - 1)", "min(p, r)", "max(p, r)", "min(p, 1)", "max(-1, p)", "min(p, p)",
    "max(t, p)", "min(p, t)", "aq(p, r)", "aq(r, p)", "aq(1, p)", "p*r", "p + r", "r - p", "t*p", "p - t", "t - p",
    "(p + 0)^0", "(p + 0)^1", "(p + 0)^2", "(p + 0)^3", "(p + 0)^5", "(p + 0)^-1", "(p + 0)^-2", "(p + 0)^-7",
    "(p + 0)^0.5", "(p + 0)^-1.5", "(p + 0)^r", "(p + 0)^t", "t^p", "2^p",
    "(p + 0)^n", "(p + 0)^(n - 5)", "(p + 0)^tau",
)  # fmt: skip


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=["float32", "float64"])
@pytest.mark.parametrize("text", AT_EDGES)
def test_every_primitive_has_torchs_values_and_slopes_at_its_edges(text: str, dtype: torch.dtype) -> None:
    # clamps and ties included: both roads go through the same float32 or float64 numbers, on the edge itself, too
    pairs = torch.cartesian_prod(torch.tensor(EDGES, dtype=dtype), torch.tensor(EDGES, dtype=dtype))
    x = {"p": pairs[:, 0].clone(), "r": pairs[:, 1].clone(), "t": pairs[:, 1].clone()}
    kernel = tree(text)
    given: dict[str, Tensor | float] = {"n": 4.0, "tau": 0.3, "t": x["t"]}
    given |= {name: x[name].clone().requires_grad_() for name in ("p", "r")}
    expected = kernel.value(given)
    moving = [given[name] for name in ("p", "r") if name in kernel.reads]
    gradients = torch.autograd.grad(expected.sum(), moving) if expected.requires_grad else []
    close = {"rtol": 4e-6 if dtype == torch.float32 else 1e-13, "atol": 0.0, "equal_nan": True}
    for name, gradient in zip((n for n in ("p", "r") if n in kernel.reads), gradients, strict=True):
        dx = {other: torch.full_like(pairs[:, 0], float(other == name)) for other in ("p", "r", "t")}
        value, slope = interpreted(kernel, x, dx)
        torch.testing.assert_close(value, expected.detach(), **close)
        finite = pairs.isfinite().all(1) & value.isfinite()  # forward and backward mode meet other products of 0 and ∞
        torch.testing.assert_close(slope[finite], gradient[finite], **close)


def test_ties_share_and_kinks_are_flat() -> None:
    # by hand: the subgradients that autograd chooses
    at = {"p": torch.tensor([0.5, 0.0]), "r": torch.tensor([0.5, -0.0])}
    slopes = {"p": torch.tensor([1.0, 1.0]), "r": torch.tensor([3.0, 3.0])}
    for op in ("min", "max"):
        assert interpreted(tree(f"{op}(p, r)"), at, slopes)[1].tolist() == [2.0, 2.0]
        assert interpreted(tree(f"{op}(p, 0.5)"), at, slopes)[1][0] == 0.5
    for text in ("abs(p)", "sign(p)", "protected_log(p)", "sqrt(p)", "1/(p + 0)"):
        assert interpreted(tree(text), at, slopes)[1][1] == 0
    edge = {"p": torch.tensor([1e-7, -1e-7], dtype=torch.float64)}
    one = {"p": torch.ones(2, dtype=torch.float64)}
    assert interpreted(tree("protected_log(p)"), edge, one)[1].tolist() == [1 / 1e-7, -1 / 1e-7]


def test_tanh_is_accurate_in_float32() -> None:
    x = torch.cat([torch.linspace(-12, 12, 20001), torch.logspace(-30, 1, 2000), torch.tensor([0.25, -0.25, 1e4])])
    value, _ = interpreted(tree("tanh(p)"), {"p": x}, {"p": torch.ones_like(x)})
    exact = torch.tanh(x.double())
    assert ((value - exact).abs() <= 4e-7 * exact.abs()).all()
    extreme = torch.tensor([math.nan, math.inf, -math.inf, 0.0])
    value, _ = interpreted(tree("tanh(p)"), {"p": extreme}, {"p": torch.ones(4)})
    assert value[1:].tolist() == [1.0, -1.0, 0.0]
    assert value[0].isnan()


def units_off(found: Tensor, exact: Tensor) -> Tensor:
    """The distance in units in the last place of float32."""
    unit = torch.from_numpy(np.spacing(exact.abs().float().numpy())).double()
    return (found.double() - exact).abs() / unit


def test_exp_and_log_are_accurate_in_float32() -> None:
    x = torch.cat(
        [torch.linspace(-87.3, 88.7, 100001), torch.logspace(-30, 1.9, 5000), -torch.logspace(-30, 1.9, 5000)]
    )
    value, slope = interpreted(tree("exp(p)"), {"p": x}, {"p": torch.ones_like(x)})
    assert units_off(value, x.double().exp()).max() < 1.2
    assert torch.equal(value, slope)
    x = torch.cat([torch.logspace(-6.9, 38, 50001), torch.linspace(0.5, 2, 50001)])
    value, _ = interpreted(tree("protected_log(p)"), {"p": x}, {"p": torch.ones_like(x)})
    assert units_off(value, x.double().log()).max() < 1.0
    x = torch.tensor([0.0, -0.0, math.inf, -math.inf, math.nan, 88.8, 1e30, -1e30, -104.5, -95.0, -103.5])
    value, _ = interpreted(tree("exp(p)"), {"p": x}, {"p": torch.ones_like(x)})
    torch.testing.assert_close(value, x.double().exp().float(), rtol=1e-6, atol=1.5e-45, equal_nan=True)
    x = torch.tensor([1.0, math.inf, math.nan, 3.4e38])
    value, _ = interpreted(tree("protected_log(p)"), {"p": x}, {"p": torch.ones_like(x)})
    torch.testing.assert_close(value, x.log(), rtol=1e-6, atol=0, equal_nan=True)


KERNELS = (*random_trees(EVOMAL, 12, seed=5), tree("n*tau - 1"), tree("t"), tree("exp(n)*p^tau"))


def rows(elements: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Inputs and tangents of `KERNELS` for each its own, and which rows they are."""
    generator = np.random.default_rng(seed)
    population = Population.of(KERNELS)
    assert population.reads == ("p", "t")
    x = generator.uniform(-1, 1, (len(KERNELS), 2, elements)).astype(np.float32)
    return x, generator.normal(size=(len(KERNELS), 1, elements)).astype(np.float32)


@pytest.mark.parametrize("elements", [0, 1, machine.BLOCK - 1, machine.BLOCK, machine.BLOCK + 1, 3 * machine.BLOCK + 7])
def test_a_population_is_its_members_and_an_element_is_itself(elements: int) -> None:
    x, dx = rows(elements)
    values, slopes = Population.of(KERNELS).values_and_slopes(x, dx, (3.0, 0.5))
    assert values.shape == slopes.shape == (len(KERNELS), elements)
    np.testing.assert_array_equal(Population.of(KERNELS).values(x, (3.0, 0.5)), values)
    for place, kernel in enumerate(KERNELS):
        alone = Population.of((kernel,))
        which = [("p", "t").index(name) for name in alone.reads]
        own = x[place][which]
        value, slope = alone.values_and_slopes(own, dx[place][: alone.moving], (3.0, 0.5))
        np.testing.assert_array_equal(value[0], values[place])
        np.testing.assert_array_equal(slope[0], slopes[place])
        for element in range(0, elements, 97):
            one = alone.values(own[:, element : element + 1], (3.0, 0.5))
            # vector and scalar code may round a product-sum differently, nothing else
            np.testing.assert_allclose(one[0], values[place, element : element + 1], rtol=1e-6)
    shared, _ = Population.of(KERNELS).values_and_slopes(x[:1], dx[:1], (3.0, 0.5))
    repeated, _ = Population.of(KERNELS).values_and_slopes(x[:1].repeat(len(KERNELS), 0), dx, (3.0, 0.5))
    np.testing.assert_array_equal(shared, repeated)


def test_what_is_not_a_number_stays_with_its_candidate_and_element() -> None:
    x, dx = rows(400)
    before = Population.of(KERNELS).values_and_slopes(x, dx, (3.0, 0.5))
    x[4] = np.nan
    x[5, :, 30] = np.inf
    after = Population.of(KERNELS).values_and_slopes(x, dx, (3.0, 0.5))
    for one, other in zip(before, after, strict=True):
        others = np.ones(one.shape, bool)
        others[4], others[5, 30] = False, False
        np.testing.assert_array_equal(one[others], other[others])
    value, _ = Population.of((tree("p*t"),)).values_and_slopes(np.array([[np.nan], [0.0]]), np.ones((1, 1)))
    assert np.isnan(value).all()


def test_an_empty_population() -> None:
    nobody = Population.of(())
    assert nobody.values(np.empty((0, 5))).shape == (0, 5)
    assert nobody.mixed(np.empty((0, 5)), np.empty((0, 5)), np.ones(5)) == []


def by_autograd_twice(kernel: Kernel, x: Named, dx: Named, weight: Tensor) -> Tensor:
    """∂/∂φ Σ_m weight_m · slope_m."""
    free = {name: value.clone().requires_grad_() for name, value in x.items()}
    phi = torch.tensor(kernel.phi, dtype=torch.float64, requires_grad=True)
    value = kernel.value({**free, "n": 4.0, "tau": 0.3}, phi).expand(weight.shape)
    gradients = torch.autograd.grad(value.sum(), list(free.values()), create_graph=True, allow_unused=True)
    slope = sum(
        (g * dx[name] for name, g in zip(free, gradients, strict=True) if g is not None and name in dx), weight * 0
    )
    contracted = (slope * weight).sum()
    if not contracted.requires_grad:
        return torch.zeros_like(phi)
    (found,) = torch.autograd.grad(contracted, phi, allow_unused=True)
    return torch.zeros_like(phi) if found is None else found


def mixed(kernel: Kernel, x: Named, dx: Named, weight: Tensor) -> Tensor:
    population = Population.of((kernel,), tunable=True)
    moving = population.reads[: population.moving]
    (gradient,) = population.mixed(arrays(population.reads, x), arrays(moving, dx), weight.numpy(), (4.0, 0.3))
    return torch.from_numpy(gradient)


MIXED = (
    "-t*log(p)", "t/p - log(1 - p)", "p^2 + r^0.5", "(r + 2)^t", "tanh(p)*aq(r, t) + aq(t, p)", "exp(r)/(p + 2)",
    "max(p, r) - min(p*2, r)", "sqrt(p)*abs(r)*sign(p)", "-square(protected_log(p*r))", "n*p^tau", "t*(1 - 2)",
)  # fmt: skip


def some_inputs(elements: int) -> tuple[Named, Named]:
    generator = torch.Generator().manual_seed(2)
    z = torch.randn(elements, 4, generator=generator, dtype=torch.float64)
    target = torch.eye(4, dtype=torch.float64)[torch.arange(elements) % 4]
    x = compute_inputs(frozenset({"p", "t", "r", "log_p", "log_1mp", "inv_p"}), z, target)
    flat = {name: value.reshape(-1) for name, value in x.items()}
    return flat, {
        name: torch.randn(4 * elements, generator=generator, dtype=torch.float64) for name in flat if name != "t"
    }


@pytest.mark.parametrize("text", MIXED)
def test_derivatives_by_phi_element_by_element(text: str) -> None:
    kernel = tree(text)
    kernel = kernel.with_phi(np.random.default_rng(3).normal(1, 0.2, kernel.root.size - 1).tolist())
    x, dx = some_inputs(3)
    for unit in torch.eye(12, dtype=torch.float64):
        found, expected = mixed(kernel, x, dx, unit), by_autograd_twice(kernel, x, dx, unit)
        torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-12)


def test_derivatives_by_phi_of_random_trees_and_by_finite_differences() -> None:
    x, dx = some_inputs(70)  # 280 elements: more than a block, so that uniform parts gather over blocks
    weight = torch.randn(280, generator=torch.Generator().manual_seed(4), dtype=torch.float64)
    moved = compared = 0
    for kernel in random_trees(EVOMAL, 300, seed=8, height=4, weighted=True):
        found, expected = mixed(kernel, x, dx, weight), by_autograd_twice(kernel, x, dx, weight)
        scale = max(1.0, float(expected.abs().max()))
        assert (found - expected).abs().max() <= 1e-10 * scale, str(kernel)
        moved += int((found != 0).any())
        population = Population.of((kernel,), tunable=True)
        args = arrays(population.reads, x), arrays(population.reads[: population.moving], dx), (4.0, 0.3)
        k = int(found.abs().argmax())

        def contracted(step: float, k: int = k, kernel: Tree = kernel) -> float:
            phi = np.array(kernel.phi)
            phi[k] += step
            return float(population.values_and_slopes(*args, phi=phi)[1][0] @ weight.numpy())  # noqa: B023

        differences = [(contracted(h) - contracted(-h)) / (2 * h) for h in (1e-5, 1e-6)]
        if abs(differences[0] - differences[1]) < 1e-6 * scale:  # no kink is crossed
            compared += 1
            assert abs(differences[0] - float(found[k])) < 1e-5 * scale
    assert moved > 200
    assert compared > 200


def test_parameters_given_are_the_parameters_used() -> None:
    x, dx = rows(40)
    roots = [kernel for kernel in KERNELS if kernel.root.size > 1]
    generator = np.random.default_rng(0)
    tuned = [kernel.with_phi(generator.normal(1, 0.1, kernel.root.size - 1).tolist()) for kernel in roots]
    plain = [kernel.with_phi([1.0] * (kernel.root.size - 1)) for kernel in roots]
    phi = np.concatenate([kernel.phi for kernel in tuned])
    x, dx = x[: len(roots)].astype(np.float64), dx[: len(roots)].astype(np.float64)
    expected = Population.of(tuned).values_and_slopes(x, dx, (3.0, 0.5))
    given = Population.of(plain, tunable=True).values_and_slopes(x, dx, (3.0, 0.5), phi=phi)
    for one, other in zip(given, expected, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-9, atol=1e-12)
    with pytest.raises(LossError, match="these losses have"):
        Population.of(plain, tunable=True).values(x, phi=phi[1:])


def test_what_only_torch_can_compute(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(PRIMITIVES, "cube", Primitive("cube", 1, lambda a: a * a * a, "{0}^3", "{0}**3"))
    cube = Tree(Apply("cube", (Symbol("p"),)))
    for kernel in (cube, tree("p_t*p"), tree("m*t")):
        assert not supported(kernel)
        with pytest.raises(LossError, match="autograd only"):
            Population.of((kernel,))


@pytest.mark.parametrize(
    ("order", "variables"),
    [
        (3, ("target", "prediction")),
        (1, ("residual",)),
        (4, ("residual", "target")),
        (2, ("target", "prediction", "progress")),
    ],
)
def test_taylor_losses_with_their_genome_as_parameters(order: int, variables: tuple[str, ...]) -> None:
    size = genome_size(order, variables)
    kernel = Taylor(tuple(np.random.default_rng(5).normal(0, 1, size).tolist()), order, variables)
    assert supported(kernel)
    assert supported(kernel, tunable=True)
    x, dx = some_inputs(30)
    weight = torch.randn(120, generator=torch.Generator().manual_seed(6), dtype=torch.float64)
    found, expected = mixed(kernel, x, dx, weight), by_autograd_twice(kernel, x, dx, weight)
    assert expected.abs().max() > 1e-3
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-10 * float(expected.abs().max()))
    population = Population.of((kernel,), tunable=True)
    args = arrays(population.reads, x), arrays(population.reads[: population.moving], dx), (4.0, 0.3)
    fixed = Population.of((kernel,)).values_and_slopes(*args)
    for one, other in zip(population.values_and_slopes(*args, phi=np.array(kernel.phi)), fixed, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-11, atol=1e-11)


def test_arrays_that_do_not_fit() -> None:
    population = Population.of((tree("p*t"), tree("t - p")))
    x, dx = np.ones((2, 5)), np.ones((1, 5))
    for wrong_x, wrong_dx in (
        (x[:1], dx),
        (x, x),
        (x, dx[:, :4]),
        (np.ones((3, 2, 5)), dx),
        (x, dx.astype(np.float32)),
    ):
        with pytest.raises(LossError, match="the interpreter got an array"):
            population.values_and_slopes(wrong_x, wrong_dx)
    with pytest.raises(LossError, match="the interpreter got an array"):
        population.mixed(x, dx, np.ones(4))


def test_it_compiles_without_a_folder_for_the_cache(monkeypatch: pytest.MonkeyPatch) -> None:
    njit = numba.njit

    def nowhere(function: object, *, cache: bool = False, **options: object) -> object:
        if cache:
            raise RuntimeError("cannot cache function: no locator available")
        return njit(function, **options)

    monkeypatch.setattr(machine.numba, "njit", nowhere)
    assert machine.compiled(lambda x: x + 1)(1) == 2
