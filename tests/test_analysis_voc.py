"""PASCAL VOC AP against cases solved by hand, and against a literal loop of the development kit's rules."""

import numpy as np
import pytest

from analysis.voc import average_precision, evaluate_voc, voc_metrics
from test_analysis_ap import make_detections, make_truths, random_case


def test_hand_case_with_both_interpolations():
    """Two truths, ranked hit, miss, hit: (recall, precision) = (1/2, 1), (1/2, 1/2), (1, 2/3).

    11 points: recalls 0 ... 0.5 (6) reach 1, 0.6 ... 1 (5) reach 2/3. All points: 1/2 * 1 + 1/2 * 2/3.
    """
    truths = make_truths([1, 2], [1], [(1, 1, 0, 0, 10, 10, 0), (2, 1, 0, 0, 10, 10, 0)])
    found = make_detections([(2, 1, 0, 0, 10, 6, 0.7), (1, 1, 0, 0, 9, 9, 0.9), (1, 1, 40, 40, 50, 50, 0.8)])
    eleven = voc_metrics(evaluate_voc(truths, found, [0.5, 0.7, 0.9], "11-point"))
    every = voc_metrics(evaluate_voc(truths, found, [0.5, 0.7, 0.9], "all-point"))
    assert eleven["AP50"] == pytest.approx(100 * (6 + 5 * 2 / 3) / 11)
    assert every["AP50"] == pytest.approx(100 * (1 / 2 + 1 / 3))
    assert eleven["AP70"] == pytest.approx(100 * 6 / 11) and every["AP70"] == pytest.approx(50)
    assert eleven["AP90"] == every["AP90"] == 0
    assert every["AP"] == pytest.approx((every["AP50"] + every["AP70"]) / 3) and every["n_classes"] == 1


def test_a_second_match_is_wrong_even_where_a_free_truth_would_do():
    """The second detection overlaps the taken truth most; COCO would give it the free one (IoU 2/3), VOC does not."""
    truths = make_truths([1], [1], [(1, 1, 0, 0, 10, 10, 0), (1, 1, 0, 4, 10, 14, 0)])
    found = make_detections([(1, 1, 0, 0, 10, 10, 0.9), (1, 1, 0, 1, 10, 11, 0.8)])
    assert voc_metrics(evaluate_voc(truths, found, [0.5], "all-point"))["AP50"] == pytest.approx(50)


def test_difficult_objects_are_neither_counted_nor_punished():
    truths = make_truths([1], [1, 2], [(1, 1, 0, 0, 10, 10, 0), (1, 1, 20, 20, 30, 30, 1), (1, 2, 50, 50, 60, 60, 1)])
    on_difficult, hit = (1, 1, 20, 20, 30, 30, 0.9), (1, 1, 0, 0, 10, 10, 0.5)
    result = evaluate_voc(truths, make_detections([on_difficult, on_difficult, hit]), [0.5])
    assert result.ap[0, 0] == 1 and np.isnan(result.ap[0, 1])
    assert voc_metrics(result)["n_classes"] == 1
    below = (1, 1, 20, 20, 30, 24, 0.9)  # IoU 0.4 with the difficult one: an ordinary mistake, precision 1/2
    assert evaluate_voc(truths, make_detections([below, hit]), [0.5], "all-point").ap[0, 0] == pytest.approx(1 / 2)


def test_truths_of_other_classes_and_images_do_not_match():
    truths = make_truths([1, 2], [1, 2], [(1, 1, 0, 0, 10, 10, 0)])
    found = make_detections([(1, 2, 0, 0, 10, 10, 0.9), (2, 1, 0, 0, 10, 10, 0.9)])
    assert evaluate_voc(truths, found, [0.5]).ap[0, 0] == 0


def test_the_threshold_itself_matches_and_a_recall_of_three_tenths_reaches_its_point():
    truths = make_truths([1], [1], [(1, 1, 0, 0, 10, 10, 0)])
    assert evaluate_voc(truths, make_detections([(1, 1, 0, 0, 10, 5, 0.9)]), [0.5]).ap[0, 0] == 1
    assert average_precision(np.array([0.3]), np.array([1.0]), "11-point") == pytest.approx(4 / 11)
    assert average_precision(np.array([]), np.array([]), "11-point") == 0
    assert average_precision(np.array([]), np.array([]), "all-point") == 0


def iou(a, b):
    width, height = min(a[2], b[2]) - max(a[0], b[0]), min(a[3], b[3]) - max(a[1], b[1])
    overlap = max(width, 0) * max(height, 0)
    union = (a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - overlap
    return overlap / union if union > 0 else 0.0


def devkit_ap(truths, found, category, threshold):
    """VOCevaldet.m, one detection at a time; all-point area."""
    objects = truths.annotations.query("category_id == @category")
    count = (objects["iscrowd"] == 0).sum()
    if not count:
        return np.nan
    taken, hits = set(), []
    for row in (
        found.query("category_id == @category").sort_values("score", ascending=False, kind="stable").itertuples()
    ):
        best, match = -1.0, None
        for other in objects[objects["image_id"] == row.image_id].itertuples():
            overlap = iou((row.x1, row.y1, row.x2, row.y2), (other.x1, other.y1, other.x2, other.y2))
            if overlap > best:
                best, match = overlap, other
        if best >= threshold and match.iscrowd:
            continue
        hits.append(best >= threshold and match.Index not in taken)
        if hits[-1]:
            taken.add(match.Index)
    area, previous, curve = (
        0.0,
        0.0,
        [(sum(hits[: i + 1]) / count, sum(hits[: i + 1]) / (i + 1)) for i in range(len(hits))],
    )
    for i, (recall, _) in enumerate(curve):
        area += (recall - previous) * max(precision for _, precision in curve[i:])
        previous = recall
    return area


def test_random_cases_agree_with_the_development_kit_loop():
    positive = 0
    for seed in range(40):
        truths, found = random_case(seed)
        result = evaluate_voc(truths, found, [0.5, 0.75], "all-point")
        expected = [[devkit_ap(truths, found, k, t) for k in result.category_ids] for t in result.thresholds]
        np.testing.assert_allclose(result.ap, expected, rtol=0, atol=1e-12)
        positive += np.nansum(expected) > 0
    assert positive > 20


def test_bad_input_is_refused():
    truths, found = random_case(4)
    with pytest.raises(ValueError, match="11-point, all-point, got '101-point'"):
        evaluate_voc(truths, found, interpolation="101-point")
    with pytest.raises(ValueError, match=r"\(0, 1\], got \[0.0\]"):
        evaluate_voc(truths, found, [0])
    with pytest.raises(ValueError, match=r"detections\[0\]: category_id"):
        evaluate_voc(truths, found.assign(category_id=77))
