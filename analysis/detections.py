"""Detections of one scoring rule or of any detector, read into a checked frame."""

from __future__ import annotations

import math
import warnings
from pathlib import Path

import numpy as np
import pandas as pd

from analysis.files import column, read_json, read_parquet, refuse
from analysis.truths import BOX, Truths, boxes_from_records, check_boxes, check_known

DETECTION_COLUMNS = ["image_id", "category_id", *BOX, "score", "class_score", "quality", "iou_truth", "level"]


def read_detections(path: str | Path, truths: Truths | None = None) -> pd.DataFrame:
    """Read detections and check them; against `truths` too when given (unknown images or categories are refused).

    path: Parquet with DETECTION_COLUMNS, or a COCO result list (.json, .json.gz) of {image_id, category_id,
        bbox [x, y, w, h], score, optional quality and class_score}.
    Returns a frame with DETECTION_COLUMNS; what the file does not have is NaN, and -1 for `level`.
    A score outside [0, 1] is allowed, since only the order counts for AP, but warned about.
    """
    path = Path(path)
    if path.suffix == ".parquet":
        frame = read_parquet(path, ["image_id", "category_id", *BOX, "score"])
    elif path.name.endswith((".json", ".json.gz")):
        frame = _read_coco_results(path)
    else:
        raise ValueError(f"{path}: detections are read from .parquet, .json or .json.gz")
    for name in ("class_score", "quality", "iou_truth"):
        if name not in frame:
            frame[name] = np.nan
    if "level" not in frame:
        frame["level"] = np.int8(-1)
    frame = frame[DETECTION_COLUMNS]
    check_detections(frame, truths, path)
    return frame


def check_detections(detections: pd.DataFrame, truths: Truths | None = None, source: str | Path = "detections") -> None:
    """Refuse detections that no evaluation can use, naming `source` and the first offending row.

    Refused: NaN or infinite boxes and scores, negative sides and, with `truths`, unknown images and categories.
    """
    missing = [name for name in ("image_id", "category_id", *BOX, "score") if name not in detections]
    if missing:
        present = ", ".join(map(str, detections.columns))
        raise ValueError(f"{source}: column {missing[0]!r} is missing; present: {present}")
    check_boxes(detections, "detections", source)
    score = detections["score"]
    refuse(~np.isfinite(score), "detections", "score must be a finite number", score, source)
    if truths is not None:
        check_known(detections, truths, "detections", source)
    outside = (score < 0) | (score > 1)
    if outside.any():
        row = int(np.argmax(outside.to_numpy()))
        count = f"{int(outside.sum())} of {len(score)} scores lie outside [0, 1]"
        warnings.warn(f"{source}: {count}, first detections[{row}]: {score.iloc[row]}", stacklevel=3)


def _read_coco_results(path: Path) -> pd.DataFrame:
    """Frame of a COCO result list; class_score and quality are NaN where a record has none."""
    records = read_json(path)
    if not isinstance(records, list):
        raise ValueError(f"{path}: expected a list of results, got {type(records).__name__}")
    frame = boxes_from_records(records, "detections", path)
    frame["score"] = column(records, "score", float, "detections", path)
    for name in ("class_score", "quality"):
        frame[name] = column(records, name, float, "detections", path, default=math.nan)
    return frame
