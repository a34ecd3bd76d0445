"""The parser of loss expressions: text to tree, by hand, nothing is ever evaluated.

    -t*log(p)          log(p) - t/p          min(abs(r), 1)^2          t*(1 - p^0.7)/0.7

Operators as in Python, loosest first: `+ -`, `* /`, sign, `^` (also `**`; groups to the right, so -p^2 is -(p^2)).
Functions are the primitives, symbols the inputs of `losses.inputs` and the caller's parameters. The signs −, ·, ×, ÷
are read as -, *, *, /.
"""

from __future__ import annotations

import difflib
import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from lossmith.errors import ExpressionError
from lossmith.losses.expression import Apply, Node, Number, Symbol
from lossmith.losses.inputs import INPUTS, LOWERED
from lossmith.losses.primitives import ADDITIVE, MULTIPLICATIVE, POWER, PREFIX, PRIMITIVES

MAX_LENGTH = 50_000  # characters
MAX_NESTING = 100  # parentheses, signs and powers inside one another: far from Python's recursion limit

_TOKEN = re.compile(
    r"(?P<number>(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?)|(?P<name>[^\W\d]\w*)|(?P<sign>\*\*|[-+*/^(),])|(?P<other>\S)"
)
_SPELLINGS = str.maketrans("−·×÷", "-**/")
_BINARY = {
    "+": ("add", ADDITIVE),
    "-": ("sub", ADDITIVE),
    "*": ("mul", MULTIPLICATIVE),
    "/": ("div", MULTIPLICATIVE),
    "^": ("pow", POWER),
    "**": ("pow", POWER),
}


@dataclass(frozen=True)
class _Token:
    kind: str  # number, name, sign, end
    text: str
    at: int


def parse(
    text: str,
    *,
    symbols: Iterable[str] = (*INPUTS, *LOWERED),
    parameters: Mapping[str, float] | None = None,
) -> Node:
    """A loss expression as a tree.

    Args:
        text: the expression.
        symbols: names that stay symbols; by default every input a loss may read.
        parameters: names that stand for numbers.

    Raises:
        ExpressionError: with a caret under the place and what was expected there; also for text longer than 50,000
            characters or nested deeper than 100 levels, and for a parameter named like a symbol or a function.

    >>> parse("-t*log(p)")
    Apply(op='mul', args=(Apply(op='neg', args=(Symbol(name='t'),)), Apply(op='log', args=(Symbol(name='p'),))))
    """
    names, numbers = tuple(symbols), dict(parameters or {})
    for name in numbers:
        if name in names or name in PRIMITIVES:
            what = "a loss input" if name in names else "a function"
            raise ExpressionError(f"the parameter {name!r} has the name of {what}: give it another name.")
    return _Parser(text, names, numbers).whole()


