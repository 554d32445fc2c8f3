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
