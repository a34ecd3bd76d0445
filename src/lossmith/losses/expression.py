"""Loss expressions as immutable trees, and how to walk, cut and rebuild them.

    Node = Number(value) | Symbol(name) | Apply(op, args)

Nodes compare and hash by value, pickle, and know their size (nodes) and height (edges). Every function here visits a
tree without recursion, so a sum of a thousand terms is as welcome as a bushy tree.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import TypeAlias, TypeVar

from lossmith.errors import ExpressionError
from lossmith.losses.primitives import PRIMITIVES

T = TypeVar("T")


@dataclass(frozen=True)
class Number:
    """A finite constant. Minus zero becomes zero, so that equal numbers have equal texts."""

    value: float
    args: tuple[()] = field(default=(), init=False, repr=False, compare=False)
    size: int = field(default=1, init=False, repr=False, compare=False)
    height: int = field(default=0, init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        value = float(self.value)
        if not math.isfinite(value):
            raise ExpressionError(f"a number in a loss expression must be finite, not {value}.")
        object.__setattr__(self, "value", value + 0.0)


@dataclass(frozen=True)
class Symbol:
    """A named input (`losses.inputs`) or parameter."""

    name: str
    args: tuple[()] = field(default=(), init=False, repr=False, compare=False)
    size: int = field(default=1, init=False, repr=False, compare=False)
    height: int = field(default=0, init=False, repr=False, compare=False)


@dataclass(frozen=True, eq=False)
class Apply:
    """A primitive applied to arguments.

    Raises:
        ExpressionError: no such primitive, or another number of arguments than it takes.
    """

    op: str
    args: tuple[Node, ...]
    size: int = field(init=False, repr=False)
    height: int = field(init=False, repr=False)
    _hash: int = field(init=False, repr=False)

    def __post_init__(self) -> None:
        primitive = PRIMITIVES.get(self.op)
        if primitive is None:
            raise ExpressionError(f"there is no function {self.op!r}; there are {', '.join(PRIMITIVES)}.")
        if len(self.args) != primitive.arity:
            raise ExpressionError(f"{self.op} takes {primitive.arity} arguments, not {len(self.args)}.")
        object.__setattr__(self, "size", 1 + sum(arg.size for arg in self.args))
        object.__setattr__(self, "height", 1 + max(arg.height for arg in self.args))
        object.__setattr__(self, "_hash", hash((self.op, *map(hash, self.args))))

    def __hash__(self) -> int:
        return self._hash

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Apply):
            return NotImplemented
        pairs: list[tuple[Node, Node]] = [(self, other)]
        while pairs:
            a, b = pairs.pop()
            if a is b:
                continue
            if isinstance(a, Apply) and isinstance(b, Apply):
                if a._hash != b._hash or a.op != b.op or len(a.args) != len(b.args):
                    return False
                pairs.extend(zip(a.args, b.args, strict=True))
            elif a != b:
                return False
        return True

    def __reduce__(self) -> tuple[object, ...]:
        # The hash of a string differs between processes: it must be computed where the tree arrives.
        return (from_postfix, (to_postfix(self),))


Node: TypeAlias = Number | Symbol | Apply
Postfix: TypeAlias = tuple[float | str | tuple[str, int], ...]


def walk(root: Node) -> Iterator[Node]:
    """Every node, parents before children, left before right; the order in which subtrees are numbered."""
    stack: list[Node] = [root]
    while stack:
        node = stack.pop()
        yield node
        stack.extend(reversed(node.args))


def subtree(root: Node, index: int) -> Node:
    """The node at a place in `walk` order; IndexError outside 0…size−1."""
    for place, node in enumerate(walk(root)):
        if place == index:
            return node
    raise IndexError(f"a tree of {root.size} nodes has no node {index}")


def replace_subtree(root: Node, index: int, new: Node) -> Node:
    """The tree with `new` in the place of the node at `index` (in `walk` order)."""
    if not 0 <= index < root.size:
        raise IndexError(f"a tree of {root.size} nodes has no node {index}")
    path: list[tuple[Apply, int]] = []
    node = root
    while index:
        index -= 1
        assert isinstance(node, Apply)
        for which, arg in enumerate(node.args):
            if index < arg.size:
                path.append((node, which))
                node = arg
                break
            index -= arg.size
    for parent, which in reversed(path):
        new = replace_args(parent, (*parent.args[:which], new, *parent.args[which + 1 :]))
    return new


def replace_args(node: Node, args: tuple[Node, ...]) -> Node:
    """The node with other arguments; the node itself where they are the same objects."""
    if isinstance(node, Apply) and any(a is not b for a, b in zip(node.args, args, strict=True)):
        return Apply(node.op, args)
    return node


def fold(root: Node, visit: Callable[[Node, tuple[T, ...]], T]) -> T:
    """Bottom-up result: `visit(node, results of its arguments)`, once per distinct subtree."""
    done: dict[Node, T] = {}
    stack: list[tuple[Node, bool]] = [(root, False)]
    while stack:
        node, ready = stack.pop()
        if node in done:
            continue
        if ready or not node.args:
            done[node] = visit(node, tuple(done[arg] for arg in node.args))
        else:
            stack.append((node, True))
            stack.extend((arg, False) for arg in reversed(node.args))
    return done[root]


def transform(root: Node, rewrite: Callable[[Node], Node]) -> Node:
    """Bottom-up rewriting: `rewrite` sees each node with its arguments already rewritten."""
    return fold(root, lambda node, args: rewrite(replace_args(node, args)))


def symbols(root: Node) -> frozenset[str]:
    """Names of all symbols in a tree."""
    return frozenset(node.name for node in walk(root) if isinstance(node, Symbol))


def substitute(root: Node, values: Mapping[str, float | Node]) -> Node:
    """The tree with symbols replaced by numbers or trees."""

    def rewrite(node: Node) -> Node:
        if isinstance(node, Symbol) and node.name in values:
            value = values[node.name]
            return value if isinstance(value, Number | Symbol | Apply) else Number(value)
        return node

    return transform(root, rewrite)


def to_postfix(root: Node) -> Postfix:
    """A tree as a flat sequence: numbers, symbol names, (primitive, number of arguments)."""
    flat: list[float | str | tuple[str, int]] = []
    stack: list[tuple[Node, bool]] = [(root, False)]
    while stack:
        node, ready = stack.pop()
        if isinstance(node, Number):
            flat.append(node.value)
        elif isinstance(node, Symbol):
            flat.append(node.name)
        elif ready:
            flat.append((node.op, len(node.args)))
        else:
            stack.append((node, True))
            stack.extend((arg, False) for arg in reversed(node.args))
    return tuple(flat)


def from_postfix(flat: Postfix) -> Node:
    """The inverse of `to_postfix`."""
    stack: list[Node] = []
    for item in flat:
        if isinstance(item, tuple):
            op, arity = item
            args = tuple(stack[len(stack) - arity :])
            del stack[len(stack) - arity :]
            stack.append(Apply(op, args))
        else:
            stack.append(Symbol(item) if isinstance(item, str) else Number(item))
    (root,) = stack
    return root
