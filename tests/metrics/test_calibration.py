"""Calibration errors against cases solved by hand, hotcoco, and detectors whose calibration is known."""

import math
import warnings
from dataclasses import replace

import hotcoco
import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from helpers.detection_cases import BOX_A, BOX_B, BOX_C, judged, make_detections, make_ground_truth, random_case
from qrepro.metrics.calibration import (
    BINNED,
    D_ECE,
    LAACE0,
    LAECE,
    LAECE0,
    METRICS,
    Metric,
    calibration_rows,
    reliability_rows,
)
from qrepro.metrics.lrp import lrp_rows
from qrepro.records.ground_truth import BOX, GroundTruth


def hand_case():
    """Class 1 in image 1: A exactly (0.9), B with IoU 0.6 (0.85), nothing (0.35), C with IoU 0.2 (0.8).

    Class 2 in image 2, which has no ground truth: 0.7; in image 1: A with IoU 0.5 (0.75). Class 3 has ground truth
        only.
    """
    ground_truth = make_ground_truth([1, 2], [1, 2, 3], [
        (1, 1, *BOX_A, 0), (1, 1, *BOX_B, 0), (1, 1, *BOX_C, 0), (1, 2, *BOX_A, 0), (2, 3, *BOX_A, 0),
    ])  # fmt: skip
    found = make_detections([
        (1, 1, *BOX_A, 0.9), (1, 1, 20, 0, 30, 6, 0.85), (1, 1, 70, 70, 80, 80, 0.35), (1, 1, 40, 0, 50, 2, 0.8),
        (2, 2, *BOX_A, 0.7), (1, 2, 0, 0, 10, 5, 0.75),
    ])  # fmt: skip
    return ground_truth, found


def value(ground_truth, found, metric, **options):
    (row,) = calibration_rows(ground_truth, found, [replace(metric, **options)])
    return row["value"]


def test_d_ece_by_hand():
    """Ten bins over the six detections of both classes, true positives at IoU 0.5.

    [0.3, 0.4): 0.35, wrong, |0.35 - 0|.   [0.7, 0.8): 0.7 wrong, 0.75 right, |0.725 - 1/2|.
    [0.8, 0.9): 0.85 right, 0.8 wrong, |0.825 - 1/2|.   [0.9, 1]: 0.9 right, |0.9 - 1|.
    D-ECE = (0.35 + 2 * 0.225 + 2 * 0.325 + 0.1) / 6 = 1.55 / 6.
    """
    ground_truth, found = hand_case()
    (row,) = calibration_rows(ground_truth, found, [D_ECE])
    assert row == pytest.approx({
        "metric": "D-ECE", "value": 1.55 / 6, "n": 6, "classes": 2, "classes_with_gt": 3, "target": "precision",
        "tau": 0.5, "score_thr": 0.3, "bins": 10, "closed": "left", "pooling": "all",
        "matching": "greedy", "max_dets": 100,
    })  # fmt: skip
    rows = reliability_rows(ground_truth, found, [D_ECE])
    names = ("low", "high", "n", "share", "mean_confidence", "observed", "gap")
    assert [tuple(row[name] for name in names) for row in rows] == [
        pytest.approx((0.3, 0.4, 1, 1 / 6, 0.35, 0, 0.35)),
        pytest.approx((0.7, 0.8, 2, 1 / 3, 0.725, 0.5, 0.225)),
        pytest.approx((0.8, 0.9, 2, 1 / 3, 0.825, 0.5, 0.325)),
        pytest.approx((0.9, 1.0, 1, 1 / 6, 0.9, 1, -0.1)),
    ]
    assert {row["class"] for row in rows} == {"all"} and {row["metric"] for row in rows} == {"D-ECE"}


