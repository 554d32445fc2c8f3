"""Scoring rules and what the oracle is worth."""

import math

import pytest

from analysis.oracle import alpha_rows, best_rows, oracle_gain, parse_rule

RULES = {
    "oracle-power-0.2": {"AP": 49.8}, "power-0.5": {"AP": 37.3}, "class": {"AP": 35.6}, "oracle-product": {"AP": 45.0},
    "power-0.3": {"AP": 36.0}, "product": {"AP": 37.2}, "power-1.0": {"AP": 35.9},
}  # fmt: skip


@pytest.mark.parametrize("name, expected", [
    ("class", ("class", 1.0, False)),
    ("power-0.5", ("power", 0.5, False)),
    ("power-1.0", ("power", 1.0, False)),
    ("oracle-power-0", ("power", 0.0, True)),
])  # fmt: skip
def test_names_are_parsed(name, expected):
    assert parse_rule(name) == expected


def test_the_product_has_no_alpha():
    for name, oracle in (("product", False), ("oracle-product", True)):
        kind, alpha, found = parse_rule(name)
        assert (kind, found) == ("product", oracle) and math.isnan(alpha)


@pytest.mark.parametrize("name", [
    "", "power", "power-", "power-1.1", "power--0.1", "power-x", "power-nan", "class-0.5", "product-0.5",
    "oracle-class", "oracle", "Class", "oracle-oracle-product",
])  # fmt: skip
def test_other_names_are_refused(name):
    with pytest.raises(ValueError, match="is not one of class, product, power-A") as error:
        parse_rule(name)
    assert repr(name) in str(error.value)


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
