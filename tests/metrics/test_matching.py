"""Greedy matching: precision from the kept matches against pycocotools on generated cases, and cases by hand."""

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from helpers.detection_cases import make_detections, make_ground_truth, random_case
from qrepro.metrics.coco_ap import evaluate_ap
from qrepro.metrics.matching import AREAS, COCO_THRESHOLDS, Matches, match

IMAGES, CATEGORIES = [7, 2], [3, 90]
RECALLS = np.linspace(0, 1, 101)  # pycocotools' own: np.linspace(.0, 1.00, 101)


def precision(matches: Matches) -> np.ndarray:
    """(T, 101, K) as pycocotools' accumulate makes it of its own matches; -1 without ground truth."""
    result = np.full((len(matches.thresholds), 101, matches.categories), -1.0)
    for k in range(matches.categories):
        ground_truth = (matches.gt_category == k).sum()
        for t in range(len(matches.thresholds) if ground_truth else 0):
            counted = (matches.category == k) & ~matches.ignored[t]
            hits, misses = (np.cumsum(v[counted].astype(float)) for v in (matches.hit[t], ~matches.hit[t]))
            envelope = hits / (hits + misses + np.spacing(1))
            envelope = np.append(np.maximum.accumulate(envelope[::-1])[::-1], 0)
            place = np.searchsorted(hits / ground_truth, RECALLS, side="left")
            result[t, :, k] = envelope[place]
    return result


box = st.tuples(*[st.integers(0, 12)] * 2, *[st.integers(0, 110)] * 2).map(
    lambda b: (b[0], b[1], b[0] + b[2], b[1] + b[3])
)
image, category = st.sampled_from(IMAGES), st.sampled_from(CATEGORIES)
truth = st.tuples(image, category, box, st.sampled_from([0, 0, 0, 1]))
detection = st.tuples(image, category, box, st.sampled_from([0.1, 0.5, 0.5, 0.9]))
threshold = st.sampled_from([0.1, 1 / 3, 0.5, 0.525, 2 / 3, 0.75, 0.9, 1.0])


@settings(max_examples=150, deadline=None)
@given(
    st.lists(truth, max_size=8),
    st.lists(detection, max_size=25),
    st.lists(threshold, min_size=1, max_size=4, unique=True),
    st.sampled_from([1, 3, 100]),
)
def test_precision_equals_pycocotools(ground_truth, detections, thresholds, max_dets):
    """Any thresholds; boxes on a grid, so that IoUs lie at the thresholds and scores and IoUs tie."""
    known = make_ground_truth(IMAGES, CATEGORIES, [(i, c, *b, crowd) for i, c, b, crowd in ground_truth])
    found = make_detections([(i, c, *b, score) for i, c, b, score in detections])
    judge = evaluate_ap(known, found, thresholds, max_dets, engine="pycocotools")
    for a, area in enumerate(AREAS.values()):
        mine = precision(match(known, found, thresholds, area=area, max_dets=max_dets))
        np.testing.assert_allclose(mine, judge.precision[:, :, :, a, -1], rtol=0, atol=1e-12)


def test_precision_equals_pycocotools_on_larger_cases():
    hits = 0
    for seed in range(40):
        ground_truth, found = random_case(seed)
        judge = evaluate_ap(ground_truth, found, max_dets=10, engine="pycocotools")
        for a, area in enumerate(AREAS.values()):
            matches = match(ground_truth, found, area=area, max_dets=10)
            np.testing.assert_allclose(precision(matches), judge.precision[:, :, :, a, -1], rtol=0, atol=1e-12)
            hits += matches.hit.sum()
    assert hits > 1000


def test_order_and_columns_by_hand():
    """Two categories, two images listed as 7, 2: by category, score, image id, row; indices are into the tables."""
    ground_truth = make_ground_truth(IMAGES, CATEGORIES, [(7, 90, 0, 0, 10, 10, 0), (2, 3, 0, 0, 10, 10, 0)])
    found = make_detections([
        (7, 90, 0, 0, 10, 6, 0.5),  # IoU 0.6
        (7, 3, 0, 0, 10, 10, 0.5),
        (2, 3, 0, 0, 10, 8, 0.5),  # IoU 0.8
        (2, 3, 0, 0, 10, 10, 0.4),  # IoU 1, but the ground truth is taken
    ])  # fmt: skip
    matches = match(ground_truth, found, [0.5, 0.9])
    assert matches.row.tolist() == [2, 1, 3, 0]  # of the equal scores image 2 comes before image 7
    assert matches.category.tolist() == [0, 0, 0, 1]
    assert matches.image.tolist() == [1, 0, 1, 0]
    assert matches.gt.tolist() == [[1, -1, -1, 0], [-1, -1, 1, -1]]
    assert matches.iou.tolist() == [[0.8, 0, 0, 0.6], [0, 0, 1, 0]]
    assert matches.hit.tolist() == [[True, False, False, True], [False, False, True, False]]
    assert (matches.gt_category.tolist(), matches.gt_image.tolist()) == ([1, 0], [0, 1])