def test_laece_by_hand():
    """Five bins, per class, tau = 0.1: C with its IoU of 0.2 is true now.

    Class 1: [0.2, 0.4): |0.35 - 0|; [0.8, 1]: p = 0.9, 0.85, 0.8 with IoU 1, 0.6, 0.2: |0.85 - 0.6|.
    (0.35 + 3 * 0.25) / 4 = 0.275.   Class 2: [0.6, 0.8): p = 0.7, 0.75 with 0, 0.5: |0.725 - 0.25| = 0.475.
    Class 3 has no detection. Mean 0.375. With tau = 0.5 bin [0.8, 1] of class 1 holds 1, 0.6, 0: |0.85 - 1.6 / 3|.
    """
    ground_truth, found = hand_case()
    (row,) = calibration_rows(ground_truth, found, [replace(LAECE, bins=5)])
    assert (row["value"], row["n"], row["classes"], row["classes_with_gt"]) == (pytest.approx(0.375), 6, 2, 3)
    assert value(ground_truth, found, LAECE, bins=5, tau=0.5) == pytest.approx(((0.35 + 2.55 - 1.6) / 4 + 0.475) / 2)
    rows = reliability_rows(ground_truth, found, [replace(LAECE, bins=5)])
    assert [(row["class"], row["low"], row["n"]) for row in rows] == [
        ("c1", 0.2, 1), ("c1", 0.8, 3), ("c2", 0.6, 2), ("all", 0.2, 1), ("all", 0.6, 2), ("all", 0.8, 3),
    ]  # fmt: skip
    assert [row["observed"] for row in rows] == pytest.approx([0, 0.6, 0.25, 0, 0.25, 0.6])
    assert [row["share"] for row in rows] == pytest.approx([1 / 4, 3 / 4, 1, 1 / 6, 1 / 3, 1 / 2])


def test_laece0_and_laace0_by_hand():
    """tau = 0: a box that overlaps C by 1 in 20 (IoU 0.05) has that for its target; with tau = 0.1 it is wrong.

    LaACE0: one detection of p = 0.5, |0.5 - 0.05|. With the hand case, class 1: |0.9 - 1|, |0.85 - 0.6|, 0.35, |0.8 -
    0.2|: 1.3 / 4; class 2: 0.7, |0.75 - 0.5|: 0.95 / 2. Mean 0.4.
    """
    ground_truth, found = hand_case()
    slim = make_detections([(1, 1, 40, 0, 50, 0.5, 0.5)])
    assert value(ground_truth, slim, LAACE0) == value(ground_truth, slim, LAECE0) == pytest.approx(0.45)
    assert value(ground_truth, slim, LAECE) == value(ground_truth, slim, LAACE0, tau=0.1) == pytest.approx(0.5)
    assert value(ground_truth, found, LAACE0) == pytest.approx((1.3 / 4 + 0.95 / 2) / 2)
    assert value(ground_truth, found, LAECE0, bins=5) == pytest.approx(0.375)  # as LaECE: no overlap lies below 0.1


def test_pooling_of_any_metric():
    """LaACE0 pooled: (1.3 + 0.95) / 6.

    D-ECE per class: (0.35 + |0.85 + 0.8 - 1| + |0.9 - 1|) / 4 for class 1, |0.7 + 0.75 - 1| / 2 for class 2.
    """
    ground_truth, found = hand_case()
    assert value(ground_truth, found, LAACE0, pooling="all") == pytest.approx(2.25 / 6)
    assert value(ground_truth, found, D_ECE, pooling="class") == pytest.approx((1.1 / 4 + 0.45 / 2) / 2)


def test_to_which_bin_an_edge_belongs():
    """p = 0, 0.3, 0.3, 0.6, 1 in ten bins; 0.3 and 0.6 are edges although 3 * 0.1 and 6 * 0.1 are not, in binary."""
    found = make_detections([(1, 1, *BOX_A, p) for p in (0, 0.3, 0.3, 0.6, 1)])
    ground_truth = make_ground_truth([1], [1], [(1, 1, *BOX_B, 0)])
    for closed, lows in (("left", [0, 0.3, 0.6, 0.9]), ("right", [0, 0.2, 0.5, 0.9])):
        rows = reliability_rows(ground_truth, found, [replace(D_ECE, score_thr=0, closed=closed)])
        assert [row["low"] for row in rows] == lows and [row["n"] for row in rows] == [1, 2, 1, 1]
        assert [row["high"] for row in rows] == pytest.approx([low + 0.1 for low in lows])


def test_bins_of_the_defaults():
    """25 bins of 0.04: the score 0.4 opens one for LaECE and closes one for LaECE0."""
    found = make_detections([(1, 1, *BOX_A, 0.4)])
    ground_truth = make_ground_truth([1], [1], [(1, 1, *BOX_A, 0)])
    rows = reliability_rows(ground_truth, found, [D_ECE, LAECE, LAECE0])
    ends = [(row["metric"], row["low"], row["high"]) for row in rows if row["class"] == "all"]
    assert ends == [("D-ECE", 0.4, 0.5), ("LaECE", 0.4, 0.44), ("LaECE0", 0.36, 0.4)]


