"""Files into checked values: JSON, gzip and Parquet; an error names the file and the first offending record."""

from __future__ import annotations

import gzip
import json
import math
import re
import warnings
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path
from reprlib import Repr
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.json
import pyarrow.parquet

# What a JSON value may be. The types themselves, not isinstance: a bool is an int to Python, but no number to JSON.
_ALLOWED: dict[type, tuple[frozenset[type], str]] = {
    int: (frozenset({int}), "an integer"),
    float: (frozenset({int, float}), "a number"),
    bool: (frozenset({int, bool}), "0 or 1"),
}
_NUMBERS = _ALLOWED[float][0]
_REPR = Repr()
_REPR.maxstring = _REPR.maxother = 80


def shown(value: Any) -> str:
    """A value as text for a message, cut where it is long."""
    return _REPR.repr(value)


def read_bytes(path: Path) -> bytes:
    """Content of a file, through gzip where the name ends in .gz."""
    if not path.is_file():
        raise FileNotFoundError(f"{path}: {'is a folder' if path.is_dir() else 'no such file'}")
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
            raise ValueError(f"{path}: key {key!r} is missing; present: {shown(list(data)) if data else 'none'}")
    return data


def read_json_table(path: Path, schema: pa.Schema) -> pa.Table | None:
    """Columns of a JSON list of objects, by Arrow's parallel reader; keys that `schema` does not name are left out.

    None for whatever Arrow does not read as `schema`: not a list, other types, NaN, objects that hold lists of objects.
    `read_json` then reads it, or says what is wrong.

    Arrow reads one object a line, so every separator of the list becomes a line break. That can never be mistaken: a
    raw line break is no legal part of a JSON string, and an object cut elsewhere is not JSON, so that Arrow refuses.
    """
    data = read_bytes(path).strip()
    separator = re.search(rb"\}\s*,\s*\{", data[: 1 << 20])
    if not (data.startswith(b"[") and data.endswith(b"]") and separator):
        return None
    if b"\n" in data:  # of an indented file, where they mean no more than a blank
        data = data.replace(b"\n", b" ")
    lines = data.replace(separator.group().replace(b"\n", b" "), b"}\n{")
    del data
    options = pa.json.ParseOptions(explicit_schema=schema, unexpected_field_behavior="ignore")
    try:
        return pa.json.read_json(pa.BufferReader(pa.py_buffer(memoryview(lines)[1:-1])), parse_options=options)
    except pa.ArrowInvalid:
        return None


def read_parquet(path: Path, columns: Sequence[str]) -> pd.DataFrame:
    """Frame of a Parquet file that must have `columns`."""
    table = read_parquet_table(path)
    for name in columns:
        if name not in table.column_names:
            raise ValueError(f"{path}: column {name!r} is missing; present: {', '.join(table.column_names)}")
    return table.to_pandas()


def read_parquet_table(path: Path, columns: Sequence[str] | None = None) -> pa.Table:
    """Columns of a Parquet file: all, or those of `columns` that it has."""
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file")
    try:
        with pa.parquet.ParquetFile(path) as file:
            present = file.schema_arrow.names
            return file.read(None if columns is None else [name for name in columns if name in present])
    except (OSError, ValueError) as error:  # pyarrow's errors are ValueError or OSError
        raise ValueError(f"{path}: not a Parquet file: {error}") from None


