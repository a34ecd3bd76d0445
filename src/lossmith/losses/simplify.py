"""A loss for people to read: weights multiplied in, like terms collected, numbers rounded."""

from __future__ import annotations

import copy

from lossmith.errors import LossError
from lossmith.losses.aggregation import Pointwise
from lossmith.losses.expression import Apply, Node, Number, Symbol, fold, replace_args, transform
from lossmith.losses.family import Kernel
from lossmith.losses.keys import algebraic_form
from lossmith.losses.loss import Loss, LossSet
from lossmith.losses.lowering import raises_exactly, takes_log_exactly
from lossmith.losses.parser import parse
from lossmith.losses.printer import to_text
from lossmith.losses.tree import Tree

_ROUNDS = 5  # rounding can make terms equal, and collecting them can ask for rounding again
_P, _INV_P = Symbol("p"), Symbol("inv_p")
_ONE_OVER_P = Apply("div", (Number(1.0), _P))
_LOGS: dict[str, Node] = {"log_p": _P, "log_1mp": Apply("sub", (Number(1.0), _P)), "log_p_t": Symbol("p_t")}


def readable(root: Node | Kernel | Loss, digits: int = 4) -> str:
    """A loss as simplified text that parses; up to the rounding of its numbers it is the same loss.

    Args:
        root: an expression, a kernel that has one (weights are multiplied in), or a loss, of which the kernel is shown.
        digits: significant digits of numbers; whole exponents keep theirs.

    Raises:
        LossError: digits below 1, or a kernel without a symbolic form.

    Example:
        >>> from lossmith.losses.parser import parse
        >>> readable(parse("-1.00001*t*log(p) + 0.5*p*t + p*t*1.23456 - p + p"))
        '1.735*t*p - t*log(p)'
    """
    if digits < 1:
        raise LossError(f"digits = {digits}: at least one significant digit is needed.")
    kernel = root.kernel if isinstance(root, Loss) else root
    form = algebraic_form(kernel.expression() if isinstance(kernel, Kernel) else kernel)
    for _ in range(_ROUNDS):
        before, form = form, algebraic_form(_rounded(form, digits))
        if form == before:
            break
    return to_text(transform(_rounded(form, digits), _in_words))


def formula(loss: Loss | LossSet) -> str:
    """What a table shows of a loss: its name, or its text, simplified where it is a tree.

    >>> from lossmith.losses.published import loss
    >>> formula(loss("baikal")), formula(loss("(t*p + t*p)*1"))
    ('baikal', '2*t*p')
    """
    return " | ".join(map(formula, loss)) if isinstance(loss, LossSet) else str(simplified(loss))


def simplified(loss: Loss, digits: int = 4) -> Loss:
    """What people are shown in the place of a tree: the loss of its `readable` text; any other or named loss itself."""
    if loss.name is not None or not isinstance(loss.kernel, Tree) or not isinstance(loss.aggregation, Pointwise):
        return loss
    shown = copy.copy(loss)
    shown.kernel = Tree(parse(readable(loss, digits)))
    return shown


def _rounded(root: Node, digits: int) -> Node:
    def visit(node: Node, args: tuple[Node, ...]) -> Node:
        if isinstance(node, Number):
            return Number(float(f"{node.value:.{digits}g}"))
        if node.args and isinstance(node, Apply) and node.op == "pow" and isinstance(node.args[1], Number):
            exponent = node.args[1]
            return Apply("pow", (args[0], exponent if exponent.value.is_integer() else args[1]))
        return replace_args(node, args)

    return fold(root, visit)


def _in_words(node: Node) -> Node:
    """Exact inputs as the logarithms and quotients that lowering makes them of; squares as powers."""
    if isinstance(node, Symbol) and node.name in _LOGS:
        return Apply("log", (_LOGS[node.name],))
    if node == _INV_P:
        return _ONE_OVER_P
    if not isinstance(node, Apply):
        return node
    first, second = node.args[0], node.args[-1]
    if node.op == "mul" and _ONE_OVER_P in node.args:
        return Apply("div", (second if first == _ONE_OVER_P else first, _P))
    if node.op == "neg" and first == _ONE_OVER_P:
        return Apply("div", (Number(-1.0), _P))
    if node.op == "square":
        return Apply("pow", (first, Number(2.0)))
    if node.op == "protected_log" and not takes_log_exactly(first):
        return Apply("log", (first,))
    if node.op == "exp" and isinstance(first, Apply) and first.op == "mul":
        exponent, logarithm = first.args  # exp(0.7*log(p)) is how p^0.7 is computed
        if isinstance(exponent, Number) and isinstance(logarithm, Apply) and logarithm.op == "log":
            power = Apply("pow", (logarithm.args[0], exponent))
            return power if raises_exactly(logarithm.args[0], exponent.value) else node
    return node