class _Parser:
    def __init__(self, text: str, names: tuple[str, ...], numbers: Mapping[str, float]) -> None:
        if len(text) > MAX_LENGTH:
            raise ExpressionError(f"the expression has {len(text)} characters; {MAX_LENGTH} are the limit.")
        self.text, self.names, self.numbers = text, names, numbers
        self.tokens = self._tokens(text)
        self.place = 0
        self.depth = 0

    def whole(self) -> Node:
        if self.now.kind == "end":
            raise self._error(self.now, "is empty: write a formula such as -t*log(p)")
        node = self._expression(0)
        if self.now.kind != "end":
            raise self._expected("an operator (+ - * / ^) or the end")
        return node

    @property
    def now(self) -> _Token:
        return self.tokens[self.place]

    def _next(self) -> _Token:
        token = self.now
        self.place += 1
        return token

    def _expression(self, floor: int) -> Node:
        """An operand and every operator behind it that binds tighter than `floor` (precedence climbing)."""
        self.depth += 1
        if self.depth > MAX_NESTING:
            raise self._error(self.now, f"is nested deeper than {MAX_NESTING} levels here: write it in simpler parts")
        left = self._operand()
        while self.now.kind == "sign" and self.now.text in _BINARY:
            op, binding = _BINARY[self.now.text]
            if binding <= floor:
                break
            self._next()
            # x^-y and x^y^z: the exponent takes a sign and further powers; every other operator groups to the left.
            left = Apply(op, (left, self._expression(PREFIX if op == "pow" else binding)))
        self.depth -= 1
        return left

    def _operand(self) -> Node:
        token = self._next()
        if token.kind == "number":
            return self._number(token)
        if token.kind == "name":
            return self._named(token)
        if token.text == "(":
            node = self._expression(0)
            self._close("an operator or )")
            return node
        if token.text == "-":
            literal = self.now.kind == "number"
            operand = self._expression(PREFIX)
            if literal and isinstance(operand, Number):  # -2 is a number, -(2) and -2^x are changes of sign
                return Number(-operand.value)
            return Apply("neg", (operand,))
        if token.text == "+":
            return self._expression(PREFIX)
        self.place -= 1
        raise self._expected("a number, a name, ( or -")

    def _number(self, token: _Token) -> Number:
        value = float(token.text)
        if not math.isfinite(value):
            raise self._error(token, f"has a number too large for floating point, {token.text}")
        return Number(value)

    def _named(self, token: _Token) -> Node:
        name = token.text
        if self.now.text == "(" and self.now.kind == "sign":
            return self._call(token)
        if name in self.numbers:
            return Number(self.numbers[name])
        if name in self.names:
            return Symbol(name)
        if name in PRIMITIVES:
            raise self._error(token, f"names the function {name} without its arguments: write {name}(...)")
        raise self._unknown(token, "symbol", (*self.names, *self.numbers))

    def _call(self, token: _Token) -> Node:
        primitive = PRIMITIVES.get(token.text)
        if primitive is None:
            if token.text in self.names or token.text in self.numbers:
                raise self._error(token, f"calls {token.text!r}, which is no function: write {token.text}*(...)")
            raise self._unknown(token, "function", PRIMITIVES)
        self._next()
        args: list[Node] = []
        while True:
            args.append(self._expression(0))
            if self.now.text != ",":
                break
            self._next()
        self._close("an operator, a comma or )")
        if len(args) != primitive.arity:
            wanted = "one argument" if primitive.arity == 1 else f"{primitive.arity} arguments"
            raise self._error(token, f"gives {token.text} {len(args)} arguments; it takes {wanted}")
        return Apply(primitive.name, tuple(args))

    def _close(self, expected: str) -> None:
        if self.now.text != ")":
            raise self._expected(expected)
        self._next()

    def _tokens(self, text: str) -> list[_Token]:
        tokens: list[_Token] = []
        for match in _TOKEN.finditer(text.translate(_SPELLINGS)):
            token = _Token(str(match.lastgroup), match.group(), match.start())
            if token.kind == "other":
                raise self._error(token, f"has the character {token.text!r}, which has no meaning in a formula")
            tokens.append(token)
        return [*tokens, _Token("end", "", len(text))]

    def _expected(self, what: str) -> ExpressionError:
        found = "the end" if self.now.kind == "end" else repr(self.now.text)
        return self._error(self.now, f"has {found} where {what} was expected")

    def _unknown(self, token: _Token, kind: str, known: Iterable[str]) -> ExpressionError:
        near = difflib.get_close_matches(token.text, list(known), n=3, cutoff=0.5)
        hint = f"did you mean {' or '.join(near)}?" if near else f"there are {', '.join(known)}."
        return self._error(token, f"has the unknown {kind} {token.text!r}: {hint[:-1]}", hint[-1])

    def _error(self, token: _Token, problem: str, stop: str = ".") -> ExpressionError:
        start, end = max(0, token.at - 50), token.at + 50  # the neighbourhood, where the text is long or has many lines
        shown = re.sub(r"\s", " ", self.text[start:end])
        return ExpressionError(
            f"the expression {problem} (character {token.at + 1}){stop}\n    {shown}\n    {' ' * (token.at - start)}^"
        )
