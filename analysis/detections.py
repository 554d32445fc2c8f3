"""Detections of one scoring rule or of any detector, read into a checked frame."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePath
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa

from analysis.files import (
    caution,
    check_columns,
    check_objects,
    column,
    numbers,
    read_json,
    read_json_table,
    read_parquet,
    refuse,
    shown,
)
from analysis.truths import BOX, Truths, boxes_of_rows, caution_outside, check_boxes, check_known, corners

DETECTION_COLUMNS = ["image_id", "category_id", *BOX, "score", "class_score", "quality", "iou_truth", "level"]

_RESULT = pa.schema(
    {
        "image_id": pa.int64(),
        "category_id": pa.int64(),
        "bbox": pa.list_(pa.float64()),
        "score": pa.float64(),
        "class_score": pa.float64(),
        "quality": pa.float64(),
    }
)


def read_detections(path: str | Path, truths: Truths | None = None) -> pd.DataFrame:
    """Read detections and check them; against `truths` too when given (unknown images or categories are refused).

    path: a COCO result list (.json, .json.gz) of {image_id, category_id, bbox [x, y, w, h], score, optional quality
        and class_score}, or Parquet with those columns or DETECTION_COLUMNS.
        With `truths`, image_id may also be the file name of an image, or what is left of it without folder or without
        ending too; and `category`, a name, may stand in for category_id. A name must belong to one record only.
    Returns a frame with DETECTION_COLUMNS; what the file does not have is NaN, and -1 for `level`.
    Warned about are scores and qualities outside [0, 1] (for AP only the order counts), and boxes that have no point in
    common with their image.
    """
    path = Path(path)
    if path.suffix == ".parquet":
        frame = _from_parquet(path, truths)
    elif path.name.endswith((".json", ".json.gz")):
        frame = _from_json(path, truths)
    else:
        raise ValueError(f"{path}: detections are read from .parquet, .json or .json.gz")
    check_detections(frame, truths, path)
    for name in ("score", "quality"):
        values = frame[name].to_numpy()
        caution((values < 0) | (values > 1), "detections", f"{name} lies outside [0, 1]", values, path, stacklevel=2)
    if truths is not None:
        caution_outside(frame, truths.images, "detections", path, stacklevel=2)
    return frame


def check_detections(detections: pd.DataFrame, truths: Truths | None = None, source: str | Path = "detections") -> None:
    """Refuse detections that no evaluation can use, naming `source` and the first offending row.

    Refused: NaN or infinite boxes and scores, negative sides and, with `truths`, unknown images and categories.
    """
    check_columns(detections, ["image_id", "category_id", *BOX, "score"], source)
    check_boxes(detections, "detections", source)
    score = detections["score"].to_numpy(np.float64)
    refuse(~np.isfinite(score), "detections", "score must be a finite number", score, source)
    if truths is not None:
        check_known(detections, truths, "detections", source)


def _frame(columns: Mapping[str, Any], boxes: np.ndarray) -> pd.DataFrame:
    """Frame with DETECTION_COLUMNS of those that there are and of corners (N, 4)."""
    nothing = np.full(len(boxes), np.nan)
    absent = {
        "class_score": nothing,
        "quality": nothing,
        "iou_truth": nothing,
        "level": np.full(len(boxes), np.int8(-1)),
    }
    filled = {**absent, **columns, **dict(zip(BOX, boxes.T, strict=True))}
    return pd.DataFrame({name: filled[name] for name in DETECTION_COLUMNS})


def _from_json(path: Path, truths: Truths | None) -> pd.DataFrame:
    """Frame of a result list: fast where it is plain, otherwise record by record."""
    plain = _from_plain_json(path)
    return _from_records(read_json(path), truths, path) if plain is None else plain


def _from_plain_json(path: Path) -> pd.DataFrame | None:
    """Frame of a result list with ids and without a gap, None for any other."""
    table = read_json_table(path, _RESULT)
    if table is None or any(table[name].null_count for name in ("image_id", "category_id", "bbox", "score")):
        return None
    rows = table["bbox"].chunks
    if any(chunk.values.null_count or (np.diff(chunk.offsets) != 4).any() for chunk in rows):
        return None
    sides = np.concatenate([chunk.flatten().to_numpy() for chunk in rows]).reshape(-1, 4)
    columns = {name: table[name].to_numpy() for name in table.column_names if name != "bbox"}
    return _frame(columns, corners(sides, "detections", path))


def _from_records(records: Any, truths: Truths | None, path: Path) -> pd.DataFrame:
    """Frame of a parsed result list."""
    if not isinstance(records, list):
        hint = " that looks like ground truth" if isinstance(records, dict) and "annotations" in records else ""
        came = f"an object with {shown(list(records))}{hint}" if isinstance(records, dict) else shown(records)
        raise ValueError(f"{path}: detections must be a JSON list of {{{', '.join(_RESULT.names[:4])}}}; got {came}")
    check_objects(records, "detections", path)
    image = [record.get("image_id") for record in records]
    category = [record.get("category") if (v := record.get("category_id")) is None else v for record in records]
    columns = {
        "image_id": _ids(image, "image_id", truths, path),
        "category_id": _ids(category, "category_id", truths, path),
    }
    boxes = boxes_of_rows([record.get("bbox") for record in records], "detections", path)
    columns["score"] = column(records, "score", float, "detections", path)
    for name in ("class_score", "quality"):
        columns[name] = column(records, name, float, "detections", path, default=math.nan)
    return _frame(columns, boxes)


def _from_parquet(path: Path, truths: Truths | None) -> pd.DataFrame:
    """Frame of a Parquet file, which has corners or `bbox`, and ids or names."""
    table = read_parquet(path, [])
    category = "category" if "category" in table and "category_id" not in table else "category_id"
    listed = "bbox" in table and "x1" not in table
    check_columns(table, ["image_id", category, *(["bbox"] if listed else BOX), "score"], path)
    columns: dict[str, Any] = {
        "image_id": _column_ids(table["image_id"], "image_id", truths, path),
        "category_id": _column_ids(table[category], "category_id", truths, path),
    }
    for name in ("score", "class_score", "quality", "iou_truth"):
        if name in table:
            columns[name] = _column_numbers(table[name], path)
    if "level" in table:
        columns["level"] = table["level"].to_numpy()
    if listed:
        rows = [row.tolist() if isinstance(row, np.ndarray) else row for row in table["bbox"]]
        return _frame(columns, boxes_of_rows(rows, "detections", path))
    return _frame(columns, np.stack([_column_numbers(table[name], path) for name in BOX], axis=1))


def _column_numbers(series: pd.Series, path: Path) -> np.ndarray:
    """Numbers of a Parquet column in float64, NaN for null."""
    if series.dtype.kind in "iuf":
        return series.to_numpy(np.float64, na_value=np.nan)
    return numbers(series.tolist(), float, "detections", f"{series.name} must be a number", path)


def _column_ids(series: pd.Series, key: str, truths: Truths | None, path: Path) -> np.ndarray:
    """Ids of a Parquet column."""
    if series.dtype.kind in "iu" and not series.hasnans:
        return series.to_numpy(np.int64)
    return _ids(series.tolist(), key, truths, path)


def _ids(values: Sequence[Any], key: str, truths: Truths | None, path: Path) -> np.ndarray:
    """Ids of values that are ids or, with ground truth, names."""
    kind, what = "detections", f"{key} must be a 64-bit integer"
    if str in set(map(type, values)):
        names = {} if truths is None else _image_names(truths) if key == "image_id" else _category_names(truths)
        ids = [names.get(value, value) if type(value) is str else value for value in values]
        also = (
            "where no ground truth knows names" if truths is None else "or a name that just one of the ground truth has"
        )
        refuse([type(id_) is str for id_ in ids], kind, f"{what} {also}", values, path)
        values = ids
    return numbers(values, int, kind, what, path)


def _image_names(truths: Truths) -> dict[str, int]:
    """Id of every image by its file name, and by what is left of it without folder, without ending, without both."""
    file = truths.images["file_name"].map(PurePath)
    spellings = [file.map(str), file.map(lambda path: path.name), file.map(lambda path: str(path.with_suffix("")))]
    return _once(truths.images["id"], [*spellings, file.map(lambda path: path.stem)])


def _category_names(truths: Truths) -> dict[str, int]:
    """Id of every category by its name."""
    return _once(truths.categories["id"], [truths.categories["name"]])


def _once(ids: pd.Series, spellings: Sequence[pd.Series]) -> dict[str, int]:
    """Ids by name, without the names that two records share; an earlier spelling goes before a later one."""
    found: dict[str, int] = {}
    for names in spellings:
        alone = ~names.duplicated(keep=False)
        found = dict(zip(names[alone], ids[alone].tolist(), strict=True)) | found
    return found
