import math

import pytest
import torch
from torch.nn.functional import logsigmoid

from qrepro.quality import ConvQuality, NoQuality, Rule, fuse


def scores(p, u):
    p, u = torch.tensor(p, dtype=torch.float64), torch.tensor(u, dtype=torch.float64)
    return p.log()[None, :, None], u.log()[None, :]


@pytest.mark.parametrize(
    "name, expected",
    [
        ("class", [0.64, 0.25]),
        ("product", [0.64 * 0.25, 0.25 * 0.81]),
        ("power-0.5", [0.8 * 0.5, 0.5 * 0.9]),
        ("power-1", [0.64, 0.25]),
        ("power-0", [0.25, 0.81]),
        ("power-0.25", [0.64**0.25 * 0.25**0.75, 0.25**0.25 * 0.81**0.75]),
    ],
)
def test_fuse_by_hand(name, expected):
    fused = fuse(*scores([0.64, 0.25], [0.25, 0.81]), Rule.parse(name)).exp()[0, :, 0]
    assert fused.tolist() == pytest.approx(expected, rel=1e-12)


def test_zero_quality_is_zero_score_and_never_nan():
    log_class, log_quality = scores([0.5, 0.5], [0.0, 1.0])
    for name in ("product", "power-0.5", "power-0", "power-1"):
        fused = fuse(log_class, log_quality, Rule.parse(name)).exp()[0, :, 0]
        assert not fused.isnan().any()
        assert fused[0] == (0.5 if name == "power-1" else 0.0)


def test_fuse_does_not_underflow_in_float32():
    tiny = torch.full((1, 1, 1), -80.0)  # p = u = sigmoid(-80): their product is below the smallest float32
    log_quality = logsigmoid(tiny[..., 0])
    fused = fuse(logsigmoid(tiny), log_quality, Rule.parse("product"))
    assert fused.item() == pytest.approx(-160, rel=1e-6)


def test_alpha_half_ranks_as_the_product():
    generator = torch.Generator().manual_seed(0)
    p, u = torch.randn(1, 50, 3, generator=generator), torch.randn(1, 50, generator=generator)
    product, root = (fuse(logsigmoid(p), logsigmoid(u), Rule.parse(n)) for n in ("product", "power-0.5"))
    assert torch.equal(product.flatten().argsort(), root.flatten().argsort())


def test_a_rule_that_needs_quality_says_so():
    with pytest.raises(ValueError, match="needs a quality estimate"):
        fuse(torch.zeros(1, 1, 1), None, Rule.parse("product"))


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


def test_iou_layer_starts_at_one_half():
    layer = ConvQuality(8, 9)
    logit = layer(torch.zeros(2, 8, 4, 5), torch.zeros(2, 36, 4, 5))
    assert logit.shape == (2, 9, 4, 5)
    assert logit.sigmoid().unique().tolist() == [0.5]
    assert NoQuality(8, 9)(torch.zeros(1), torch.zeros(1)) is None
    assert math.isclose(layer.conv.weight.std().item(), 0.01, rel_tol=0.2)


def test_what_an_oracle_name_leaves_out_is_as_its_paper_has_it():
    assert Rule.parse("oracle-product").oracle == Rule.parse("oracle-iou@nearest-product").oracle
    assert Rule.parse("oracle-class-class").oracle == Rule.parse("oracle-class@positives-class").oracle


@pytest.mark.parametrize(
    "name, needs",
    [
        ("class", False),
        ("power-1", False),
        ("product", True),
        ("oracle-product", False),
        ("oracle@positives-product", True),  # locations without a truth keep their estimate
        ("oracle@positives+zero-product", False),
        ("oracle-box-class", False),
        ("oracle-box+zero-product", True),
    ],
)
def test_which_rules_need_an_estimate(name, needs):
    assert Rule.parse(name).needs_estimate is needs
