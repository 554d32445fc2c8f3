"""Ground truth in COCO's format: one JSON object with lists of images, categories and annotations.

Only what every use needs is here: the object with its lists, and the writing of one. What a record must hold is decided
by the two that read it: `qrepro.records.ground_truth`, for evaluation, refuses the first record that it cannot use;
`qrepro.data.coco`, for training, skips such objects and reports them.

Format: https://cocodataset.org/#format-data.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from qrepro.records.atomic import write_text
from qrepro.records.boxes import xywh_of
from qrepro.records.files import check_objects, read_json, shown

SECTIONS = ("images", "categories", "annotations")

Record = dict[str, Any]
Sections = dict[str, list[Record]]


def read_sections(path: Path, required: Sequence[str] = SECTIONS) -> Sections:
    """Read the lists of a COCO-format file.

    Args:
        path: a .json or .json.gz file.
        required: those of `SECTIONS` that the file must have. COCO's test sets have no annotations.

    Returns:
        Those of `SECTIONS` that the file has, each a list of JSON objects; what the objects hold is not checked.

    Raises:
        FileNotFoundError: no such file.
        ValueError: not JSON, no object, a required section is missing, or a section is no list of objects.
    """
    content = read_json(path)
    if isinstance(content, list):
        is_result = bool(content) and isinstance(content[0], dict) and "score" in content[0]
        came = "a list" + (" that looks like detections (its records have a score)" if is_result else "")
    elif isinstance(content, dict):
        missing = [section for section in required if section not in content]
        came = f"no {missing[0]!r} among {shown(list(content))}" if missing else ""
    else:
        came = shown(content)
    if came:
        raise ValueError(f"{path}: ground truth must be a JSON object with {', '.join(required)}; got {came}")
    for section in SECTIONS:
        if section in content:
            check_objects(content[section], section, path)
    return {section: content[section] for section in SECTIONS if section in content}


def annotation_records(
    ids: ArrayLike, image_ids: ArrayLike, category_ids: ArrayLike, boxes: ArrayLike, area: ArrayLike, iscrowd: ArrayLike
) -> list[Record]:
    """Annotations as COCO's format has them.

    Args:
        ids: (N,) of the annotations, from 1: pycocotools takes 0 for "no match".
        image_ids: (N,).
        category_ids: (N,).
        boxes: (N, 4) x1, y1, x2, y2 in pixels; a record has x, y, width, height.
        area: (N,) in pixels^2.
        iscrowd: (N,) 0 or 1.

    Returns:
        N records of Python numbers, which `json` writes.
    """
    columns = [np.asarray(values).tolist() for values in (ids, image_ids, category_ids, xywh_of(boxes), area, iscrowd)]
    return [
        {"id": id_, "image_id": image, "category_id": category, "bbox": bbox, "area": size, "iscrowd": crowd}
        for id_, image, category, bbox, size, crowd in zip(*columns, strict=True)
    ]


def write_sections(path: Path, sections: Mapping[str, Sequence[Record]]) -> None:
    """Write ground truth as a COCO-format file, whole or not at all.

    Args:
        path: the JSON file, replaced where it exists.
        sections: the three lists, for example of `qrepro.records.ground_truth.sections_of`.
    """
    write_text(path, json.dumps(sections))
