"""The configuration of an MMDetection model, read from the text that its checkpoints carry; nothing is executed."""

from __future__ import annotations

import ast
from typing import Any

Values = dict[str, Any]


def read_config(text: str) -> Values:
    """The values of a configuration file: assignments of literals, `dict(...)` and names that were assigned before.

    What is not of this kind becomes None. Raises `ValueError` for text that is no Python.
    """
    try:
        body = ast.parse(text).body
    except (SyntaxError, ValueError, RecursionError) as error:
        raise ValueError(f"configuration: not readable ({str(error).splitlines()[0]})") from None
    found: Values = {}
    for statement in body:
        if isinstance(statement, ast.Assign):
            for target in statement.targets:
                if isinstance(target, ast.Name):
                    found[target.id] = _value(statement.value, found)
    return found


def _value(node: ast.expr, known: Values) -> Any:
    """What an expression says, None where it would have to be computed."""
    found: Any = None
    match node:
        case ast.Constant():
            found = node.value
        case ast.Name():
            found = known.get(node.id)
        case ast.List() | ast.Tuple():
            found = [_value(item, known) for item in node.elts]
        case ast.Dict():
            pairs = zip(node.keys, node.values, strict=True)
            found = {key.value: _value(value, known) for key, value in pairs if isinstance(key, ast.Constant)}
        case ast.Call(func=ast.Name(id="dict"), args=[]):
            found = {word.arg: _value(word.value, known) for word in node.keywords if word.arg}
        case ast.UnaryOp(op=ast.USub(), operand=ast.Constant(value=int() | float() as number)):
            found = -number
    return found


def at(values: Any, *path: str) -> Any:
    """The value at a path of keys, None where there is none."""
    for key in path:
        values = values.get(key) if isinstance(values, dict) else None
    return values
