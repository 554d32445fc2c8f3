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
from qrepro.metrics.iou import iou_eval
from qrepro.metrics.oracle import fused
from qrepro.records.files import read_parquet
from qrepro.records.ground_truth import BOX, Truths
from qrepro.records.run_folder import Run

GROUPS = ("class", "size")
_CANDIDATE_COLUMNS = ["image_id", "category_id", *BOX, "class_score", "quality", "iou_truth", "location"]


@dataclass(frozen=True, eq=False)
class DetectionSet:
    """Detections of a detector ranked by one rule, and the truths that judge them.

    name: of the run or file.   rule: of the scoring; "as scored" for a file.   detections: see `read_detections`.
    own: whether the rule is the detector's own.
    """

    name: str
    rule: str
    truths: Truths
    detections: pd.DataFrame
    own: bool = True


@dataclass(frozen=True, eq=False)
class Pairs:
    """Estimates of localisation quality beside the true IoU, N boxes of one detector.

    name: of the run or file.   about: what the boxes are, as columns of every row: `over`, `iou` (its definition) and
        `floor` (of the class score or score; nan for none).
    boxes: frame with image_id, category, area (px^2 of the box itself) and iou.
    estimates: label -> (N,), such as "quality u" and "class score p".
    """

    name: str
    about: Mapping[str, Any]
    boxes: pd.DataFrame
    estimates: Mapping[str, np.ndarray]


def detection_sets(runs: Sequence[Run], rules: Sequence[str] = ()) -> Iterator[DetectionSet]:
    """Stored detections of evaluated runs, by the `rules` named, by all for "all", or by the recipe's own."""
    for run in runs:
        for rule in run.rules if "all" in rules else rules or [run.rule]:
            yield DetectionSet(run.name, rule, run.truths, run.detections(rule), rule == run.rule)


def positive_pairs(run: Run) -> Pairs:
    """Positive locations of the training assigner on the evaluation images (GFLv2, arXiv 2011.12885, table 6).

    Their score is that of the true class by the run's own rule: of a joint representation, what it says of the IoU.
    """
    about = {"over": "positives", "iou": "with the assigned truth", "floor": math.nan}
    frame = run.positives.assign(score=fused(run.positives, run.rule))
    return _pairs(run.name, about, frame, frame["iou"], run.truths)


def candidate_pairs(run: Run, floor: float = 0.0) -> Pairs:
    """Stored locations before NMS whose best class scores above `floor`, one pair each; see `qrepro eval`.

    The IoU is IoU_truth: a location that overlaps nothing counts with 0.
    """
    frame = read_parquet(run.path / "candidates.parquet", _CANDIDATE_COLUMNS)
    frame = frame[frame["class_score"] > floor]
    order = np.lexsort((-frame["class_score"], frame["location"], frame["image_id"]))
    frame = frame.iloc[order]
    frame = frame[~frame.duplicated(["image_id", "location"])]
    about = {"over": "candidates", "iou": "IoU_truth", "floor": floor}
    return _pairs(run.name, about, frame, frame["iou_truth"], run.truths)


def detection_pairs(found: DetectionSet, floor: float = 0.0) -> Pairs:
    """Detections with a score above `floor`; the IoU is IoU_eval, with the own class."""
    frame = found.detections[found.detections["score"] > floor]
    about = {"over": f"detections by {found.rule}", "iou": "IoU_eval", "floor": floor}
    return _pairs(found.name, about, frame, iou_eval(found.truths, frame), found.truths)


def correlation_study(
    pairs: Pairs,
    by: Sequence[str] = (),
    bands: Sequence[tuple[float, float]] = BANDS,
    statistics: Sequence[str] = STATISTICS,
    intervals: bool = True,
) -> list[dict[str, Any]]:
    """Correlation of every estimate with the true IoU: rows {run, estimate, over, iou, floor, <groups>, <row>}.

    by: of GROUPS; "class" is that of the truth for positives, else the predicted one, "size" that of the box.
    The rest is as in `correlation.correlation_rows`, clustered by image.
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


def _pairs(name: str, about: Mapping[str, Any], frame: pd.DataFrame, iou: Any, truths: Truths) -> Pairs:
    """Pairs of a frame of boxes with those estimates that every box has."""
    sides = frame[BOX[2:]].to_numpy(np.float64) - frame[BOX[:2]].to_numpy(np.float64)
    names = dict(zip(truths.categories["id"], truths.categories["name"], strict=True))
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
