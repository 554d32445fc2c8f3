"""COCO average precision from two interchangeable engines.

`hotcoco` is fast and young, `pycocotools` is the judge and the fallback; both return the same precision array. Means
are always taken here from that array: `COCOeval.summarize` gives -1 when the last of maxDets is not 100, and prints
neither AP55 nor AP80. Definition: https://cocodataset.org/#detection-eval.
"""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
import io
import math
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from qrepro.metrics.area_ranges import SIZES, Range, Sides, areas
from qrepro.metrics.matching import AREAS, COCO_THRESHOLDS
from qrepro.records.detections import check_detections
from qrepro.records.ground_truth import BOX, Truths

ENGINES = ("hotcoco", "pycocotools")


@dataclass(frozen=True, eq=False)
class APResult:
    """Precision and recall of one detection set. T thresholds, R = 101 recalls, K categories, A areas, M limits.

    precision: (T, R, K, A, M) interpolated precision in [0, 1]; -1 where a category has no truth in that area.
    recall: (T, K, A, M) highest recall in [0, 1]; -1 likewise.
    thresholds: (T,) IoU thresholds.   category_ids, category_names: (K,).
    limits: (M,) numbers of detections kept per image and category: 1, 10 and `max_dets`, increasing.
    engine: the engine that did the matching.
    """

    precision: np.ndarray
    recall: np.ndarray
    thresholds: tuple[float, ...]
    category_ids: tuple[int, ...]
    category_names: tuple[str, ...]
    limits: tuple[int, ...]
    engine: str

    @property
    def recalls(self) -> np.ndarray:
        """(R,) recalls of the precision array."""
        return np.linspace(0, 1, self.precision.shape[1])


def evaluate(
    truths: Truths,
    detections: pd.DataFrame,
    thresholds: Sequence[float] = COCO_THRESHOLDS,
    max_dets: int = 100,
    engine: str | None = None,
    sizes: Sides = SIZES["coco"],
) -> APResult:
    """Match detections to truths by COCO's rules and return the precision array.

    truths: ground truth; iscrowd = 1 marks regions where detections count neither way.
    detections: frame with image_id, category_id, x1, y1, x2, y2 (px of the original image) and score.
    thresholds: IoU thresholds in (0, 1].
    max_dets: best detections kept per image and category.
    engine: "hotcoco", "pycocotools", or None for hotcoco where it is installed.
    sizes: sides in px that part small, medium and large; of the A areas the first is all.
    """
    engine = choose_engine(engine)
    check_detections(detections, truths)
    thresholds = tuple(float(value) for value in thresholds)
    if not thresholds or not all(0 < value <= 1 for value in thresholds) or len(set(thresholds)) < len(thresholds):
        raise ValueError(f"IoU thresholds must be different numbers in (0, 1], got {list(thresholds)}")
    if max_dets < 1:
        raise ValueError(f"max_dets must be at least 1, got {max_dets}")
    limits = tuple(sorted({limit for limit in (1, 10) if limit < max_dets} | {max_dets}))
    run: Callable[..., tuple[np.ndarray, np.ndarray]] = _run_hotcoco if engine == "hotcoco" else _run_pycocotools
    precision, recall = run(truths, detections, thresholds, limits, areas(sizes))
    names = tuple(truths.categories["name"])
    return APResult(precision, recall, thresholds, tuple(truths.categories["id"].tolist()), names, limits, engine)


def choose_engine(engine: str | None = None) -> str:
    """Name of the engine to use: the one asked for, or by default hotcoco where it can be imported."""
    if engine is None:
        return ENGINES[0] if importlib.util.find_spec(ENGINES[0]) else ENGINES[1]
    if engine not in ENGINES:
        raise ValueError(f"engine must be one of {', '.join(ENGINES)}, got {engine!r}")
    if importlib.util.find_spec(engine) is None:
        raise ValueError(f"engine {engine!r} is not installed; leave it open to use what is")
    return engine


def ap_metrics(result: APResult) -> dict[str, float]:
    """AP family in percent; NaN where no category has truth.

    AP: mean over the thresholds of the result (COCO's AP for COCO's ten).   AP50 ... AP95: at one threshold.
    APS, APM, APL: AP of small, medium and large truths: COCO's of area below 32^2, between, above 96^2 px^2.
    AR1, AR10, AR<max_dets>: recall, mean over thresholds and categories, with that many detections per image.
    n_classes: number of categories with truth, over which the means are taken (a count, not percent).
    """
    precision, recall = result.precision, result.recall
    metrics = {"AP": _percent(precision[:, :, :, 0, -1])}
    for index, threshold in enumerate(result.thresholds):
        metrics[threshold_name(threshold)] = _percent(precision[index, :, :, 0, -1])
    for index, area in enumerate(list(AREAS)[1:], start=1):
        metrics[f"AP{area[0].upper()}"] = _percent(precision[:, :, :, index, -1])
    for index, limit in enumerate(result.limits):
        metrics[f"AR{limit}"] = _percent(recall[:, :, 0, index])
    metrics["n_classes"] = int((precision[0, 0, :, 0, -1] > -1).sum())
    return metrics


