"""COCO's greedy matching of detections to ground truth, computed once for AP, LRP, calibration and bootstrap.

The rules are those of pycocotools. Per image and category, in falling order of score, a detection takes the free object
that it overlaps most, if by the threshold or more; counted objects come before ignored ones (crowds, difficult objects,
objects outside the area range), and a crowd may be taken again. A detection that took an ignored object, or took none
and lies outside the area range itself, counts neither way.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from qrepro.metrics.area_ranges import SIZES, areas, outside
from qrepro.metrics.iou import pairs_by_key
from qrepro.records.detections import check_detections
from qrepro.records.ground_truth import BOX, GroundTruth

AREAS = areas(SIZES["coco"])  # px^2 of the object's `area`, both ends included
COCO_THRESHOLDS = tuple(np.linspace(0.5, 0.95, 10).tolist())  # pycocotools' own values, to the last bit


@dataclass(frozen=True, eq=False)
class Matches:
    """Detections ranked per category, with the ground-truth object that each took.

    T thresholds, N detections, G counted objects. Detections are ordered by category, then by falling score, equal
    scores by image id and then by row: pycocotools' order.

    Attributes:
        thresholds: (T,) IoU thresholds.
        row: (N,) row in the frame of detections; those beyond max_dets of their image and category are left out.
        category: (N,) index into `ground_truth.categories`.
        image: (N,) index into `ground_truth.images`.
        score: (N,) score of the detection.
        gt: (T, N) row of the annotation taken, -1 for none.
        iou: (T, N) IoU with it, 0 for none.
        ignored: (T, N) whether the detection counts neither as true nor as false positive.
        gt_category: (G,) index of the category of each object that counts.
        gt_image: (G,) index of the image of each object that counts.
        categories: Number of categories in the ground truth.
        images: Number of images in the ground truth.
    """

    thresholds: tuple[float, ...]
    row: NDArray[np.int64]
    category: NDArray[np.int64]
    image: NDArray[np.int64]
    score: NDArray[np.float64]
    gt: NDArray[np.int64]
    iou: NDArray[np.float64]
    ignored: NDArray[np.bool_]
    gt_category: NDArray[np.int64]
    gt_image: NDArray[np.int64]
    categories: int
    images: int

    @property
    def hit(self) -> NDArray[np.bool_]:
        """(T, N) true positives: the detection took an object that counts."""
        return (self.gt >= 0) & ~self.ignored


def match(
    ground_truth: GroundTruth,
    detections: pd.DataFrame,
    thresholds: Sequence[float] = COCO_THRESHOLDS,
    *,
    area: tuple[float, float] = AREAS["all"],
    max_dets: int = 100,
) -> Matches:
    """Match every detection at every threshold by COCO's rules.

    Args:
        ground_truth: Ground truth, of which are read `annotations` (image_id, category_id, x1, y1, x2, y2 in px, area
            in px^2, iscrowd) and the ids of `images` and `categories`. iscrowd = 1 marks regions where detections count
            neither way.
        detections: Frame with image_id, category_id, x1, y1, x2, y2 (px of the original image) and score.
        thresholds: IoU thresholds in [0, 1]; 0 takes any object that is overlapped at all.
        area: Range of px^2, both ends included, outside which objects are ignored.
        max_dets: Number of best detections kept per image and category.

    Returns:
        The matches, N detections at T thresholds.

    Raises:
        ValueError: If a threshold lies outside [0, 1] or none is given, `max_dets` is below 1, a column is missing, a
            box or score is not finite, or a detection has an image or category that the ground truth does not list.
    """
    check_detections(detections, ground_truth)
    thresholds = tuple(float(value) for value in thresholds)
    if not thresholds or not all(0 <= value <= 1 for value in thresholds):
        raise ValueError(f"IoU thresholds must lie in [0, 1], got {list(thresholds)}")
    if max_dets < 1:
        raise ValueError(f"max_dets must be at least 1, got {max_dets}")
    ranked = _rank(ground_truth, detections, max_dets)
    kept, objects = detections.iloc[ranked["row"]], ground_truth.annotations
    box_areas = _sides(kept).prod(axis=1)
    ignorable = (objects["iscrowd"].to_numpy() == 1) | outside(objects["area"].to_numpy(), area)
    taken, iou = _take(kept, objects, ignorable, ranked["rank"].to_numpy(), thresholds)
    ignored = np.where(taken >= 0, ignorable[taken] if len(objects) else False, outside(box_areas, area))
    counted = objects[~ignorable]
    return Matches(
        thresholds=thresholds,
        row=ranked["row"].to_numpy(),
        category=ranked["category"].to_numpy(),
        image=ranked["image"].to_numpy(),
        score=ranked["score"].to_numpy(),
        gt=taken,
        iou=iou,
        ignored=ignored,
        gt_category=_index(counted["category_id"], ground_truth.categories["id"]),
        gt_image=_index(counted["image_id"], ground_truth.images["id"]),
        categories=len(ground_truth.categories),
        images=len(ground_truth.images),
    )


def _rank(ground_truth: GroundTruth, detections: pd.DataFrame, max_dets: int) -> pd.DataFrame:
    """Rows in the order of `Matches`, with `rank`: that of a detection within its image and category, from 0."""
    frame = pd.DataFrame(
        {
            "row": np.arange(len(detections)),
            "category": _index(detections["category_id"], ground_truth.categories["id"]),
            "image": _index(detections["image_id"], ground_truth.images["id"]),
            "score": detections["score"].to_numpy(np.float64),
        }
    )
    image_id = detections["image_id"].to_numpy()
    by_image = np.lexsort((-frame["score"], image_id, frame["category"]))  # stable: rows keep their order
    frame, image_id = frame.iloc[by_image], image_id[by_image]
    new = np.diff(frame["category"], prepend=-1).astype(bool) | np.diff(image_id, prepend=-1).astype(bool)
    if len(new):
        new[0] = True
    start = np.maximum.accumulate(np.where(new, np.arange(len(frame)), 0))
    frame["rank"] = np.arange(len(frame)) - start
    frame = frame[frame["rank"] < max_dets]
    return frame.iloc[np.lexsort((-frame["score"], frame["category"]))]


def _take(
    detections: pd.DataFrame,
    objects: pd.DataFrame,
    ignorable: NDArray[np.bool_],
    rank: NDArray[np.int64],
    thresholds: Sequence[float],
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """(T, N) row of the object that each detection takes, -1 for none, and (T, N) its IoU.

    Detections of one rank in their image and category compete with none of the same rank elsewhere: the loop is over
    ranks, all images and categories at once.
    """
    least_iou = np.minimum(np.array(thresholds), 1 - 1e-10)  # pycocotools' own margin for an IoU of 1
    crowd = objects["iscrowd"].to_numpy() == 1
    left, right, overlap = _overlapping(detections, objects, crowd, float(least_iou.min()))
    taken = np.full((len(least_iou), len(detections)), -1)
    iou = np.zeros((len(least_iou), len(detections)))
    free = np.ones((len(objects), len(least_iou)), dtype=bool)
    # within a rank by detection, then from least to most wanted, so that the last allowed pair is the one taken
    order = np.lexsort((right, overlap, ~ignorable[right], left, rank[left]))
    left, right, overlap = left[order], right[order], overlap[order]
    bounds = np.flatnonzero(np.diff(rank[left])) + 1
    for block in np.split(np.arange(len(left)), bounds) if len(left) else []:
        rows, gt_rows, values = left[block], right[block], overlap[block]
        allowed = (values[:, None] >= least_iou) & (free[gt_rows] | crowd[gt_rows, None])
        last = np.where(allowed, np.arange(len(block))[:, None], -1)
        first = np.flatnonzero(np.diff(rows, prepend=-1))
        chosen = np.maximum.reduceat(last, first)  # (detections of this rank, T)
        matched, t = np.nonzero(chosen >= 0)
        pair = chosen[matched, t]
        taken[t, rows[first][matched]], iou[t, rows[first][matched]] = gt_rows[pair], values[pair]
        free[gt_rows[pair], t] = False
    return taken, iou


def _overlapping(
    detections: pd.DataFrame, objects: pd.DataFrame, crowd: NDArray[np.bool_], least_iou: float
) -> tuple[NDArray[np.intp], NDArray[np.intp], NDArray[np.float64]]:
    """Pairs (detection, object, IoU) of one image and category whose IoU allows a match: above 0, from `least_iou` on.

    The IoU with a crowd is the share of the detection that lies in it. Computed from x, y, width, height in the order
    of pycocotools, so that an IoU at a threshold falls on the same side.
    """
    corner, gt_corner = detections[BOX[:2]].to_numpy(np.float64), objects[BOX[:2]].to_numpy(np.float64)
    side, gt_side = _sides(detections), _sides(objects)
    parts = []
    for rows, gt_rows in pairs_by_key(detections, objects, ["image_id", "category_id"]):
        a, b, a_sides, b_sides = corner[rows], gt_corner[gt_rows], side[rows], gt_side[gt_rows]
        sides = np.minimum(a + a_sides, b + b_sides) - np.maximum(a, b)
        shared = np.where((sides > 0).all(axis=1), sides[:, 0] * sides[:, 1], 0.0)
        area, gt_area = a_sides[:, 0] * a_sides[:, 1], b_sides[:, 0] * b_sides[:, 1]
        union = np.where(crowd[gt_rows], area, area + gt_area - shared)
        iou = np.divide(shared, union, out=np.zeros_like(shared), where=shared > 0)
        kept = (iou > 0) & (iou >= least_iou)
        parts.append((rows[kept], gt_rows[kept], iou[kept]))
    left, right, overlap = zip(*parts, strict=True)
    return np.concatenate(left), np.concatenate(right), np.concatenate(overlap)


def _sides(frame: pd.DataFrame) -> NDArray[np.float64]:
    """Widths and heights (N, 2) in px."""
    boxes = frame[BOX].to_numpy(np.float64)
    sides: NDArray[np.float64] = boxes[:, 2:] - boxes[:, :2]
    return sides


def _index(values: pd.Series[int], ids: pd.Series[int]) -> NDArray[np.int64]:
    """Position of each value in the table of ids."""
    positions: NDArray[np.int64] = pd.Index(ids).get_indexer(pd.Index(values))
    return positions
