"""COCO AP: two engines against each other, and against cases solved by hand."""

import importlib.util

import numpy as np
import pytest

from helpers.detection_cases import make_detections, make_ground_truth, random_case
from qrepro.metrics.coco_ap import ap_metrics, choose_engine, class_metrics, evaluate_ap
from qrepro.metrics.matching import COCO_THRESHOLDS
from qrepro.records.ground_truth import BOX

ENGINES = ["hotcoco", "pycocotools"]


@pytest.mark.parametrize("max_dets", [1, 3, 10, 100, 300])
def test_engines_agree_on_random_cases(max_dets):
    defined = 0
    for seed in range(60):
        ground_truth, found = random_case(1000 * max_dets + seed)
        fast, judge = (evaluate_ap(ground_truth, found, max_dets=max_dets, engine=name) for name in ENGINES)
        assert (
            fast.precision.shape
            == judge.precision.shape
            == (10, 101, len(ground_truth.categories), 4, len(fast.limits))
        )
        np.testing.assert_allclose(fast.precision, judge.precision, rtol=0, atol=1e-12)
        np.testing.assert_allclose(fast.recall, judge.recall, rtol=0, atol=1e-12)
        defined += (fast.precision > 0).any()
    assert defined > 30  # the cases must exercise matches, not only emptiness


def test_engines_agree_at_thresholds_of_ones_own_and_float32_boxes():
    rng = np.random.default_rng(0)
    for seed in range(30):
        ground_truth, found = random_case(seed)
        found[BOX] = np.sort((found[BOX] + rng.random((len(found), 4))).to_numpy("f4").reshape(-1, 2, 2), 1).reshape(
            -1, 4
        )
        fast, judge = (evaluate_ap(ground_truth, found, [0.3, 0.525, 1.0], engine=name) for name in ENGINES)
        np.testing.assert_allclose(fast.precision, judge.precision, rtol=0, atol=1e-12)


def test_more_than_a_hundred_detections_count_only_when_asked_for():
    ground_truth = make_ground_truth([1], [1], [(1, 1, 0, 0, 10, 10, 0)])
    wrong = [(1, 1, 50, 50, 60, 60, 0.9)] * 150
    found = make_detections([*wrong, (1, 1, 0, 0, 10, 10, 0.1)])
    for engine in ENGINES:
        few, many = (ap_metrics(evaluate_ap(ground_truth, found, max_dets=n, engine=engine)) for n in (100, 300))
        assert few["AP50"] == 0 and few["AR100"] == 0 and "AR300" not in few
        assert many["AP50"] == pytest.approx(100 / 151) and many["AR300"] == 100 and many["AR10"] == 0


@pytest.mark.parametrize("engine", ENGINES)
def test_case_solved_by_hand(engine):
    """Category 1: two ground truths; hit at IoU 0.81 (score 0.9), miss (0.8), hit at IoU 0.6 (0.7). Category 2: none.

    At 0.50 ... 0.60 precision is 1 up to recall 1/2 (51 of 101 recalls), then 2/3 (50); at 0.65 ... 0.80 it is 1 up to
    1/2, then 0; above 0.80 nothing hits. Ground truths are 10 x 10 = 100 px^2, so small; medium and large have none.
    """
    ground_truth = make_ground_truth([1, 2], [1, 2], [(1, 1, 0, 0, 10, 10, 0), (2, 1, 0, 0, 10, 10, 0)])
    found = make_detections([
        (2, 1, 0, 0, 10, 6, 0.7),
        (1, 1, 0, 0, 9, 9, 0.9),
        (1, 1, 40, 40, 50, 50, 0.8),
        (2, 2, 0, 0, 10, 10, 1.0),
    ])  # fmt: skip
    low, middle = 100 * (51 + 50 * 2 / 3) / 101, 100 * 51 / 101
    result = evaluate_ap(ground_truth, found, engine=engine)
    metrics = ap_metrics(result)
    expected = {"AP50": low, "AP55": low, "AP60": low, "AP65": middle, "AP80": middle, "AP85": 0, "AP95": 0}
    assert {name: metrics[name] for name in expected} == pytest.approx(expected, rel=1e-12)
    assert metrics["AP"] == pytest.approx((3 * low + 4 * middle) / 10, rel=1e-12)
    assert metrics["APS"] == metrics["AP"] and np.isnan(metrics["APM"]) and np.isnan(metrics["APL"])
    assert metrics["AR100"] == pytest.approx(100 * (3 * 1 + 4 * 0.5) / 10) and metrics["n_classes"] == 1
    first, second = class_metrics(result)
    assert first["category"] == "c1" and first["AP"] == metrics["AP"] and first["AP50"] == metrics["AP50"]
    assert second["category_id"] == 2 and np.isnan(second["AP"])


