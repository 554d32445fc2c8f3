"""LRP and oLRP against cases solved by hand, and against pycocotools run anew at every score threshold."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from helpers.detection_cases import BOX_A, BOX_B, BOX_C, judged, make_detections, make_ground_truth, random_case
from qrepro.metrics.lrp import lrp_curve, lrp_rows


def hand_case():
    """Three ground truths A, B, C.

    Ranked: A exactly (0.9), B with IoU 0.75 (0.8), nothing (0.7), C with IoU 0.6 (0.6).
    """
    ground_truth = make_ground_truth([1], [1], [(1, 1, *box, 0) for box in (BOX_A, BOX_B, BOX_C)])
    found = make_detections([
        (1, 1, 40, 0, 50, 6, 0.6), (1, 1, *BOX_A, 0.9), (1, 1, 70, 70, 80, 80, 0.7), (1, 1, 20, 0, 30, 7.5, 0.8),
    ])  # fmt: skip
    return ground_truth, found


def literal_lrp(samples, n_gt, tau):
    """LRP and its parts of one class, as defined: counts of everything that is left."""
    ious = [overlap for _, _, hit, overlap in samples if hit]
    tp, fp, fn = len(ious), len(samples) - len(ious), n_gt - len(ious)
    loose = sum(1 - overlap for overlap in ious)
    return (
        (loose / (1 - tau) + fp + fn) / (tp + fp + fn),
        loose / tp if tp else math.nan,
        fp / (tp + fp) if tp + fp else math.nan,
        fn / n_gt,
    )


def test_hand_case():
    """tau = 0.5, so that a true positive costs 2 (1 - IoU). Keeping the best 1, 2, 3, 4 of the hand case:

    1: (0 + 0 + 2) / 3 = 2/3;   2: (0.5 + 0 + 1) / 3 = 0.5;   3: (0.5 + 1 + 1) / 4 = 0.625;
    4: (0.5 + 0.8 + 1 + 0) / 4 = 0.575.   The least, 0.5, is at score 0.8: Loc = 0.25 / 2, FP = 0 / 2, FN = 1 / 3.
    """
    curve = lrp_curve([0.6, 0.9, 0.7, 0.8], [True, True, False, True], [0.6, 1, 0, 0.75], 3)
    assert curve.threshold.tolist() == [math.inf, 0.9, 0.8, 0.7, 0.6]
    assert curve.lrp == pytest.approx([1, 2 / 3, 0.5, 0.625, 0.575])
    assert (curve.tp.tolist(), curve.fp.tolist(), curve.fn.tolist()) == (
        [0, 1, 2, 2, 3],
        [0, 0, 0, 1, 1],
        [3, 2, 1, 1, 0],
    )
    assert curve.loc == pytest.approx([0, 0, 0.25, 0.25, 0.65])
    row, mean = lrp_rows(*hand_case())
    assert row == pytest.approx({
        "metric": "oLRP", "category_id": 1, "class": "c1", "value": 0.5, "loc": 0.125, "fp": 0, "fn": 1 / 3,
        "threshold": 0.8, "n_tp": 2, "n_fp": 0, "n_fn": 1, "classes": 1, "classes_loc": 1, "classes_fp": 1,
        "tau": 0.5, "max_dets": 100, "matching": "greedy",
    })  # fmt: skip
    assert (mean["class"], mean["category_id"], mean["value"]) == ("mean", "", pytest.approx(0.5))


def test_tau_changes_the_price_of_looseness_and_what_is_true():
    """tau = 0.7: the box of IoU 0.6 is wrong, IoU 0.75 costs 0.25 / 0.3 = 5/6: (5/6 + 1) / 3 < 2/3 of the first alone.

    tau = 0: 1, 2, 3, 4 kept cost 2/3, (0.25 + 1) / 3, (0.25 + 2) / 4, (0.65 + 1) / 4 = 0.4125: all are kept.
    """
    row, _ = lrp_rows(*hand_case(), tau=0.7)
    assert (row["value"], row["threshold"], row["tau"]) == pytest.approx((11 / 18, 0.8, 0.7))
    row, _ = lrp_rows(*hand_case(), tau=0)
    assert (row["value"], row["threshold"], row["n_tp"]) == pytest.approx((0.4125, 0.6, 3))


def test_classes_without_hit_without_detection_and_without_truth():
    """Class 1 perfect.

    Class 2 wrong only; class 3 not found; class 4 without ground truth. Mean of oLRP: (0 + 1 + 1) / 3.
    """
    ground_truth = make_ground_truth([1], [1, 2, 3, 4], [(1, k, *BOX_A, 0) for k in (1, 2, 3)])
    found = make_detections([(1, 1, *BOX_A, 0.5), (1, 2, *BOX_B, 0.9), (1, 4, *BOX_A, 0.9)])
    perfect, wrong, missed, absent, mean = lrp_rows(ground_truth, found)
    parts = ("value", "loc", "fp", "fn")
    assert [perfect[name] for name in parts] == [0, 0, 0, 0]
    for row in (wrong, missed):
        assert [row[name] for name in (*parts, "threshold")] == pytest.approx(
            [1, math.nan, math.nan, 1, math.nan], nan_ok=True
        )
        assert (row["n_tp"], row["n_fp"], row["n_fn"]) == (0, 0, 1)
    assert all(math.isnan(absent[name]) for name in parts) and absent["classes"] == absent["n_fp"] == 0
    assert [mean[name] for name in parts] == pytest.approx([2 / 3, 0, 0, 2 / 3])
    assert [mean[name] for name in ("classes", "classes_loc", "classes_fp", "n_tp", "n_fn")] == [3, 1, 1, 1, 2]
    assert math.isnan(mean["threshold"])


def test_no_truth_at_all_is_undefined_not_zero():
    *_, mean = lrp_rows(make_ground_truth([1], [1], []), make_detections([(1, 1, *BOX_A, 0.5)]))
    assert math.isnan(mean["value"]) and mean["classes"] == 0


def test_equal_scores_stand_or_fall_together():
    """A hit and a false alarm at 0.8: never the hit alone (LRP 0), but (0 + 1 + 0) / 2, in either order of rows."""
    ground_truth = make_ground_truth([1, 2], [1], [(1, 1, *BOX_A, 0)])
    for rows in ([(1, 1, *BOX_A, 0.8), (2, 1, *BOX_A, 0.8)], [(1, 1, *BOX_B, 0.8), (1, 1, *BOX_A, 0.8)]):
        row, _ = lrp_rows(ground_truth, make_detections(rows))
        assert (row["value"], row["loc"], row["fp"], row["fn"], row["threshold"]) == (0.5, 0, 0.5, 0, 0.8)


def test_of_equally_good_thresholds_the_highest():
    """A alone: (0 + 1) / 2. With B at an IoU of exactly 0.5, which costs 1: (1 + 0) / 2, no better."""
    ground_truth = make_ground_truth([1], [1], [(1, 1, *BOX_A, 0), (1, 1, *BOX_B, 0)])
    row, _ = lrp_rows(ground_truth, make_detections([(1, 1, *BOX_A, 0.9), (1, 1, 20, 0, 30, 5, 0.4)]))
    assert (row["value"], row["threshold"], row["n_tp"]) == (0.5, 0.9, 1)
    row, _ = lrp_rows(ground_truth, make_detections([(1, 1, 20, 0, 30, 5, 0.4), (1, 1, 70, 0, 80, 5, 0.1)]))
    assert (row["value"], row["threshold"], row["fn"]) == (1, 0.4, 0.5)  # no better than nothing, but with its true box


def test_a_detection_on_a_crowd_counts_neither_way():
    """A and the crowd's detection of a higher score: oLRP 0. As a false alarm it would cost (0 + 1) / 2."""
    ground_truth = make_ground_truth([1], [1], [(1, 1, *BOX_A, 0), (1, 1, *BOX_B, 1)])
    row, _ = lrp_rows(ground_truth, make_detections([(1, 1, *BOX_A, 0.5), (1, 1, *BOX_B, 0.9)]))
    assert (row["value"], row["n_tp"], row["n_fp"], row["n_fn"]) == (0, 1, 0, 0)


