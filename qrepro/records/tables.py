"""Tables as files and as text: CSV at full precision, markdown and terminal rounded."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from qrepro.records.columns import Column

MISSING = "–"
_NUMBER = r"[-+]?\d[\d.]*(?:e[-+]?\d+)?%?"


def display(frame: pd.DataFrame) -> pd.DataFrame:
    """The frame as text for reading: AP and AR with one decimal, other floats with three, undefined ones empty."""
    return pd.DataFrame({str(name): [cell(str(name), value) for value in frame[name]] for name in frame}, dtype=str)


def markdown(frame: pd.DataFrame, title: str = "", notes: Sequence[str] = (), lead: str = "") -> str:
    """Markdown of a frame: heading, a leading sentence, the aligned table, and notes as a list below it."""
    parts = [f"# {title}"] if title else []
    parts += [lead] if lead else []
    parts.append("\n".join(_grid(display(frame))))
    if notes:
        parts.append("\n".join(f"- {note}" for note in notes))
    return "\n\n".join(parts) + "\n"


def write_csv(frame: pd.DataFrame, path: str | Path) -> Path:
    """Write the frame at full precision, undefined values as empty cells."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    frame.to_csv(path, index=False, lineterminator="\n")
    return path


def write_markdown(text: str, path: str | Path) -> Path:
    """Write markdown."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    return path


def write_rows(
    rows: Sequence[Mapping[str, Any]], path: str | Path, title: str = "", notes: Sequence[str] = ()
) -> tuple[Path, Path]:
    """Write rows of any analysis as `path` (.csv) and, beside it, as markdown; returns both paths."""
    path = Path(path)
    if path.suffix != ".csv":
        raise ValueError(f"{path}: a table is written to a name that ends in .csv")
    frame = pd.DataFrame([dict(row) for row in rows])
    return write_csv(frame, path), write_markdown(markdown(frame, title, notes), path.with_suffix(".md"))


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


def is_number(text: str) -> bool:
    """Whether a displayed cell is read as a number, and so aligned right: [printed /] number [± sd | interval]."""
    spread = rf" ± {_NUMBER}| \[{_NUMBER}, {_NUMBER}\]"
    return bool(re.fullmatch(rf"(({_NUMBER}|{MISSING}) / )?({_NUMBER}({spread})?|{MISSING})", text))


def cell(name: str, value: Any) -> str:
    """Text of one value: one decimal for percent, three for other floats, empty for undefined."""
    if isinstance(value, float | np.floating):
        if math.isnan(value):
            return ""
        return f"{value:.1f}" if Column.of(name) or name == "params_m" else f"{value:.3f}"
    return str(value)


def _grid(shown: pd.DataFrame) -> list[str]:
    """Lines of a markdown table whose columns are padded; columns of numbers are aligned right."""
    columns = [[str(name), *shown[name]] for name in shown]
    columns = [[cell.replace("|", r"\|").replace("\n", " ") for cell in column] for column in columns]
    if not columns:
        return ["(no rows)"]
    padded = []
    for column in columns:
        width = max(3, *map(len, column))
        cells = [cell for cell in column[1:] if cell]
        right = bool(cells) and all(map(is_number, cells))
        rule = "-" * (width - 1) + ":" if right else "-" * width
        column.insert(1, rule)
        padded.append([cell.rjust(width) if right else cell.ljust(width) for cell in column])
    return ["| " + " | ".join(line) + " |" for line in zip(*padded, strict=True)]
