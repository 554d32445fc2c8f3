"""PASCAL VOC mean average precision (Everingham et al., IJCV 2010; development kit VOCevaldet.m), also by size.

It differs from COCO's: a detection is compared with the truth of its class that it overlaps *most*, even when that one
is already taken (COCO gives it the best of the free ones), and precision is averaged over 11 recalls (VOC2007) or
integrated over all (VOC2010 on). Boxes are continuous coordinates: the kit's "+1" pixel is left out.

VOC has no sizes. Within a range of area, as PASSD (arXiv 1907.12736) reports them, truths outside the range are ignored
and detections that took none are, where they lie outside it themselves: pycocotools' rule. So a false positive counts
in the range of its own area.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any

import numpy as np
import pandas as pd

from qrepro.metrics.area_ranges import SIZES, Range, Sides, outside, size_columns, size_text
from qrepro.metrics.coco_ap import threshold_name
from qrepro.metrics.iou import pair_iou, pairs_by_key
from qrepro.metrics.matching import AREAS, COCO_THRESHOLDS
from qrepro.records.detections import check_detections
from qrepro.records.ground_truth import BOX, Truths

INTERPOLATIONS = ("11-point", "all-point")
VOC_THRESHOLD = 0.5  # of a true positive in VOC itself


@dataclass(frozen=True, eq=False)
class VOCResult:
    """Average precision of T thresholds, K categories, A ranges of area and the I = 2 INTERPOLATIONS.

    ap: (T, K, A, I) in [0, 1]; NaN for a category without a truth of that range that is not difficult.
    thresholds: (T,) IoU thresholds.   category_ids, category_names: (K,).   areas: (A,) in px^2.
    """

    ap: np.ndarray
    thresholds: tuple[float, ...]
    category_ids: tuple[int, ...]
    category_names: tuple[str, ...]
    areas: tuple[Range, ...]


def evaluate_voc(
    truths: Truths,
    detections: pd.DataFrame,
    thresholds: Sequence[float] = COCO_THRESHOLDS,
    areas: Sequence[Range] = (AREAS["all"],),
) -> VOCResult:
    """PASCAL VOC average precision of every category at every threshold, in every range of area.

    truths: iscrowd = 1 marks difficult objects: not counted, and a detection that overlaps one most is ignored.
    detections: frame with image_id, category_id, x1, y1, x2, y2 (px) and score; equal scores keep their order.
    thresholds: IoU thresholds in (0, 1]; a detection matches from the threshold on, as in the development kit.
    areas: ranges of px^2, both ends included, of the truth's `area` and of a detection's box.
    """
    thresholds = tuple(float(value) for value in thresholds)
    if not thresholds or not all(0 < value <= 1 for value in thresholds):
        raise ValueError(f"IoU thresholds must lie in (0, 1], got {list(thresholds)}")
    check_detections(detections, truths)
    ranked = _rank(truths, detections)
    ids = tuple(truths.categories["id"].tolist())
    ap = np.full((len(thresholds), len(ids), len(areas), len(INTERPOLATIONS)), math.nan)
    for (t, threshold), (a, area) in product(enumerate(thresholds), enumerate(areas)):
        took, ignored = _verdicts(ranked, threshold, area)
        counted = ~ranked.difficult & ~outside(ranked.truth_area, area)
        for k, category in enumerate(ids):
            n_truths = int((counted & (ranked.truth_category == category)).sum())
            if n_truths:
                hits = took[(ranked.category == category) & ~ignored]
                recall = np.cumsum(hits) / n_truths
                precision = np.cumsum(hits) / np.arange(1, len(hits) + 1)
                ap[t, k, a] = [average_precision(recall, precision, kind) for kind in INTERPOLATIONS]
    return VOCResult(ap, thresholds, ids, tuple(truths.categories["name"]), tuple(areas))


def voc_rows(
    truths: Truths,
    detections: pd.DataFrame,
    thresholds: Sequence[float] = COCO_THRESHOLDS,
    sizes: Sides = SIZES["passd"],
) -> list[dict[str, Any]]:
    """One row per interpolation, in percent, means over the categories that have truth (of that size).

    Returns rows {interpolation, sizes, mAP, mAPS, mAPM, mAPL, mAP50 ... mAP95, n_classes}. mAP is at IoU 0.5 whatever
    the `thresholds`, as are mAPS, mAPM and mAPL, of truths on either side of the two `sizes` (px) and between (PASSD,
    tables 1 and 3); mAP50 ... are at the thresholds (its table 2). n_classes: categories with truth, of any size.
    """
    sized = size_columns("mAP", sizes)
    whole = evaluate_voc(truths, detections, [VOC_THRESHOLD, *thresholds])
    parts = evaluate_voc(truths, detections, [VOC_THRESHOLD], list(sized.values()))
    rows = []
    for i, interpolation in enumerate(INTERPOLATIONS):
        row: dict[str, Any] = {"interpolation": interpolation, "sizes": size_text(sizes)}
        row["mAP"] = _percent(whole.ap[0, :, 0, i])
        row |= {name: _percent(parts.ap[0, :, a, i]) for a, name in enumerate(sized)}
        row |= {f"m{threshold_name(v)}": _percent(whole.ap[t, :, 0, i]) for t, v in enumerate(thresholds, start=1)}
        rows.append({**row, "n_classes": int((~np.isnan(whole.ap[0, :, 0, i])).sum())})
    return rows


def average_precision(recall: np.ndarray, precision: np.ndarray, interpolation: str) -> float:
    """Area under one precision-recall curve, in [0, 1].

    recall, precision: (N,) after each detection of decreasing score; recall does not decrease.
    "11-point": mean over recalls 0, 0.1, ... 1 of the highest precision at that recall or above.
    "all-point": integral over recall of that highest precision.
    """
    envelope = np.append(np.maximum.accumulate(precision[::-1])[::-1], 0.0)
    if interpolation == "11-point":
        # i / 10 rather than multiples of 0.1, so that a recall of exactly 3/10 reaches the fourth point
        return float(envelope[np.searchsorted(recall, np.arange(11) / 10)].mean())
    return float((np.diff(recall, prepend=0.0) * envelope[:-1]).sum())


@dataclass(frozen=True, eq=False)
class _Ranked:
    """N detections in falling order of score, each with the one of G truths that it overlaps most.

    category, area: (N,), the area of the box in px^2.
    iou, truth: (N,) IoU with that truth and its row; 0 and -1 for none.
    truth_category, truth_area, difficult: (G,).
    """

    category: np.ndarray
    area: np.ndarray
    iou: np.ndarray
    truth: np.ndarray
    truth_category: np.ndarray
    truth_area: np.ndarray
    difficult: np.ndarray


def _rank(truths: Truths, detections: pd.DataFrame) -> _Ranked:
    """Rank detections and find the truth of its class, difficult ones included, that each overlaps most."""
    ranked = detections.sort_values("score", ascending=False, kind="stable", ignore_index=True)
    objects = truths.annotations
    truth_boxes, boxes = (frame[BOX].to_numpy(np.float64) for frame in (objects, ranked))
    best, truth = np.zeros(len(ranked)), np.full(len(ranked), -1)
    for rows, others in pairs_by_key(ranked, objects, ["image_id", "category_id"]):
        iou = pair_iou(boxes[rows], truth_boxes[others])
        order = np.lexsort((others, -iou, rows))  # the first truth in the file wins a tie
        first = order[np.flatnonzero(np.diff(rows[order], prepend=-1))]
        best[rows[first]], truth[rows[first]] = iou[first], others[first]
    return _Ranked(
        category=ranked["category_id"].to_numpy(),
        area=(boxes[:, 2:] - boxes[:, :2]).prod(axis=1),
        iou=best,
        truth=truth,
        truth_category=objects["category_id"].to_numpy(),
        truth_area=objects["area"].to_numpy(),
        difficult=objects["iscrowd"].to_numpy() == 1,
    )


def _verdicts(ranked: _Ranked, threshold: float, area: Range) -> tuple[np.ndarray, np.ndarray]:
    """Which of N ranked detections took a truth, and which are ignored in a range of area: two (N,) masks.

    The first detection that reaches a truth takes it; one that reaches it later takes none. A difficult truth is taken
    by nobody, and whoever reaches it is ignored. Who took a truth and is not ignored is a true positive.
    """
    reaching = np.flatnonzero((ranked.truth >= 0) & (ranked.iou >= threshold))
    on_difficult = ranked.difficult[ranked.truth[reaching]]
    candidates = reaching[~on_difficult]
    taken, first = np.unique(ranked.truth[candidates], return_index=True)
    took = np.zeros(len(ranked.truth), dtype=bool)
    took[candidates[first]] = True
    ignored = outside(ranked.area, area)
    ignored[reaching[on_difficult]] = True
    ignored[candidates[first]] = outside(ranked.truth_area[taken], area)
    return took, ignored


def _percent(values: np.ndarray) -> float:
    """Mean of the values that are defined, in percent."""
    defined = values[~np.isnan(values)]
    return 100.0 * float(defined.mean()) if defined.size else math.nan
