"""Every metric from frames made by hand, with no more than the columns that its docstring names and no run folder."""

import numpy as np
import pandas as pd
import pytest

from qrepro.metrics.calibration import calibration_rows, reliability_rows
from qrepro.metrics.coco_ap import ap_metrics, class_metrics, evaluate_ap
from qrepro.metrics.iou import iou_eval, iou_truth
from qrepro.metrics.lrp import lrp_rows
from qrepro.metrics.matching import match
from qrepro.metrics.voc_ap import voc_rows
from qrepro.records.ground_truth import GroundTruth
from qrepro.statistics.bootstrap import resample_ap, resample_moments
from qrepro.statistics.intervals import compare_rows, interval_rows

BOX = {"x1": 0.0, "y1": 0.0, "x2": 40.0, "y2": 40.0}
GROUND_TRUTH = GroundTruth(
    images=pd.DataFrame({"id": [7, 8]}),
    categories=pd.DataFrame({"id": [3], "name": ["cat"]}),
    annotations=pd.DataFrame({"image_id": [7, 8], "category_id": 3, **BOX, "area": 1600.0, "iscrowd": 0}),
)
# image 7: the box itself; image 8: its left half, IoU 1/2
DETECTIONS = pd.DataFrame({"image_id": [7, 8], "category_id": 3, **BOX, "score": [0.9, 0.6]} | {"x2": [40.0, 20.0]})


def test_overlaps_of_plain_frames():
    boxes = DETECTIONS.drop(columns="score")
    assert iou_eval(GROUND_TRUTH, boxes).tolist() == [1.0, 0.5]
    assert iou_truth(GROUND_TRUTH, boxes.drop(columns="category_id")).tolist() == [1.0, 0.5]
    assert match(GROUND_TRUTH, DETECTIONS, [0.5, 0.75]).hit.tolist() == [[True, True], [True, False]]


@pytest.mark.parametrize("engine", ["hotcoco", "pycocotools"])
def test_coco_ap_of_plain_frames(engine):
    """At IoU 0.75 one of two objects is found at precision 1: the 51 recalls 0 ... 0.5 of 101."""
    result = evaluate_ap(GROUND_TRUTH, DETECTIONS, [0.5, 0.75], engine=engine)
    metrics = ap_metrics(result)
    assert metrics["AP50"] == pytest.approx(100) and metrics["AP75"] == pytest.approx(100 * 51 / 101)
    (row,) = class_metrics(result)
    assert row["category"] == "cat" and row["AP50"] == pytest.approx(100)


def test_other_metrics_of_plain_frames():
    """LRP at tau 1/2: keeping one detection gives 1/2, keeping both (0 + 1/2 / (1/2)) / 2 = 1/2 as well."""
    assert {row["mAP"] for row in voc_rows(GROUND_TRUTH, DETECTIONS)} == {100.0}
    assert [row["value"] for row in lrp_rows(GROUND_TRUTH, DETECTIONS)] == [0.5, 0.5]
    errors = {row["metric"]: row["value"] for row in calibration_rows(GROUND_TRUTH, DETECTIONS)}
    assert errors["D-ECE"] == pytest.approx((0.1 + 0.4) / 2)  # both true: 0.9 and 0.6 against 1
    assert errors["LaACE0"] == pytest.approx((0.1 + 0.1) / 2)  # 0.9 against 1, 0.6 against 1/2
    assert len(reliability_rows(GROUND_TRUTH, DETECTIONS)) == 2 + 2 * 2 + 2 * 2


def test_bootstrap_of_plain_frames():
    """A draw holds image 7 twice, both images or image 8 twice: AP75 of 100, 51/101 or 0."""
    matches = match(GROUND_TRUTH, DETECTIONS, [0.5, 0.75])
    run = resample_ap(matches, GROUND_TRUTH.images["id"], draws=50)
    assert set(np.round(run.values["AP75"], 6)) == {100.0, round(100 * 51 / 101, 6), 0.0}
    assert {row["metric"] for row in interval_rows([run])} == {"AP", "AP50", "AP75"}
    assert all(row["difference"] == 0 for row in compare_rows([run], [run]))
    ious = iou_eval(GROUND_TRUTH, DETECTIONS)
    moments = resample_moments(DETECTIONS["image_id"], DETECTIONS["score"], ious, [7, 8], draws=10)
    assert moments.values["bias"][0] == pytest.approx(0)
