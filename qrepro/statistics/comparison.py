"""Two detectors side by side: paired differences of AP and of correlation, from what each left behind."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from qrepro.metrics.detection_sets import DetectionSet, Sources, run_sets
from qrepro.metrics.matching import match
from qrepro.metrics.pairs import Pairs, detection_pairs, positive_pairs
from qrepro.metrics.summary import has_estimate
from qrepro.records.run_folder import POSITIVES, RunFolder
from qrepro.statistics.bootstrap import Resampled, resample_ap, resample_moments
from qrepro.statistics.intervals import compare_rows

Side = Sequence[DetectionSet]  # one per training seed


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
    """Rows of `compare_rows` for AP at COCO's thresholds, and for the correlation with the true IoU.

    The correlation is that over the positives of the estimate where every run of both sides has one, else of the score
    of the true class; where a side is a file, that of score and IoU_eval over the detections. The name of the metric
    says which.
    The options are those of `compare_rows` and `match`.
    """
    options: dict[str, Any] = {"interval": interval, "seeds": seeds}
    precision = [[_precision(found, draws, seed, max_dets) for found in side] for side in (a, b)]
    runs = [found.run for side in (a, b) for found in side]
    trained = all(run is not None and run.has(POSITIVES) for run in runs)
    label = "quality u" if trained and all(run and has_estimate(run) for run in runs) else "score"
    samples = [[_pairs(found.run if trained else None, found) for found in side] for side in (a, b)]
    moments = [
        [_moments(pairs, label, found, draws, seed) for pairs, found in zip(mine, side, strict=True)]
        for mine, side in zip(samples, (a, b), strict=True)
    ]
    what = f"{label} over {'positives' if trained else 'detections'}"
    correlation = [
        {**row, "metric": f"{row['metric']} of {what}"} for row in compare_rows(moments[0], moments[1], **options)
    ]
    return compare_rows(precision[0], precision[1], **options), correlation


def compared_side(path: Path, rule: str | None, sources: Sources) -> Side:
    """One side of a comparison: a result file, or the runs of one recipe and profile.

    Raises:
        ValueError: a rule for a file, no evaluated run, or runs of several recipes or profiles.
    """
    if path in sources.files:
        if rule:
            raise ValueError(f"{path}: a result file has no score rules, got {rule}")
        return [sources.detections_of(path)]
    runs = sources.runs_at([path])
    kinds = sorted({f"{run.recipe} on {run.profile}" for run in runs})
    if len(kinds) > 1:
        raise ValueError(f"{path}: holds {len(kinds)} recipes or profiles ({', '.join(kinds[:3])} ...); name one")
    return list(run_sets(runs, [rule] if rule else []))


def _precision(found: DetectionSet, draws: int, seed: int, max_dets: int) -> Resampled:
    """AP of one run on draws of its images."""
    matches = match(found.ground_truth, found.detections, max_dets=max_dets)
    return resample_ap(matches, found.ground_truth.images["id"], draws, seed)


def _pairs(run: RunFolder | None, found: DetectionSet) -> Pairs:
    """Positives of a run, else detections."""
    return positive_pairs(run) if run else detection_pairs(found)


def _moments(pairs: Pairs, label: str, found: DetectionSet, draws: int, seed: int) -> Resampled:
    """Correlation of one estimate on draws of the images."""
    boxes, images = pairs.boxes, found.ground_truth.images["id"]
    return resample_moments(boxes["image_id"], pairs.estimates[label], boxes["iou"], images, draws, seed)
