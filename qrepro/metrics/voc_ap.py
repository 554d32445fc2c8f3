"""PASCAL VOC mean average precision (Everingham et al., IJCV 2010; development kit VOCevaldet.m), also by size.

It differs from COCO's: a detection is compared with the object of its class that it overlaps *most*, even when that
object is already taken (COCO gives it the best of the free ones), and precision is averaged over 11 recalls (VOC2007)
or integrated over all (VOC2010 on). Boxes are continuous coordinates: the kit's "+1" pixel is left out.

VOC has no sizes. Within a range of area, as PASSD (arXiv 1907.12736) reports them, objects outside the range are
ignored, and so are detections that took no object and lie outside the range themselves: pycocotools' rule. A false
positive therefore counts in the range of its own area.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from qrepro.metrics.area_ranges import SIZES, Range, Sides, outside, size_columns, size_text
from qrepro.metrics.coco_ap import threshold_name
from qrepro.metrics.iou import pair_iou, pairs_by_key
from qrepro.metrics.matching import AREAS, COCO_THRESHOLDS
from qrepro.records.detections import check_detections
from qrepro.records.ground_truth import BOX, GroundTruth

INTERPOLATIONS = ("11-point", "all-point")
VOC_THRESHOLD = 0.5  # of a true positive in VOC itself

Row = dict[str, float | int | str]


@dataclass(frozen=True, eq=False)
class VOCResult:
    """Average precision of T thresholds, K categories, A ranges of area and the I = 2 INTERPOLATIONS.

    Attributes:
        ap: (T, K, A, I) in [0, 1]; NaN for a category without an object of that range that is not difficult.
        thresholds: (T,) IoU thresholds.
        category_ids: (K,) ids of the categories.
        category_names: (K,) names of the categories.
        areas: (A,) ranges (low, high) in px^2.
    """

    ap: NDArray[np.float64]
    thresholds: tuple[float, ...]
    category_ids: tuple[int, ...]
    category_names: tuple[str, ...]
    areas: tuple[Range, ...]


def evaluate_voc(
    ground_truth: GroundTruth,
    detections: pd.DataFrame,
    thresholds: Sequence[float] = COCO_THRESHOLDS,
    areas: Sequence[Range] = (AREAS["all"],),
) -> VOCResult:
    """Compute the PASCAL VOC average precision of every category at every threshold, in every range of area.

    Args:
        ground_truth: Ground truth, of which are read `annotations` (image_id, category_id, x1, y1, x2, y2 in px, area
            in px^2, iscrowd), `images` (id) and `categories` (id, name). iscrowd = 1 marks difficult objects: they are
            not counted, and a detection that overlaps one most is ignored.
        detections: Frame with image_id, category_id, x1, y1, x2, y2 (px) and score; equal scores keep their order.
        thresholds: IoU thresholds in (0, 1]; a detection matches from the threshold on, as in the development kit.
        areas: Ranges of px^2, both ends included, of the object's `area` and of a detection's box.

    Returns:
        Average precision, K categories in the order of the ground truth.

    Raises:
        ValueError: If a threshold lies outside (0, 1], none is given, or the detections are refused (see
            `check_detections`).
    """
    thresholds = tuple(float(value) for value in thresholds)
    if not thresholds or not all(0 < value <= 1 for value in thresholds):
        raise ValueError(f"IoU thresholds must lie in (0, 1], got {list(thresholds)}")
    check_detections(detections, ground_truth)
    ranked = _rank(ground_truth, detections)
    ids = tuple(ground_truth.categories["id"].tolist())
    ap = np.full((len(thresholds), len(ids), len(areas), len(INTERPOLATIONS)), math.nan)
    for (t, threshold), (a, area) in product(enumerate(thresholds), enumerate(areas)):
        took, ignored = _verdicts(ranked, threshold, area)
        counted = ~ranked.difficult & ~outside(ranked.gt_area, area)
        for k, category in enumerate(ids):
            n_objects = int((counted & (ranked.gt_category == category)).sum())
            if n_objects:
                hits = took[(ranked.category == category) & ~ignored]
                recall = np.cumsum(hits) / n_objects
                precision = np.cumsum(hits) / np.arange(1, len(hits) + 1)
                ap[t, k, a] = [average_precision(recall, precision, kind) for kind in INTERPOLATIONS]
    return VOCResult(ap, thresholds, ids, tuple(ground_truth.categories["name"]), tuple(areas))


def voc_rows(
    ground_truth: GroundTruth,
    detections: pd.DataFrame,
    thresholds: Sequence[float] = COCO_THRESHOLDS,
    sizes: Sides = SIZES["passd"],
) -> list[Row]:
    """Compute the mean average precision of PASCAL VOC by both interpolations.

    Args:
        ground_truth: As for `evaluate_voc`.
        detections: As for `evaluate_voc`.
        thresholds: IoU thresholds in (0, 1] of the columns mAP50 ... mAP95.
        sizes: Two sides in px that separate small, medium and large objects.

    Returns:
        One row per interpolation, {interpolation, sizes, mAP, mAPS, mAPM, mAPL, mAP50 ... mAP95, n_classes}, in
        percent, means over the categories that have an object (of that size), NaN where none has. mAP is at IoU 0.5
        whatever the `thresholds`, as are mAPS, mAPM and mAPL, of objects on either side of the two `sizes` and between
        (PASSD, tables 1 and 3); mAP50 ... are at the thresholds (its table 2). n_classes counts the categories with an
        object of any size.

    Raises:
        ValueError: As `evaluate_voc`, and if the sides do not increase.
    """
    sized = size_columns("mAP", sizes)
    whole = evaluate_voc(ground_truth, detections, [VOC_THRESHOLD, *thresholds])
    parts = evaluate_voc(ground_truth, detections, [VOC_THRESHOLD], list(sized.values()))
    rows: list[Row] = []
    for i, interpolation in enumerate(INTERPOLATIONS):
        row: Row = {"interpolation": interpolation, "sizes": size_text(sizes)}
        row["mAP"] = _percent(whole.ap[0, :, 0, i])
        row |= {name: _percent(parts.ap[0, :, a, i]) for a, name in enumerate(sized)}
        row |= {f"m{threshold_name(v)}": _percent(whole.ap[t, :, 0, i]) for t, v in enumerate(thresholds, start=1)}
        rows.append({**row, "n_classes": int((~np.isnan(whole.ap[0, :, 0, i])).sum())})
    return rows


def average_precision(recall: NDArray[np.float64], precision: NDArray[np.float64], interpolation: str) -> float:
    """Compute the area under one precision-recall curve.

    Args:
        recall: (N,) in [0, 1] after each detection of decreasing score; does not decrease.
        precision: (N,) in [0, 1] after the same detections.
        interpolation: "11-point", the mean over recalls 0, 0.1, ... 1 of the highest precision at that recall or above,
            or "all-point", the integral over recall of that highest precision.

    Returns:
        Average precision in [0, 1].
    """
    envelope = np.append(np.maximum.accumulate(precision[::-1])[::-1], 0.0)
    if interpolation == "11-point":
        # i / 10 rather than multiples of 0.1, so that a recall of exactly 3/10 reaches the fourth point
        return float(envelope[np.searchsorted(recall, np.arange(11) / 10)].mean())
    return float((np.diff(recall, prepend=0.0) * envelope[:-1]).sum())


@dataclass(frozen=True, eq=False)
class _Ranked:
    """N detections in falling order of score, each with the one of G objects that it overlaps most.

    Attributes:
        category: (N,) category id.
        area: (N,) area of the box in px^2.
        iou: (N,) IoU with that object; 0 for none.
        gt_row: (N,) row of that object; -1 for none.
        gt_category: (G,) category id.
        gt_area: (G,) `area` in px^2.
        difficult: (G,) whether the object is difficult.
    """

    category: NDArray[np.int64]
    area: NDArray[np.float64]
    iou: NDArray[np.float64]
    gt_row: NDArray[np.int64]
    gt_category: NDArray[np.int64]
    gt_area: NDArray[np.float64]
    difficult: NDArray[np.bool_]


def _rank(ground_truth: GroundTruth, detections: pd.DataFrame) -> _Ranked:
    """Rank detections and find the object of its class, difficult ones included, that each overlaps most."""
    ranked = detections.sort_values("score", ascending=False, kind="stable", ignore_index=True)
    objects = ground_truth.annotations
    gt_boxes, boxes = (frame[BOX].to_numpy(np.float64) for frame in (objects, ranked))
    best, gt_row = np.zeros(len(ranked)), np.full(len(ranked), -1)
    for rows, gt_rows in pairs_by_key(ranked, objects, ["image_id", "category_id"]):
        iou = pair_iou(boxes[rows], gt_boxes[gt_rows])
        order = np.lexsort((gt_rows, -iou, rows))  # the first object in the file wins a tie
        first = order[np.flatnonzero(np.diff(rows[order], prepend=-1))]
        best[rows[first]], gt_row[rows[first]] = iou[first], gt_rows[first]
    return _Ranked(
        category=ranked["category_id"].to_numpy(),
        area=(boxes[:, 2:] - boxes[:, :2]).prod(axis=1),
        iou=best,
        gt_row=gt_row,
        gt_category=objects["category_id"].to_numpy(),
        gt_area=objects["area"].to_numpy(),
        difficult=objects["iscrowd"].to_numpy() == 1,
    )


def _verdicts(ranked: _Ranked, threshold: float, area: Range) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Two (N,) masks: which of N ranked detections took an object, and which are ignored in a range of area.

    The first detection that reaches an object takes it; one that reaches it later takes none. No detection takes a
    difficult object, and one that reaches it is ignored. A detection that took an object and is not ignored is a true
    positive.
    """
    reaching = np.flatnonzero((ranked.gt_row >= 0) & (ranked.iou >= threshold))
    on_difficult = ranked.difficult[ranked.gt_row[reaching]]
    candidates = reaching[~on_difficult]
    taken, first = np.unique(ranked.gt_row[candidates], return_index=True)
    took = np.zeros(len(ranked.gt_row), dtype=bool)
    took[candidates[first]] = True
    ignored = outside(ranked.area, area)
    ignored[reaching[on_difficult]] = True
    ignored[candidates[first]] = outside(ranked.gt_area[taken], area)
    return took, ignored


def _percent(values: NDArray[np.float64]) -> float:
    """Mean of the values that are defined, in percent."""
    defined = values[~np.isnan(values)]
    return 100.0 * float(defined.mean()) if defined.size else math.nan
