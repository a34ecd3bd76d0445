"""Known losses as trees, so that a search over trees can start from them."""

from __future__ import annotations

from lossmith.errors import LossError
from lossmith.losses import Loss, LossSet, Pointwise
from lossmith.losses.expression import Apply, Node, Number, Symbol, substitute, symbols, transform
from lossmith.losses.inputs import head_name
from lossmith.search.base import Problem
from lossmith.search.required_arguments import required_arguments

LARGEST_POWER = 8
T, P, N = Symbol("t"), Symbol("p"), Symbol("n")


def starting_tree(loss: Loss, problem: Problem, method: str) -> Node:
    """ℓ as an expression that trains like the loss under the problem's reduction over outputs.

    A mean over outputs in a search for sums is ℓ/n, a sum in a search for means n·ℓ. Label smoothing is the same loss
    of the targets (1 − α)·t + α/n. Both are exact, for every number of classes but under sigmoid, where the number of
    pairs counts. Whole powers are written as products: a weight of 0.999 or a new leaf in an exponent would make
    another function of x² and x³.

    Args:
        method: its name, for the messages.

    Raises:
        LossError: no tree of this search can hold the loss; says why, and what fits.
    """
    whole = _checked(loss, problem, method)
    if loss.smoothing:
        kept, spread = Number(1 - loss.smoothing), Number(loss.smoothing)
        smoothed = Apply("add", (Apply("mul", (kept, T)), Apply("div", (spread, N))))
        whole = substitute(whole, {"t": smoothed, "r": Apply("sub", (P, smoothed))})
    # Under sigmoid every output is a pair of n = 2, and the reduction is over all C pairs.
    count: Node = Number(2.0 * problem.setting.classes) if problem.setting.head == "sigmoid" else N
    if (loss.outputs, problem.outputs) == ("mean", "sum"):
        whole = Apply("div", (whole, count))
    elif (loss.outputs, problem.outputs) == ("sum", "mean"):
        whole = Apply("mul", (count, whole))
    return transform(whole, _as_product)


def _as_product(node: Node) -> Node:
    """x², x³ … x⁸ as products, 1/x … as quotients; every other node as it is."""
    if not (isinstance(node, Apply) and node.op == "pow" and isinstance(node.args[1], Number)):
        return node
    base, exponent = node.args[0], node.args[1].value
    if not (exponent.is_integer() and 1 <= abs(exponent) <= LARGEST_POWER):
        return node
    product = _power(base, int(abs(exponent)))
    return product if exponent > 0 else Apply("div", (Number(1.0), product))


def _power(base: Node, exponent: int) -> Node:
    if exponent == 1:
        return base
    half = Apply("square", (_power(base, exponent // 2),))
    return Apply("mul", (half, base)) if exponent % 2 else half


def _checked(loss: Loss, problem: Problem, method: str) -> Node:
    """The kernel's expression, where nothing around it stands in the way."""

    def refused(why: str) -> LossError:
        return LossError(f"{method} cannot start from {loss}: {why}.")

    if isinstance(loss, LossSet) or not isinstance(loss, Loss):
        raise refused("it holds several losses, a tree is one: start from one of them")
    if head_name(loss.head) != problem.setting.head:
        raise LossError(
            f"{loss} has the {head_name(loss.head)} head; a search under {problem.setting.head} cannot start from it."
        )
    if not isinstance(loss.aggregation, Pointwise):
        raise refused(f"it is a {loss.aggregation.kind} loss, candidates are pointwise: start from a sum of ℓ(p, t)")
    if loss.reduction != "mean":
        raise refused(f'candidates are means over rows, it has reduction="{loss.reduction}": build it with "mean"')
    try:
        whole = loss.kernel.expression()
    except LossError as error:
        raise refused(f"it is no formula ({error}): start from a loss of the tree or taylor family") from None
    if loss.prior is not None or "prior" in symbols(whole):
        raise refused("candidates carry no class prior: start from a loss that does not read it")
    lacking = required_arguments(whole)
    if not lacking.ok:
        raise refused(f"{lacking.sentence}, so it cannot train anything")
    return whole
