"""Predictions of MMDetection's inferencer: a folder with a JSON file an image, without pickle and without ids.

`DetInferencer(...)(images, no_save_pred=False, out_dir=OUT)` and `demo/image_demo.py` of MMDetection 3 write for every
image STEM.*, also one without detections, OUT/preds/STEM.json: {labels, scores, bboxes, perhaps masks}. Boxes are x1,
y1, x2, y2 in pixels of the original image; a label counts the classes from 0 in the order in which the annotations list
their categories (for a detector of fewer classes, annotations with no others are needed).
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from qrepro.records.files import caution, numbers, read_object, refuse, shown
from qrepro.records.ground_truth import GroundTruth, boxes_of_four, check_corners
from qrepro.records.ids import class_ids, image_stems

KEYS = ("labels", "scores", "bboxes")


def is_folder_of_predictions(path: Path) -> bool:
    """Whether a folder can be one of predictions: it has JSON files, and nothing in it is a run of qrepro."""
    return path.is_dir() and any(path.glob("*.json")) and not any(path.rglob("run.json"))


def read_predictions(folder: Path, ground_truth: GroundTruth | None) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """Columns image_id, category_id and score, each (N,), and corners (N, 4) of the N detections of a folder.

    Warned about are images of the ground truth without a file: they count as without detections.

    Raises:
        ValueError: no ground truth to say what the names and labels stand for, or a file of no image or of several
            images of it, without a key, with lists of unequal length, a label that is no class, or a bad box or score.
        FileNotFoundError: no JSON file.
    """
    if ground_truth is None:
        raise ValueError(f"{folder}: a folder of predictions needs the ground truth that says which image is which")
    files = sorted(folder.glob("*.json"))
    if not files:
        hint = f"; is it {folder / 'preds'}?" if (folder / "preds").is_dir() else ""
        raise FileNotFoundError(f"{folder}: no .json file in this folder{hint}")
    known = image_stems(ground_truth)
    for file in files:
        if file.stem not in known:
            raise ValueError(
                f"{file}: {file.stem!r} must be the file name, without ending, of just one of the "
                f"{len(ground_truth.images)} images of the ground truth"
            )
    images = np.array([known[file.stem] for file in files], dtype=np.int64)
    without = ~ground_truth.images["id"].isin(images)
    message = "has no file here, so counts as without detections"
    caution(without, "images", message, ground_truth.images["file_name"].tolist(), folder, stacklevel=3)
    parts = [_of_image(file, ground_truth) for file in files]
    category, score, boxes = (np.concatenate(column) for column in zip(*parts, strict=True))
    image = np.repeat(images, [len(part[0]) for part in parts])
    return {"image_id": image, "category_id": category, "score": score}, boxes


def _of_image(file: Path, ground_truth: GroundTruth) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Category ids (n,), scores (n,) and corners (n, 4) of one file."""
    data: dict[str, Any] = read_object(file, KEYS)
    for key in KEYS:
        if not isinstance(data[key], list):
            raise ValueError(f"{file}: {key} must be a list, got {shown(data[key])}")
    lengths = [len(data[key]) for key in KEYS]
    if len(set(lengths)) > 1:
        raise ValueError(f"{file}: labels, scores and bboxes must be equally long, got {lengths}")
    labels = numbers(data["labels"], int, "labels", "must be a class number", file)
    category = class_ids(labels, 0, ground_truth, "labels", "must be", file)
    score = numbers(data["scores"], float, "scores", "must be a number", file)
    refuse(~np.isfinite(score), "scores", "must be a finite number", score, file)
    boxes = boxes_of_four(data["bboxes"], "bboxes", "must be 4 numbers [x1, y1, x2, y2]", file)
    check_corners(boxes, "bboxes", file)
    return category, score, boxes
