"""Ground truth and detections of a few boxes, by hand or at random, and how pycocotools judges them."""

import contextlib
import io

import numpy as np
import pandas as pd
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from qrepro.records.ground_truth import BOX, GroundTruth

BOX_A, BOX_B, BOX_C = (0, 0, 10, 10), (20, 0, 30, 10), (40, 0, 50, 10)


def make_ground_truth(images, categories, rows):
    """Ground truths of rows (image, category, x1, y1, x2, y2, iscrowd)."""
    frame = pd.DataFrame(rows, columns=["image_id", "category_id", *BOX, "iscrowd"])
    kinds = {"image_id": int, "category_id": int, "iscrowd": int, **dict.fromkeys(BOX, float)}
    frame = frame.astype(kinds)
    frame["area"] = (frame["x2"] - frame["x1"]) * (frame["y2"] - frame["y1"])
    frame.insert(0, "id", np.arange(len(frame)))
    names = [f"c{k}" for k in categories]
    return GroundTruth(
        pd.DataFrame({"id": images, "file_name": "", "width": 100.0, "height": 100.0}),
        pd.DataFrame({"id": categories, "name": names}),
        frame,
    )


def make_detections(rows):
    """Detections of rows (image, category, x1, y1, x2, y2, score)."""
    frame = pd.DataFrame(rows, columns=["image_id", "category_id", *BOX, "score"])
    return frame.astype({"image_id": int, "category_id": int, **dict.fromkeys([*BOX, "score"], float)})


def random_case(seed):
    """Crowds, score ties, empty images, absent classes, zero-area and duplicate boxes, sizes across all areas."""
    rng = np.random.default_rng(seed)
    images, categories = [3, 10, 11, 20][: rng.integers(1, 5)], [2, 5, 90][: rng.integers(1, 4)]
    g = rng.integers(0, 14)
    corner, side = rng.integers(0, 60, (g, 2)), rng.integers(0, 130, (g, 2))
    owner, label = rng.choice(images, g), rng.choice(categories[: rng.integers(1, 4)], g)
    rows = np.column_stack([owner, label, corner, corner + side, rng.random(g) < 0.25])
    copies = rows[rng.integers(0, g, rng.integers(0, 60))] if g else rows
    moved = copies[:, 2:6] + rng.integers(-6, 7, (len(copies), 4))
    moved[:, 2:] = np.maximum(moved[:, 2:], moved[:, :2])
    switch = np.where(rng.random(len(copies)) < 0.8, copies[:, 1], rng.choice(categories, len(copies)))
    score = rng.integers(0, 8, len(copies)) / 8
    found = make_detections(np.column_stack([copies[:, 0], switch, moved, score]))
    return make_ground_truth(images, categories, rows), found


def iou(a, b):
    width, height = min(a[2], b[2]) - max(a[0], b[0]), min(a[3], b[3]) - max(a[1], b[1])
    overlap = max(width, 0) * max(height, 0)
    union = (a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - overlap
    return overlap / union if union > 0 else 0.0


def judged(ground_truth, found, tau, max_dets=100):
    """(category id, score, hit, IoU) of the detections that count, by pycocotools, and the ground truths per id."""
    datasets = []
    for frame in (ground_truth.annotations, found.assign(area=0, iscrowd=0)):
        dataset = COCO()
        dataset.dataset = {
            "images": [{"id": i} for i in ground_truth.images["id"].tolist()],
            "categories": [{"id": i} for i in ground_truth.categories["id"].tolist()],
            "annotations": [
                {
                    "id": n, "image_id": int(row.image_id), "category_id": int(row.category_id),
                    "bbox": [row.x1, row.y1, row.x2 - row.x1, row.y2 - row.y1],
                    "area": row.area, "iscrowd": int(row.iscrowd), "score": getattr(row, "score", None),
                    "corners": (row.x1, row.y1, row.x2, row.y2),
                }
                for n, row in enumerate(frame.itertuples(), start=1)
            ],
        }  # fmt: skip
        datasets.append(dataset)
    with contextlib.redirect_stdout(io.StringIO()):
        for dataset in datasets:
            dataset.createIndex()
        evaluation = COCOeval(*datasets, "bbox")
        evaluation.params.iouThrs = np.array([tau])
        evaluation.params.maxDets = [max_dets]
        evaluation.params.areaRng = [[0, 1e10]]
        evaluation.evaluate()
    samples, n_gt = [], dict.fromkeys(ground_truth.categories["id"].tolist(), 0)
    for image in evaluation.evalImgs:
        if image is None:
            continue
        n_gt[image["category_id"]] += int((np.array(image["gtIgnore"]) == 0).sum())
        for n, score, match, ignored in zip(
            image["dtIds"], image["dtScores"], image["dtMatches"][0], image["dtIgnore"][0], strict=True
        ):
            if not ignored:
                boxes = datasets[1].anns[n]["corners"], datasets[0].anns[int(match)]["corners"] if match else None
                samples.append((image["category_id"], score, match > 0, iou(*boxes) if match else 0.0))
    return samples, n_gt
