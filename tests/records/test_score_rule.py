"""One grammar of score rules: names, recipe values, equality, rules of one's own."""

import pytest

from qrepro.records.score_rule import Rule, find_rule


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


OWN = """
from dataclasses import dataclass

@dataclass(frozen=True)
class Own:
    scale: float = 1.0
    words: str = "plain"
    uses_quality = True

    def __call__(self, log_class, log_quality):
        return {call}
"""


def own_rule(folder, monkeypatch, name, call):
    (folder / f"{name}.py").write_text(OWN.format(call=call))
    monkeypatch.chdir(folder)
    return f"{name}:Own"


def test_a_class_of_ones_own_is_a_rule_and_its_name_leads_back(tmp_path, monkeypatch):
    kind = own_rule(tmp_path, monkeypatch, "sound_rule", "self.scale * (log_class + log_quality)")
    rule = Rule.parse(f"{kind},scale=2,words=loud")
    assert Rule.parse(rule.name) == rule == Rule.of(rule.values) and rule.options == {"scale": 2, "words": "loud"}
    assert find_rule(["class", rule.name], rule) == rule.name
    with pytest.raises(ValueError, match="words is 'a,b'"):
        Rule.of({"kind": kind, "words": "a,b"})
    with pytest.raises(ValueError, match="scale is \\[1, 2\\]"):
        Rule.of({"kind": kind, "scale": [1, 2]})


@pytest.mark.parametrize(
    "name, call, said",
    [
        ("falls_in_p", "log_quality - log_class", "at or below 0|must not fall"),
        ("falls_in_u", "2 * log_class - 0.001 * log_quality", "must not fall"),
        ("above_one", "log_class + 1", "at or below 0"),
        ("not_a_number", "log_class * float('nan') + log_quality", "at or below 0"),
        ("fails", "dict()[1]", "cannot be called"),
        ("none", "None", "at or below 0|of shape"),
        ("of_another_shape", "log_class.sum(-1)", "of shape"),
    ],
)
def test_a_class_that_is_no_fusion_is_refused(tmp_path, monkeypatch, name, call, said):
    kind = own_rule(tmp_path, monkeypatch, name, call)
    with pytest.raises(ValueError, match=said) as error:
        Rule.parse(kind)
    assert kind in str(error.value)


@pytest.mark.parametrize(
    "values, said",
    [
        ({"kind": "power", "alpha": "x"}, "alpha x: must be a number in"),
        ({"kind": "product", "oracle": "iou"}, "needs a mapping of what, where and others, got 'iou'"),
        ({"kind": "product", "oracle": {"foo": 2}}, "needs a mapping of what, where and others"),
    ],
)
def test_values_of_a_recipe_that_are_no_rule(values, said):
    with pytest.raises(ValueError, match=said):
        Rule.of(values)


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
