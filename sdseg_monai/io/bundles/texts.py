"""Reading a text of a MONAI config without running the config, which is a program."""

from __future__ import annotations

import ast
import re
from collections.abc import Mapping
from typing import Any

REFERENCE = re.compile(r"@(\w+)")
NESTED_REFERENCE = re.compile(r"@[\w:]+#")  # MONAI's @name#item
PREFIX = "reference_to_"  # in place of the @ of a reference, with which no name of Python begins


def read_text(config: Mapping[str, Any], key: str) -> str | None:
    """Return the text that ``config[key]`` stands for, None where only running the config would give it.

    A text, a reference such as ``@bundle_root`` and an expression that joins these by ``+``, such as
    ``$@bundle_root + '/models/model.pt'``, are read; a macro, a nested reference or any other expression is not.

    Raises:
        KeyError: there is no such value, or it refers to itself.
        TypeError: it is not a text.
    """
    value = config[key]
    if not isinstance(value, str):
        raise TypeError(f"{key} is a {type(value).__name__}, expected a text")
    other_values = {name: content for name, content in config.items() if name != key}
    if value[:1] == "$":
        return _join(value[1:], other_values)
    reference = REFERENCE.fullmatch(value)
    if reference is not None:
        return read_text(other_values, reference[1])
    return None if value[:1] in ("@", "%") else value


def _join(expression: str, config: Mapping[str, Any]) -> str | None:
    if NESTED_REFERENCE.search(expression):  # Python would take the rest for a comment
        return None
    try:
        tree = ast.parse(REFERENCE.sub(rf"{PREFIX}\1", expression), mode="eval")
    except (SyntaxError, ValueError, RecursionError, MemoryError):  # MONAI also takes statements: $import os
        return None
    return _text_of(tree.body, config)


def _text_of(node: ast.expr, config: Mapping[str, Any]) -> str | None:
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add):
        left, right = _text_of(node.left, config), _text_of(node.right, config)
        return None if left is None or right is None else left + right
    if isinstance(node, ast.Name) and node.id.startswith(PREFIX):
        return read_text(config, node.id.removeprefix(PREFIX))
    if isinstance(node, ast.Constant) and isinstance(node.value, str) and PREFIX not in node.value:
        return node.value
    return None
