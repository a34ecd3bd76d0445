"""The printers of loss expressions: text that parses back to the same tree, LaTeX, and torch source."""

from __future__ import annotations

from collections.abc import Mapping

from lossmith.losses.expression import Apply, Node, Number, Symbol, fold, transform, walk
from lossmith.losses.inputs import LOWERED, PROTECTION
from lossmith.losses.primitives import ATOM, MULTIPLICATIVE, POWER, PREFIX, PRIMITIVES, Primitive

_LATEX_SYMBOLS = {
    "p_t": r"p_{t}",
    "prior": r"\pi",
    "tau": r"\tau",
    "log_p": r"\log\left(p\right)",
    "log_1mp": r"\log\left(1 - p\right)",
    "inv_p": r"\frac{1}{p}",
    "log_p_t": r"\log\left(p_{t}\right)",
}
_LATEX_BRACES = {"div", "sqrt", "abs", "aq"}  # templates that enclose their arguments by themselves


def to_text(root: Node) -> str:
    """The expression as text with as few parentheses as reading needs; `parse(to_text(x)) == x`.

    >>> from lossmith.losses.parser import parse
    >>> to_text(parse("-(1-p)**2 * (t*log(p))"))
    '-(1 - p)^2*(t*log(p))'
    """

    def visit(node: Node, args: tuple[tuple[str, int], ...]) -> tuple[str, int]:
        if isinstance(node, Number):
            return number_text(node.value), PREFIX if node.value < 0 else ATOM
        if isinstance(node, Symbol):
            return node.name, ATOM
        primitive = PRIMITIVES[node.op]
        if primitive.infix is None:
            return f"{node.op}({', '.join(text for text, _ in args)})", ATOM
        if primitive.arity == 1:
            # -(2) is a change of sign, -2 a number; -(-x) reads better than --x.
            needs = isinstance(node.args[0], Number) or args[0][1] <= PREFIX
            return primitive.infix + _wrapped(args[0][0], needs), PREFIX
        left, right = _infix_operands(primitive, args)
        space = " " if primitive.precedence < MULTIPLICATIVE else ""
        return f"{left}{space}{primitive.infix}{space}{right}", primitive.precedence

    return fold(root, visit)[0]


def to_latex(root: Node, *, symbols: Mapping[str, str] | None = None) -> str:
    """The expression as LaTeX mathematics without dollar signs, numbers to six digits; mathtext renders it too.

    Args:
        symbols: LaTeX of symbols that have none here, or another one.
    """
    names = {**_LATEX_SYMBOLS, **(symbols or {})}

    def visit(node: Node, args: tuple[tuple[str, int], ...]) -> tuple[str, int]:
        if isinstance(node, Number):
            return _latex_number(node.value)
        if isinstance(node, Symbol):
            return names.get(node.name, node.name.replace("_", r"\_")), POWER if node.name in LOWERED else ATOM
        primitive = PRIMITIVES[node.op]
        texts = [text for text, _ in args]
        if node.op == "neg":
            texts = [_wrapped(texts[0], args[0][1] <= PREFIX and args[0][1] != MULTIPLICATIVE, latex=True)]
            return primitive.latex.format(*texts), PREFIX
        if node.op in ("pow", "square"):
            texts[0] = _wrapped(texts[0], args[0][1] <= POWER or isinstance(node.args[0], Apply), latex=True)
            return primitive.latex.format(*texts), POWER
        if node.op == "aq":
            texts[1] = _wrapped(texts[1], args[1][1] <= POWER or isinstance(node.args[1], Apply), latex=True)
        if node.op in _LATEX_BRACES or primitive.infix is None:
            return primitive.latex.format(*texts), ATOM
        left, right = _infix_operands(primitive, args, latex=True)
        if node.op == "mul" and right[:1].isdigit():
            return rf"{left} \cdot {right}", primitive.precedence
        return primitive.latex.format(left, right), primitive.precedence

    return fold(root, visit)[0]


