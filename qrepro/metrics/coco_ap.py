"""COCO average precision from two interchangeable engines.

`hotcoco` is fast and young, `pycocotools` is the reference and the fallback; both return the same precision array.
Means are always taken here from that array: `COCOeval.summarize` gives -1 when the last of maxDets is not 100, and
prints neither AP55 nor AP80. Definition: https://cocodataset.org/#detection-eval.
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

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from qrepro.metrics.area_ranges import SIZES, Range, Sides, areas
from qrepro.metrics.matching import AREAS, COCO_THRESHOLDS
from qrepro.records.boxes import xywh_of
from qrepro.records.detections import check_detections
from qrepro.records.ground_truth import BOX, GroundTruth

ENGINES = ("hotcoco", "pycocotools")

Row = dict[str, float | int | str]
_Arrays = tuple[NDArray[np.float64], NDArray[np.float64]]  # precision and recall, as in `APResult`
_Engine = Callable[[GroundTruth, pd.DataFrame, Sequence[float], Sequence[int], Mapping[str, Range]], _Arrays]


@dataclass(frozen=True, eq=False)
class APResult:
    """Precision and recall of one detection set.

    T thresholds, R = 101 recalls, K categories, A areas, M limits.

    Attributes:
        precision: (T, R, K, A, M) interpolated precision in [0, 1]; -1 where a category has no object in that area.
        recall: (T, K, A, M) highest recall in [0, 1]; -1 likewise.
        thresholds: (T,) IoU thresholds.
        category_ids: (K,) ids of the categories.
        category_names: (K,) names of the categories.
        limits: (M,) numbers of detections kept per image and category: 1, 10 and `max_dets`, increasing.
        engine: Name of the engine that did the matching.
    """

    precision: NDArray[np.float64]
    recall: NDArray[np.float64]
    thresholds: tuple[float, ...]
    category_ids: tuple[int, ...]
    category_names: tuple[str, ...]
    limits: tuple[int, ...]
    engine: str

    @property
    def recalls(self) -> NDArray[np.float64]:
        """(R,) recalls of the precision array."""
        return np.linspace(0, 1, self.precision.shape[1])


def evaluate_ap(
    ground_truth: GroundTruth,
    detections: pd.DataFrame,
    thresholds: Sequence[float] = COCO_THRESHOLDS,
    max_dets: int = 100,
    engine: str | None = None,
    sizes: Sides = SIZES["coco"],
) -> APResult:
    """Match detections to ground truth by COCO's rules and return the precision array.

    Args:
        ground_truth: Ground truth, of which are read `annotations` (image_id, category_id, x1, y1, x2, y2 in px, area
            in px^2, iscrowd), `images` (id) and `categories` (id, name). iscrowd = 1 marks regions where detections
            count neither way.
        detections: Frame with image_id, category_id, x1, y1, x2, y2 (px of the original image) and score.
        thresholds: IoU thresholds in (0, 1].
        max_dets: Number of best detections kept per image and category.
        engine: "hotcoco", "pycocotools", or None for hotcoco where it is installed.
        sizes: Sides in px that separate small, medium and large; of the A areas the first is all.

    Returns:
        Precision and recall, K categories in the order of the ground truth.

    Raises:
        ValueError: If thresholds are equal, missing or outside (0, 1], `max_dets` is below 1, the engine is unknown or
            not installed, or the detections are refused (see `check_detections`).
    """
    engine = choose_engine(engine)
    check_detections(detections, ground_truth)
    thresholds = tuple(float(value) for value in thresholds)
    if not thresholds or not all(0 < value <= 1 for value in thresholds) or len(set(thresholds)) < len(thresholds):
        raise ValueError(f"IoU thresholds must be different numbers in (0, 1], got {list(thresholds)}")
    if max_dets < 1:
        raise ValueError(f"max_dets must be at least 1, got {max_dets}")
    limits = tuple(sorted({limit for limit in (1, 10) if limit < max_dets} | {max_dets}))
    run: _Engine = _run_hotcoco if engine == "hotcoco" else _run_pycocotools
    precision, recall = run(ground_truth, detections, thresholds, limits, areas(sizes))
    ids, names = ground_truth.categories["id"].tolist(), ground_truth.categories["name"]
    return APResult(precision, recall, thresholds, tuple(ids), tuple(names), limits, engine)


def ap(
    ground_truth: GroundTruth,
    detections: pd.DataFrame,
    thresholds: Sequence[float] = COCO_THRESHOLDS,
    max_dets: int = 100,
    engine: str | None = None,
    sizes: Sides = SIZES["coco"],
) -> dict[str, float]:
    """The AP family in percent: AP, AP50, ... AP95, APS, APM, APL, AR...; see `evaluate_ap` for the arguments."""
    return ap_metrics(evaluate_ap(ground_truth, detections, thresholds, max_dets, engine, sizes))


def choose_engine(engine: str | None = None) -> str:
    """Return the name of the engine to use.

    Args:
        engine: One of ENGINES, or None for hotcoco where it can be imported and else pycocotools.

    Raises:
        ValueError: If the engine is not one of ENGINES or is not installed.
    """
    if engine is None:
        return ENGINES[0] if importlib.util.find_spec(ENGINES[0]) else ENGINES[1]
    if engine not in ENGINES:
        raise ValueError(f"engine must be one of {', '.join(ENGINES)}, got {engine!r}")
    if importlib.util.find_spec(engine) is None:
        raise ValueError(f"engine {engine!r} is not installed; leave it open to use what is")
    return engine


def ap_metrics(result: APResult) -> dict[str, float]:
    """Return the AP family in percent.

    Args:
        result: Of `evaluate_ap`.

    Returns:
        Values by name, in percent except `n_classes`; NaN where no category has an object. The names are
            AP: mean over the thresholds of the result (COCO's AP for COCO's ten);
            AP50 ... AP95: at one threshold;
            APS, APM, APL: AP of small, medium and large objects: COCO's of area below 32^2, between, above 96^2 px^2;
            AR1, AR10, AR<max_dets>: recall, mean over thresholds and categories, with that many detections per image;
            n_classes: number of categories with an object, over which the means are taken (a count).
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


