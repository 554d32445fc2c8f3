"""Rows of an analysis as a person reads them: intervals beside their values, and what all rows share said once."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any


def readable(rows: Sequence[Mapping[str, Any]], digits: int) -> tuple[list[dict[str, Any]], str]:
    """Rows of an analysis for reading, and what is the same in all of several, as one line of text.

    A value with an interval, x with x_low and x_high, becomes `x [low, high]` (x alone where that is nan).
    """
    shown = [_with_intervals(row, digits) for row in rows]
    texts = [{name: _text(value, digits) for name, value in row.items()} for row in shown]
    same = [name for name in texts[0] if len({row.get(name) for row in texts}) == 1] if len(texts) > 1 else []
    line = ", ".join(f"{name} {texts[0][name]}" for name in same if texts[0][name])
    return [{name: value for name, value in row.items() if name not in same} for row in shown], line


def _with_intervals(row: Mapping[str, Any], digits: int) -> dict[str, Any]:
    """A row whose intervals stand beside their values."""
    found = dict(row)
    for name in [name for name in row if f"{name}_low" in row and f"{name}_high" in row]:
        ends = found.pop(f"{name}_low"), found.pop(f"{name}_high")
        if not math.isnan(ends[0]):
            found[name] = f"{row[name]:.{digits}f} [{ends[0]:.{digits}f}, {ends[1]:.{digits}f}]"
    return found


def _text(value: Any, digits: int) -> str:
    """A value in a line of text: nothing where it is undefined."""
    if isinstance(value, float):
        return "" if math.isnan(value) else f"{round(value, digits):g}"
    return "" if value is None else str(value)
