"""Localisation Recall Precision error: one number for the misses, the false alarms and the looseness of the boxes.

Oksuz et al., ECCV 2018 (arXiv 1807.01696) and TPAMI 2022 (arXiv 2009.13592). At a score threshold s and with true
positives of IoU tau or more,

    LRP(s) = (sum over true positives of (1 - IoU) / (1 - tau) + N_FP + N_FN) / (N_TP + N_FP + N_FN)

in [0, 1], 0 for perfect detections. Its parts are LRP_Loc = mean of 1 - IoU over the true positives, LRP_FP = 1 -
precision and LRP_FN = 1 - recall. oLRP is the smallest LRP over s, class by class, and so also names the threshold at
which a class is best operated. All values are shares; the papers print percent.

The matching is greedy in the order of score, so that detections below s change no match above it: one matching serves
every s. Detections that took an ignored object count neither way.

The search is exact: every score that occurs is tried, and detections of equal score stand or fall together. The
authors' first code (2018) tries s = 0, 0.01 ... 1 instead; their second (2020) tries every prefix of the ranking, which
may cut through equal scores. In both, as here, a class without ground truth is left out, and a class whose detections
are all wrong has oLRP = 1.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

from qrepro.metrics.matching import match
from qrepro.records.ground_truth import GroundTruth

Row = dict[str, float | int | str]
_Point = dict[str, float]  # values, threshold and counts of one class or of the mean

_PARTS = ("value", "loc", "fp", "fn")
_COUNTS = ("n_tp", "n_fp", "n_fn", "classes", "classes_loc", "classes_fp")
_UNDEFINED: _Point = dict.fromkeys((*_PARTS, "threshold"), math.nan) | dict.fromkeys(_COUNTS, 0)


class LRPCurve(NamedTuple):
    """LRP of one class at every threshold that makes a difference: S + 1 points for S different scores.

    Attributes:
        threshold: (S + 1,) falling scores; the first is infinity, where no detection is kept and LRP is 1.
        tp: (S + 1,) true positives among the detections kept.
        fp: (S + 1,) false positives among the detections kept.
        fn: (S + 1,) objects missed.
        loc: (S + 1,) sum of 1 - IoU over the true positives kept.
        lrp: (S + 1,) in [0, 1].
    """

    threshold: NDArray[np.float64]
    tp: NDArray[np.int64]
    fp: NDArray[np.int64]
    fn: NDArray[np.int64]
    loc: NDArray[np.float64]
    lrp: NDArray[np.float64]


def lrp_rows(
    ground_truth: GroundTruth,
    detections: pd.DataFrame,
    tau: float = 0.5,
    *,
    threshold: float | Mapping[int, float] | None = None,
    max_dets: int = 100,
) -> list[Row]:
    """Compute the LRP of every class and its mean.

    Args:
        ground_truth: Ground truth, of which are read `annotations` (image_id, category_id, x1, y1, x2, y2 in px, area
            in px^2, iscrowd), `images` (id) and `categories` (id, name).
        detections: Frame with image_id, category_id, x1, y1, x2, y2 (px of the original image) and score.
        tau: IoU in [0, 1) from which a detection is a true positive; 0 takes any overlap (the authors' code then also
            matches boxes that do not overlap at all).
        threshold: None for oLRP; else the score from which detections are kept, one for all or one per category id, as
            chosen on another split: {row["category_id"]: row["threshold"] for row in rows}. For NaN, no detection is
            kept.
        max_dets: Number of best detections kept per image and category, before `threshold`.

    Returns:
        One row per class, in the order of `ground_truth.categories`, and a last row of class "mean", with
            metric ("oLRP", or "LRP" where a threshold is given), category_id ("" for the mean), class;
            value, loc, fp, fn: LRP and its parts at the threshold, shares; loc is NaN without true positive, fp without
                detection, all four for a class without ground truth. Means are over the classes where defined;
            threshold: the score at which that is; of several that are equally good, the highest. NaN where none is
                better than to keep no detection (a class without true positive), and for the mean;
            n_tp, n_fp, n_fn: the counts behind it;
            classes, classes_loc, classes_fp: 1 or 0, whether value (and fn), loc and fp are defined; for the mean, how
                many classes are in it;
            tau, max_dets, matching: the options.

    Raises:
        ValueError: If `tau` lies outside [0, 1), a category has no threshold, `max_dets` is below 1, or the detections
            are refused (see `check_detections`).
    """
    if not 0 <= tau < 1:
        raise ValueError(f"tau must lie in [0, 1), got {tau}")
    ids, names = ground_truth.categories["id"].tolist(), ground_truth.categories["name"].tolist()
    if isinstance(threshold, Mapping):
        missing = [category_id for category_id in ids if category_id not in threshold]
        if missing:
            raise ValueError(f"threshold has no entry for category {missing[0]}; it has {len(threshold)} entries")
    matches = match(ground_truth, detections, [tau], max_dets=max_dets)
    counted = ~matches.ignored[0]
    bounds = np.searchsorted(matches.category[counted], np.arange(matches.categories + 1))
    score, hit, iou = matches.score[counted], matches.hit[0][counted], matches.iou[0][counted]
    n_objects = np.bincount(matches.gt_category, minlength=matches.categories)
    metric = "oLRP" if threshold is None else "LRP"
    options: Row = {"tau": tau, "max_dets": max_dets, "matching": "greedy"}
    rows: list[Row] = []
    points = []
    for k, (category_id, name) in enumerate(zip(ids, names, strict=True)):
        point = _UNDEFINED
        if n_objects[k]:
            members = slice(bounds[k], bounds[k + 1])
            curve = lrp_curve(score[members], hit[members], iou[members], int(n_objects[k]), tau)
            given = threshold[category_id] if isinstance(threshold, Mapping) else threshold
            point = _point(curve, _optimum(curve) if given is None else _kept_from(curve, given), given)
        points.append(point)
        rows.append({"metric": metric, "category_id": category_id, "class": name, **point, **options})
    return [*rows, {"metric": metric, "category_id": "", "class": "mean", **_mean(points), **options}]


def lrp_curve(score: ArrayLike, hit: ArrayLike, iou: ArrayLike, n_gt: int, tau: float = 0.5) -> LRPCurve:
    """Compute the LRP of one class over its score threshold, for a figure or to choose a threshold by another rule.

    Args:
        score: (N,) scores of the detections that count, in any order.
        hit: (N,) bool, whether each is a true positive.
        iou: (N,) IoU with the object that each took; read for hits only.
        n_gt: Number of objects of the class, at least 1.
        tau: IoU in [0, 1) of the matching.

    Returns:
        The curve, a point for every score that occurs.

    Raises:
        ValueError: If the vectors are not equally long, or `n_gt` is below 1 or below the number of hits.
    """
    score, hit, iou = np.asarray(score, np.float64), np.asarray(hit, bool), np.asarray(iou, np.float64)
    if score.ndim != 1 or score.shape != hit.shape or score.shape != iou.shape:
        raise ValueError(f"score {score.shape}, hit {hit.shape} and iou {iou.shape} must be equally long vectors")
    if n_gt < max(1, hit.sum()):
        raise ValueError(f"n_gt must be at least 1 and the {hit.sum()} true positives, got {n_gt}")
    order = np.argsort(-score, kind="stable")
    score, hit = score[order], hit[order]
    looseness = np.where(hit, 1 - iou[order], 0.0)
    last = np.append(score[1:] < score[:-1], True)[: len(score)]  # of the detections that share a score
    tp, fp, loc = (np.append(0, np.cumsum(values)[last]) for values in (hit, ~hit, looseness))
    fn = n_gt - tp
    lrp = (loc / (1 - tau) + fp + fn) / (tp + fp + fn)
    return LRPCurve(np.append(np.inf, score[last]), tp, fp, fn, loc, lrp)


def _optimum(curve: LRPCurve) -> int:
    """Index of the smallest LRP, the highest threshold among equals; that of keeping nothing only without a hit."""
    return 1 + int(np.argmin(curve.lrp[1:])) if curve.tp[-1] else 0


def _kept_from(curve: LRPCurve, threshold: float) -> int:
    """Index of the point at which the detections of a score of `threshold` or more are kept; 0, none, for NaN."""
    return int((curve.threshold[1:] >= threshold).sum())


def _point(curve: LRPCurve, index: int, threshold: float | None) -> _Point:
    """Values, threshold and counts of a row at one point of a curve; `threshold` where one was given."""
    tp, fp, fn = (int(values[index]) for values in (curve.tp, curve.fp, curve.fn))
    best = float(curve.threshold[index]) if index else math.nan
    return {
        "value": float(curve.lrp[index]),
        "loc": float(curve.loc[index]) / tp if tp else math.nan,
        "fp": fp / (tp + fp) if tp + fp else math.nan,
        "fn": fn / (tp + fn),
        "threshold": best if threshold is None else float(threshold),
        **dict(zip(_COUNTS, (tp, fp, fn, 1, int(tp > 0), int(tp + fp > 0)), strict=True)),
    }


def _mean(points: list[_Point]) -> _Point:
    """The means over the classes where a value is defined, with the sums of counts."""
    mean: _Point = {}
    for name in _PARTS:
        defined = [point[name] for point in points if not math.isnan(point[name])]
        mean[name] = float(np.mean(defined)) if defined else math.nan
    return mean | {"threshold": math.nan} | {name: sum(point[name] for point in points) for name in _COUNTS}