def test_max_dets_keeps_the_best_per_image():
    row, _ = lrp_rows(*hand_case(), max_dets=1)
    assert (row["value"], row["n_tp"], row["max_dets"]) == (pytest.approx(2 / 3), 1, 1)


@pytest.mark.parametrize("threshold, value, counts", [
    (0.8, 0.5, (2, 0, 1)),  # the points of the hand case; a score of the threshold itself is kept
    (0.71, 0.5, (2, 0, 1)),
    (0.7, 0.625, (2, 1, 1)),
    ({1: 0}, 0.575, (3, 1, 0)),
    (0.95, 1, (0, 0, 3)),
    (math.nan, 1, (0, 0, 3)),
])  # fmt: skip
def test_a_given_threshold(threshold, value, counts):
    row, mean = lrp_rows(*hand_case(), threshold=threshold)
    assert (row["metric"], row["value"], (row["n_tp"], row["n_fp"], row["n_fn"])) == (
        "LRP",
        pytest.approx(value),
        counts,
    )
    given = threshold[1] if isinstance(threshold, dict) else threshold
    assert row["threshold"] == pytest.approx(given, nan_ok=True)
    assert math.isnan(row["fp"]) == (counts[:2] == (0, 0)) and mean["metric"] == "LRP"


def test_false_alarms_alone_have_precision_zero_and_no_localisation():
    """At 0.7 two false alarms are kept, the hit at 0.6 is not: LRP (2 + 1) / 3, FP 2 / 2, FN 1 / 1, Loc undefined."""
    ground_truth = make_ground_truth([1], [1], [(1, 1, *BOX_A, 0)])
    found = make_detections([(1, 1, *BOX_B, 0.9), (1, 1, *BOX_C, 0.7), (1, 1, *BOX_A, 0.6)])
    row, mean = lrp_rows(ground_truth, found, threshold=0.7)
    assert (row["value"], row["fp"], row["fn"], row["classes_fp"], row["classes_loc"]) == (1, 1, 1, 1, 0)
    assert math.isnan(row["loc"]) and math.isnan(mean["loc"]) and mean["fp"] == mean["classes_fp"] == 1