def class_metrics(result: APResult) -> list[dict[str, Any]]:
    """One row per category: category_id, category, AP and AP50 ... AP95 in percent; NaN where it has no truth."""
    rows = []
    for k, (category_id, name) in enumerate(zip(result.category_ids, result.category_names, strict=True)):
        precision = result.precision[:, :, k, 0, -1]
        single = {threshold_name(value): _percent(precision[t]) for t, value in enumerate(result.thresholds)}
        rows.append({"category_id": category_id, "category": name, "AP": _percent(precision), **single})
    return rows


def threshold_name(threshold: float) -> str:
    """Column name of AP at one IoU threshold: 0.5 -> AP50, 0.525 -> AP52.5."""
    return f"AP{100 * threshold:.10g}"


def _percent(values: np.ndarray) -> float:
    """Mean of the values that are defined (not -1), in percent."""
    defined = values[values > -1]
    return 100.0 * float(defined.mean()) if defined.size else math.nan


def _xywh(frame: pd.DataFrame) -> np.ndarray:
    """COCO boxes (N, 4) x, y, width, height in float64: float32 differences would move boxes across thresholds."""
    boxes = frame[BOX].to_numpy(np.float64, copy=True)
    boxes[:, 2:] -= boxes[:, :2]
    return boxes


def _run_hotcoco(
    truths: Truths,
    detections: pd.DataFrame,
    thresholds: Sequence[float],
    limits: Sequence[int],
    ranges: Mapping[str, Range],
) -> tuple[np.ndarray, np.ndarray]:
    """Precision and recall arrays from hotcoco's array interface."""
    hotcoco = importlib.import_module("hotcoco")
    annotations = truths.annotations
    images = truths.images[["id"]].assign(width=1, height=1, file_name="")  # required, but without effect on boxes
    truth = hotcoco.COCO.from_arrays(
        images.to_dict("records"),
        truths.categories[["id", "name"]].to_dict("records"),
        annotations["image_id"].to_numpy(np.int64),
        annotations["category_id"].to_numpy(np.int64),
        _xywh(annotations),
        ids=np.arange(1, len(annotations) + 1),  # those of the file may be absent or repeated
        area=annotations["area"].to_numpy(np.float64),
        iscrowd=annotations["iscrowd"].to_numpy(np.int64),
    )
    columns = [detections["image_id"], *_xywh(detections).T, detections["score"], detections["category_id"]]
    found = truth.load_res(np.column_stack([np.asarray(column, np.float64) for column in columns]))
    evaluation = hotcoco.COCOeval(truth, found, "bbox")
    evaluation.params.iou_thrs = list(thresholds)
    evaluation.params.max_dets = list(limits)
    evaluation.params.area_rng = [list(bounds) for bounds in ranges.values()]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it warns of thresholds that are not COCO's; ours are chosen on purpose
        evaluation.evaluate()
        evaluation.accumulate()
    arrays = evaluation.eval
    return np.asarray(arrays["precision"]), np.asarray(arrays["recall"])


def _run_pycocotools(
    truths: Truths,
    detections: pd.DataFrame,
    thresholds: Sequence[float],
    limits: Sequence[int],
    ranges: Mapping[str, Range],
) -> tuple[np.ndarray, np.ndarray]:
    """Precision and recall arrays from pycocotools, fed with dictionaries, its printing silenced."""
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    boxes = _xywh(detections)
    found = detections[["image_id", "category_id", "score"]].astype({"score": np.float64})
    found = found.assign(area=boxes[:, 2] * boxes[:, 3], iscrowd=0)
    known = truths.annotations[["image_id", "category_id", "area", "iscrowd"]]
    datasets = []
    for frame, xywh in ((known, _xywh(truths.annotations)), (found, boxes)):
        records = frame.to_dict("records")
        for number, (record, box) in enumerate(zip(records, xywh.tolist(), strict=True), start=1):
            record.update(id=number, bbox=box)  # numbered from 1: an id of 0 reads as "unmatched"
        dataset = COCO()
        dataset.dataset = {
            "images": truths.images[["id"]].to_dict("records"),
            "categories": truths.categories[["id", "name"]].to_dict("records"),
            "annotations": records,
        }
        datasets.append(dataset)
    with contextlib.redirect_stdout(io.StringIO()):
        for dataset in datasets:
            dataset.createIndex()
        evaluation = COCOeval(*datasets, "bbox")
        evaluation.params.iouThrs = np.array(thresholds)
        evaluation.params.maxDets = list(limits)
        evaluation.params.areaRng = [list(bounds) for bounds in ranges.values()]
        evaluation.evaluate()
        evaluation.accumulate()
    return evaluation.eval["precision"], evaluation.eval["recall"]
