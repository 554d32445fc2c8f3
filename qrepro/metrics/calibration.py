"""Calibration errors of detections: D-ECE, LaECE, LaECE0 and LaACE0.

Each compares the score p of a detection with a target t; the object that a detection took is the one that COCO's greedy
matching at tau gives it:

    D-ECE           t = 1 for a true positive, else 0: confidence against precision.
                    Küppers et al., CVPR Workshops 2020 (arXiv 2004.13546).
    LaECE           t = IoU of a true positive, else 0: confidence against precision x mean IoU of the true positives.
                    Oksuz et al., CVPR 2023 (arXiv 2307.00934).
    LaECE0, LaACE0  as LaECE with tau = 0, so that t is the IoU with the object taken, however small; LaACE0 with every
                    detection in a bin of its own. Kuzucu et al., ECCV 2024 (arXiv 2405.20459).

With n detections in bins b of n_b, the error of a group (all detections together, or those of one class) is

    error = sum over b of n_b / n |mean of p in b - mean of t in b|,

and that of a metric with pooling "class" the mean over classes. All values are shares; the papers print percent.

Detections count from the score threshold (`score_thr`) on, also those in images without ground truth (t = 0); those
that took an ignored object (crowd, difficult) are left out. The matching is greedy in the order of score, so that
detections below the score threshold change no match above it. A class with ground truth but without detection has no
error and is not in the mean; a class without ground truth is not in the mean either, but its detections count as wrong
where all classes are pooled.

None of these errors sees what is missed, so that a high score threshold can make each of them small: print them beside
LRP or AP.

The published numbers differ in options, which is why each is printed with its own. Defaults are those of public code:
D-ECE as Kuzucu et al. evaluate it (10 pooled bins, tau 0.5, scores of 0.3 on, greedy matching), with netcal's bins,
closed on the left. The detection example of netcal, the library of Küppers et al., has 20 bins per class instead, and
counts every detection as true whose most overlapped object has its class and an IoU of tau, duplicates too; matching
"any" is close to that. LaECE: tau 0.1, 25 bins closed on the left. LaECE0: 25 bins closed on the right. For both, the
authors keep what reaches the threshold of oLRP, found per class on a validation split: give it as the score_thr.

Differences from the authors' code: at tau = 0 theirs lets a detection take a free object that it does not overlap at
all, out of the reach of a later one that does; their LaACE0 counts ignored detections with t = 0; their LaECE takes a
class without ground truth or detection into the mean as 0 and drops scores of exactly 1; their LaECE0 and LaACE0 leave
a class of error 0 out of the mean.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from qrepro.metrics.iou import iou_eval
from qrepro.metrics.matching import Matches, match
from qrepro.records.ground_truth import GroundTruth

TARGETS, POOLINGS, SIDES, MATCHINGS = ("precision", "iou"), ("all", "class"), ("left", "right"), ("greedy", "any")

Row = dict[str, float | int | str]


@dataclass(frozen=True)
class Metric:
    """A calibration error by all that defines its value; `dataclasses.replace` makes a variant.

    Attributes:
        name: As printed.
        target: "precision" (1 for a true positive) or "iou" (its IoU).
        tau: IoU in [0, 1] from which a detection is a true positive; 0 takes any overlap.
        bins: Number of bins of equal width over [0, 1], whatever the score_thr; None for one bin per detection.
        pooling: "all" detections together, or per "class" and then the mean.
        score_thr: Score threshold in [0, 1] from which detections are kept; one for all or one per category id. For
            NaN, no detection is kept.
        closed: The end of a bin that belongs to it, "left" or "right"; the outermost ends always do.
        matching: "greedy", one detection per object, or "any": every detection that overlaps an object of its class by
            tau is a true positive, duplicates too.

    Raises:
        ValueError: If a value is not one of those allowed.
    """

    name: str
    target: str
    tau: float
    bins: int | None
    pooling: str
    score_thr: float | Mapping[int, float] = 0.0
    closed: str = "left"
    matching: str = "greedy"

    def __post_init__(self) -> None:
        allowed = {"target": TARGETS, "pooling": POOLINGS, "closed": SIDES, "matching": MATCHINGS}
        for field, values in allowed.items():
            if getattr(self, field) not in values:
                raise ValueError(
                    f"{self.name}: {field} must be one of {', '.join(values)}, got {getattr(self, field)!r}"
                )
        if self.bins is not None and self.bins < 1:
            raise ValueError(f"{self.name}: bins must be at least 1, or None for one per detection, got {self.bins}")
        if not 0 <= self.tau <= 1:
            raise ValueError(f"{self.name}: tau must lie in [0, 1], got {self.tau}")
        for score_thr in self.score_thr.values() if isinstance(self.score_thr, Mapping) else [self.score_thr]:
            if score_thr < 0 or score_thr > 1:
                raise ValueError(f"{self.name}: score_thr must lie in [0, 1], got {score_thr}")


D_ECE = Metric("D-ECE", target="precision", tau=0.5, bins=10, pooling="all", score_thr=0.3)
LAECE = Metric("LaECE", target="iou", tau=0.1, bins=25, pooling="class")
LAECE0 = Metric("LaECE0", target="iou", tau=0.0, bins=25, pooling="class", closed="right")
LAACE0 = Metric("LaACE0", target="iou", tau=0.0, bins=None, pooling="class")
METRICS = (D_ECE, LAECE, LAECE0, LAACE0)
BINNED = (D_ECE, LAECE, LAECE0)


def calibration_rows(
    ground_truth: GroundTruth, detections: pd.DataFrame, metrics: Sequence[Metric] = METRICS, *, max_dets: int = 100
) -> list[Row]:
    """Compute calibration errors.

    Args:
        ground_truth: Ground truth, of which are read `annotations` (image_id, category_id, x1, y1, x2, y2 in px, area
            in px^2, iscrowd), `images` (id) and `categories` (id, name).
        detections: Frame with image_id, category_id, x1, y1, x2, y2 (px of the original image) and score in [0, 1].
        metrics: The errors to compute, at least one.
        max_dets: Number of best detections kept per image and category, before the score_thr.

    Returns:
        One row per metric, with
            metric, value: the error, a share in [0, 1]; NaN where no detection counts;
            n: number of detections it is over;
            classes: number of classes that they belong to; for pooling "class" the classes in the mean;
            classes_with_gt: number of classes of the ground truth; for pooling "class" the rest of them had no
                detection;
            target, tau, score_thr ("per class" where it is not one number), bins ("one per detection" for None),
            closed, pooling, matching, max_dets: what defines it.

    Raises:
        ValueError: If no metric is given, a score lies outside [0, 1], a category has no score_thr, `max_dets` is below
            1, or the detections are refused (see `check_detections`).
    """
    rows: list[Row] = []
    for metric, sample in zip(metrics, _samples(ground_truth, detections, metrics, max_dets), strict=True):
        errors = _errors(metric, sample)
        counts = {
            "n": len(sample.score),
            "classes": len(np.unique(sample.category)),
            "classes_with_gt": int(sample.with_gt.sum()),
        }
        value = float(np.nanmean(errors)) if len(sample.score) else math.nan
        rows.append({"metric": metric.name, "value": value, **counts, **_options(metric, max_dets)})
    return rows


def reliability_rows(
    ground_truth: GroundTruth, detections: pd.DataFrame, metrics: Sequence[Metric] = BINNED, *, max_dets: int = 100
) -> list[Row]:
    """Bin the detections by confidence, as a reliability diagram draws them.

    Args:
        ground_truth: As for `calibration_rows`.
        detections: As for `calibration_rows`.
        metrics: Errors with bins, at least one.
        max_dets: As for `calibration_rows`.

    Returns:
        One row per bin that holds a detection, metric by metric: for pooling "class" the bins of every class with
        ground truth, then always those of class "all". The error of a class is the sum over its rows of share x |gap|.
        For pooling "class" the rows of "all" hold the detections of the classes in the mean together: a diagram of the
        whole, which does not add up to that mean. The columns are
            metric, class;
            low, high: ends of the bin;
            n: number of detections in it;
            share: n / the number of detections of the class;
            mean_confidence: mean p;
            observed: mean t, that is precision, times the mean IoU of true positives for target "iou";
            gap: mean_confidence - observed, positive for an overconfident detector;
            target, tau, score_thr (of the class, in its rows), bins, closed, pooling, matching, max_dets: as in
            `calibration_rows`.

    Raises:
        ValueError: If a metric has no bins, and as `calibration_rows`.
    """
    unbinned = [metric.name for metric in metrics if metric.bins is None]
    if unbinned:
        raise ValueError(f"{unbinned[0]} has no bins, and so no reliability diagram")
    names = ground_truth.categories["name"].tolist()
    rows: list[Row] = []
    for metric, sample in zip(metrics, _samples(ground_truth, detections, metrics, max_dets), strict=True):
        options = _options(metric, max_dets)
        if metric.pooling == "class":
            score_thresholds = _score_thresholds(metric, ground_truth).tolist()
            for k, row in _bins(metric, sample, sample.category):
                rows.append(
                    {"metric": metric.name, "class": names[k], **row, **options, "score_thr": score_thresholds[k]}
                )
        for _, row in _bins(metric, sample, np.zeros_like(sample.category)):
            rows.append({"metric": metric.name, "class": "all", **row, **options})
    return rows


@dataclass(frozen=True, eq=False)
class _Sample:
    """The detections that count for a metric.

    Attributes:
        score: (N,) confidence p.
        target: (N,) target t.
        category: (N,) index of the category.
        with_gt: (K,) whether a category has ground truth.
    """

    score: NDArray[np.float64]
    target: NDArray[np.float64]
    category: NDArray[np.int64]
    with_gt: NDArray[np.bool_]


def _samples(
    ground_truth: GroundTruth, detections: pd.DataFrame, metrics: Sequence[Metric], max_dets: int
) -> list[_Sample]:
    """The sample of every metric, from one matching."""
    if not metrics:
        raise ValueError("at least one metric is needed")
    score_thresholds = [_score_thresholds(metric, ground_truth) for metric in metrics]
    if "score" in detections:
        _check_confidence(detections["score"].to_numpy())
    taus = sorted({metric.tau for metric in metrics})
    matches = match(ground_truth, detections, taus, max_dets=max_dets)
    best = (
        iou_eval(ground_truth, detections)[matches.row] if any(metric.matching == "any" for metric in metrics) else None
    )
    with_gt = np.bincount(matches.gt_category, minlength=matches.categories) > 0
    samples = []
    for metric, score_thr in zip(metrics, score_thresholds, strict=True):
        hit, iou, counted = _verdicts(matches, taus.index(metric.tau), best if metric.matching == "any" else None)
        kept = counted & (matches.score >= score_thr[matches.category])
        if metric.pooling == "class":
            kept &= with_gt[matches.category]
        target = np.where(hit, iou if metric.target == "iou" else 1.0, 0.0)
        samples.append(_Sample(matches.score[kept], target[kept], matches.category[kept], with_gt))
    return samples


def _check_confidence(score: NDArray[np.float64]) -> None:
    """Refuse scores that are no confidence; what is not a number at all the matching refuses."""
    outside = np.flatnonzero((score < 0) | (score > 1))
    if len(outside):
        first, more = outside[0], f" ({len(outside)} such scores)" if len(outside) > 1 else ""
        raise ValueError(f"detections[{first}]: a confidence must lie in [0, 1], got {score[first]}{more}")


def _verdicts(
    matches: Matches, t: int, best: NDArray[np.float64] | None
) -> tuple[NDArray[np.bool_], NDArray[np.float64], NDArray[np.bool_]]:
    """(N,) true positives, their IoU and the detections that count, at one threshold of the matching.

    best: (N,) largest IoU with an object of the same class for matching "any", else None. A duplicate that the greedy
    matching gave to a crowd is true by "any", and so counts.
    """
    if best is None:
        return matches.hit[t], matches.iou[t], ~matches.ignored[t]
    hit = (best > 0) & (best >= matches.thresholds[t])
    return hit, best, hit | ~matches.ignored[t]


def _score_thresholds(metric: Metric, ground_truth: GroundTruth) -> NDArray[np.float64]:
    """(K,) score_thr of every category."""
    ids = ground_truth.categories["id"].tolist()
    if not isinstance(metric.score_thr, Mapping):
        return np.full(len(ids), float(metric.score_thr))
    missing = [category_id for category_id in ids if category_id not in metric.score_thr]
    if missing:
        raise ValueError(f"{metric.name}: score_thr has no entry for category {missing[0]}")
    return np.array([float(metric.score_thr[category_id]) for category_id in ids])


def _cells(bins: int, closed: str, score: NDArray[np.float64], group: NDArray[np.int64]) -> NDArray[np.int64]:
    """(N,) bin of each score, counted through all groups: group x bins + bin."""
    # i / bins rather than multiples of 1 / bins, so that a score of 0.3 lies on the edge that is printed as 0.3
    edges = np.arange(bins + 1) / bins
    index = np.searchsorted(edges, score, side="right" if closed == "left" else "left") - 1
    cells: NDArray[np.int64] = group * bins + np.clip(index, 0, bins - 1)
    return cells


def _errors(metric: Metric, sample: _Sample) -> NDArray[np.float64]:
    """Error of each class (K,), NaN for one without detection, or of all together (1,), as the metric pools.

    n_b / n |mean p - mean t| is |sum of p - t| / n, which also serves where every detection is a bin.
    """
    pooled = metric.pooling == "all"
    group, groups = (np.zeros_like(sample.category), 1) if pooled else (sample.category, len(sample.with_gt))
    excess: np.ndarray = sample.score - sample.target
    group_of = group
    if metric.bins is not None:
        cells = _cells(metric.bins, metric.closed, sample.score, group)
        excess = np.bincount(cells, weights=excess, minlength=groups * metric.bins)
        group_of = np.repeat(np.arange(groups), metric.bins)
    n = np.bincount(group, minlength=groups)
    total = np.bincount(group_of, weights=np.abs(excess), minlength=groups)
    errors: NDArray[np.float64] = np.divide(total, n, out=np.full(groups, math.nan), where=n > 0)
    return errors


def _bins(metric: Metric, sample: _Sample, group: NDArray[np.int64]) -> list[tuple[int, Row]]:
    """Group and row of every bin that holds a detection."""
    assert metric.bins is not None
    cells = _cells(metric.bins, metric.closed, sample.score, group)
    count, group_count = np.bincount(cells), np.bincount(group)
    confidence, target = (np.bincount(cells, weights=values) for values in (sample.score, sample.target))
    rows: list[tuple[int, Row]] = []
    for cell in np.flatnonzero(count).tolist():
        k, index = divmod(cell, metric.bins)
        n = int(count[cell])
        mean_confidence, observed = float(confidence[cell]) / n, float(target[cell]) / n
        row: Row = {
            "low": index / metric.bins,
            "high": (index + 1) / metric.bins,
            "n": n,
            "share": n / int(group_count[k]),
            "mean_confidence": mean_confidence,
            "observed": observed,
            "gap": mean_confidence - observed,
        }
        rows.append((k, row))
    return rows


def _options(metric: Metric, max_dets: int) -> Row:
    """What defines the value of a metric, as columns."""
    return {
        "target": metric.target,
        "tau": metric.tau,
        "score_thr": "per class" if isinstance(metric.score_thr, Mapping) else metric.score_thr,
        "bins": "one per detection" if metric.bins is None else metric.bins,
        "closed": metric.closed,
        "pooling": metric.pooling,
        "matching": metric.matching,
        "max_dets": max_dets,
    }
