"""Kinds: the words by which recipes and rules name the members of an axis, `power` or `my_package.rules:Sum`."""

from __future__ import annotations

import difflib
import importlib
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TypeVar

Member = TypeVar("Member")


def lookup(table: Mapping[str, Member], kind: str) -> Member:
    """The member of an axis that a kind names.

    Args:
        table: members of the axis by kind.
        kind: a key of the table, or `module:name` of an installed package or of the current folder.

    Raises:
        ValueError: neither of these; says what is allowed, or why the import failed.
    """
    module, colon, name = kind.partition(":")
    if not colon:
        if kind not in table:
            raise ValueError(f"kind {kind!r} is unknown{nearest(kind, table)}")
        return table[kind]
    # At the end of the path, so that a user's own `analysis.py` or `metrics.py` never stands in for another module.
    if (here := str(Path.cwd())) not in sys.path:
        sys.path.append(here)
    try:
        member: Member = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError, ValueError) as error:
        raise ValueError(f"kind {kind!r}: cannot be imported from {here} or an installed package: {error}") from error
    return member


def kind_of(table: Mapping[str, Member], member: Member) -> str:
    """The inverse of `lookup`."""
    known = next((kind for kind, other in table.items() if other is member), None)
    return known or f"{member.__module__}:{member.__qualname__}"  # type: ignore[attr-defined]  # a class or function


def nearest(word: str, allowed: Iterable[str]) -> str:
    """`: did you mean "gamma"? (allowed: ...)` for a word that is none of `allowed`."""
    names = sorted(allowed)
    close = difflib.get_close_matches(word, names, n=1)
    hint = f": did you mean {close[0]!r}?" if close else ":"
    return f"{hint} (allowed: {', '.join(names) or 'nothing'})"