def test_optimal_thresholds_go_back_in_per_class():
    """The row of oLRP gives, as a mapping of category to threshold, LRP of the same value; NaN keeps nothing."""
    several = without = 0
    for seed in range(30):
        ground_truth, found = random_case(seed)
        best = lrp_rows(ground_truth, found)
        again = lrp_rows(ground_truth, found, threshold={row["category_id"]: row["threshold"] for row in best})
        assert [row["value"] for row in again] == pytest.approx([row["value"] for row in best], nan_ok=True)
        several += best[-1]["classes"] > 1
        without += any(row["classes"] and math.isnan(row["threshold"]) for row in best)
    assert several > 10 and without > 2


@pytest.mark.parametrize("tau", [0.5, 0.75])
def test_random_cases_agree_with_a_new_matching_at_every_threshold(tau):
    """pycocotools matches what is left at s, for every s that occurs; the least LRP of a class is its oLRP.

    That the matching of all detections serves every s is what this confirms.
    """
    interesting = 0
    for seed in range(20):
        ground_truth, found = random_case(seed)
        rows = {row["category_id"]: row for row in lrp_rows(ground_truth, found, tau)}
        values = {}
        for s in sorted(found["score"].unique(), reverse=True):
            samples, n_gt = judged(ground_truth, found[found["score"] >= s], tau)
            at_s = {row["category_id"]: row for row in lrp_rows(ground_truth, found, tau, threshold=s)}
            for k, n in n_gt.items():
                if n:
                    expected = literal_lrp([sample for sample in samples if sample[0] == k], n, tau)
                    row = at_s[k]
                    got = (row["value"], row["loc"], row["fp"], row["fn"])
                    assert got == pytest.approx(expected, abs=1e-12, nan_ok=True)
                    values.setdefault(k, []).append(expected)
        for k, points in values.items():
            least = min(point[0] for point in points)
            assert rows[k]["value"] == pytest.approx(least, abs=1e-12)
            interesting += least < 1 and len({point[0] for point in points}) > 2
        defined = [min(point[0] for point in points) for points in values.values()]
        if defined:
            assert rows[""]["value"] == pytest.approx(np.mean(defined)) and rows[""]["classes"] == len(defined)
    assert interesting > 10


