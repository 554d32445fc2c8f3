"""One grammar of score rules: names, recipe values, equality, rules of one's own."""

import pytest

from qrepro.records.score_rule import Rule


@pytest.mark.parametrize(
    "name",
    [
        "class",
        "product",
        "power-0.5",
        "power-1",
        "oracle-product",
        "oracle-power-0.2",
        "oracle@positives-product",
        "oracle-centerness-product",
        "oracle-box-class",
        "oracle-box@nearest+zero-power-0.5",
        "oracle-class-class",
        "oracle-class_iou+zero-product",
    ],
)
def test_rule_names_round_trip(name):
    assert Rule.parse(name).name == name


@pytest.mark.parametrize(
    "name",
    [
        "classs",
        "power",
        "power-1.5",
        "oracle-class",
        "product-0.5",
        "power--1",
        "",
        "oracle-centerness-class",
        "oracle-boxes-class",
        "oracle@everywhere-product",
        "oracle+keep-product",
    ],
)
def test_bad_rule_names_are_refused(name):
    with pytest.raises(ValueError, match=r"score rule|alpha"):
        Rule.parse(name)


def test_what_an_oracle_name_leaves_out_is_as_its_paper_has_it():
    assert Rule.parse("oracle-product").oracle == Rule.parse("oracle-iou@nearest-product").oracle
    assert Rule.parse("oracle-class-class").oracle == Rule.parse("oracle-class@positives-class").oracle


@pytest.mark.parametrize("name", [
    "", "power", "power-", "power-1.1", "power--0.1", "power-x", "power-nan", "class-0.5", "product-0.5",
    "oracle-class", "oracle", "Class", "oracle-oracle-product", "power-0.5,alpha=0.3", "power,alpha=0.3,alpha=0.5",
])  # fmt: skip
def test_names_that_are_no_rule_are_refused(name):
    with pytest.raises(ValueError, match=r"score rule|no quality to replace|alpha") as error:
        Rule.parse(name)
    assert repr(name) in str(error.value)
