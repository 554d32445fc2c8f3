"""PASCAL VOC AP, whole and by size: cases solved by hand, the development kit's loop, and pycocotools' area ranges."""

import contextlib
import io

import numpy as np
import pytest
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from helpers.detection_cases import iou, make_detections, make_ground_truth, random_case
from qrepro.metrics.area_ranges import SIZES, areas
from qrepro.metrics.voc_ap import average_precision, evaluate_voc, voc_rows


def test_hand_case_with_both_interpolations():
    """Two ground truths, ranked hit, miss, hit: (recall, precision) = (1/2, 1), (1/2, 1/2), (1, 2/3).

    11 points: recalls 0 ... 0.5 (6) reach 1, 0.6 ... 1 (5) reach 2/3. All points: 1/2 * 1 + 1/2 * 2/3.
    """
    ground_truth = make_ground_truth([1, 2], [1], [(1, 1, 0, 0, 10, 10, 0), (2, 1, 0, 0, 10, 10, 0)])
    found = make_detections([(2, 1, 0, 0, 10, 6, 0.7), (1, 1, 0, 0, 9, 9, 0.9), (1, 1, 40, 40, 50, 50, 0.8)])
    eleven, every = voc_rows(ground_truth, found, [0.7, 0.9, 0.5])
    assert (eleven["interpolation"], every["interpolation"]) == ("11-point", "all-point")
    assert eleven["mAP"] == eleven["mAP50"] == pytest.approx(100 * (6 + 5 * 2 / 3) / 11)
    assert every["mAP"] == every["mAP50"] == pytest.approx(100 * (1 / 2 + 1 / 3))
    assert eleven["mAP70"] == pytest.approx(100 * 6 / 11) and every["mAP70"] == pytest.approx(50)
    assert eleven["mAP90"] == every["mAP90"] == 0
    assert eleven["n_classes"] == every["n_classes"] == 1


def test_a_second_match_is_wrong_even_where_a_free_truth_would_do():
    """The second detection overlaps the taken ground truth most.

    COCO would give it the free one (IoU 2/3), VOC does not.
    """
    ground_truth = make_ground_truth([1], [1], [(1, 1, 0, 0, 10, 10, 0), (1, 1, 0, 4, 10, 14, 0)])
    found = make_detections([(1, 1, 0, 0, 10, 10, 0.9), (1, 1, 0, 1, 10, 11, 0.8)])
    assert voc_rows(ground_truth, found, [])[1]["mAP"] == pytest.approx(50)


def test_difficult_objects_are_neither_counted_nor_punished():
    ground_truth = make_ground_truth(
        [1], [1, 2], [(1, 1, 0, 0, 10, 10, 0), (1, 1, 20, 20, 30, 30, 1), (1, 2, 50, 50, 60, 60, 1)]
    )
    on_difficult, hit = (1, 1, 20, 20, 30, 30, 0.9), (1, 1, 0, 0, 10, 10, 0.5)
    found = make_detections([on_difficult, on_difficult, hit])
    result = evaluate_voc(ground_truth, found, [0.5])
    assert (result.ap[0, 0] == 1).all() and np.isnan(result.ap[0, 1]).all()
    assert [(row["mAP"], row["n_classes"]) for row in voc_rows(ground_truth, found)] == [(100, 1), (100, 1)]
    below = (1, 1, 20, 20, 30, 24, 0.9)  # IoU 0.4 with the difficult one: an ordinary mistake, precision 1/2
    assert evaluate_voc(ground_truth, make_detections([below, hit]), [0.5]).ap[0, 0, 0, 1] == pytest.approx(1 / 2)


def test_truths_of_other_classes_and_images_do_not_match():
    ground_truth = make_ground_truth([1, 2], [1, 2], [(1, 1, 0, 0, 10, 10, 0)])
    found = make_detections([(1, 2, 0, 0, 10, 10, 0.9), (2, 1, 0, 0, 10, 10, 0.9)])
    assert (evaluate_voc(ground_truth, found, [0.5]).ap[0, 0] == 0).all()


def test_the_threshold_itself_matches_and_a_recall_of_three_tenths_reaches_its_point():
    ground_truth = make_ground_truth([1], [1], [(1, 1, 0, 0, 10, 10, 0)])
    assert (evaluate_voc(ground_truth, make_detections([(1, 1, 0, 0, 10, 5, 0.9)]), [0.5]).ap[0, 0] == 1).all()
    assert average_precision(np.array([0.3]), np.array([1.0]), "11-point") == pytest.approx(4 / 11)
    assert average_precision(np.array([]), np.array([]), "11-point") == 0
    assert average_precision(np.array([]), np.array([]), "all-point") == 0


