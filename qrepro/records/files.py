"""Files into checked values: JSON, gzip and Parquet; an error names the file and the first offending record."""

from __future__ import annotations

import gzip
import json
import re
import warnings
import zlib
from collections.abc import Sequence
from pathlib import Path
from reprlib import Repr
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.json
from numpy.typing import ArrayLike

# What a JSON value may be. Types themselves and not isinstance: a bool is an int to Python, but no number to JSON.
_ALLOWED: dict[type, tuple[frozenset[type], str]] = {
    int: (frozenset({int}), "a 64-bit integer"),
    float: (frozenset({int, float}), "a number"),
    bool: (frozenset({int, bool}), "0 or 1"),
}
_REPR = Repr()
_REPR.maxstring = _REPR.maxother = 80


def read_bytes(path: Path) -> bytes:
    """Content of a file, through gzip where the name ends in .gz."""
    if not path.is_file():
        raise FileNotFoundError(f"{path}: {'a folder, not a file' if path.is_dir() else 'no such file'}")
    try:
        data = path.read_bytes()
        return gzip.decompress(data) if path.suffix == ".gz" else data
    except (OSError, EOFError, zlib.error) as error:
        raise ValueError(f"{path}: cannot be read: {error}") from None


def read_text(path: Path) -> str:
    """Text of a file, through gzip where the name ends in .gz."""
    try:
        return read_bytes(path).decode()
    except UnicodeDecodeError as error:
        raise ValueError(f"{path}: cannot be read: {error}") from None


def read_json(path: Path) -> Any:
    """Parsed JSON of a file."""
    try:
        return json.loads(read_bytes(path))
    except (json.JSONDecodeError, UnicodeDecodeError, RecursionError) as error:
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


def read_json_table(path: Path, schema: pa.Schema) -> pa.Table | None:
    """Columns of a JSON list of objects, several times faster than `read_json`; other keys than those are left out.

    None for whatever Arrow does not read as `schema`: other types, NaN, objects that hold lists of objects, no list.
    `read_json` then reads it or says what is wrong.

    Arrow reads one object a line, so the commas between objects become line breaks. One made by mistake does no harm:
    within a string it is not JSON, and elsewhere it leaves half an object, so that Arrow refuses both.
    """
    data = read_bytes(path).strip()
    separator = re.search(rb"\}\s*,\s*\{", data[: 1 << 20])  # a writer uses the same one throughout
    if not (data.startswith(b"[") and data.endswith(b"]") and separator):
        return None
    data = data.replace(b"\n", b" ")
    between = separator.group().replace(b"\n", b" ")
    lines = data.replace(between, between.replace(b",", b"\n"))
    del data  # tens of MB
    options = pa.json.ParseOptions(explicit_schema=schema, unexpected_field_behavior="ignore")
    pool = pa.system_memory_pool()  # Arrow's own keeps what is freed: 130 MB after half a million records
    try:
        return pa.json.read_json(pa.BufferReader(memoryview(lines)[1:-1]), parse_options=options, memory_pool=pool)
    except pa.ArrowInvalid:
        return None


def read_parquet(path: Path, columns: Sequence[str]) -> pd.DataFrame:
    """Frame of a Parquet file that must have `columns`."""
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file")
    try:
        frame = pd.read_parquet(path)
    except (OSError, ValueError) as error:  # pyarrow's errors are ValueError or OSError
        raise ValueError(f"{path}: not a Parquet file: {error}") from None
    check_columns(frame, columns, path)
    return frame


def check_columns(frame: pd.DataFrame, columns: Sequence[str], source: str | Path) -> None:
    """Refuse a frame that lacks one of `columns`."""
    for name in columns:
        if name not in frame:
            raise ValueError(f"{source}: column {name!r} is missing; present: {', '.join(map(str, frame.columns))}")


def check_objects(records: Any, kind: str, source: str | Path) -> None:
    """Refuse what is no list of JSON objects."""
    if not isinstance(records, list):
        raise ValueError(f"{source}: {kind} must be a list, got {shown(records)}")
    if not set(map(type, records)) <= {dict}:
        refuse([type(record) is not dict for record in records], kind, "must be an object", records, source)


def column(
    records: list[dict[str, Any]], key: str, dtype: type, kind: str, path: Path, *, default: float | None = None
) -> np.ndarray:
    """One key of all records as a vector; without default the key is required. A null is a missing value.

    Args:
        records: Objects of a file.
        key: Key that is read.
        dtype: Type int (int64), float (float64) or bool (int64; 0, 1, false or true).
        kind: What the records are, for the error.
        path: File that the error names.
        default: Value where the key is missing.

    Raises:
        ValueError: A value that is missing or of another type.
    """
    values = [default if (value := record.get(key)) is None else value for record in records]
    return numbers(values, dtype, kind, f"{key} must be {_ALLOWED[dtype][1]}", path)


def numbers(values: Sequence[Any], dtype: type, kind: str, message: str, source: str | Path) -> np.ndarray:
    """Vector of values that must be of a type as in `column`."""
    if wrong := set(map(type, values)) - _ALLOWED[dtype][0]:
        refuse([type(value) in wrong for value in values], kind, message, values, source)
    try:
        return np.array(values, dtype=np.float64 if dtype is float else np.int64)
    except OverflowError:
        limit = 2**1023 if dtype is float else 2**63
        refuse([type(v) is int and not -limit <= v < limit for v in values], kind, message, values, source)
        raise


def refuse(bad: ArrayLike, kind: str, message: str, values: Any, source: str | Path) -> None:
    """Raise ValueError naming the first record for which `bad` holds, its value and the number of such records."""
    bad = np.asarray(bad, dtype=bool)
    if bad.any():
        row, count = int(np.argmax(bad)), int(bad.sum())
        more = f" ({count} such records)" if count > 1 else ""
        raise ValueError(f"{source}: {kind}[{row}]: {message}, got {shown(values[row])}{more}")


def caution(bad: ArrayLike, kind: str, message: str, values: Any, source: str | Path, stacklevel: int) -> None:
    """Warn of records for which `bad` holds, naming their number and the first."""
    bad = np.asarray(bad, dtype=bool)
    if bad.any():
        row, count = int(np.argmax(bad)), f"{int(bad.sum())} of {len(bad)} {kind}"
        text = f"{source}: {count}: {message}, first {kind}[{row}]: {shown(values[row])}"
        warnings.warn(text, stacklevel=stacklevel + 1)


def shown(value: Any) -> str:
    """A value as text for a message, cut where it is long; "none" for null and for what is missing."""
    if isinstance(value, np.ndarray | np.generic):
        value = value.tolist()
    return "none" if value is None else _REPR.repr(value)
