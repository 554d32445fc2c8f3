"""PASCAL VOC mean average precision (Everingham et al., IJCV 2010; development kit VOCevaldet.m).

It differs from COCO's: a detection is compared with the truth of its class that it overlaps *most*, even when that one
is already taken (COCO gives it the best of the free ones), and precision is averaged over 11 recalls (VOC2007) or
integrated over all (VOC2010 on). Boxes are continuous coordinates: the kit's "+1" pixel is left out.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from analysis.ap import threshold_name
from analysis.detections import check_detections
from analysis.matching import COCO_THRESHOLDS
from analysis.overlap import pair_iou, pairs_by_key
from analysis.truths import BOX, Truths

INTERPOLATIONS = ("11-point", "all-point")


@dataclass(frozen=True, eq=False)
class VOCResult:
    """Average precision per threshold and category.

    ap: (T, K) in [0, 1]; NaN for a category without non-difficult truth.
    thresholds: (T,) IoU thresholds.   category_ids, category_names: (K,).   interpolation: one of INTERPOLATIONS.
    """

    ap: np.ndarray
    thresholds: tuple[float, ...]
    category_ids: tuple[int, ...]
    category_names: tuple[str, ...]
    interpolation: str


def evaluate_voc(
    truths: Truths,
    detections: pd.DataFrame,
    thresholds: Sequence[float] = COCO_THRESHOLDS,
    interpolation: str = "11-point",
) -> VOCResult:
    """PASCAL VOC average precision of every category at every threshold.

    truths: iscrowd = 1 marks difficult objects: not counted, and a detection that overlaps one most is ignored.
    detections: frame with image_id, category_id, x1, y1, x2, y2 (px) and score; equal scores keep their order.
    thresholds: IoU thresholds in (0, 1]; a detection matches from the threshold on, as in the development kit.
    interpolation: "11-point" (VOC2007) or "all-point" (VOC2010 on).
    """
    if interpolation not in INTERPOLATIONS:
        raise ValueError(f"interpolation must be one of {', '.join(INTERPOLATIONS)}, got {interpolation!r}")
    thresholds = tuple(float(value) for value in thresholds)
    if not thresholds or not all(0 < value <= 1 for value in thresholds):
        raise ValueError(f"IoU thresholds must lie in (0, 1], got {list(thresholds)}")
    check_detections(detections, truths)
    ranked = detections.sort_values("score", ascending=False, kind="stable", ignore_index=True)
    best, truth = _most_overlapped(truths, ranked)
    difficult = truths.annotations["iscrowd"].to_numpy() == 1
    truth_class = truths.annotations["category_id"].to_numpy()
    found_class = ranked["category_id"].to_numpy()
    ids = tuple(truths.categories["id"].tolist())
    ap = np.full((len(thresholds), len(ids)), math.nan)
    for t, threshold in enumerate(thresholds):
        true_positive, ignored = _verdicts(best, truth, difficult, threshold)
        for k, category in enumerate(ids):
            n_truths = int(((truth_class == category) & ~difficult).sum())
            if n_truths:
                hits = true_positive[(found_class == category) & ~ignored]
                recall = np.cumsum(hits) / n_truths
                precision = np.cumsum(hits) / np.arange(1, len(hits) + 1)
                ap[t, k] = average_precision(recall, precision, interpolation)
    return VOCResult(ap, thresholds, ids, tuple(truths.categories["name"]), interpolation)


def voc_metrics(result: VOCResult) -> dict[str, float]:
    """Percent: AP (mean over thresholds and categories with truth), AP50 ... AP95, and the count n_classes."""
    defined = result.ap[:, ~np.isnan(result.ap[0])]
    means = 100 * defined.mean(axis=1) if defined.size else np.full(len(result.thresholds), math.nan)
    single = {threshold_name(value): float(mean) for value, mean in zip(result.thresholds, means, strict=True)}
    return {"AP": float(means.mean()), **single, "n_classes": defined.shape[1]}


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


def _most_overlapped(truths: Truths, ranked: pd.DataFrame) -> tuple[np.ndarray, np.ndarray]:
    """(N,) largest IoU with a truth of the own class, difficult ones included, and (N,) its row; -1 where none."""
    truth_boxes, boxes = (frame[BOX].to_numpy(np.float64) for frame in (truths.annotations, ranked))
    best, truth = np.zeros(len(ranked)), np.full(len(ranked), -1)
    for rows, others in pairs_by_key(ranked, truths.annotations, ["image_id", "category_id"]):
        iou = pair_iou(boxes[rows], truth_boxes[others])
        order = np.lexsort((others, -iou, rows))  # the first truth in the file wins a tie
        first = order[np.flatnonzero(np.diff(rows[order], prepend=-1))]
        best[rows[first]], truth[rows[first]] = iou[first], others[first]
    return best, truth


def _verdicts(
    best: np.ndarray, truth: np.ndarray, difficult: np.ndarray, threshold: float
) -> tuple[np.ndarray, np.ndarray]:
    """Which of N ranked detections are true positives, and which are ignored: two (N,) masks.

    A truth counts for the first detection that reaches it; every later one is a false positive.
    """
    reaches = (truth >= 0) & (best >= threshold)
    ignored = reaches.copy()
    ignored[reaches] = difficult[truth[reaches]]
    candidates = np.flatnonzero(reaches & ~ignored)
    _, first = np.unique(truth[candidates], return_index=True)
    true_positive = np.zeros(len(best), dtype=bool)
    true_positive[candidates[first]] = True
    return true_positive, ignored
