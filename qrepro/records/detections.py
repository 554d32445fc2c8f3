"""Detections of one scoring rule or of any detector, read into a checked frame."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa

from qrepro.records.files import (
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
from qrepro.records.ground_truth import (
    BOX,
    GroundTruth,
    boxes_of_rows,
    caution_outside,
    check_boxes,
    check_known,
    corners,
)
from qrepro.records.ids import Ids
from qrepro.records.readers.mmdetection import KEYS, read_predictions

DETECTION_COLUMNS = ["image_id", "category_id", *BOX, "score", "class_score", "quality", "iou_truth", "level"]

_RESULT = pa.schema(
    {
        "image_id": pa.int64(),
        "category_id": pa.int64(),
        "bbox": pa.list_(pa.float64()),
        "score": pa.float64(),
        "class_score": pa.float64(),
        "quality": pa.float64(),
        "file_name": pa.string(),
    }
)


def read_detections(
    path: str | Path, ground_truth: GroundTruth | None = None, classes_from: int | None = None
) -> pd.DataFrame:
    """Read detections and check them; against `ground_truth` too when given (unknown images or categories are refused).

    Warned about are scores and qualities outside [0, 1] (for AP only the order counts), and boxes that have no point in
    common with their image.

    Args:
        path: A COCO result list (.json, .json.gz) of {image_id, category_id, bbox [x, y, w, h], score, optional quality
            and class_score}, or Parquet with those columns or DETECTION_COLUMNS, or, with `ground_truth`, a folder of
            MMDetection (`qrepro.records.readers.mmdetection`). With `ground_truth`, image_id may also be the file name
            of an image, or what is left of it without folder or without ending too; and `category`, a name, may stand
            in for category_id. A name must belong to one record only. Where the record of a list has a `file_name`,
            that says which image it is of, and not image_id.
        ground_truth: Ground truth of the split; None for detections by themselves.
        classes_from: 0 or 1 where category_id is the number of a class, counted from there, in the order in which the
            ground truth lists its categories. None: it is the id of a category. Never guessed: what the ground truth
            does not have is refused.

    Returns:
        A frame with DETECTION_COLUMNS; what the file does not have is NaN, and -1 for `level`.

    Raises:
        FileNotFoundError: No such file or folder.
        ValueError: A file of another kind, detections that are refused (see `check_detections`), or `classes_from`
            without ground truth or, other than 0, with a folder of MMDetection.
    """
    path = Path(path)
    if classes_from is not None and ground_truth is None:
        raise ValueError(f"{path}: classes_from {classes_from} needs the ground truth whose classes are counted")
    ids = Ids(path, ground_truth, classes_from)
    if path.is_dir():
        if classes_from:
            raise ValueError(f"{path}: labels of MMDetection count from 0, got --classes-from {classes_from}")
        frame = _frame(*read_predictions(path, ground_truth))
    elif path.suffix == ".parquet":
        frame = _from_parquet(path, ids)
    elif path.name.endswith((".json", ".json.gz")):
        frame = _from_json(path, ids)
    elif not path.exists():
        raise FileNotFoundError(f"{path}: no such file or folder")
    else:
        raise ValueError(f"{path}: detections are read from .parquet, .json, .json.gz or MMDetection's folder of .json")
    check_detections(frame, ground_truth, path)
    for name in ("score", "quality"):
        values = frame[name].to_numpy()
        caution((values < 0) | (values > 1), "detections", f"{name} lies outside [0, 1]", values, path, stacklevel=2)
    if ground_truth is not None:
        caution_outside(frame, ground_truth.images, "detections", path, stacklevel=2)
    return frame


def check_detections(
    detections: pd.DataFrame, ground_truth: GroundTruth | None = None, source: str | Path = "detections"
) -> None:
    """Refuse detections that no evaluation can use, naming `source` and the first offending row.

    Args:
        detections: Frame with image_id, category_id, x1, y1, x2, y2 and score.
        ground_truth: Ground truth that must have their images and categories; None where it is not known.
        source: What errors name.

    Raises:
        ValueError: A missing column, NaN or infinite boxes and scores, negative sides and, with `ground_truth`, unknown
            images and categories.
    """
    check_columns(detections, ["image_id", "category_id", *BOX, "score"], source)
    check_boxes(detections, "detections", source)
    score = detections["score"].to_numpy(np.float64)
    refuse(~np.isfinite(score), "detections", "score must be a finite number", score, source)
    if ground_truth is not None:
        check_known(detections, ground_truth, "detections", source, " (class numbers need --classes-from)")


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


def _from_json(path: Path, ids: Ids) -> pd.DataFrame:
    """Frame of a result list: fast where it is plain, otherwise record by record."""
    plain = _from_plain_json(path, ids)
    return _from_records(read_json(path), ids, path) if plain is None else plain


def _from_plain_json(path: Path, ids: Ids) -> pd.DataFrame | None:
    """Frame of a result list with ids and without a gap, None for any other."""
    table = read_json_table(path, _RESULT)
    if table is None or any(table[name].null_count for name in ("image_id", "category_id", "bbox", "score")):
        return None
    rows = table["bbox"].chunks
    if any(chunk.values.null_count or (np.diff(chunk.offsets) != 4).any() for chunk in rows):
        return None
    sides = np.concatenate([chunk.flatten().to_numpy() for chunk in rows]).reshape(-1, 4)
    columns = {name: table[name].to_numpy() for name in ("score", "class_score", "quality")}
    files = table["file_name"]
    named = files.to_pylist() if files.null_count < len(files) else None
    columns["image_id"] = ids.images(table["image_id"].to_numpy(), named)
    columns["category_id"] = ids.categories(table["category_id"].to_numpy())
    return _frame(columns, corners(sides, "detections", path))


def _from_records(records: Any, ids: Ids, path: Path) -> pd.DataFrame:
    """Frame of a parsed result list."""
    if not isinstance(records, list):
        came = (
            f"an object with {shown(list(records))}{_alike(records)}" if isinstance(records, dict) else shown(records)
        )
        raise ValueError(f"{path}: detections must be a JSON list of {{{', '.join(_RESULT.names[:4])}}}; got {came}")
    check_objects(records, "detections", path)
    image = [record.get("image_id") for record in records]
    category = [record.get("category") if (v := record.get("category_id")) is None else v for record in records]
    columns = {
        "image_id": ids.images(image, [record.get("file_name") for record in records]),
        "category_id": ids.categories(category),
    }
    boxes = boxes_of_rows([record.get("bbox") for record in records], "detections", path)
    columns["score"] = column(records, "score", float, "detections", path)
    for name in ("class_score", "quality"):
        columns[name] = column(records, name, float, "detections", path, default=math.nan)
    return _frame(columns, boxes)


def _alike(record: dict[str, Any]) -> str:
    """What an object that is no result list looks like."""
    if "annotations" in record:
        return " that looks like ground truth"
    return " that looks like one image of MMDetection (give its folder)" if set(KEYS) <= set(record) else ""


def _from_parquet(path: Path, ids: Ids) -> pd.DataFrame:
    """Frame of a Parquet file, which has corners or `bbox`, and ids or names."""
    table = read_parquet(path, [])
    category = "category" if "category" in table and "category_id" not in table else "category_id"
    listed = "bbox" in table and "x1" not in table
    check_columns(table, ["image_id", category, *(["bbox"] if listed else BOX), "score"], path)
    columns: dict[str, Any] = {
        "image_id": ids.images(_id_column(table["image_id"])),
        "category_id": ids.categories(_id_column(table[category])),
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


def _id_column(series: pd.Series) -> np.ndarray | list[Any]:
    """Ids of a Parquet column, or the values of one that has other things too."""
    if series.dtype.kind in "iu" and not series.hasnans:
        return series.to_numpy(np.int64)
    return series.tolist()