def devkit_ap(ground_truth, found, category, threshold, low, high):
    """VOCevaldet.m, one detection at a time, in a range of area; (11-point, all-point)."""
    objects = ground_truth.annotations.query("category_id == @category")
    count = sum(o.iscrowd == 0 and low <= o.area <= high for o in objects.itertuples())
    if not count:
        return np.nan, np.nan
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
        if best >= threshold and match.Index not in taken:
            taken.add(match.Index)
            if low <= match.area <= high:
                hits.append(True)
        elif low <= (row.x2 - row.x1) * (row.y2 - row.y1) <= high:
            hits.append(False)
    curve = [(sum(hits[: i + 1]) / count, sum(hits[: i + 1]) / (i + 1)) for i in range(len(hits))]
    eleven = sum(max((p for r, p in curve if r >= i / 10), default=0) for i in range(11)) / 11
    area, previous = 0.0, 0.0
    for i, (recall, _) in enumerate(curve):
        area += (recall - previous) * max(precision for _, precision in curve[i:])
        previous = recall
    return eleven, area


def test_random_cases_agree_with_the_development_kit_loop():
    """Sides up to 130 px: small, medium and large by 30 and 80; some areas lie on an edge."""
    ranges = list(areas((30, 80)).values())
    positive = np.zeros(len(ranges))
    for seed in range(40):
        ground_truth, found = random_case(seed)
        result = evaluate_voc(ground_truth, found, [0.5, 0.75], ranges)
        expected = [
            [[devkit_ap(ground_truth, found, k, t, *bounds) for bounds in ranges] for k in result.category_ids]
            for t in result.thresholds
        ]
        np.testing.assert_allclose(result.ap, expected, rtol=0, atol=1e-12)
        positive += [(result.ap[:, :, a] > 0).any() for a in range(len(ranges))]
    assert (positive > 10).all()


