"""A synthetic detection set of a wanted size, for benchmarks and tests: no images, only boxes and scores.

Objects and detections look enough like COCO's for matching and NMS to have real work: several objects an image,
detections in clusters around them, scores that follow IoU loosely, and background.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from qrepro.metrics.iou import pair_iou
from qrepro.records.boxes import xywh_of
from qrepro.records.ground_truth import BOX, GroundTruth, sections_of
from qrepro.records.readers.coco import write_sections

SIDE = 640.0  # px, of every image


@dataclass(frozen=True)
class Size:
    """How much is made; by default as much as COCO val2017 has, and detections as a detector gives for it."""

    images: int = 5_000
    objects: int = 36_575
    classes: int = 80
    detections: int = 500_000

    def scaled(self, factor: float) -> Size:
        """The same, with `factor` times the images, objects and detections."""
        images, objects, detections = (max(1, round(factor * n)) for n in (self.images, self.objects, self.detections))
        return Size(images, objects, self.classes, detections)


def make_ground_truth(size: Size, seed: int = 0) -> GroundTruth:
    """Objects of a set, about 1 % of them crowds; ids from 1, categories with gaps as COCO has them."""
    random = np.random.default_rng([seed, 0])
    side = np.exp(random.uniform(np.log(8), np.log(400), (size.objects, 2)))
    corner = random.uniform(0, SIDE - side)
    annotations = pd.DataFrame(np.concatenate([corner, corner + side], axis=1).round(2), columns=BOX)
    annotations.insert(0, "id", np.arange(1, size.objects + 1))
    annotations.insert(1, "image_id", random.integers(1, size.images + 1, size.objects))
    annotations.insert(2, "category_id", 2 * random.zipf(1.5, size.objects) % (2 * size.classes) + 2)
    annotations["area"] = side.prod(axis=1) * 0.7
    annotations["iscrowd"] = (random.random(size.objects) < 0.01).astype(np.int64)
    ids = np.arange(1, size.images + 1)
    images = pd.DataFrame({"id": ids, "file_name": [f"{i:012d}.jpg" for i in ids], "width": SIDE, "height": SIDE})
    numbers = 2 * np.arange(size.classes) + 2
    return GroundTruth(images, pd.DataFrame({"id": numbers, "name": [f"class {i}" for i in numbers]}), annotations)


def make_detections(size: Size, ground_truth: GroundTruth, seed: int = 0) -> pd.DataFrame:
    """Detections with score, quality and iou_truth: six in ten near an object, four anywhere.

    iou_truth is the IoU with the object a detection was made from.
    """
    random = np.random.default_rng([seed, 1])
    n = size.detections
    source = random.integers(0, len(ground_truth.annotations), n)
    near = random.random(n) < 0.6
    objects = ground_truth.annotations.iloc[source]
    gt_boxes = objects[BOX].to_numpy(np.float64)
    sides = np.tile(gt_boxes[:, 2:] - gt_boxes[:, :2], 2)
    boxes = gt_boxes + random.normal(0, 0.12, (n, 4)) * sides * random.random((n, 1))
    anywhere = random.uniform(0, SIDE - 60, (n, 2))
    boxes[~near] = np.concatenate([anywhere, anywhere + random.uniform(4, 60, (n, 2))], axis=1)[~near]
    boxes = np.clip(
        np.concatenate([np.minimum(boxes[:, :2], boxes[:, 2:]), np.maximum(boxes[:, :2], boxes[:, 2:])], axis=1),
        0,
        SIDE,
    )
    iou = np.where(near, pair_iou(boxes, gt_boxes), 0.0)
    quality = np.clip(0.25 + 0.6 * iou + random.normal(0, 0.12, n), 0.001, 0.999)
    score = np.clip(random.beta(1.2, 6, n) + 0.5 * iou * random.random(n), 0.001, 0.999)
    frame = pd.DataFrame(boxes, columns=BOX)
    anyone = random.integers(1, size.images + 1, n), 2 * random.integers(0, size.classes, n) + 2
    frame.insert(0, "image_id", np.where(near, objects["image_id"], anyone[0]))
    frame.insert(1, "category_id", np.where(near, objects["category_id"], anyone[1]))
    return frame.assign(score=score, quality=quality, iou_truth=iou)


def write_ground_truth(ground_truth: GroundTruth, path: Path) -> None:
    """Write the ground truth as a COCO annotation file."""
    write_sections(path, sections_of(ground_truth))


def write_detections(detections: pd.DataFrame, path: Path) -> None:
    """Write detections as a COCO result file, as other detectors do: without quality."""
    records = detections[["image_id", "category_id", "score"]].to_dict("records")
    for record, box in zip(records, xywh_of(detections[BOX]).tolist(), strict=True):
        record["bbox"] = box
    path.write_text(json.dumps(records), encoding="utf-8")
