"""Counting what a reader has to read: lines of code, and those that are not the user's model."""

from __future__ import annotations

import ast
import io
import tokenize

_SILENT = {tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT, tokenize.ENDMARKER}


def code_lines(source: str) -> set[int]:
    """Numbers of the lines that hold code: no blank ones, no comments, no docstrings."""
    lines: set[int] = set()
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type not in _SILENT:
            lines.update(range(token.start[0], token.end[0] + 1))
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef) and ast.get_docstring(node) is not None:
            lines -= _extent(node.body[0])
    return lines


def model_lines(source: str) -> set[int]:
    """Code lines of the model: classes, and a function `make_model`."""
    model: set[int] = set()
    for node in ast.parse(source).body:
        if isinstance(node, ast.ClassDef) or (isinstance(node, ast.FunctionDef) and node.name == "make_model"):
            model |= _extent(node)
    return model & code_lines(source)


def _extent(node: ast.stmt) -> set[int]:
    return set(range(node.lineno, (node.end_lineno or node.lineno) + 1))
