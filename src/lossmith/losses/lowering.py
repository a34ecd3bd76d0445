"""From an expression to numbers: lower it to inputs that cannot overflow, then run it.

`log(p)` computed from the prediction is wrong as soon as p rounds to 0 or 1; computed from the output it is exact
(ALGORITHMS §0, numerics). `lower` finds the places where an expression takes a logarithm, a broken power or the
reciprocal of p, 1 − p or p_t and puts the exact input there. EvoMAL's `protected_log` keeps its clamp, its definition.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import reduce

from lossmith.losses.expression import Apply, Node, Number, Symbol, fold, replace_args
from lossmith.losses.inputs import Inputs
from lossmith.losses.primitives import PRIMITIVES, Operand

_P, _LOG_P, _LOG_1MP, _INV_P = Symbol("p"), Symbol("log_p"), Symbol("log_1mp"), Symbol("inv_p")
_P_T, _LOG_P_T = Symbol("p_t"), Symbol("log_p_t")
_ONE = Number(1.0)
_POSITIVE = {"n", "prior"}  # inputs that are never zero or negative, so their logarithms may be split off a product


def lower(root: Node, *, parameters: frozenset[str] = frozenset()) -> Node:
    """The same loss with exact inputs, and with parts that hold only numbers computed.

    log(p) → log_p, log(1 − p) → log_1mp, log(p_t) → log_p_t, and so for products, quotients and powers of these with
    numbers, n and prior; a/p → a·inv_p and a/(c·p) → (a/c)·inv_p; p^c → exp(c·log_p) for broken c > 0, and so for
    1 − p and p_t.

    Args:
        root: the expression.
        parameters: symbols that stand for single numbers (weights of a tree): factors of them are split off as numbers
            are, log(w·p) → log(w) + log_p with the clamped logarithm of |w|.
    """
    return fold(root, lambda node, args: _lower_node(node, args, parameters))


def _lower_node(node: Node, args: tuple[Node, ...], parameters: frozenset[str] = frozenset()) -> Node:
    if not isinstance(node, Apply):
        return node
    exact: Node | None = None
    if node.op == "log":
        exact = _exact_log(node.args[0], parameters)
    elif node.op == "div":
        exact = _exact_quotient(args[0], node.args[1])
    elif node.op == "pow":
        exact = _exact_power(*node.args)
    return _computed(replace_args(node, args)) if exact is None else exact


def _computed(node: Node) -> Node:
    """A node whose arguments are all numbers, as a number; others, and what would not be finite, unchanged."""
    if isinstance(node, Apply) and all(isinstance(arg, Number) for arg in node.args):
        value = PRIMITIVES[node.op].function(*(arg.value for arg in node.args if isinstance(arg, Number)))
        if isinstance(value, float) and math.isfinite(value):
            return Number(value)
    return node


def _is_complement(node: Node) -> bool:
    """Whether a node is 1 − p."""
    minus_p = Apply("neg", (_P,))
    return node in (Apply("sub", (_ONE, _P)), Apply("add", (_ONE, minus_p)), Apply("add", (minus_p, _ONE)))


def _exact_log(argument: Node, parameters: frozenset[str]) -> Node | None:
    """log|argument| as a sum of exact logarithms, or None where a factor has none or none is of the prediction."""
    powers: dict[Node, float] = {}
    constant = 0.0
    factors: list[tuple[Node, float]] = [(argument, 1.0)]
    while factors:
        node, k = factors.pop()
        if not math.isfinite(k):
            return None
        if isinstance(node, Number):
            if node.value == 0:
                return None
            constant += k * math.log(abs(node.value))
        elif node in (_P, _INV_P):
            powers[_LOG_P] = powers.get(_LOG_P, 0.0) + (k if node == _P else -k)
        elif node == _P_T:
            powers[_LOG_P_T] = powers.get(_LOG_P_T, 0.0) + k
        elif _is_complement(node):
            powers[_LOG_1MP] = powers.get(_LOG_1MP, 0.0) + k
        elif isinstance(node, Symbol) and (node.name in _POSITIVE or node.name in parameters):
            own = Apply("log", (node,))
            powers[own] = powers.get(own, 0.0) + k
        elif isinstance(node, Apply) and node.op in ("mul", "div"):
            factors += [(node.args[1], k if node.op == "mul" else -k), (node.args[0], k)]
        elif isinstance(node, Apply) and node.op in ("neg", "abs"):
            factors.append((node.args[0], k))
        elif isinstance(node, Apply) and node.op in ("square", "sqrt"):
            factors.append((node.args[0], 2 * k if node.op == "square" else k / 2))
        elif isinstance(node, Apply) and node.op == "pow" and isinstance(node.args[1], Number):
            factors.append((node.args[0], k * node.args[1].value))
        else:
            return None
    if not powers.keys() & {_LOG_P, _LOG_1MP, _LOG_P_T} or not all(map(math.isfinite, (constant, *powers.values()))):
        return None
    terms = [term if k == 1 else Apply("mul", (Number(k), term)) for term, k in powers.items() if k != 0]
    if constant or not terms:
        terms = [Number(constant), *terms]
    return reduce(lambda a, b: Apply("add", (a, b)), terms)


def _exact_quotient(numerator: Node, denominator: Node) -> Node | None:
    """numerator / denominator where p is a factor of the denominator exactly once; the numerator is already lowered."""
    rest: list[Node] = []
    found = 0
    factors: list[Node] = [denominator]
    while factors:
        node = factors.pop()
        if node == _P:
            found += 1
        elif isinstance(node, Apply) and node.op == "mul":
            factors += [node.args[1], node.args[0]]
        elif isinstance(node, Apply) and node.op == "neg":
            rest.append(Number(-1.0))
            factors.append(node.args[0])
        else:
            rest.append(node)
    if found != 1:  # 1/p² as a product of two reciprocals would overflow, and 0·∞ is no number
        return None
    if rest:
        divisor = fold(reduce(lambda a, b: Apply("mul", (a, b)), rest), _lower_node)
        numerator = _computed(Apply("div", (numerator, divisor)))
    return _INV_P if numerator == _ONE else Apply("mul", (numerator, _INV_P))


def divides_exactly(divisor: Node) -> bool:
    """Whether `lower` takes a quotient by this divisor for one by the prediction itself."""
    return _exact_quotient(_ONE, divisor) is not None


def raises_exactly(base: Node, exponent: float) -> bool:
    """Whether `lower` takes this power for one of the prediction itself."""
    return _exact_power(base, Number(exponent)) is not None


def takes_log_exactly(argument: Node) -> bool:
    """Whether `lower` takes the logarithm of this argument from the output."""
    return _exact_log(argument, frozenset()) is not None


def _exact_power(base: Node, exponent: Node) -> Node | None:
    if not isinstance(exponent, Number):
        return None
    if base == _P and exponent.value == -1:
        return _INV_P
    if exponent.value < 0 or exponent.value.is_integer():
        return None
    logarithm = next((log for of, log in ((_P, _LOG_P), (_P_T, _LOG_P_T)) if base == of), None)
    if _is_complement(base):
        logarithm = _LOG_1MP
    return None if logarithm is None else Apply("exp", (Apply("mul", (exponent, logarithm)),))


@dataclass(frozen=True)
class Program:
    """An expression as straight-line code: leaves (numbers, input names), then steps (primitive, argument places).

    Equal subtrees are computed once. Holds names only, so it pickles; `torch.compile` traces `run` without a break.
    """

    leaves: tuple[float | str, ...]
    steps: tuple[tuple[str, tuple[int, ...]], ...]

    @classmethod
    def of(cls, root: Node) -> Program:
        leaves: list[float | str] = []
        steps: list[tuple[Node, tuple[Node, ...]]] = []
        places: dict[Node, int] = {}

        def visit(node: Node, args: tuple[Node, ...]) -> Node:
            if isinstance(node, Apply):
                steps.append((node, args))
            else:
                places[node] = len(leaves)
                leaves.append(node.value if isinstance(node, Number) else node.name)
            return node

        fold(root, visit)
        for place, (node, _) in enumerate(steps, start=len(leaves)):
            places[node] = place
        code = ((node.op, tuple(places[a] for a in args)) for node, args in steps if isinstance(node, Apply))
        return cls(tuple(leaves), tuple(code))

    def run(self, x: Inputs) -> Operand:
        """The expression's value; KeyError names an input that is missing from `x`."""
        values: list[Operand] = [x[leaf] if isinstance(leaf, str) else leaf for leaf in self.leaves]
        for op, places in self.steps:
            values.append(PRIMITIVES[op].function(*[values[place] for place in places]))
        return values[-1]


def evaluate(root: Node, x: Inputs) -> Operand:
    """The value of an expression as it stands (lower it first where it takes logarithms of the prediction).

    Args:
        root: the expression.
        x: a tensor or float for each symbol; tensors must be broadcastable to one another.
    """
    return Program.of(root).run(x)