def sized_case(seed):
    """Ground truths on a grid too coarse for a detection to touch two, without crowds.

    There COCO and VOC match alike.
    """
    rng = np.random.default_rng(seed)
    n = 40
    corner = 400 * np.column_stack([np.arange(n) % 8, np.arange(n) // 8])
    side = rng.choice([20, 64, 100, 192, 260], (n, 2)) + rng.choice([0, 0, 3], (n, 2))
    label, owner = rng.choice([1, 2], n), rng.choice([1, 2, 3], n)
    ground_truth = make_ground_truth(
        [1, 2, 3], [1, 2], np.column_stack([owner, label, corner, corner + side, np.zeros(n)])
    )
    source = rng.integers(0, n, 120)
    boxes = np.concatenate([corner, corner + side], axis=1)[source] + rng.integers(-9, 10, (120, 4))
    boxes[:, 2:] = np.maximum(boxes[:, 2:], boxes[:, :2])
    score = rng.permutation(120) / 120
    return ground_truth, make_detections(np.column_stack([owner[source], label[source], boxes, score]))


def coco_all_point(ground_truth, found, threshold, bounds):
    """All-point AP per category of pycocotools' own matches and ignored detections in a range of area."""
    datasets = []
    for frame in (
        ground_truth.annotations,
        found.assign(area=(found["x2"] - found["x1"]) * (found["y2"] - found["y1"])),
    ):
        records = [
            {"id": i, "image_id": r.image_id, "category_id": r.category_id, "area": r.area, "iscrowd": 0,
             "bbox": [r.x1, r.y1, r.x2 - r.x1, r.y2 - r.y1], "score": getattr(r, "score", 0)}
            for i, r in enumerate(frame.itertuples(), start=1)
        ]  # fmt: skip
        dataset = COCO()
        lists = {"images": [{"id": i} for i in (1, 2, 3)], "categories": [{"id": k} for k in (1, 2)]}
        dataset.dataset = {**lists, "annotations": records}
        datasets.append(dataset)
    with contextlib.redirect_stdout(io.StringIO()):
        for dataset in datasets:
            dataset.createIndex()
        judge = COCOeval(*datasets, "bbox")
        judge.params.iouThrs, judge.params.maxDets, judge.params.areaRng = np.array([threshold]), [1000], [list(bounds)]
        judge.evaluate()
    for category in (1, 2):
        images = [image for image in judge.evalImgs if image and image["category_id"] == category]
        score, taken, ignored = (
            np.concatenate([np.ravel(image[name]) for image in images])
            for name in ("dtScores", "dtMatches", "dtIgnore")
        )
        hits = (taken[np.argsort(-score)] > 0)[ignored[np.argsort(-score)] == 0]
        count = sum((image["gtIgnore"] == 0).sum() for image in images)
        precision = np.cumsum(hits) / np.arange(1, len(hits) + 1)
        yield sum(precision[i:].max() for i in np.flatnonzero(hits)) / count if count else np.nan


def test_sizes_ignore_what_pycocotools_ignores():
    for seed in range(12):
        ground_truth, found = sized_case(seed)
        ranges = list(areas(SIZES["passd"]).values())
        result = evaluate_voc(ground_truth, found, [0.5, 0.8], ranges)
        for (t, threshold), (a, bounds) in [(t, a) for t in enumerate([0.5, 0.8]) for a in enumerate(ranges)]:
            expected = list(coco_all_point(ground_truth, found, threshold, bounds))
            np.testing.assert_allclose(result.ap[t, :, a, 1], expected, rtol=0, atol=1e-12)


def test_sizes_of_passd_by_hand():
    """Areas 60^2 (S), 64^2 (S and M), 100^2 (M), 200^2 (L), all of one class.

    In falling score: the 100^2 one found (M); it again by a box of 150^2 that reaches no more than IoU 0.44 (a miss of
    M); it again exactly (a miss of M, the ground truth being taken); the 60^2 one; a box of 300^2 on nothing (a miss of
    L).
    """
    boxes = [(0, 60), (1000, 1064), (2000, 2100), (3000, 3200)]
    ground_truth = make_ground_truth([1], [1, 2], [(1, 1, a, 0, b, b - a, 0) for a, b in boxes])
    found = make_detections([
        (1, 1, 2000, 0, 2100, 100, 0.9),
        (1, 1, 2000, 0, 2150, 150, 0.8),
        (1, 1, 2000, 0, 2100, 100, 0.7),
        (1, 1, 0, 0, 60, 60, 0.6),
        (1, 1, 0, 500, 300, 800, 0.5),
    ])  # fmt: skip
    eleven, every = voc_rows(ground_truth, found, [0.6])
    expected = {"interpolation": "all-point", "sizes": "64/192", "mAPS": 50, "mAPM": 50, "mAPL": 0, "n_classes": 1}
    assert {name: every[name] for name in expected} == pytest.approx(expected)
    assert every["mAP"] == every["mAP60"] == pytest.approx(100 * (1 / 4 + 1 / 4 * 2 / 4))
    assert eleven["mAPS"] == eleven["mAPM"] == pytest.approx(100 * 6 / 11)
    found = found.iloc[[2, 3, 1, 0]].assign(score=[0.1, 0.2, 0.3, 0.05])  # now the 150^2 miss of M comes first
    assert [voc_rows(ground_truth, found, [])[1][f"mAP{size}"] for size in "SML"] == pytest.approx([50, 25, 0])
    assert list(voc_rows(ground_truth, found, [0.5, 0.8])[0]) == [
        "interpolation", "sizes", "mAP", "mAPS", "mAPM", "mAPL", "mAP50", "mAP80", "n_classes",
    ]  # fmt: skip


def test_a_mean_by_size_is_over_the_classes_that_have_that_size():
    ground_truth = make_ground_truth(
        [1], [1, 2], [(1, 1, 0, 0, 100, 100, 0), (1, 2, 0, 0, 10, 10, 0), (1, 2, 0, 0, 90, 90, 1)]
    )
    found = make_detections([(1, 1, 0, 0, 100, 55, 0.9)])  # IoU 0.55; its own size does not matter
    row = voc_rows(ground_truth, found, sizes=(32, 96))[0]
    assert (row["sizes"], row["mAP"], row["mAPS"], row["mAPL"]) == ("32/96", 50, 0, 100) and np.isnan(row["mAPM"])
    assert row["n_classes"] == 2


def test_bad_input_is_refused():
    ground_truth, found = random_case(4)
    with pytest.raises(ValueError, match=r"\(0, 1\], got \[0.0\]"):
        evaluate_voc(ground_truth, found, [0])
    with pytest.raises(ValueError, match=r"detections\[0\]: category_id"):
        evaluate_voc(ground_truth, found.assign(category_id=77))
    for sizes in ((64, 64), (192, 64), (0, 64), (float("nan"), 64), (64, float("inf"))):
        with pytest.raises(ValueError, match="sizes must be two increasing sides in px"):
            voc_rows(ground_truth, found, sizes=sizes)
