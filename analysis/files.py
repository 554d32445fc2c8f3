"""Files into checked values: JSON, gzip and Parquet; an error names the file and the first offending record."""

from __future__ import annotations

import gzip
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd


def read_text(path: Path) -> str:
    """Text of a file, through gzip where the name ends in .gz."""
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file")
    try:
        if path.suffix == ".gz":
            with gzip.open(path, "rt", encoding="utf-8") as file:
                return file.read()
        return path.read_text(encoding="utf-8")
    except (OSError, EOFError, UnicodeDecodeError) as error:
        raise ValueError(f"{path}: cannot be read: {error}") from None


def read_json(path: Path) -> Any:
    """Parsed JSON of a file."""
    try:
        return json.loads(read_text(path))
    except json.JSONDecodeError as error:
        raise ValueError(f"{path}: not JSON: {error}") from None


def read_object(path: Path, keys: Sequence[str]) -> dict[str, Any]:
    """Parsed JSON object that must have `keys`."""
    data = read_json(path)
    if not isinstance(data, dict):
        raise ValueError(f"{path}: expected a JSON object, got {type(data).__name__}")
    for key in keys:
        if key not in data:
            raise ValueError(f"{path}: key {key!r} is missing; present: {', '.join(data) or 'none'}")
    return data


def read_parquet(path: Path, columns: Sequence[str]) -> pd.DataFrame:
    """Frame of a Parquet file that must have `columns`."""
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file")
    try:
        frame = pd.read_parquet(path)
    except (OSError, ValueError) as error:  # pyarrow's errors are ValueError or OSError
        raise ValueError(f"{path}: not a Parquet file: {error}") from None
    for name in columns:
        if name not in frame:
            raise ValueError(f"{path}: column {name!r} is missing; present: {', '.join(frame.columns)}")
    return frame


def column(records: Any, key: str, dtype: type, kind: str, path: Path, *, default: float | None = None) -> np.ndarray:
    """One key of all records as an int64 or float64 vector; a key without default is required."""
    if not isinstance(records, list):
        raise ValueError(f"{path}: {kind} must be a list, got {type(records).__name__}")
    allowed = int if dtype is int else (int, float)
    values = []
    for index, record in enumerate(records):
        if not isinstance(record, dict):
            raise ValueError(f"{path}: {kind}[{index}] must be an object, got {record!r}")
        value = record.get(key, default)
        if value is None and default is not None:  # an explicit null is a missing value
            value = default
        if not isinstance(value, allowed):
            what = "an integer" if dtype is int else "a number"
            raise ValueError(f"{path}: {kind}[{index}]: {key} must be {what}, got {value!r}")
        values.append(value)
    return np.array(values, dtype=np.int64 if dtype is int else np.float64)


def refuse(bad: Any, kind: str, message: str, shown: pd.Series, source: str | Path) -> None:
    """Raise ValueError naming the first record for which `bad` holds."""
    bad = np.asarray(bad, dtype=bool)
    if bad.any():
        row = int(np.argmax(bad))
        more = f" ({int(bad.sum())} such records)" if bad.sum() > 1 else ""
        raise ValueError(f"{source}: {kind}[{row}]: {message}: {shown.iloc[row]}{more}")