def test_crowds_neither_right_nor_wrong():
    """A at 0.6 and a detection on the crowd at 0.9: only the first counts."""
    ground_truth = make_ground_truth([1], [1], [(1, 1, *BOX_A, 0), (1, 1, *BOX_B, 1)])
    found = make_detections([(1, 1, *BOX_A, 0.6), (1, 1, *BOX_B, 0.9)])
    for row in calibration_rows(ground_truth, found):
        assert (row["n"], row["value"]) == (1, pytest.approx(0.4))


def test_a_class_without_truth_counts_only_where_classes_are_pooled():
    """Class 1: perfect box at 0.8. Class 2, no ground truth: 0.6, wrong. Pooled (0.2 + 0.6) / 2, else class 1 alone."""
    ground_truth = make_ground_truth([1], [1, 2], [(1, 1, *BOX_A, 0)])
    found = make_detections([(1, 1, *BOX_A, 0.8), (1, 2, *BOX_A, 0.6)])
    rows = {row["metric"]: row for row in calibration_rows(ground_truth, found)}
    assert (rows["D-ECE"]["value"], rows["D-ECE"]["n"], rows["D-ECE"]["classes"]) == (pytest.approx(0.4), 2, 2)
    for name in ("LaECE", "LaECE0", "LaACE0"):
        assert (rows[name]["value"], rows[name]["n"], rows[name]["classes"]) == (pytest.approx(0.2), 1, 1)
    assert [row["n"] for row in reliability_rows(ground_truth, found, [LAECE])] == [1, 1]


def test_what_is_not_there_is_nan():
    ground_truth, found = hand_case()
    for detections in (found[:0], found.assign(score=0.1)):
        rows = calibration_rows(ground_truth, detections, [replace(metric, score_thr=0.2) for metric in METRICS])
        assert all(math.isnan(row["value"]) and row["n"] == row["classes"] == 0 for row in rows)
        assert reliability_rows(ground_truth, detections, [replace(metric, score_thr=0.2) for metric in BINNED]) == []


def test_floor_one_for_all_and_per_class():
    """From 0.8 on, itself included: 0.9, 0.85, 0.8 of class 1: (0.1 + 0.25 + 0.6) / 3; class 2 has none left.

    With 0.85 for class 1 and 0.75 for class 2: (0.1 + 0.25) / 2 and 0.25. Of NaN: class 2 is out.
    """
    ground_truth, found = hand_case()
    assert value(ground_truth, found, LAACE0, score_thr=0.8) == pytest.approx(0.95 / 3)
    (row,) = calibration_rows(ground_truth, found, [replace(LAACE0, score_thr={1: 0.85, 2: 0.75, 3: 0})])
    assert (row["value"], row["n"], row["score_thr"]) == (pytest.approx((0.175 + 0.25) / 2), 3, "per class")
    assert value(ground_truth, found, LAACE0, score_thr={1: 0.85, 2: math.nan, 3: 0}) == pytest.approx(0.175)
    rows = reliability_rows(ground_truth, found, [replace(LAECE, score_thr={1: 0.85, 2: 0.75, 3: 0})])
    assert {row["class"]: row["score_thr"] for row in rows} == {"c1": 0.85, "c2": 0.75, "all": "per class"}


def test_thresholds_of_olrp_are_a_floor():
    """As the authors of LaECE choose it. At tau = 0.1 class 1 is best with A, B, C: 0.8; class 2 with A alone: 0.75.

    LaACE from there on: (0.1 + 0.25 + 0.6) / 3 and 0.25.
    """
    ground_truth, found = hand_case()
    floor = {row["category_id"]: row["threshold"] for row in lrp_rows(ground_truth, found, 0.1)}
    assert value(ground_truth, found, LAACE0, tau=0.1, score_thr=floor) == pytest.approx((0.95 / 3 + 0.25) / 2)


