"""Ground truth of an evaluation split, read from COCO or PASCAL VOC files into checked frames.

Boxes are `xyxy` pixels of the original image, whatever the file holds.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from qrepro.records.files import caution, check_objects, column, read_json, refuse, shown
from qrepro.records.readers.voc import read_pascal

BOX = ["x1", "y1", "x2", "y2"]
SECTIONS = ("images", "categories", "annotations")


@dataclass(frozen=True, eq=False)
class Truths:
    """Ground truth of one evaluation split.

    images: frame with id, file_name, width, height (NaN where the file does not say).
    categories: frame with id, name, in increasing order of id.
    annotations: frame with id (-1: none), image_id, category_id, x1, y1, x2, y2, area (px^2: the file's, else that of
        the box) and iscrowd (1: crowd or VOC-difficult, which neither counts as an object nor makes a detection wrong).
    listed: ids of the categories in the order of their file, in which detectors number their classes; (): as in
        `categories`.
    """

    images: pd.DataFrame
    categories: pd.DataFrame
    annotations: pd.DataFrame
    listed: tuple[int, ...] = ()


def read_truths(
    path: str | Path, split: str | None = None, classes: Sequence[str] | None = None, one_based: bool | None = None
) -> Truths:
    """Read the ground truth of a COCO-format file (.json, .json.gz) or a PASCAL VOC folder and check every record.

    path: the file or the folder.   split, classes, one_based: of a folder only, see `qrepro.records.readers.voc.read_pascal`.

    A missing `iscrowd` is 0, a missing `area` that of the box. As in pycocotools a key `ignore` has no effect.
    Warned about are boxes that have no point in common with their image.
    """
    path = Path(path)
    if path.is_dir():
        return _from_coco(read_pascal(path, split, classes, one_based), path)
    if split is not None or classes is not None or one_based is not None:
        raise ValueError(f"{path}: split, classes and one_based are for a PASCAL VOC folder, this is none")
    if path.suffix == ".parquet":
        raise ValueError(f"{path}: ground truth is read from COCO-format .json or .json.gz, or a PASCAL VOC folder")
    return _from_coco(_sections(read_json(path), path), path)


def corners(boxes: np.ndarray, kind: str, source: str | Path) -> np.ndarray:
    """(N, 4) x, y, width, height to (N, 4) x1, y1, x2, y2, refusing what is not finite or has a negative side."""
    refuse(~np.isfinite(boxes).all(axis=1), kind, "bbox [x, y, width, height] must be finite", boxes, source)
    negative = (boxes[:, 2] < 0) | (boxes[:, 3] < 0)
    refuse(negative, kind, "bbox [x, y, width, height] has a negative side", boxes, source)
    return np.concatenate([boxes[:, :2], boxes[:, :2] + boxes[:, 2:]], axis=1)


def boxes_of_rows(rows: Sequence[Any], kind: str, source: str | Path) -> np.ndarray:
    """(N, 4) x1, y1, x2, y2 of parsed values of `bbox`, which must be lists [x, y, width, height]."""
    return corners(boxes_of_four(rows, kind, "bbox must be 4 numbers [x, y, width, height]", source), kind, source)


def boxes_of_four(rows: Sequence[Any], kind: str, message: str, source: str | Path) -> np.ndarray:
    """(N, 4) of parsed values that must be lists of four numbers; NaN and infinity pass."""
    refuse([not _is_box(row) for row in rows], kind, message, rows, source)
    return np.array(rows, dtype=np.float64).reshape(-1, 4)


def check_boxes(frame: pd.DataFrame, kind: str, source: str | Path) -> None:
    """Refuse boxes that are not finite or have a negative side; a side of zero is a legal, empty box."""
    check_corners(frame[BOX].to_numpy(np.float64), kind, source)


def check_corners(boxes: np.ndarray, kind: str, source: str | Path) -> None:
    """Refuse boxes (N, 4) x1, y1, x2, y2 as `check_boxes` does."""
    refuse(~np.isfinite(boxes).all(axis=1), kind, "box x1 y1 x2 y2 must be finite", boxes, source)
    negative = (boxes[:, 2] < boxes[:, 0]) | (boxes[:, 3] < boxes[:, 1])
    refuse(negative, kind, "box x1 y1 x2 y2 has a negative side", boxes, source)


def check_known(frame: pd.DataFrame, truths: Truths, kind: str, source: str | Path, hint: str = "") -> None:
    """Refuse records of images or categories that the ground truth does not list.   hint: on other categories."""
    allowed = f" {shown(truths.categories['id'].tolist())}{hint}"
    for name, table, more in (("image_id", truths.images, ""), ("category_id", truths.categories, allowed)):
        known = frame[name].isin(table["id"])
        message = f"{name} must be one of the {len(table)} of the ground truth{more}"
        refuse(~known, kind, message, frame[name].to_numpy(), source)


def caution_outside(frame: pd.DataFrame, images: pd.DataFrame, kind: str, source: str | Path, stacklevel: int) -> None:
    """Warn of boxes that have no point in common with their image, where its size is known."""
    row = pd.Index(images["id"]).get_indexer(pd.Index(frame["image_id"]))
    sizes = images[["width", "height"]].to_numpy(np.float64)
    width, height = np.where(sizes > 0, sizes, np.inf)[row].T  # a size of 0 is no size
    x1, y1, x2, y2 = (frame[name].to_numpy() for name in BOX)
    outside = (x2 < 0) | (y2 < 0) | (x1 > width) | (y1 > height)
    message = "box x1 y1 x2 y2 lies outside its image"
    caution(outside, kind, message, frame[BOX].to_numpy(np.float64), source, stacklevel + 1)


def _sections(data: Any, path: Path) -> dict[str, Any]:
    """The parsed file, when it is an object with the three lists of ground truth."""
    if isinstance(data, list):
        alike = bool(data) and isinstance(data[0], dict) and "score" in data[0]
        came = "a list" + (" that looks like detections (its records have a score)" if alike else "")
    elif isinstance(data, dict):
        missing = [key for key in SECTIONS if key not in data]
        came = f"no {missing[0]!r} among {shown(list(data))}" if missing else ""
    else:
        came = shown(data)
    if came:
        raise ValueError(f"{path}: ground truth must be a JSON object with {', '.join(SECTIONS)}; got {came}")
    return data


def _from_coco(data: Mapping[str, Any], source: Path) -> Truths:
    """Checked frames of parsed ground truth."""
    for kind in SECTIONS:
        check_objects(data[kind], kind, source)
    images = _table(data["images"], "file_name", "images", source)
    for name in ("width", "height"):
        images[name] = column(data["images"], name, float, "images", source, default=math.nan)
    categories = _table(data["categories"], "name", "categories", source)
    listed = tuple(categories["id"].tolist())
    categories = categories.sort_values("id", ignore_index=True)  # the order of K in every precision array
    truths = Truths(images, categories, _annotations(data["annotations"], source), listed)
    check_known(truths.annotations, truths, "annotations", source)
    caution_outside(truths.annotations, images, "annotations", source, stacklevel=3)
    return truths


def _table(records: list[dict[str, Any]], label: str, kind: str, source: Path) -> pd.DataFrame:
    """Frame of the ids, each once, and of one text, which falls back to the id."""
    ids = column(records, "id", int, kind, source)
    if not len(ids):
        raise ValueError(f"{source}: {kind} is empty")
    _check_unique(ids, kind, source)
    texts = [str(record["id"] if (value := record.get(label)) is None else value) for record in records]
    return pd.DataFrame({"id": ids, label: texts})


def _annotations(records: list[dict[str, Any]], source: Path) -> pd.DataFrame:
    """Frame of the objects."""
    kind = "annotations"
    ids = column(records, "id", int, kind, source, default=-1)
    _check_unique(ids, kind, source, missing=-1)
    image_id = column(records, "image_id", int, kind, source)
    category_id = column(records, "category_id", int, kind, source)
    boxes = boxes_of_rows([record.get("bbox") for record in records], kind, source)
    area = column(records, "area", float, kind, source, default=math.nan)
    area = np.where(np.isnan(area), (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1]), area)
    refuse(~np.isfinite(area) | (area < 0), kind, "area must be finite and not negative", area, source)
    iscrowd = column(records, "iscrowd", bool, kind, source, default=0)
    refuse((iscrowd != 0) & (iscrowd != 1), kind, "iscrowd must be 0 or 1", iscrowd, source)
    box = dict(zip(BOX, boxes.T, strict=True))
    known = {"id": ids, "image_id": image_id, "category_id": category_id}
    return pd.DataFrame({**known, **box, "area": area, "iscrowd": iscrowd})


def _check_unique(ids: np.ndarray, kind: str, source: Path, missing: int | None = None) -> None:
    """Refuse an id that an earlier record has; `missing` stands for none."""
    again = pd.Series(ids).duplicated().to_numpy() & (ids != missing)
    refuse(again, kind, "id must be unique", ids, source)


def _is_box(value: Any) -> bool:
    """Whether a JSON value is a list of four numbers of at most 64 bits."""
    return (
        type(value) is list
        and len(value) == 4
        and all(type(v) is float or (type(v) is int and abs(v) < 2**63) for v in value)
    )
