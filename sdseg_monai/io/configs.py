"""Values of a MONAI config that can be told without running it: a config is a program."""

from __future__ import annotations

import ast
import re
from collections.abc import Mapping
from typing import Any

REFERENCE = re.compile(r"@(\w+)")
MARK = "reference_to_"  # Python has no name that begins with @


def read_text(config: Mapping[str, Any], key: str) -> str | None:
    """Return the text that ``config[key]`` stands for, None where only running the config would tell.

    A text, a reference such as ``@bundle_root`` and an expression that joins these by ``+``, such as
    ``$@bundle_root + '/models/model.pt'``, can be told; a macro, a nested reference or any other expression cannot.

    Raises:
        KeyError: there is no such value, or it refers to itself.
        TypeError: it is no text.
    """
    value = config[key]
    if not isinstance(value, str):
        raise TypeError(f"{key} is a {type(value).__name__}, expected a text")
    others = {name: content for name, content in config.items() if name != key}
    if value[:1] == "$":
        return _join(value[1:], others)
    reference = REFERENCE.fullmatch(value)
    if reference is not None:
        return read_text(others, reference[1])
    return None if value[:1] in ("@", "%") else value


def _join(expression: str, config: Mapping[str, Any]) -> str | None:
    try:
        tree = ast.parse(REFERENCE.sub(rf"{MARK}\1", expression), mode="eval")
    except (SyntaxError, ValueError, RecursionError, MemoryError):  # MONAI takes more than expressions: $import os
        return None
    return _text_of(tree.body, config)


def _text_of(node: ast.expr, config: Mapping[str, Any]) -> str | None:
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add):
        left, right = _text_of(node.left, config), _text_of(node.right, config)
        return None if left is None or right is None else left + right
    if isinstance(node, ast.Name) and node.id.startswith(MARK):
        return read_text(config, node.id.removeprefix(MARK))
    if isinstance(node, ast.Constant) and isinstance(node.value, str) and MARK not in node.value:
        return node.value
    return None