def test_matching_any_counts_duplicates():
    """Twice A (0.9, 0.8), and the same box as class 2, which has ground truth elsewhere: greedy takes one, "any" both.

    On the crowd B alone a detection is left out by either; on the crowd and a taken ground truth "any" counts it as
    true.
    """
    ground_truth = make_ground_truth(
        [1], [1, 2], [(1, 1, *BOX_A, 0), (1, 1, *BOX_B, 1), (1, 2, *BOX_C, 0), (1, 1, *BOX_A, 1)]
    )
    found = make_detections([(1, 1, *BOX_A, 0.9), (1, 1, *BOX_A, 0.8), (1, 2, *BOX_A, 0.5), (1, 1, *BOX_B, 0.7)])
    greedy, duplicates = (replace(D_ECE, matching=name) for name in ("greedy", "any"))
    rows = calibration_rows(ground_truth, found, [greedy, duplicates])
    assert [(row["n"], row["value"]) for row in rows] == [
        (2, pytest.approx((0.1 + 0.5) / 2)), (3, pytest.approx((0.1 + 0.2 + 0.5) / 3)),
    ]  # fmt: skip
    apart = GroundTruth(
        ground_truth.images, ground_truth.categories, ground_truth.annotations[:3]
    )  # without the crowd on A
    rows = calibration_rows(apart, found, [greedy, duplicates])
    assert [(row["n"], row["value"]) for row in rows] == [
        (3, pytest.approx((0.1 + 0.8 + 0.5) / 3)), (3, pytest.approx((0.1 + 0.2 + 0.5) / 3)),
    ]  # fmt: skip
    near = make_detections([(1, 1, 0, 0, 10, 5, 0.9), (1, 1, 0, 0, 10, 4.9, 0.8)])  # IoU 0.5 is enough, 0.49 is not
    assert value(apart, near, duplicates) == pytest.approx((0.1 + 0.8) / 2)
    assert value(apart, near[::-1], duplicates) == pytest.approx((0.1 + 0.8) / 2)
    assert value(apart, near, LAACE0, matching="any") == pytest.approx((0.4 + 0.31) / 2)
    elsewhere = make_detections([(1, 1, 70, 70, 80, 80, 0.9)])  # overlaps nothing: wrong even at tau = 0
    assert value(apart, elsewhere, duplicates, tau=0.0) == pytest.approx(0.9)


def test_max_dets_comes_before_the_floor():
    ground_truth, found = hand_case()
    (row,) = calibration_rows(ground_truth, found, [LAACE0], max_dets=1)
    assert (row["n"], row["value"], row["max_dets"]) == (3, pytest.approx((0.1 + (0.7 + 0.25) / 2) / 2), 1)
    assert reliability_rows(ground_truth, found, [D_ECE], max_dets=1)[-1]["max_dets"] == 1


def judged_error(samples, bins, target):
    """The error of samples (category, score, hit, IoU), a literal sum over left-closed bins."""
    total = 0.0
    for b in range(bins):
        inside = [s for s in samples if b <= s[1] * bins < b + 1 or (b == bins - 1 and s[1] == 1)]
        if inside:
            confidence = sum(s[1] for s in inside) / len(inside)
            observed = sum(target(s) for s in inside) / len(inside)
            total += len(inside) / len(samples) * abs(observed - confidence)
    return total


def test_random_cases_agree_with_a_literal_sum_over_pycocotools_matches():
    """Scores are eighths and the bins 8 or 16, so that every score lies on an edge, exactly."""
    compared = 0
    for seed in range(30):
        ground_truth, found = random_case(seed)
        found = found[found["score"] >= 0.25]  # what the floor does; matching what is left is the judge's
        for kind, tau in ((D_ECE, 0.5), (LAECE, 0.1), (LAECE, 0.75)):
            metric = replace(kind, tau=tau, bins=8 if seed % 2 else 16, score_thr=0.25)
            samples, n_gt = judged(ground_truth, found, tau)
            target = {"precision": lambda s: float(s[2]), "iou": lambda s: s[3]}[metric.target]
            (row,) = calibration_rows(ground_truth, random_case(seed)[1], [metric])
            if metric.pooling == "all":
                errors = [judged_error(samples, metric.bins, target)] if samples else []
            else:
                classes = [[s for s in samples if s[0] == k] for k, n in n_gt.items() if n]
                errors = [judged_error(own, metric.bins, target) for own in classes if own]
                assert row["classes"] == len(errors)
            assert row["value"] == pytest.approx(np.mean(errors) if errors else math.nan, abs=1e-12, nan_ok=True)
            compared += len(errors) > 0 and 0 < row["value"] < 1
    assert compared > 40


