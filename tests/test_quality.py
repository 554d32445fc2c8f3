import math
from functools import partial

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn.functional import logsigmoid

from qrepro.box_coder import Delta, Distance, Gaussian, General, LogDistance, PointSet, bins_of
from qrepro.losses import quality_focal_loss
from qrepro.quality import (
    Composed,
    ConvQuality,
    Describe,
    NoQuality,
    Place,
    Rule,
    Sampled,
    Statistics,
    fuse,
    joint_logit,
)
from qrepro.sampling import Reader, Star


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
    place = Place(8, 9)
    layer = ConvQuality(place)
    logit = layer(torch.zeros(2, 8, 4, 5), torch.zeros(2, 36, 4, 5), None)
    assert logit.shape == (2, 9, 4, 5)
    assert logit.sigmoid().unique().tolist() == [0.5]
    assert NoQuality(place)(torch.zeros(1), torch.zeros(1), None) is None
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


# The joint score of GFLv2

logits = st.floats(-30, 30)


def f64(*values):
    return torch.tensor(values, dtype=torch.float64)


@settings(max_examples=50, deadline=None)
@given(logits, logits)
def test_joint_logit_is_that_of_the_product(c, i):
    """J and 1 - J, the latter as (1 - C) + (1 - I) - (1 - C)(1 - I), both from exponentials."""
    class_score, quality = 1 / (1 + math.exp(-c)), 1 / (1 + math.exp(-i))
    miss = [1 / (1 + math.exp(c)), 1 / (1 + math.exp(i))]
    other = miss[0] + miss[1] * class_score
    found = joint_logit(f64(c).reshape(1, 1, 1), f64(i).reshape(1, 1))
    assert found.shape == (1, 1, 1)
    assert found.sigmoid().item() == pytest.approx(class_score * quality, rel=1e-12)
    assert found.item() == pytest.approx(math.log(class_score * quality / other), rel=1e-9, abs=1e-9)


@pytest.mark.parametrize(
    "c, i, expected",
    [
        (0.0, 0.0, -math.log(3)),  # J = 1/4
        (math.log(3), math.log(3), math.log(9 / 7)),  # J = 9/16
        (0.0, math.log(3), math.log(3 / 5)),  # J = 3/8
        (1e4, 0.0, 0.0),  # C = 1: J = I
        (0.0, 1e4, 0.0),
        (-1e4, 1e4, -1e4),
        (1e4, 1e4, 1e4 - math.log(2)),  # 1 - J is twice 1 - C
        (-1e4, -1e4, -2e4),
        (-1e4, 0.0, -1e4 - math.log(2)),
    ],
)
def test_joint_logit_by_hand_however_far(c, i, expected):
    """dJ's logit / dc = (1 - C) / (1 - J), of which both sides are 0 at the far ends; between 0 and 1 everywhere."""
    cls, quality = torch.full((1, 1, 1), c, requires_grad=True), torch.full((1, 1), i, requires_grad=True)
    found = joint_logit(cls, quality)
    assert found.item() == pytest.approx(expected, rel=1e-6, abs=1e-6)
    for slope in torch.autograd.grad(found.sum(), [cls, quality]):
        assert 0 <= slope.item() <= 1
    if max(abs(c), abs(i)) < 100:
        p, u = 1 / (1 + math.exp(-c)), 1 / (1 + math.exp(-i))
        slopes = torch.autograd.grad(joint_logit(cls, quality).sum(), [cls, quality])
        expected_slopes = [(1 - p) / (1 - p * u), (1 - u) / (1 - p * u)]
        assert [s.item() for s in slopes] == pytest.approx(expected_slopes, rel=1e-6)


def test_joint_logit_takes_one_quality_for_all_classes_of_a_location():
    cls, quality = torch.randn(2, 3, 4, generator=torch.Generator().manual_seed(0)), torch.arange(6.0).reshape(2, 3)
    found = joint_logit(cls, quality)
    assert found.shape == (2, 3, 4)
    for b in range(2):
        for r in range(3):
            product = cls[b, r].sigmoid() * quality[b, r].sigmoid()
            torch.testing.assert_close(found[b, r].sigmoid(), product, rtol=1e-5, atol=1e-7)