def test_ignored_by_hand():
    """A crowd is taken after the object, and by many; a miss outside the area range is ignored."""
    ground_truth = make_ground_truth([1], [1], [(1, 1, 0, 0, 20, 20, 1), (1, 1, 0, 0, 10, 10, 0)])
    found = make_detections([
        (1, 1, 0, 0, 10, 10, 0.9),  # both fit; the object counts
        (1, 1, 0, 0, 10, 10, 0.8),  # the object is gone, all of it lies in the crowd
        (1, 1, 5, 5, 15, 15, 0.7),  # the crowd again
        (1, 1, 50, 50, 90, 90, 0.6),
    ])  # fmt: skip
    matches = match(ground_truth, found, [0.5])
    assert matches.gt.tolist() == [[1, 0, 0, -1]]
    assert matches.iou.tolist() == [[1, 1, 1, 0]]
    assert matches.ignored.tolist() == [[False, True, True, False]]
    small = match(ground_truth, found, [0.5], area=AREAS["small"])
    assert small.ignored.tolist() == [[False, True, True, True]]
    large = match(ground_truth, found, [0.5], area=AREAS["large"])
    assert large.hit.sum() == 0 and len(large.gt_category) == 0


def test_of_equal_overlaps_the_later_truth_is_taken():
    """The first detection overlaps both ground truths by 50 of 150.

    It takes the second, which the next would have needed.
    """
    ground_truth = make_ground_truth([1], [1], [(1, 1, 0, 0, 10, 10, 0), (1, 1, 10, 0, 20, 10, 0)])
    found = make_detections([(1, 1, 5, 0, 15, 10, 0.9), (1, 1, 12, 0, 20, 10, 0.8)])
    assert match(ground_truth, found, [0.3]).gt.tolist() == [[1, -1]]
    judge = evaluate_ap(ground_truth, found, [0.3], engine="pycocotools")
    np.testing.assert_allclose(
        precision(match(ground_truth, found, [0.3])), judge.precision[:, :, :, 0, -1], atol=1e-12
    )


def test_threshold_zero_takes_whatever_overlaps():
    ground_truth = make_ground_truth([1], [1], [(1, 1, 0, 0, 10, 10, 0)])
    found = make_detections([(1, 1, 20, 20, 30, 30, 0.9), (1, 1, 9, 9, 19, 19, 0.5), (1, 1, 10, 0, 20, 10, 0.4)])
    matches = match(ground_truth, found, [0.0])
    assert matches.gt.tolist() == [[-1, 0, -1]]  # touching is not overlapping
    assert matches.iou[0, 1] == pytest.approx(1 / 199)


def test_each_truth_is_taken_once_and_by_threshold():
    hits = 0
    for seed in range(20):
        matches = match(*random_case(seed))
        for t, floor in enumerate(COCO_THRESHOLDS):
            taken = matches.gt[t][matches.hit[t]]
            assert len(set(taken.tolist())) == len(taken)
            assert (matches.iou[t][matches.hit[t]] >= floor - 1e-9).all()
            hits += len(taken)
    assert hits > 100


def test_nothing_at_all():
    ground_truth = make_ground_truth([1], [1], [])
    assert match(ground_truth, make_detections([])).gt.shape == (10, 0)
    assert match(ground_truth, make_detections([(1, 1, 0, 0, 9, 9, 0.5)])).gt.tolist() == [[-1]] * 10
    ground_truth = make_ground_truth([1], [1], [(1, 1, 0, 0, 9, 9, 0)])
    assert match(ground_truth, make_detections([])).gt_image.tolist() == [0]


def test_wrong_arguments():
    ground_truth, found = random_case(0)
    with pytest.raises(ValueError, match=r"\[0, 1\]"):
        match(ground_truth, found, [1.2])
    with pytest.raises(ValueError, match="max_dets"):
        match(ground_truth, found, max_dets=0)
    with pytest.raises(ValueError, match="image_id"):
        match(ground_truth, pd.concat([found, make_detections([(999, 2, 0, 0, 1, 1, 0.1)])], ignore_index=True))