def test_hotcoco_agrees_on_pooled_d_ece():
    """hotcoco 1.3: bins closed on the left, detections of all classes; bins of its own for every score here."""
    compared = 0
    for seed in range(40):
        ground_truth, found = random_case(seed)
        if found.empty or ground_truth.annotations.empty:
            continue
        columns = [found["image_id"], *xywh(found).T, found["score"], found["category_id"]]
        truth = hotcoco.COCO.from_arrays(
            ground_truth.images[["id"]].assign(width=1, height=1, file_name="").to_dict("records"),
            ground_truth.categories[["id", "name"]].to_dict("records"),
            ground_truth.annotations["image_id"].to_numpy(),
            ground_truth.annotations["category_id"].to_numpy(),
            xywh(ground_truth.annotations),
            ids=np.arange(1, len(ground_truth.annotations) + 1),
            area=ground_truth.annotations["area"].to_numpy(np.float64),
            iscrowd=ground_truth.annotations["iscrowd"].to_numpy(),
        )
        evaluation = hotcoco.COCOeval(truth, truth.load_res(np.column_stack(columns)), "bbox")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            evaluation.evaluate()
        expected = evaluation.calibration(n_bins=4, iou_threshold=0.5)
        (row,) = calibration_rows(ground_truth, found, [replace(D_ECE, score_thr=0, bins=4)])
        assert row["n"] == expected["num_detections"]
        if row["n"]:
            assert row["value"] == pytest.approx(expected["ece"], abs=1e-12)
            compared += 1
    assert compared > 20


def xywh(frame):
    boxes = frame[BOX].to_numpy(np.float64, copy=True)
    boxes[:, 2:] -= boxes[:, :2]
    return boxes


def test_rows_of_a_class_add_up_to_its_error():
    for seed in range(20):
        ground_truth, found = random_case(seed)
        for metric in BINNED:
            rows = pd.DataFrame(reliability_rows(ground_truth, found, [metric]), columns=["class", "share", "gap"])
            (summary,) = calibration_rows(ground_truth, found, [metric])
            own = rows if metric.pooling == "all" else rows[rows["class"] != "all"]
            errors = (own["share"] * own["gap"].abs()).groupby(own["class"]).sum()
            assert summary["value"] == pytest.approx(errors.mean() if len(errors) else math.nan, nan_ok=True)
            assert own["share"].groupby(own["class"]).sum().to_numpy() == pytest.approx(1)


def simulated(n, probability, seed):
    """One ground truth and one detection per image.

    With `probability` of its score the detection is exact, else elsewhere.
    """
    rng = np.random.default_rng(seed)
    score = rng.random(n)
    hit = rng.random(n) < probability(score)
    ids = np.arange(n)
    boxes = pd.DataFrame(np.tile(np.float64(BOX_A), (n, 1)), columns=BOX).assign(image_id=ids, category_id=1)
    found = boxes.assign(score=score)
    found[["x1", "x2"]] += np.where(hit, 0, 50)[:, None]
    ground_truth = make_ground_truth(ids, [1], [(0, 1, *BOX_A, 0)])
    return GroundTruth(ground_truth.images, ground_truth.categories, boxes.assign(id=ids, area=100.0, iscrowd=0)), found


def test_a_calibrated_detector_has_no_error_but_that_of_sampling():
    """In a bin of m detections the mean of t - p is about normal, of variance (mean of p (1 - p)) / m.

    So its absolute value has the mean sqrt(2 / pi) sd and the variance (1 - 2 / pi) sd^2; a bin weighs 1 / 10. The
    mean of p (1 - p) over a bin of width w about c is c (1 - c) - w^2 / 12.
    """
    n, centre = 40_000, (np.arange(10) + 0.5) / 10
    sd = np.sqrt((centre * (1 - centre) - 1 / 1200) / (n / 10))
    expected = math.sqrt(2 / math.pi) * sd.mean()
    spread = math.sqrt(1 - 2 / math.pi) * math.sqrt((sd**2).sum()) / 10
    values = [value(*simulated(n, lambda p: p, seed), replace(D_ECE, score_thr=0)) for seed in range(3)]
    assert np.mean(values) == pytest.approx(expected, abs=4 * spread / math.sqrt(3))


def test_an_overconfident_detector_has_the_error_that_it_was_given():
    """Right with p^2: the error is the integral of p - p^2 over [0, 1], 1 / 6, and every gap is positive."""
    ground_truth, found = simulated(40_000, lambda p: p**2, 0)
    for metric in METRICS[:3]:
        assert value(ground_truth, found, metric, score_thr=0) == pytest.approx(1 / 6, abs=0.008)
    gaps = [row["gap"] for row in reliability_rows(ground_truth, found, [replace(D_ECE, score_thr=0)])][1:-1]
    assert min(gaps) > 0.03


