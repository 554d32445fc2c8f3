"""IoU_eval and IoU_truth: by hand, by pycocotools and by invariants."""

import numpy as np
import pytest
from pycocotools import mask

import qrepro.metrics.iou
from helpers.detection_cases import make_detections, make_ground_truth, random_case
from qrepro.metrics.iou import iou_eval, iou_truth, pair_iou
from qrepro.records.ground_truth import BOX


def test_a_well_placed_box_of_the_wrong_class():
    """Fig. 5 of the paper in numbers: the disc's box fits the square at 0.8 and the one uncrowded disc at 0.25."""
    ground_truth = make_ground_truth([1, 2], [1, 2], [
        (1, 1, 0, 0, 10, 10, 0), (1, 2, 0, 0, 10, 2, 0), (1, 2, 0, 0, 10, 8, 1), (2, 2, 0, 0, 10, 8, 0),
    ])  # fmt: skip
    found = make_detections([(1, 2, 0, 0, 10, 8, 0.5), (1, 1, 0, 0, 10, 8, 0.5), (2, 1, 0, 0, 10, 8, 0.5)])
    assert iou_eval(ground_truth, found) == pytest.approx([0.25, 0.8, 0])
    assert iou_truth(ground_truth, found) == pytest.approx([0.8, 0.8, 1])


def test_no_truth_no_detection_no_area():
    ground_truth, nothing = make_ground_truth([1], [1], []), make_detections([])
    found = make_detections([(1, 1, 0, 0, 10, 10, 0.5)])
    assert iou_truth(ground_truth, found).tolist() == [0] and iou_eval(ground_truth, found).tolist() == [0]
    assert iou_truth(make_ground_truth([1], [1], [(1, 1, 0, 0, 10, 10, 0)]), nothing).shape == (0,)
    only_crowd = make_ground_truth([1], [1], [(1, 1, 0, 0, 10, 10, 1)])
    assert iou_truth(only_crowd, found).tolist() == [0]
    point = np.array([[3.0, 3, 3, 3]])
    assert pair_iou(point, point).tolist() == [0]


def test_random_cases_agree_with_pycocotools_in_blocks_of_any_size(monkeypatch):
    compared = 0
    for seed in range(40):
        monkeypatch.setattr(qrepro.metrics.iou, "_PAIRS_AT_ONCE", [1, 7, 10**6][seed % 3])
        ground_truth, found = random_case(seed)
        objects = ground_truth.annotations.query("iscrowd == 0")
        own, any_class = iou_eval(ground_truth, found), iou_truth(ground_truth, found)
        assert (any_class >= own).all() and (own >= 0).all() and (any_class <= 1).all()
        for row, detection in enumerate(found.itertuples()):
            for category, value in ((detection.category_id, own[row]), (None, any_class[row])):
                near = objects[objects["image_id"] == detection.image_id]
                near = near if category is None else near[near["category_id"] == category]
                boxes = near[BOX].to_numpy(float)
                boxes[:, 2:] -= boxes[:, :2]
                box = [detection.x1, detection.y1, detection.x2 - detection.x1, detection.y2 - detection.y1]
                judge = mask.iou([box], boxes.tolist(), [0] * len(boxes)) if len(boxes) else np.zeros(1)
                if 0 < box[2] * box[3]:  # pycocotools divides 0 by 0 for boxes without area
                    assert value == pytest.approx(np.max(judge), abs=1e-12)
                    compared += value > 0
    assert compared > 200