@settings(max_examples=50, deadline=None)
@given(logits, logits, st.floats(0, 1))
def test_qfl_of_the_joint_logit_is_that_of_the_product(c, i, y):
    """Written on probabilities, as in the authors' code: |y - J|^2 [-y log J - (1 - y) log(1 - J)], and its slopes."""
    slopes = []
    for on_logits in (True, False):
        cls, quality = f64(c).reshape(1, 1, 1).requires_grad_(), f64(i).reshape(1, 1).requires_grad_()
        if on_logits:
            loss = quality_focal_loss(joint_logit(cls, quality), f64(y).reshape(1, 1, 1))
        else:
            joint = cls.sigmoid() * quality.sigmoid()[..., None]
            other = (-cls).sigmoid() + (-quality).sigmoid()[..., None] * cls.sigmoid()
            loss = (y - joint).abs() ** 2 * -(y * joint.log() + (1 - y) * other.log())
        slopes.append([loss.sum(), *torch.autograd.grad(loss.sum(), [cls, quality])])
    for mine, theirs in zip(*slopes, strict=True):
        torch.testing.assert_close(mine.reshape(()), theirs.reshape(()), rtol=1e-8, atol=1e-10)


# Statistics of side distributions

FAR = -1e4  # logit of a bin without probability
ONE, TWO, FLAT = (1.0, 0, 0, 0, 0, 0, 0, 0), (0, 0, 0.75, 0.25, 0, 0, 0, 0), (0.125,) * 8
MANY = (0, 1 / 16, 1 / 8, 1 / 2, 1 / 4, 1 / 32, 1 / 32, 0)


def side(*probability, shift=0):
    """Logits of a distribution, moved along the bins."""
    return torch.tensor(probability).clamp(min=1e-30).log().clamp(min=FAR).roll(shift)


def sides(*distributions):
    """A raw output (1, 4 * bins, 1, 1) of the distributions of left, top, right, bottom."""
    return torch.cat([side(*one) for one in distributions])[None, :, None, None]


def describe(k=4, top=True, mean=True, variance=True, gradient=True, bins=8, per_cell=1) -> Describe:
    return Describe(Place(3, per_cell, bins), k, top, mean, variance, gradient)


def test_statistics_of_simple_distributions_by_hand():
    """Of each side in turn the four largest, falling, then their mean and their variance as a population."""
    found = describe()(sides(ONE, TWO, FLAT, MANY)).flatten()
    expected = [
        *(1, 0, 0, 0, 1 / 4, (9 / 16 + 3 * 1 / 16) / 4),
        *(3 / 4, 1 / 4, 0, 0, 1 / 4, (1 / 4 + 0 + 1 / 16 + 1 / 16) / 4),
        *(1 / 8, 1 / 8, 1 / 8, 1 / 8, 1 / 8, 0),
        # mean 15/64; from it 17/64, 1/64, -7/64, -11/64: squares 289 + 1 + 49 + 121 = 460 of 4096
        *(1 / 2, 1 / 4, 1 / 8, 1 / 16, 15 / 64, 460 / 4096 / 4),
    ]
    torch.testing.assert_close(found, torch.tensor(expected), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    "parts, of_each",
    [
        ((True, False, False), (1 / 2, 1 / 4)),
        ((False, True, False), (3 / 8,)),
        ((False, False, True), (1 / 64,)),  # 1/8 from the mean on both sides
        ((False, True, True), (3 / 8, 1 / 64)),
        ((True, False, True), (1 / 2, 1 / 4, 1 / 64)),
        ((True, True, True), (1 / 2, 1 / 4, 3 / 8, 1 / 64)),
    ],
)
def test_which_statistics_enter(parts, of_each):
    """Table 1 of GFLv2: 4 numbers a side for each that is on, k for the largest."""
    module = describe(2, *parts)
    found = module(sides(MANY, MANY, MANY, MANY))
    assert found.shape == (1, module.channels, 1, 1) == (1, 4 * len(of_each), 1, 1)
    torch.testing.assert_close(found.flatten(), torch.tensor(of_each * 4))


