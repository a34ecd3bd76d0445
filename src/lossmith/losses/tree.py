"""The tree family: any expression of the loss language as a kernel, plain or with a weight on every edge."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch
from torch import Tensor

from lossmith.errors import LossError
from lossmith.losses.codec import register
from lossmith.losses.expression import Apply, Node, Number, Symbol, replace_args, substitute, symbols, walk
from lossmith.losses.family import Kernel, Setting
from lossmith.losses.inputs import INPUTS, LOWERED, Inputs
from lossmith.losses.keys import algebraic_key
from lossmith.losses.lowering import Program, lower
from lossmith.losses.parser import parse
from lossmith.losses.primitives import Operand
from lossmith.losses.printer import to_text


@register
@dataclass(frozen=True)
class Tree(Kernel):
    """An elementwise loss, **to be minimised**, given by its expression tree.

    With weights it is the tree after EvoMAL's transition (ALGORITHMS §4): the edge from every node to its parent
    carries a number, value(node) = op(w·v(child), …), and these numbers are φ. log(w·p) is computed as log|w| + log p,
    so the logarithm of the prediction stays exact.

    Args:
        root: the expression; its symbols are inputs of `losses.inputs`.
        weights: none, or one per node but the root: the node at place i of `walk` has `weights[i - 1]`.

    Attributes:
        program: what `value` runs, with the symbols w0, w1, … for the weights.

    Raises:
        LossError: a symbol is no input of a loss; another number of weights; a weight that is not finite.

    Example:
        >>> from lossmith.losses.parser import parse
        >>> print(Tree(parse("-t*log(p)")))
        -t*log(p)
        >>> print(Tree(parse("t*log(p)"), weights=(-1.5, 1.0, 2.0)))
        -1.5*t*log(2*p)
    """

    family: ClassVar[str] = "tree"
    root: Node
    weights: tuple[float, ...] = ()
    program: Program = field(init=False, repr=False, compare=False)
    _reads: frozenset[str] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        unknown = symbols(self.root) - INPUTS.keys() - LOWERED.keys()
        if unknown:
            raise LossError(
                f"{', '.join(sorted(unknown))} in {to_text(self.root)} is no input of a loss: use {', '.join(INPUTS)}, "
                f"and give numbers for everything else."
            )
        weights = _checked(self.weights, self.root.size - 1)
        object.__setattr__(self, "weights", weights)
        names = weight_names(len(weights))
        weighted = with_weights(self.root, [Symbol(name) for name in names]) if names else self.root
        program = Program.of(lower(weighted, parameters=frozenset(names)))
        object.__setattr__(self, "program", program)
        leaves = {leaf for leaf in program.leaves if isinstance(leaf, str)}
        object.__setattr__(self, "_reads", frozenset(leaves.difference(names)))

    @property
    def reads(self) -> frozenset[str]:
        return self._reads

    @property
    def phi(self) -> tuple[float, ...]:
        return self.weights

    def value(self, x: Inputs, phi: Sequence[float] | Tensor | None = None) -> Tensor:
        """ℓ elementwise.

        Args:
            x: the inputs named by `reads`.
            phi: used instead of the weights: K numbers, a tensor [K], or a batch [P, K] for inputs [N, C].

        Returns:
            Broadcastable to [N, C] or [P, N, C].

        Raises:
            LossError: phi holds another number of weights than the tree.
        """
        if self.weights or phi is not None:
            x = {**x, **self._named(self.weights if phi is None else phi)}
        result = self.program.run(x)
        return result if isinstance(result, Tensor) else torch.tensor(result, dtype=torch.float64)

    def _named(self, phi: Sequence[float] | Tensor) -> dict[str, Operand]:
        count = phi.shape[-1] if isinstance(phi, Tensor) else len(phi)
        if count != len(self.weights):
            raise LossError(f"phi has {count} numbers; this tree has {len(self.weights)} weights.")
        parts: Sequence[Operand] = phi.unbind(-1) if isinstance(phi, Tensor) else phi
        if isinstance(phi, Tensor) and phi.dim() > 1:
            parts = [part[..., None, None] for part in phi.unbind(-1)]  # [P, 1, 1], to meet inputs [N, C]
        return dict(zip(weight_names(count), parts, strict=True))

    def with_phi(self, phi: Sequence[float]) -> Tree:
        """The tree with these weights, also where it had none; no numbers at all take the weights off."""
        return Tree(self.root, tuple(phi))

    def expression(self) -> Node:
        """ℓ with the weights multiplied in; a weight of 1 leaves no trace."""
        return with_weights(self.root, [Number(w) for w in self.weights]) if self.weights else self.root

    def key(self, setting: Setting) -> str:
        """Trees with one algebraic form are duplicates; n is the number of classes, and z is p without a head."""
        known: dict[str, float | Node] = {"n": 2.0 if setting.head == "sigmoid" else float(setting.classes)}
        if setting.head == "identity":
            known["z"] = Symbol("p")
        return algebraic_key(substitute(self.expression(), known))

    def document(self) -> dict[str, Any]:
        text = {"expression": to_text(self.root)}
        return {**text, "weights": list(self.weights)} if self.weights else text

    @classmethod
    def from_document(cls, document: Mapping[str, Any]) -> Tree:
        text, weights = document.get("expression"), document.get("weights", [])
        if not isinstance(text, str):
            raise LossError('a loss of the tree family needs the field "expression", a text such as "-t*log(p)".')
        if not isinstance(weights, list | tuple):
            raise LossError(f'the field "weights" of the tree is {weights!r:.60}: a list of numbers was expected.')
        return cls(parse(text), tuple(weights))

    def __str__(self) -> str:
        if not self.weights:
            return to_text(self.root)
        return to_text(with_weights(self.root, [Number(float(f"{w:.4g}")) for w in self.weights]))


def weight_names(count: int) -> tuple[str, ...]:
    """The symbols that stand for the weights of a tree: w0, w1, …"""
    return tuple(f"w{i}" for i in range(count))


def with_weights(root: Node, weights: Sequence[Number | Symbol]) -> Node:
    """The tree with every node but the root multiplied by its weight; numbers are multiplied out, a 1 is left out.

    Args:
        root: the tree.
        weights: one per node but the root, in `walk` order.
    """
    built: list[Node] = []
    places = list(zip(walk(root), (Number(1.0), *weights), strict=True))
    for node, weight in reversed(places):  # children before parents, and the first child on top of the stack
        args = tuple(built.pop() for _ in node.args)
        built.append(_weighted(replace_args(node, args), weight))
    (whole,) = built
    return whole


def _weighted(node: Node, weight: Number | Symbol) -> Node:
    if weight == Number(1.0):
        return node
    if node == Number(1.0):
        return weight
    if isinstance(node, Number) and isinstance(weight, Number) and math.isfinite(product := weight.value * node.value):
        return Number(product)
    return Apply("mul", (weight, node))


def _checked(weights: object, edges: int) -> tuple[float, ...]:
    if not isinstance(weights, Sequence) or isinstance(weights, str):
        raise LossError(f"tree weights = {weights!r:.60}: a list of numbers was expected.")
    numbers: list[float] = []
    for i, weight in enumerate(weights):
        if isinstance(weight, bool | str):
            raise LossError(f"tree weights[{i}] = {weight!r:.60}: a number was expected.")
        try:
            numbers.append(float(weight) + 0.0)  # minus zero becomes zero
        except (TypeError, ValueError, OverflowError):
            raise LossError(f"tree weights[{i}] = {weight!r:.60}: a number was expected.") from None
        if not math.isfinite(numbers[-1]):
            raise LossError(f"tree weights[{i}] = {weight}: every weight must be finite.")
    if numbers and len(numbers) != edges:
        raise LossError(
            f"the tree has {len(numbers)} weights and {edges} edges: give one weight for every node but the root."
        )
    return tuple(numbers)
