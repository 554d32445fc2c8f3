"""Ground truth of an evaluation split, read from COCO files into checked frames.

Boxes are `xyxy` pixels of the original image, whatever the file holds.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from analysis.files import column, read_object, refuse

BOX = ["x1", "y1", "x2", "y2"]


@dataclass(frozen=True, eq=False)
class Truths:
    """Ground truth of one evaluation split.

    images: frame with id, file_name, width, height (NaN where the file does not say).
    categories: frame with id, name, in increasing order of id.
    annotations: frame with id, image_id, category_id, x1, y1, x2, y2, area (px^2: the file's, else that of the box) and
        iscrowd (1: crowd or VOC-difficult, which neither counts as an object nor makes a detection wrong).
    """

    images: pd.DataFrame
    categories: pd.DataFrame
    annotations: pd.DataFrame


def read_truths(path: str | Path) -> Truths:
    """Read a COCO-format ground-truth file (.json or .json.gz) and check every record.

    A missing `iscrowd` is 0, a missing `area` that of the box. As in pycocotools a key `ignore` has no effect.
    """
    path = Path(path)
    data = read_object(path, ("images", "categories", "annotations"))
    images = _table(data["images"], {"id": int, "file_name": str, "width": float, "height": float}, "images", path)
    categories = _table(data["categories"], {"id": int, "name": str}, "categories", path)
    categories = categories.sort_values("id", ignore_index=True)  # the order of K in every precision array
    for name, frame in (("images", images), ("categories", categories)):
        if frame.empty:
            raise ValueError(f"{path}: {name} is empty")
        if frame["id"].duplicated().any():
            raise ValueError(f"{path}: {name}: id {frame['id'][frame['id'].duplicated()].iloc[0]} occurs twice")

    records = data["annotations"]
    annotations = boxes_from_records(records, "annotations", path)
    annotations.insert(0, "id", column(records, "id", int, "annotations", path, default=-1))
    sides = annotations["x2"] - annotations["x1"], annotations["y2"] - annotations["y1"]
    area = column(records, "area", float, "annotations", path, default=math.nan)
    annotations["area"] = np.where(np.isnan(area), sides[0] * sides[1], area)
    annotations["iscrowd"] = column(records, "iscrowd", int, "annotations", path, default=0)
    refuse(~annotations["iscrowd"].isin([0, 1]), "annotations", "iscrowd must be 0 or 1", annotations["iscrowd"], path)
    truths = Truths(images, categories, annotations)
    check_boxes(annotations, "annotations", path)
    check_known(annotations, truths, "annotations", path)
    return truths


def _table(records: Any, columns: Mapping[str, type], kind: str, path: Path) -> pd.DataFrame:
    """Frame of records: `id` is required, other columns fall back to NaN or the id as text."""
    ids = column(records, "id", int, kind, path)
    frame = pd.DataFrame({"id": ids})
    for name, dtype in columns.items():
        if dtype is str:
            frame[name] = [str(record.get(name, record["id"])) for record in records]
        elif name != "id":
            frame[name] = column(records, name, dtype, kind, path, default=math.nan)
    return frame


def boxes_from_records(records: Any, kind: str, path: Path) -> pd.DataFrame:
    """Frame of image_id, category_id and corners of records with a COCO `bbox` [x, y, width, height]."""
    image_id = column(records, "image_id", int, kind, path)
    category_id = column(records, "category_id", int, kind, path)
    rows = [record.get("bbox") for record in records]
    try:
        boxes = np.array(rows, dtype=np.float64).reshape(len(rows), 4)
    except (TypeError, ValueError):
        for index, row in enumerate(rows):
            if not (isinstance(row, list) and len(row) == 4 and all(isinstance(v, int | float) for v in row)):
                message = f"{path}: {kind}[{index}]: bbox must be 4 numbers [x, y, width, height], got {row!r}"
                raise ValueError(message) from None
        raise
    boxes[:, 2:] += boxes[:, :2]
    frame = pd.DataFrame(boxes, columns=BOX)
    frame.insert(0, "image_id", image_id)
    frame.insert(1, "category_id", category_id)
    return frame


def check_boxes(frame: pd.DataFrame, kind: str, source: str | Path) -> None:
    """Refuse boxes that are not finite or have a negative side; a side of zero is a legal, empty box."""
    boxes = frame[BOX].to_numpy(np.float64)
    shown = pd.Series(list(boxes), index=frame.index)
    refuse(~np.isfinite(boxes).all(axis=1), kind, "box must be finite", shown, source)
    refuse((boxes[:, 2:] < boxes[:, :2]).any(axis=1), kind, "box has a negative side, x1 y1 x2 y2", shown, source)


def check_known(frame: pd.DataFrame, truths: Truths, kind: str, source: str | Path) -> None:
    """Refuse records of images or categories that the ground truth does not list."""
    for name, table in (("image_id", truths.images), ("category_id", truths.categories)):
        known = np.isin(frame[name].to_numpy(), table["id"].to_numpy())
        refuse(~known, kind, f"{name} is not among the {len(table)} of the ground truth", frame[name], source)
