"""Two detectors side by side: paired differences of AP and of correlation, from what each left behind."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from qrepro.metrics.matching import match
from qrepro.metrics.pairs import DetectionSet, Pairs, detection_pairs, positive_pairs
from qrepro.metrics.summary import has_estimate
from qrepro.records.run_folder import Run
from qrepro.statistics.intervals import Resampled, compare_rows, resample_ap, resample_moments

Side = Sequence[tuple[Run | None, DetectionSet]]  # one entry per training seed; no run for a file of detections


def compare(
    a: Side,
    b: Side,
    *,
    draws: int = 1000,
    seed: int = 0,
    seeds: str | None = None,
    interval: str = "centred",
    max_dets: int = 100,
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Rows of `significance.compare_rows` for AP at COCO's thresholds, and for the correlation with the true IoU.

    The correlation is that over the positives of the estimate where every run of both sides has one, else of the score
    of the true class; where a side is a file, that of score and IoU_eval over the detections. The name of the metric
    says which.
    The options are those of `compare_rows` and `match`.
    """
    options: dict[str, Any] = {"interval": interval, "seeds": seeds}
    precision = [[_precision(found, draws, seed, max_dets) for _, found in side] for side in (a, b)]
    runs = [run for side in (a, b) for run, _ in side]
    trained = all(run is not None and run.has("positives.parquet") for run in runs)
    label = "quality u" if trained and all(run and has_estimate(run) for run in runs) else "score"
    samples = [[_pairs(run if trained else None, found) for run, found in side] for side in (a, b)]
    moments = [
        [_moments(pairs, label, found, draws, seed) for pairs, (_, found) in zip(mine, side, strict=True)]
        for mine, side in zip(samples, (a, b), strict=True)
    ]
    what = f"{label} over {'positives' if trained else 'detections'}"
    correlation = [
        {**row, "metric": f"{row['metric']} of {what}"} for row in compare_rows(moments[0], moments[1], **options)
    ]
    return compare_rows(precision[0], precision[1], **options), correlation


def _precision(found: DetectionSet, draws: int, seed: int, max_dets: int) -> Resampled:
    """AP of one run on draws of its images."""
    matches = match(found.truths, found.detections, max_dets=max_dets)
    return resample_ap(matches, found.truths.images["id"], draws, seed)


def _pairs(run: Run | None, found: DetectionSet) -> Pairs:
    """Positives of a run, else detections."""
    return positive_pairs(run) if run else detection_pairs(found)


def _moments(pairs: Pairs, label: str, found: DetectionSet, draws: int, seed: int) -> Resampled:
    """Correlation of one estimate on draws of the images."""
    boxes, images = pairs.boxes, found.truths.images["id"]
    return resample_moments(boxes["image_id"], pairs.estimates[label], boxes["iou"], images, draws, seed)