def to_torch(root: Node, *, symbols: Mapping[str, str] | None = None) -> str:
    """The expression as Python source that needs only torch and the helpers named in `torch_helpers`.

    Args:
        symbols: Python names of the symbols; each stands for a tensor.
    """
    names = symbols or {}

    def visit(node: Node, args: tuple[tuple[str, int], ...]) -> tuple[str, int]:
        if isinstance(node, Number):
            return number_text(node.value), PREFIX if node.value < 0 else ATOM
        if isinstance(node, Symbol):
            return names.get(node.name, node.name), ATOM
        primitive = PRIMITIVES[node.op]
        texts = [text for text, _ in args]
        if node.op == "neg":
            return "-" + _wrapped(texts[0], args[0][1] <= PREFIX), PREFIX
        plain = _plain_operator(node)
        if plain is not None:
            left, right = _infix_operands(primitive, args)
            return f"{left} {plain} {right}", primitive.precedence
        for place, arg in enumerate(node.args):
            if isinstance(arg, Number) and (node.op, place) not in _TAKES_NUMBERS:
                texts[place] = f"torch.tensor({arg.value!r}, dtype=torch.float64)"
        return primitive.torch.format(*texts), ATOM

    return fold(_spelled_out(root), visit)[0]


_TAKES_NUMBERS = {("div", 0), ("aq", 0), ("pow", 0)}  # elsewhere a torch function must be given a tensor


def torch_helpers(root: Node) -> tuple[str, ...]:
    """Sources of the functions that `to_torch` of the same tree calls, each once, in the order of the table."""
    used = {node.op for node in walk(_spelled_out(root)) if isinstance(node, Apply) and _plain_operator(node) is None}
    sources = (primitive.helper for name, primitive in PRIMITIVES.items() if name in used)
    return tuple(dict.fromkeys(source for source in sources if source is not None))


def number_text(value: float) -> str:
    """The shortest text that reads back as the same float: 2, 0.1, 1e-7, 1e22."""
    digits, e, exponent = repr(value).removesuffix(".0").partition("e")
    return f"{digits}e{int(exponent)}" if e else digits


def _spelled_out(root: Node) -> Node:
    """Powers with negative whole exponents as the quotients they are defined to be (`primitives.power`)."""

    def rewrite(node: Node) -> Node:
        if isinstance(node, Apply) and node.op == "pow" and isinstance(node.args[1], Number):
            exponent = node.args[1].value
            if exponent < 0 and exponent.is_integer():
                return Apply("div", (Number(1.0), Apply("pow", (node.args[0], Number(-exponent)))))
        return node

    return transform(root, rewrite)


def _plain_operator(node: Apply) -> str | None:
    """Python's own operator where it means the same as the primitive."""
    if node.op in ("add", "sub", "mul"):
        return PRIMITIVES[node.op].infix
    second = node.args[-1]
    if node.op == "div" and second == Symbol("n"):
        return "/"  # the number of outputs is never near zero
    if isinstance(second, Number) and not isinstance(node.args[0], Number):
        if node.op == "div" and abs(second.value) >= PROTECTION:
            return "/"
        if node.op == "pow" and second.value >= 0 and second.value.is_integer():
            return "**"
    return None


def _infix_operands(primitive: Primitive, args: tuple[tuple[str, int], ...], *, latex: bool = False) -> tuple[str, str]:
    """Both operands of an operator, in parentheses where grouping or a leading minus asks for them."""
    (left, left_binds), (right, right_binds) = args
    if primitive.name == "pow":
        return _wrapped(left, left_binds <= POWER, latex=latex), _wrapped(right, right_binds < PREFIX, latex=latex)
    return (
        _wrapped(left, left_binds < primitive.precedence, latex=latex),
        _wrapped(right, right_binds <= primitive.precedence or right.startswith("-"), latex=latex),
    )


def _wrapped(text: str, needed: bool, *, latex: bool = False) -> str:
    if not needed:
        return text
    return rf"\left({text}\right)" if latex else f"({text})"


def _latex_number(value: float) -> tuple[str, int]:
    mantissa, e, exponent = number_text(float(f"{value:.6g}")).partition("e")
    if not e:
        return mantissa, PREFIX if value < 0 else ATOM
    power = f"10^{{{int(exponent)}}}"
    return (power, POWER) if mantissa == "1" else (rf"{mantissa} \cdot {power}", MULTIPLICATIVE)
