"""Scoring rules and what the oracle is worth."""

import math

import pandas as pd
import pytest

from helpers.detection_cases import make_detections, make_ground_truth
from qrepro.metrics.oracle import alpha_rows, best_rows, oracle_gain, reranked
from qrepro.records.score_rule import fused_scores

RULES = {
    "oracle-power-0.2": {"AP": 49.8}, "power-0.5": {"AP": 37.3}, "class": {"AP": 35.6}, "oracle-product": {"AP": 45.0},
    "power-0.3": {"AP": 36.0}, "product": {"AP": 37.2}, "power-1.0": {"AP": 35.9},
}  # fmt: skip


@pytest.mark.parametrize("name, expected", [
    ("class", ("class", 1.0, False, "")),
    ("power-0.5", ("power", 0.5, False, "")),
    ("power-1.0", ("power", 1.0, False, "")),
    ("oracle-power-0", ("power", 0.0, True, "iou")),
    ("oracle-iou@nearest-power-0.5", ("power", 0.5, True, "iou")),
    ("oracle@positives-power-0.5", ("power", 0.5, True, "iou@positives")),
    ("oracle+zero-power-0.5", ("power", 0.5, True, "iou@nearest+zero")),
    ("oracle-box-class", ("class", 1.0, True, "box@positives")),
    ("oracle-class-class", ("class", 1.0, True, "class@positives")),
    ("oracle-class_iou@nearest+zero-class", ("class", 1.0, True, "class_iou@nearest+zero")),
])  # fmt: skip
def test_rows_say_what_a_rule_is(name, expected):
    (row,) = alpha_rows({name: {"AP": 1.0}})
    assert (row["kind"], row["alpha"], row["oracle"], row["replaced"]) == expected


def test_the_product_has_no_alpha():
    for name, oracle in (("product", False), ("oracle-product", True)):
        (row,) = alpha_rows({name: {"AP": 1.0}})
        assert (row["kind"], row["oracle"]) == ("product", oracle) and math.isnan(row["alpha"])


def test_rows_stand_in_the_order_of_the_papers_table():
    assert [row["rule"] for row in alpha_rows(RULES)] == [
        "class", "product", "power-1.0", "power-0.5", "power-0.3", "oracle-product", "oracle-power-0.2",
    ]  # fmt: skip


def test_best_rules_and_gains_of_table_6():
    """ResNet-50 rows of the paper: 35.6 by class score, 37.3 at alpha 0.5, 49.8 with the true IoU at 0.2."""
    rows = alpha_rows(RULES)
    best = {row["source"]: row for row in best_rows(rows)}
    assert {source: row["rule"] for source, row in best.items()} == {
        "class score": "class", "predicted": "power-0.5", "oracle": "oracle-power-0.2",
    }  # fmt: skip
    assert best["predicted"]["alpha"] == 0.5 and best["predicted"]["gain_over_baseline"] == pytest.approx(1.7)
    assert oracle_gain(rows) == pytest.approx({"over_baseline": 14.2, "over_predicted": 12.5, "captured": 1.7 / 14.2})


def test_what_is_missing_is_nan_and_undefined_values_do_not_win():
    only_predicted = alpha_rows({"power-0.6": {"AP": math.nan}, "power-0.5": {"AP": 37.3}})
    assert [row["rule"] for row in best_rows(only_predicted)] == ["power-0.5"]
    assert math.isnan(best_rows(only_predicted)[0]["gain_over_baseline"])
    assert all(math.isnan(value) for value in oracle_gain(only_predicted).values())
    worse = oracle_gain(alpha_rows({"class": {"AP": 40.0}, "product": {"AP": 41.0}, "oracle-product": {"AP": 39.0}}))
    assert worse["over_baseline"] == -1 and math.isnan(worse["captured"])


def test_another_metric_may_be_asked_for():
    rows = alpha_rows({"power-0.5": {"AP": 2.0, "AP90": 1.0}, "power-0.4": {"AP": 1.0, "AP90": 2.0}})
    assert best_rows(rows, "AP90")[0]["rule"] == "power-0.4"


def test_other_oracles_are_listed_last_and_are_not_the_headline():
    rows = alpha_rows({**RULES, "oracle-box-class": {"AP": 90.0}, "oracle@positives-product": {"AP": 80.0}})
    assert [row["rule"] for row in rows[-2:]] == ["oracle-box-class", "oracle@positives-product"]
    assert oracle_gain(rows) == oracle_gain(alpha_rows(RULES))


def test_reranking_by_hand():
    """One object of class 1; a perfect box of class 2 scores 0.8, a box of IoU 1/2 of class 1 scores 0.5.

    By IoU_eval the first has nothing, by IoU_truth it is perfect; score^0.5 IoU^0.5 of the second is sqrt(0.5 * 0.5).
    """
    ground_truth = make_ground_truth([1], [1, 2], [(1, 1, 0, 0, 10, 10, 0)])
    found = make_detections([(1, 2, 0, 0, 10, 10, 0.8), (1, 1, 0, 0, 10, 5, 0.5)])
    sets = list(reranked(ground_truth, found, [0.5]))
    assert [about["rule"] for about, _ in sets] == [
        "as scored", "iou_eval", "iou_eval-power-0.5", "iou_truth", "iou_truth-power-0.5",
    ]  # fmt: skip
    expected = [[0.8, 0.5], [0.0, 0.5], [0.0, 0.5], [1.0, 0.5], [0.8**0.5, 0.5]]
    for (about, frame), scores in zip(sets, expected, strict=True):
        assert frame["score"].tolist() == pytest.approx(scores)
        assert about["stage"] == "post-NMS"
    own = found.assign(class_score=[0.9, 0.4], quality=[0.4, 0.9])
    assert [about["rule"] for about, _ in reranked(ground_truth, own, [0.5])][1] == "power-0.5"
    partly = own.assign(quality=[0.4, math.nan])
    assert "power-0.5" not in [about["rule"] for about, _ in reranked(ground_truth, partly, [0.5])]
    with pytest.raises(ValueError, match=r"needs \[0, 1\]"):
        list(reranked(ground_truth, found.assign(score=[3.0, 1.0])))


def test_fused_scores_by_hand():
    boxes = pd.DataFrame({"class_score": [0.25, 0.5], "quality": [0.64, float("nan")]})
    assert fused_scores(boxes, "class").tolist() == [0.25, 0.5]
    assert fused_scores(boxes, "product")[0] == pytest.approx(0.16) and math.isnan(fused_scores(boxes, "product")[1])
    assert fused_scores(boxes, "power-0.5")[0] == pytest.approx(0.4)
    with pytest.raises(ValueError, match="not a prediction"):
        fused_scores(boxes, "oracle-product")