CLASS = st.lists(st.tuples(st.integers(0, 20), st.booleans(), st.integers(0, 10)), max_size=30)


@settings(deadline=None)  # a loaded machine is no failure
@given(CLASS, st.integers(0, 5), st.sampled_from([0.0, 0.5, 0.75]))
def test_bounds_and_decomposition(rows, missed, tau):
    """In [0, 1], 1 with nothing kept, and the definition rebuilt from counts at every point."""
    score = [s / 20 for s, _, _ in rows]
    hit = [h for _, h, _ in rows]
    overlap = [tau + (1 - tau) * q / 10 for _, _, q in rows]
    n_gt = sum(hit) + missed
    if not n_gt:
        return
    curve = lrp_curve(score, hit, overlap, n_gt, tau)
    assert curve.lrp[0] == 1 and (curve.lrp >= 0).all() and (curve.lrp <= 1 + 1e-12).all()
    assert (curve.tp[-1], curve.fp[-1]) == (sum(hit), len(hit) - sum(hit))
    for i, s in enumerate(curve.threshold):
        kept = [(0, x, h, o) for x, h, o in zip(score, hit, overlap, strict=True) if x >= s]
        assert curve.lrp[i] == pytest.approx(literal_lrp(kept, n_gt, tau)[0])


@settings(deadline=None)  # a loaded machine is no failure
@given(CLASS, st.integers(0, 5))
def test_a_false_alarm_below_the_optimum_changes_nothing(rows, missed):
    score, hit = np.array([s / 20 for s, _, _ in rows]), [h for _, h, _ in rows]
    overlap = [0.5 + q / 20 for _, _, q in rows]
    if not any(hit):
        return
    before = lrp_curve(score, hit, overlap, sum(hit) + missed)
    best = int(np.argmin(before.lrp[1:])) + 1
    below = before.threshold[best] - 0.025
    after = lrp_curve([*score, below], [*hit, False], [*overlap, 0.0], sum(hit) + missed)
    assert after.lrp[1:].min() == before.lrp[1:].min()
    assert after.threshold[1:][np.argmin(after.lrp[1:])] == before.threshold[best]


@pytest.mark.parametrize("tau", [1, -0.1, math.nan])
def test_tau_is_refused(tau):
    with pytest.raises(ValueError, match=r"tau must lie in \[0, 1\), got"):
        lrp_rows(*hand_case(), tau=tau)


def test_bad_input_is_refused():
    ground_truth, found = hand_case()
    with pytest.raises(ValueError, match="threshold has no entry for category 1"):
        lrp_rows(ground_truth, found, threshold={2: 0.5})
    with pytest.raises(ValueError, match=r"detections\[0\]: category_id"):
        lrp_rows(ground_truth, found.assign(category_id=9))
    with pytest.raises(ValueError, match=r"score \(2,\), hit \(1,\)"):
        lrp_curve([0.5, 0.4], [True], [1.0], 1)
    with pytest.raises(ValueError, match="at least 1 and the 2 true positives, got 1"):
        lrp_curve([0.5, 0.4], [True, True], [1.0, 1.0], 1)
    with pytest.raises(ValueError, match="got 0"):
        lrp_curve([], [], [], 0)


def test_no_detections():
    ground_truth, found = hand_case()
    row, mean = lrp_rows(ground_truth, found[:0])
    assert (row["value"], row["fn"], mean["value"]) == (1, 1, 1) and math.isnan(row["threshold"])