def test_statistics_do_not_see_where_a_distribution_stands():
    """Figure 4 of GFLv2."""
    module = describe(3)
    expected = module(sides(MANY, TWO, ONE, MANY))
    for shift in range(1, 8):
        moved = torch.cat([side(*one, shift=shift) for one in (MANY, TWO, ONE, MANY)])[None, :, None, None]
        torch.testing.assert_close(module(moved), expected)
    mirrored = sides(MANY[::-1], TWO[::-1], ONE[::-1], MANY[::-1])
    torch.testing.assert_close(module(mirrored), expected)


def test_with_k_1_the_mean_is_the_largest_itself():
    found = describe(1)(sides(ONE, TWO, FLAT, MANY)).reshape(4, 3)
    assert found[:, 0].tolist() == pytest.approx([1, 3 / 4, 1 / 8, 1 / 2])
    assert torch.equal(found[:, 0], found[:, 1]) and found[:, 2].abs().max() == 0


def test_with_all_bins_the_mean_is_the_same_for_all():
    """1 / (n + 1), which is why the mean is of the k largest only."""
    found = describe(8, top=False, variance=False)(sides(ONE, TWO, FLAT, MANY))
    torch.testing.assert_close(found.flatten(), torch.full((4,), 1 / 8))


def wild(module, seed=0):
    """The module with weights that are not small, so that what comes out depends on all of it."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator))
    return module


def test_estimate_from_statistics_location_by_location():
    """I = W2 ReLU(W1 F + b1) + b2 as sums over F, with the largest found by sorting."""
    k, bins = 3, 5
    module = wild(Statistics(Place(7, 1, bins), k=k, hidden=6))
    raw = torch.randn(2, 4 * bins, 2, 3, generator=torch.Generator().manual_seed(1))
    found = module(None, raw, None)
    assert found.shape == (2, 1, 2, 3)
    inner, outer = (layer.weight.detach()[:, :, 0, 0] for layer in (module.inner, module.outer))
    for b in range(2):
        for y in range(2):
            for x in range(3):
                statistics = []
                for one in range(4):
                    e = [math.exp(v) for v in raw[b, one * bins : (one + 1) * bins, y, x].tolist()]
                    largest = sorted((v / sum(e) for v in e), reverse=True)[:k]
                    statistics += [*largest, sum(largest) / k]
                hidden = (inner @ torch.tensor(statistics) + module.inner.bias.detach()).clamp(min=0)
                expected = outer[0] @ hidden + module.outer.bias.detach()[0]
                assert found[b, 0, y, x].item() == pytest.approx(expected.item(), rel=1e-4, abs=1e-4)


def test_priors_of_a_cell_are_described_one_by_one_with_the_same_weights():
    both = wild(Statistics(Place(7, 2, 5), k=3, hidden=6, variance=True))
    alone = Statistics(Place(7, 1, 5), k=3, hidden=6, variance=True)
    alone.load_state_dict(both.state_dict())
    raw = torch.randn(3, 2 * 20, 2, 4, generator=torch.Generator().manual_seed(1))
    found = both(None, raw, None)
    assert found.shape == (3, 2, 2, 4)
    torch.testing.assert_close(found, torch.cat([alone(None, part, None) for part in raw.chunk(2, 1)], 1))


@pytest.mark.parametrize("gradient", [True, False])
def test_gradient_into_the_distributions_only_when_asked(gradient):
    """The estimate's own layers learn either way."""
    for module in (Statistics(Place(7, 1, 5), gradient=gradient), Composed(Place(7, 1, 5), gradient=gradient)):
        raw = torch.randn(2, 20, 2, 3, generator=torch.Generator().manual_seed(1)).requires_grad_()
        wild(module)(None, raw, None).square().sum().backward()
        assert all(parameter.grad.abs().max() > 0 for parameter in module.parameters())
        assert (raw.grad is not None and bool(raw.grad.any())) is gradient


