"""Class score and quality as one score: hand-solved values, invariants, the joint score of GFLv2."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn.functional import logsigmoid

from qrepro.fusion import fuse, joint_logit
from qrepro.losses import quality_focal_loss
from qrepro.records.score_rule import Rule


def scores(p, u):
    p, u = torch.tensor(p, dtype=torch.float64), torch.tensor(u, dtype=torch.float64)
    return p.log()[None, :, None], u.log()[None, :, None]


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
    fused = fuse(*scores([0.64, 0.25], [0.25, 0.81]), Rule.parse(name).fusion).exp()[0, :, 0]
    assert fused.tolist() == pytest.approx(expected, rel=1e-12)


def test_zero_quality_is_zero_score_and_never_nan():
    log_class, log_quality = scores([0.5, 0.5], [0.0, 1.0])
    for name in ("product", "power-0.5", "power-0", "power-1"):
        fused = fuse(log_class, log_quality, Rule.parse(name).fusion).exp()[0, :, 0]
        assert not fused.isnan().any()
        assert fused[0] == (0.5 if name == "power-1" else 0.0)


def test_fuse_does_not_underflow_in_float32():
    tiny = torch.full((1, 1, 1), -80.0)  # p = u = sigmoid(-80): their product is below the smallest float32
    log_quality = logsigmoid(tiny)
    fused = fuse(logsigmoid(tiny), log_quality, Rule.parse("product").fusion)
    assert fused.item() == pytest.approx(-160, rel=1e-6)


def test_alpha_half_ranks_as_the_product():
    generator = torch.Generator().manual_seed(0)
    p, u = torch.randn(1, 50, 3, generator=generator), torch.randn(1, 50, generator=generator)
    product, root = (
        fuse(logsigmoid(p), logsigmoid(u)[..., None], Rule.parse(n).fusion) for n in ("product", "power-0.5")
    )
    assert torch.equal(product.flatten().argsort(), root.flatten().argsort())


def test_a_rule_that_needs_quality_says_so():
    with pytest.raises(ValueError, match="needs a quality estimate"):
        fuse(torch.zeros(1, 1, 1), None, Rule.parse("product").fusion)


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