def test_with_exact_boxes_laece_is_d_ece_per_class():
    rng = np.random.default_rng(3)
    ground_truth, found = simulated(2_000, lambda p: p**2, 1)
    label = rng.integers(1, 4, len(found))
    ground_truth = GroundTruth(
        ground_truth.images,
        make_ground_truth([1], [1, 2, 3], []).categories,
        ground_truth.annotations.assign(category_id=label),
    )
    found = found.assign(category_id=label)
    options = {"tau": 0.5, "bins": 12, "score_thr": 0.1, "pooling": "class"}
    assert value(ground_truth, found, LAECE, **options) == pytest.approx(
        value(ground_truth, found, D_ECE, **options), abs=1e-12
    )


@settings(max_examples=40, deadline=None)  # a loaded machine is no failure
@given(st.integers(0, 200), st.sampled_from([1, 2, 7, 25]))
def test_averaging_in_bins_can_only_hide_errors(seed, bins):
    """The triangle inequality: LaECE0 <= LaACE0; and D-ECE of one bin is |mean p - precision|."""
    ground_truth, found = random_case(seed)
    coarse, fine = value(ground_truth, found, LAECE0, bins=bins), value(ground_truth, found, LAACE0)
    assert math.isnan(coarse) == math.isnan(fine)
    assert math.isnan(fine) or 0 <= coarse <= fine + 1e-12 <= 1 + 2e-12


def test_bins_of_single_detections_are_no_bins():
    ground_truth, found = hand_case()
    assert value(ground_truth, found, LAECE0, bins=100) == pytest.approx(value(ground_truth, found, LAACE0))


def test_several_metrics_share_one_matching():
    """Each as if asked alone: no metric sees the tau, floor or matching of another."""
    metrics = [*METRICS, replace(D_ECE, matching="any"), replace(LAECE, tau=0.75), replace(D_ECE, tau=0.0)]
    different = 0
    for seed in range(6):
        ground_truth, found = random_case(seed)
        together = calibration_rows(ground_truth, found, metrics)
        for row, metric in zip(together, metrics, strict=True):
            assert row == pytest.approx(calibration_rows(ground_truth, found, [metric])[0], nan_ok=True)
        different = max(different, len({row["value"] for row in together}))
    assert different >= 6


@pytest.mark.parametrize("options, message", [
    ({"tau": 1.2}, r"mine: tau must lie in \[0, 1\], got 1.2"),
    ({"bins": 0}, "mine: bins must be at least 1"),
    ({"score_thr": -0.1}, r"mine: score_thr must lie in \[0, 1\], got -0.1"),
    ({"score_thr": {1: 0.5, 2: 3}}, r"score_thr must lie in \[0, 1\], got 3"),
    ({"target": "recall"}, "target must be one of precision, iou, got 'recall'"),
    ({"pooling": "image"}, "pooling must be one of all, class"),
    ({"closed": "both"}, "closed must be one of left, right"),
    ({"matching": "voc"}, "matching must be one of greedy, any"),
])  # fmt: skip
def test_a_metric_that_is_none_is_refused(options, message):
    with pytest.raises(ValueError, match=message):
        Metric(**{"name": "mine", "target": "iou", "tau": 0.5, "bins": 10, "pooling": "all", **options})


@pytest.mark.parametrize("function", [calibration_rows, reliability_rows])
def test_bad_input_is_refused(function):
    ground_truth, found = hand_case()
    scores = found["score"].to_numpy(copy=True)
    scores[[2, 4]] = 1.5, -0.25
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(ValueError, match=r"detections\[2\]: a confidence must lie in \[0, 1\], got 1.5 \(2 such"):
            function(ground_truth, found.assign(score=scores))
    with pytest.raises(ValueError, match="score must be a finite number"):
        function(ground_truth, found.assign(score=math.nan))
    with pytest.raises(ValueError, match="column 'score' is missing"):
        function(ground_truth, found.drop(columns="score"))
    with pytest.raises(ValueError, match="D-ECE: score_thr has no entry for category 2"):
        function(ground_truth, found, [replace(D_ECE, score_thr={1: 0.5, 3: 0.5})])
    with pytest.raises(ValueError, match="at least one metric"):
        function(ground_truth, found, [])


def test_a_metric_without_bins_has_no_diagram():
    with pytest.raises(ValueError, match="LaACE0 has no bins"):
        reliability_rows(*hand_case(), [LAECE, LAACE0])