@pytest.mark.parametrize(
    "k, hidden, parts, count",
    [
        (4, 64, {}, 20 * 64 + 64 + 64 + 1),
        (4, 64, {"variance": True}, 24 * 64 + 64 + 64 + 1),
        (4, 64, {"mean": False}, 16 * 64 + 64 + 64 + 1),
        (4, 64, {"top": False}, 4 * 64 + 64 + 64 + 1),
        (16, 8, {}, 68 * 8 + 8 + 8 + 1),
    ],
)
def test_parameters_of_the_estimate(k, hidden, parts, count):
    """1,409 of the paper's choice with biases: GFLv2 speaks of thousands."""
    module = Statistics(Place(256, 1, 17), k=k, hidden=hidden, **parts)
    assert sum(p.numel() for p in module.parameters()) == count
    if (k, hidden, parts) == (4, 64, {}):
        assert count == 1409


def test_the_estimate_starts_near_one_half():
    raw = torch.randn(2, 68, 4, 5, generator=torch.Generator().manual_seed(0))
    torch.manual_seed(0)
    module = Statistics(Place(256, 1, 17))
    assert (module(None, raw, None).sigmoid() - 0.5).abs().max() < 0.01
    assert module.inner.weight.std().item() == pytest.approx(0.01, rel=0.1)
    assert module.outer.bias.item() == 0 and module.inner.bias.abs().max() == 0


@pytest.mark.parametrize("build", [Statistics, Composed])
@pytest.mark.parametrize("k", [0, 6, -1])
def test_more_than_all_bins_or_none_are_refused(build, k):
    with pytest.raises(ValueError, match="largest of 5 probabilities"):
        build(Place(7, 1, 5), k=k)
    build(Place(7, 1, 5), k=5)


def test_no_statistics_are_refused():
    with pytest.raises(ValueError, match="at least one of top, mean and variance"):
        Statistics(Place(7, 1, 5), top=False, mean=False)


def test_statistics_of_a_box_without_distributions_are_refused():
    with pytest.raises(ValueError, match="general"):
        Statistics(Place(7, 9, 0))


@pytest.mark.parametrize("box", [Distance(), Gaussian(), PointSet(), LogDistance(), Delta()])
def test_statistics_of_a_box_without_distributions_are_refused_whatever_k(box):
    """They have 4, 8 and 18 numbers, but no bins."""
    with pytest.raises(ValueError, match="general"):
        Statistics(Place(7, 1, bins_of(box)), k=1)
    assert bins_of(General(n=7)) == 8


# Other forms


def test_composed_form_is_a_layer_on_the_statistics():
    place = Place(7, 1, 5)
    module = wild(Composed(place, k=3, d=6))
    raw = torch.randn(2, 20, 2, 3, generator=torch.Generator().manual_seed(1))
    found = module(None, raw, None)
    assert found.shape == (2, 6, 2, 3) and module.appended == 6 and not module.estimates
    statistics = describe(3, variance=False, bins=5)(raw)
    expected = F.linear(statistics.movedim(1, -1), module.layer.weight[:, :, 0, 0], module.layer.bias).relu()
    torch.testing.assert_close(found, expected.movedim(-1, 1))
    assert (found == 0).any() and (found > 0).any()
    paper = Composed(Place(256, 1, 17), k=4, d=64)
    assert sum(p.numel() for p in paper.parameters()) == 20 * 64 + 64


def test_composed_form_refuses_several_priors_a_cell():
    with pytest.raises(ValueError, match="one prior a cell, this host has 9"):
        Composed(Place(7, 9, 5))


def test_estimate_from_sampled_features_by_torch():
    """Without distances every point of a star is the cell: the 3x3 weights add up to those of one 1x1 layer."""
    module = wild(Sampled(Place(5, 1, 0, partial(Reader, Star)), hidden=6))
    features = torch.randn(2, 5, 3, 4, generator=torch.Generator().manual_seed(1))
    found = module(features, torch.zeros(2, 4, 3, 4), lambda: torch.zeros(2, 4, 3, 4))
    assert found.shape == (2, 1, 3, 4)
    weight = module.inner.layer.weight.sum((2, 3), keepdim=True)
    hidden = F.conv2d(features, weight, module.inner.bias).relu()
    expected = F.conv2d(hidden, module.outer.weight, module.outer.bias)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("place", [Place(5), Place(5, 9, 0, partial(Reader, Star))])
def test_sampled_features_need_a_place_to_read_at_and_one_prior(place):
    with pytest.raises(ValueError, match=r"sampling.quality"):
        Sampled(place)
