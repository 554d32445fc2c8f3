"""What is analysed: detection sets, and pairs of an estimate with the true IoU, from run folders or from files.

Which boxes are paired changes every correlation, so a sample carries its own description into the rows.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from qrepro.metrics.correlation import BANDS, STATISTICS, correlation_rows, grouped_rows, size_labels
from qrepro.metrics.detection_sets import DetectionSet, Sources
from qrepro.metrics.iou import iou_eval
from qrepro.records.ground_truth import BOX, GroundTruth
from qrepro.records.run_folder import RunFolder
from qrepro.records.score_rule import fused_scores

GROUPS = ("class", "size")


@dataclass(frozen=True, eq=False)
class Pairs:
    """Estimates of localisation quality beside the true IoU, N boxes of one detector.

    Attributes:
        name: Name of the run or file.
        about: What the boxes are, as columns of every row: `over`, `iou` (its definition) and `score_thr` (of the class
            score or score; nan for none).
        boxes: Frame with image_id, category, area (px^2 of the box itself) and iou.
        estimates: Label -> (N,), such as "quality u" and "class score p".
    """

    name: str
    about: Mapping[str, Any]
    boxes: pd.DataFrame
    estimates: Mapping[str, np.ndarray]


def positive_pairs(run: RunFolder) -> Pairs:
    """Positive locations of the training assigner on the evaluation images (GFLv2, arXiv 2011.12885, table 6).

    Their score is that of the true class by the run's own rule: of a joint representation, what it says of the IoU.
    """
    about = {"over": "positives", "iou": "with the assigned ground truth", "score_thr": math.nan}
    frame = run.positives.assign(score=fused_scores(run.positives, run.rule))
    return _pairs(run.name, about, frame, frame["iou"], run.ground_truth)


def candidate_pairs(run: RunFolder, score_thr: float = 0.0) -> Pairs:
    """Stored locations before NMS whose best class scores above `score_thr`, one pair each; see `qrepro eval`.

    The IoU is IoU_truth: a location that overlaps nothing counts with 0.
    """
    frame = run.candidates
    frame = frame[frame["class_score"] > score_thr]
    order = np.lexsort((-frame["class_score"], frame["location"], frame["image_id"]))
    frame = frame.iloc[order]
    frame = frame[~frame.duplicated(["image_id", "location"])]
    about = {"over": "candidates", "iou": "IoU_truth", "score_thr": score_thr}
    return _pairs(run.name, about, frame, frame["iou_truth"], run.ground_truth)


def detection_pairs(found: DetectionSet, score_thr: float = 0.0) -> Pairs:
    """Detections with a score above `score_thr`; the IoU is IoU_eval, with the own class."""
    frame = found.detections[found.detections["score"] > score_thr]
    about = {"over": f"detections by {found.rule}", "iou": "IoU_eval", "score_thr": score_thr}
    return _pairs(found.name, about, frame, iou_eval(found.ground_truth, frame), found.ground_truth)


def source_pairs(
    sources: Sources, over: str | None = None, *, rules: Sequence[str] = (), score_thr: float = 0.0
) -> Iterator[Pairs]:
    """Pairs of runs and files.

    Args:
        sources: What is analysed.
        over: `positives`, `candidates` or `detections`; None: positives of runs, detections of files.
        rules: Rules that rank the detections of runs.
        score_thr: Score above which candidates or detections count.

    Raises:
        ValueError: Other boxes, or files over what they do not hold.
    """
    over = over or ("detections" if sources.files else "positives")
    allowed = ("detections",) if sources.files else ("positives", "candidates", "detections")
    if over not in allowed:
        raise ValueError(f"--over {over}: allowed are {', '.join(allowed)}")
    if over == "detections":
        for found in sources.sets(rules):
            yield detection_pairs(found, score_thr)
        return
    for run in sources.runs():
        yield positive_pairs(run) if over == "positives" else candidate_pairs(run, score_thr)


def correlation_study(
    pairs: Pairs,
    by: Sequence[str] = (),
    bands: Sequence[tuple[float, float]] = BANDS,
    statistics: Sequence[str] = STATISTICS,
    intervals: bool = True,
) -> list[dict[str, Any]]:
    """Correlation of every estimate with the true IoU: rows {run, estimate, over, iou, score_thr, <groups>, <row>}.

    The rest is as in `qrepro.metrics.correlation.correlation_rows`, clustered by image.

    Args:
        pairs: Estimates and true IoU of the boxes.
        by: Groups, of GROUPS; "class" is that of the ground truth for positives, else the predicted one, "size" that of
            the box.
        bands: As for `correlation_rows`.
        statistics: As for `correlation_rows`.
        intervals: As for `correlation_rows`.

    Raises:
        ValueError: A group that is none of GROUPS, or as `correlation_rows`.
    """
    for name in by:
        if name not in GROUPS:
            raise ValueError(f"correlation can be grouped by {' or '.join(GROUPS)}, got {name!r}")
    boxes = pairs.boxes
    labels: dict[str, Any] = {"class": boxes["category"], "size": size_labels(boxes["area"])}
    options: dict[str, Any] = {"image": boxes["image_id"], "statistics": statistics, "intervals": intervals}
    rows = []
    for name, estimate in pairs.estimates.items():
        if by:
            found = grouped_rows(estimate, boxes["iou"], {g: labels[g] for g in by}, bands, **options)
        else:
            found = correlation_rows(estimate, boxes["iou"], bands, **options)
        rows += [{"run": pairs.name, "estimate": name, **pairs.about, **row} for row in found]
    return rows


def _pairs(name: str, about: Mapping[str, Any], frame: pd.DataFrame, iou: Any, ground_truth: GroundTruth) -> Pairs:
    """Pairs of a frame of boxes with those estimates that every box has."""
    sides = frame[BOX[2:]].to_numpy(np.float64) - frame[BOX[:2]].to_numpy(np.float64)
    names = dict(zip(ground_truth.categories["id"], ground_truth.categories["name"], strict=True))
    described: dict[str, Any] = {
        "image_id": frame["image_id"].to_numpy(),
        "category": frame["category_id"].map(names).to_numpy(),
        "area": sides.clip(min=0).prod(axis=1),
        "iou": np.asarray(iou, np.float64),
    }
    boxes = pd.DataFrame(described)
    columns = {"quality u": "quality", "class score p": "class_score", "score": "score"}
    known = {label: frame[column] for label, column in columns.items() if column in frame}
    estimates = {label: values.to_numpy(np.float64) for label, values in known.items() if values.notna().all()}
    return Pairs(name, about, boxes, estimates)