def test_engines_agree_on_other_sizes():
    for seed in range(30):
        ground_truth, found = random_case(seed)
        fast, judge = (evaluate_ap(ground_truth, found, [0.5], engine=name, sizes=(64, 100)) for name in ENGINES)
        np.testing.assert_allclose(fast.precision, judge.precision, rtol=0, atol=1e-12)
        for a, area in enumerate([(0, 64**2), (64**2, 100**2), (100**2, 1e10)], start=1):
            defined = [
                ((one["iscrowd"] == 0) & one["area"].between(*area)).any()
                for one in (ground_truth.annotations.query("category_id == @k") for k in judge.category_ids)
            ]
            assert ((judge.precision[0, 0, :, a, -1] > -1) == defined).all()


@pytest.mark.parametrize("engine", ENGINES)
def test_small_medium_and_large_are_where_they_are_asked_for(engine):
    ground_truth = make_ground_truth([1], [1], [(1, 1, 0, 0, 40, 40, 0), (1, 1, 200, 0, 270, 70, 0)])
    found = make_detections([(1, 1, 0, 0, 40, 40, 0.9)])
    coco, passd = (ap_metrics(evaluate_ap(ground_truth, found, engine=engine, sizes=s)) for s in ((32, 96), (64, 192)))
    assert np.isnan(coco["APS"]) and coco["APM"] == pytest.approx(100 * 51 / 101)
    assert (passd["APS"], passd["APM"]) == pytest.approx((100, 0)) and np.isnan(passd["APL"])


@pytest.mark.parametrize("engine", ENGINES)
def test_a_crowd_neither_rewards_nor_punishes(engine):
    ground_truth = make_ground_truth([1], [1], [(1, 1, 0, 0, 10, 10, 0), (1, 1, 20, 20, 80, 80, 1)])
    hit, inside = (1, 1, 0, 0, 10, 10, 0.5), (1, 1, 30, 30, 40, 40, 0.9)
    assert ap_metrics(evaluate_ap(ground_truth, make_detections([inside, inside, hit]), engine=engine))[
        "AP"
    ] == pytest.approx(100)
    assert ap_metrics(evaluate_ap(ground_truth, make_detections([inside]), engine=engine))["AP"] == 0


@pytest.mark.parametrize("engine", ENGINES)
def test_the_first_truth_may_have_the_id_zero(engine):
    ground_truth = make_ground_truth([1], [1], [(1, 1, 0, 0, 10, 10, 0)])
    assert ground_truth.annotations["id"].tolist() == [0]
    assert ap_metrics(evaluate_ap(ground_truth, make_detections([(1, 1, 0, 0, 10, 10, 0.5)]), engine=engine))[
        "AP"
    ] == pytest.approx(100)


@pytest.mark.parametrize("engine", ENGINES)
def test_truths_need_no_ids(engine):
    ground_truth = make_ground_truth([1], [1], [(1, 1, 0, 0, 10, 10, 0), (1, 1, 20, 20, 30, 30, 0)])
    ground_truth.annotations["id"] = -1
    found = make_detections([(1, 1, 0, 0, 10, 10, 0.5), (1, 1, 20, 20, 30, 30, 0.4)])
    assert ap_metrics(evaluate_ap(ground_truth, found, engine=engine))["AP"] == pytest.approx(100)