def class_metrics(result: APResult) -> list[Row]:
    """Return the AP of each category.

    Args:
        result: Of `evaluate_ap`.

    Returns:
        One row per category: category_id, category, AP (mean over the thresholds) and AP50 ... AP95 in percent; NaN
        where the category has no object.
    """
    rows: list[Row] = []
    for k, (category_id, name) in enumerate(zip(result.category_ids, result.category_names, strict=True)):
        precision = result.precision[:, :, k, 0, -1]
        single = {threshold_name(value): _percent(precision[t]) for t, value in enumerate(result.thresholds)}
        rows.append({"category_id": category_id, "category": name, "AP": _percent(precision), **single})
    return rows


def threshold_name(threshold: float) -> str:
    """Return the column name of AP at one IoU threshold: AP50 for 0.5, AP52.5 for 0.525."""
    return f"AP{100 * threshold:.10g}"


def _percent(values: NDArray[np.float64]) -> float:
    """Mean of the values that are defined (not -1), in percent."""
    defined = values[values > -1]
    return 100.0 * float(defined.mean()) if defined.size else math.nan


def _run_hotcoco(
    ground_truth: GroundTruth,
    detections: pd.DataFrame,
    thresholds: Sequence[float],
    limits: Sequence[int],
    ranges: Mapping[str, Range],
) -> _Arrays:
    """Precision and recall arrays from hotcoco's array interface."""
    hotcoco = importlib.import_module("hotcoco")
    annotations = ground_truth.annotations
    images = ground_truth.images[["id"]].assign(width=1, height=1, file_name="")  # required, no effect on boxes
    coco_gt = hotcoco.COCO.from_arrays(
        images.to_dict("records"),
        ground_truth.categories[["id", "name"]].to_dict("records"),
        annotations["image_id"].to_numpy(np.int64),
        annotations["category_id"].to_numpy(np.int64),
        xywh_of(annotations[BOX]),
        ids=np.arange(1, len(annotations) + 1),  # those of the file may be absent or repeated
        area=annotations["area"].to_numpy(np.float64),
        iscrowd=annotations["iscrowd"].to_numpy(np.int64),
    )
    columns = [detections["image_id"], *xywh_of(detections[BOX]).T, detections["score"], detections["category_id"]]
    coco_dt = coco_gt.load_res(np.column_stack([np.asarray(column, np.float64) for column in columns]))
    evaluation = hotcoco.COCOeval(coco_gt, coco_dt, "bbox")
    evaluation.params.iou_thrs = list(thresholds)
    evaluation.params.max_dets = list(limits)
    evaluation.params.area_rng = [list(bounds) for bounds in ranges.values()]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it warns of thresholds other than COCO's, which are chosen on purpose here
        evaluation.evaluate()
        evaluation.accumulate()
    arrays = evaluation.eval
    return np.asarray(arrays["precision"]), np.asarray(arrays["recall"])


def _run_pycocotools(
    ground_truth: GroundTruth,
    detections: pd.DataFrame,
    thresholds: Sequence[float],
    limits: Sequence[int],
    ranges: Mapping[str, Range],
) -> _Arrays:
    """Precision and recall arrays from pycocotools, fed with dictionaries, its printing silenced."""
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    boxes = xywh_of(detections[BOX])
    results = detections[["image_id", "category_id", "score"]].astype({"score": np.float64})
    results = results.assign(area=boxes[:, 2] * boxes[:, 3], iscrowd=0)
    objects = ground_truth.annotations[["image_id", "category_id", "area", "iscrowd"]]
    datasets = []
    for frame, xywh in ((objects, xywh_of(ground_truth.annotations[BOX])), (results, boxes)):
        records = frame.to_dict("records")
        for number, (record, box) in enumerate(zip(records, xywh.tolist(), strict=True), start=1):
            record.update(id=number, bbox=box)  # numbered from 1: an id of 0 reads as "unmatched"
        dataset = COCO()
        dataset.dataset = {
            "images": ground_truth.images[["id"]].to_dict("records"),
            "categories": ground_truth.categories[["id", "name"]].to_dict("records"),
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