@pytest.mark.parametrize("engine", ENGINES)
def test_nothing_found_is_zero_and_nothing_to_find_is_undefined(engine):
    one = make_ground_truth([1], [1], [(1, 1, 0, 0, 10, 10, 0)])
    none = make_ground_truth([1], [1], [])
    assert ap_metrics(evaluate_ap(one, make_detections([]), engine=engine))["AP"] == 0
    for rows in ([], [(1, 1, 0, 0, 10, 10, 0.5)]):
        metrics = ap_metrics(evaluate_ap(none, make_detections(rows), engine=engine))
        assert np.isnan(metrics["AP"]) and np.isnan(metrics["AR10"]) and metrics["n_classes"] == 0


def test_the_order_of_equal_rows_and_a_monotone_score_change_leave_ap_alone():
    ground_truth, found = random_case(4)
    assert len(found) > 10
    squeezed = found.assign(score=found["score"] ** 3 / 2)
    assert ap_metrics(evaluate_ap(ground_truth, found))["AP"] == ap_metrics(evaluate_ap(ground_truth, squeezed))["AP"]


def test_limits_do_not_exceed_what_is_asked_for():
    ground_truth, found = random_case(1)
    assert [evaluate_ap(ground_truth, found, max_dets=n).limits for n in (1, 3, 10, 300)] == [
        (1,),
        (1, 3),
        (1, 10),
        (1, 10, 300),
    ]


def test_names_follow_the_thresholds_asked_for():
    ground_truth = make_ground_truth([1], [1], [(1, 1, 0, 0, 10, 10, 0)])
    found = make_detections([(1, 1, 0, 0, 10, 6, 0.5)])
    metrics = ap_metrics(evaluate_ap(ground_truth, found, [0.525, 0.7], max_dets=10))
    assert [name for name in metrics if name.startswith(("AP", "AR"))] == [
        "AP", "AP52.5", "AP70", "APS", "APM", "APL", "AR1", "AR10",
    ]  # fmt: skip
    assert (metrics["AP52.5"], metrics["AP70"], metrics["AP"]) == pytest.approx((100, 0, 50))


def test_pycocotools_own_thresholds_are_the_default():
    from pycocotools.cocoeval import Params

    assert Params("bbox").iouThrs.tolist() == list(COCO_THRESHOLDS)


def test_bad_input_is_refused():
    ground_truth = make_ground_truth([1], [1], [(1, 1, 0, 0, 10, 10, 0)])
    good = make_detections([(1, 1, 0, 0, 10, 6, 0.5)])
    for arguments, message in (
        ({"thresholds": []}, "thresholds must be"),
        ({"thresholds": [50]}, r"\(0, 1\], got \[50.0\]"),
        ({"max_dets": 0}, "at least 1, got 0"),
        ({"engine": "tide"}, "one of hotcoco, pycocotools, got 'tide'"),
    ):
        with pytest.raises(ValueError, match=message):
            evaluate_ap(ground_truth, good, **arguments)
    with pytest.raises(ValueError, match=r"detections\[0\]: image_id"):
        evaluate_ap(ground_truth, good.assign(image_id=9))
    with pytest.raises(ValueError, match="column 'score' is missing"):
        evaluate_ap(ground_truth, good.drop(columns="score"))


def test_pycocotools_is_the_fallback(monkeypatch):
    assert choose_engine() == "hotcoco"
    real = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, *rest: None if name == "hotcoco" else real(name, *rest)
    )
    assert choose_engine() == "pycocotools"
    with pytest.raises(ValueError, match="'hotcoco' is not installed"):
        choose_engine("hotcoco")


def test_nothing_is_printed(capsys):
    ground_truth, found = random_case(1)
    for engine in ENGINES:
        evaluate_ap(ground_truth, found, engine=engine)
    assert capsys.readouterr() == ("", "")
