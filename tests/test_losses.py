import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import minimize_scalar
from scipy.stats import norm

from qrepro import losses

LN2, LN3 = (
    math.log(2),
    math.log(3),
)  # logit 0: p = 1/2. logit ln 3: p = 3/4, -ln p = 2 ln 2 - ln 3, -ln(1 - p) = 2 ln 2.


@pytest.mark.parametrize(
    "logit, target, expected",
    [
        (0.0, 1.0, 0.25 * 1 / 4 * LN2),
        (0.0, 0.0, 0.75 * 1 / 4 * LN2),
        (LN3, 1.0, 0.25 * 1 / 16 * (2 * LN2 - LN3)),
        (LN3, 0.0, 0.75 * 9 / 16 * 2 * LN2),
    ],
)
def test_focal_loss_matches_hand_values(logit, target, expected):
    loss = losses.focal_loss(torch.tensor([logit], dtype=torch.float64), torch.tensor([target], dtype=torch.float64))
    assert loss.item() == pytest.approx(expected, rel=1e-12)


def gradient(loss, x):
    (g,) = torch.autograd.grad(loss.sum(), x)
    return g


def test_focal_loss_equals_mmdetection(golden):
    ref = golden("losses")
    logit = ref["focal_logits"].requires_grad_()
    target = torch.nn.functional.one_hot(ref["focal_labels"], 5)[:, :4].float()  # label 4 is background
    loss = losses.focal_loss(logit, target)
    torch.testing.assert_close(loss, ref["focal_loss"], rtol=1e-5, atol=1e-8)
    torch.testing.assert_close(gradient(loss, logit), ref["focal_grad"], rtol=1e-5, atol=1e-7)


def test_smooth_l1_equals_mmdetection(golden):
    ref = golden("losses")
    raw = ref["sl1_pred"].requires_grad_()
    loss = losses.smooth_l1_loss(raw, ref["sl1_target"], beta=1 / 9)
    torch.testing.assert_close(loss, ref["sl1_loss"].sum(-1), rtol=1e-5, atol=1e-7)
    torch.testing.assert_close(gradient(loss, raw), ref["sl1_grad"], rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize(
    "name, loss",
    [
        ("giou", losses.giou_loss),
        ("iou_linear", losses.iou_loss),
        ("iou_log", lambda a, b: losses.iou_loss(a, b, log=True)),
    ],
)
def test_box_losses_equal_mmdetection(golden, name, loss):
    ref = golden("losses")
    box = ref["box_pred"].requires_grad_()
    value = loss(box, ref["box_target"])
    torch.testing.assert_close(value, ref[f"{name}_loss"], rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(gradient(value, box), ref[f"{name}_grad"], rtol=1e-5, atol=1e-6)


def test_box_losses_by_hand():
    box, truth = torch.tensor([[0.0, 0, 2, 2]]), torch.tensor([[1.0, 1, 3, 3]])  # overlap 1, union 7, hull 9
    assert losses.iou_loss(box, truth).item() == pytest.approx(1 - 1 / 7)
    assert losses.giou_loss(box, truth).item() == pytest.approx(1 - (1 / 7 - 2 / 9))


def test_quality_losses_by_hand():
    logit, target = torch.tensor([LN3]), torch.tensor([0.5])
    assert losses.bce_loss(logit, target).item() == pytest.approx(0.5 * (2 * LN2 - LN3) + 0.5 * 2 * LN2)
    assert losses.l2_loss(logit, target).item() == pytest.approx(1 / 16)


def test_bce_differentiates_its_target_as_equation_5():
    """dBCE / dt = log((1 - u) / u): negative where u > 1/2, so that descent raises the true IoU."""
    u = torch.tensor([0.2, 0.5, 0.9], dtype=torch.float64)
    target = torch.tensor([0.3, 0.6, 0.7], dtype=torch.float64, requires_grad=True)
    torch.testing.assert_close(gradient(losses.bce_loss(torch.logit(u), target), target), torch.log((1 - u) / u))


def f64(*values):
    return torch.tensor(values, dtype=torch.float64)


@pytest.mark.parametrize("beta", [0, 1, 2])
def test_quality_focal_loss_equals_mmdetection(golden, beta):
    ref = golden("losses")
    logit = ref["qfl_logits"].requires_grad_()
    target = torch.nn.functional.one_hot(ref["qfl_labels"], 5)[:, :4] * ref["qfl_scores"][:, None]  # 4 is background
    loss = losses.quality_focal_loss(logit, target, beta=beta).sum(-1)
    torch.testing.assert_close(loss, ref[f"qfl{beta}_loss"], rtol=1e-5, atol=1e-7)
    torch.testing.assert_close(gradient(loss, logit), ref[f"qfl{beta}_grad"], rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize(
    "logit, target, beta, expected",
    [
        (LN3, 0.5, 0.0, 0.5 * (2 * LN2 - LN3) + 0.5 * 2 * LN2),  # |y - s| = 1/4
        (LN3, 0.5, 2.5, (0.5 * (2 * LN2 - LN3) + 0.5 * 2 * LN2) / 32),  # (1/4)^2.5 = 1 / 32
        (LN3, 0.5, 4.0, (0.5 * (2 * LN2 - LN3) + 0.5 * 2 * LN2) / 256),
        (0.0, 0.75, 2.5, LN2 / 32),  # s below y: the difference is taken by its size, also for an odd or broken power
        (0.0, 0.75, 1.0, LN2 / 4),
        (0.0, 0.0, 4.0, LN2 / 16),
    ],
)
def test_quality_focal_loss_matches_hand_values(logit, target, beta, expected):
    assert losses.quality_focal_loss(f64(logit), f64(target), beta=beta).item() == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("beta", [0.0, 1.0, 2.0, 2.5, 4.0])
@pytest.mark.parametrize("target", [0.1, 0.5, 0.8])
def test_quality_focal_loss_is_least_where_the_score_is_the_quality(target, beta):
    at = torch.logit(f64(target)).requires_grad_()
    least = losses.quality_focal_loss(at, f64(target), beta=beta)
    if beta != 1:  # |y - s| has a kink there, with a positive factor
        assert gradient(least, at).item() == pytest.approx(0, abs=1e-12)
    around = torch.logit(torch.linspace(0.01, 0.99, 99, dtype=torch.float64))
    assert (losses.quality_focal_loss(around, f64(target).expand(99), beta=beta) >= least - 1e-12).all()


def test_distribution_focal_loss_equals_mmdetection(golden):
    """Theirs takes one side at a time: the four sides of ours are rows of theirs, and ours is their mean."""
    ref = golden("losses")
    raw = ref["dfl_logits"].reshape(12, 68).requires_grad_()
    loss = losses.distribution_focal_loss(raw, ref["dfl_targets"].reshape(12, 4))
    torch.testing.assert_close(loss, ref["dfl_loss"].reshape(12, 4).mean(1), rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(4 * gradient(loss, raw), ref["dfl_grad"].reshape(12, 68), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    "code, expected",
    [
        (0.25, 0.75 * LN2 + 0.25 * (3 * LN2 - LN3)),
        (1.0, 3 * LN2 - LN3),  # on a bin: all weight there, whatever the bin above holds
        (0.0, LN2),
        (1.9, 0.1 * (3 * LN2 - LN3) + 0.9 * 3 * LN2),  # n - 0.1, the largest code
        (2.0, 3 * LN2),  # the last bin itself, which has none above
    ],
)
def test_distribution_focal_loss_matches_hand_values(code, expected):
    """Bins 0, 1, 2 of probability 1/2, 3/8, 1/8: -ln P = ln 2, 3 ln 2 - ln 3, 3 ln 2."""
    side = f64(1 / 2, 3 / 8, 1 / 8).log() + 5  # a common shift of the logits changes nothing
    sides = torch.cat([side, torch.zeros(9, dtype=torch.float64)])[None]
    flat = math.log(3)  # of the other three sides, whatever their code
    loss = losses.distribution_focal_loss(sides, f64(code, 0.3, 1.0, 1.7)[None])
    assert loss.shape == (1,)
    assert loss.item() == pytest.approx((expected + 3 * flat) / 4, rel=1e-6)


@settings(deadline=None)
@given(st.floats(0, 15.9), st.integers(0, 10**6))
def test_distribution_focal_loss_is_least_with_all_mass_on_the_two_bins(code, seed):
    """Eq. 6: P_i = i + 1 - y and P_{i+1} = y - i; the gradient by the logits is P less these shares."""
    logits = 5 * torch.randn(17, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    raw = logits[None].repeat(1, 4).requires_grad_()
    loss = losses.distribution_focal_loss(raw, f64(code).expand(1, 4))
    shares = np.interp(np.arange(17), [np.floor(code), np.floor(code) + 1], [np.floor(code) + 1 - code, code % 1])
    shares[: int(code)] = shares[int(code) + 2 :] = 0
    expected = (logits.softmax(-1) - f64(*shares)) / 4
    torch.testing.assert_close(gradient(loss, raw), expected.repeat(1, 4).expand(1, 68), rtol=1e-9, atol=1e-9)
    best = f64(*shares).clamp(min=1e-300).log().repeat(4)[None]
    least = losses.distribution_focal_loss(best, f64(code).expand(1, 4))
    assert least.item() == pytest.approx(-sum(p * math.log(p) for p in shares if p > 0), abs=1e-9)
    assert loss.item() >= least.item() - 1e-9


scores = st.floats(-8, 8)
unit = st.floats(0, 1)


@settings(deadline=None)
@given(scores, st.sampled_from([0.0, 1.0]), st.sampled_from([0.0, 1.0, 1.5, 2.0, 5.0]))
def test_focal_loss_is_the_general_form_with_a_hard_target(logit, target, gamma):
    """GFL eq. 7 with y_l, y_r = 0, 1; alpha 1/2 halves both classes, so that twice the loss has no balance."""
    x, y = f64(logit), f64(target)
    general = losses.generalized_focal_loss((-x).sigmoid().log(), x.sigmoid().log(), y, 0.0, 1.0, gamma)
    torch.testing.assert_close(2 * losses.focal_loss(x, y, alpha=0.5, gamma=gamma), general, rtol=1e-9, atol=1e-9)


@settings(deadline=None)
@given(scores, unit, st.sampled_from([0.0, 1.0, 2.0, 2.5, 4.0]))
def test_quality_focal_loss_is_the_general_form_with_a_soft_target(logit, target, beta):
    x, y = f64(logit), f64(target)
    general = losses.generalized_focal_loss((-x).sigmoid().log(), x.sigmoid().log(), y, 0.0, 1.0, beta)
    torch.testing.assert_close(losses.quality_focal_loss(x, y, beta=beta), general, rtol=1e-9, atol=1e-9)


@settings(deadline=None)
@given(st.floats(0, 3.9), st.lists(st.floats(-5, 5), min_size=5, max_size=5))
def test_distribution_focal_loss_is_the_general_form_on_neighbouring_bins(code, logits):
    """GFL eq. 7 with y_l, y_r the bins around y and beta = 0."""
    log_p, y, left = f64(*logits).log_softmax(0), f64(code), math.floor(code)
    general = losses.generalized_focal_loss(log_p[left], log_p[left + 1], y, left, left + 1, 0.0)
    loss = losses.distribution_focal_loss(f64(*logits).repeat(1, 4), y.expand(1, 4))
    torch.testing.assert_close(loss, general, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("beta", [0.0, 1.0, 2.0, 2.5])
@pytest.mark.parametrize("left, right, target", [(0.0, 1.0, 0.7), (3.0, 4.0, 3.2), (2.0, 6.0, 3.0)])
def test_general_form_is_least_where_the_estimate_is_the_target(left, right, target, beta):
    """GFL, supplement B: p_l = (y_r - y) / (y_r - y_l). The least value is 0 but for beta = 0."""

    def value(p):
        return losses.generalized_focal_loss(f64(p).log(), f64(1 - p).log(), f64(target), left, right, beta).item()

    best = (right - target) / (right - left)
    found = minimize_scalar(value, bounds=(1e-6, 1 - 1e-6), method="bounded", options={"xatol": 1e-10})
    assert found.x == pytest.approx(best, abs=1e-3 if beta > 1 else 1e-6)
    assert value(best) <= found.fun + 1e-12
    entropy = -(best * math.log(best) + (1 - best) * math.log(1 - best))
    assert value(best) == pytest.approx(0 if beta else (right - left) * entropy, abs=1e-12)


def test_gaussian_loss_is_the_negative_log_likelihood():
    mean, log_variance = f64(1.0, -2.0, 0.5, 3.0), f64(0.0, 1.5, -2.0, math.log(4))
    code = f64(1.0, 0.0, 0.7, 9.0)
    loss = losses.gaussian_loss(torch.cat([mean, log_variance])[None], code[None])
    density = norm.logpdf(code, loc=mean, scale=np.exp(log_variance.numpy() / 2)).sum()
    assert loss.shape == (1,)
    assert loss.item() == pytest.approx(-density - 4 * math.log(2 * math.pi) / 2, rel=1e-12)
    # and of the last side alone, mean 3 and variance 4: 36 / 8 + ln 4 / 2
    alone = torch.cat([f64(0, 0, 0, 3), f64(0, 0, 0, math.log(4))])[None]
    assert losses.gaussian_loss(alone, f64(0, 0, 0, 9)[None]).item() == pytest.approx(36 / 8 + LN2, rel=1e-12)


@pytest.mark.parametrize(
    "logit, target, expected",
    [
        (0.0, 0.0, 0.75 * 1 / 4 * LN2),
        (0.0, 0.5, 0.5 * LN2),
        (0.0, 1.0, LN2),
        (LN3, 0.0, 0.75 * 9 / 16 * 2 * LN2),
        (LN3, 1 / 4, 1 / 4 * (1 / 4 * (2 * LN2 - LN3) + 3 / 4 * 2 * LN2)),
        (-LN3, 0.0, 0.75 * 1 / 16 * (2 * LN2 - LN3)),
        (-LN3, 1 / 4, 1 / 4 * (1 / 4 * 2 * LN2 + 3 / 4 * (2 * LN2 - LN3))),
    ],
)
def test_varifocal_loss_matches_hand_values(logit, target, expected):
    assert losses.varifocal_loss(f64(logit), f64(target)).item() == pytest.approx(expected, rel=1e-12)
    # the factor of positives is q, or 1 where it is left out; that of negatives is the same
    unweighted = losses.varifocal_loss(f64(logit), f64(target), weighted=False).item()
    assert unweighted == pytest.approx(expected / (target or 1), rel=1e-12)
    assert losses.varifocal_loss(f64(logit), f64(target), detach=True).item() == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("alpha, gamma, factor", [(0.5, 2.0, 9 / 32), (1.0, 1.0, 3 / 4), (1.5, 3.0, 81 / 128)])
def test_varifocal_alpha_and_gamma_are_of_negatives_alone(alpha, gamma, factor):
    negative = losses.varifocal_loss(f64(LN3), f64(0.0), alpha=alpha, gamma=gamma)
    assert negative.item() == pytest.approx(factor * 2 * LN2, rel=1e-12)
    positive = losses.varifocal_loss(f64(LN3), f64(0.5), alpha=alpha, gamma=gamma)
    assert positive.item() == pytest.approx(0.5 * (0.5 * (2 * LN2 - LN3) + 0.5 * 2 * LN2), rel=1e-12)


@pytest.mark.parametrize("logit, p, miss", [(0.0, 1 / 2, LN2), (LN3, 3 / 4, 2 * LN2), (-LN3, 1 / 4, 2 * LN2 - LN3)])
def test_varifocal_gradient_of_negatives_by_hand(logit, p, miss):
    """miss = -ln(1 - p). alpha p^2 times its slope p, and, undetached, that of p^2, 2 p^2 (1 - p), times miss."""
    for detach, expected in ((True, 0.75 * p**3), (False, 0.75 * (p**3 + 2 * p**2 * (1 - p) * miss))):
        x = f64(logit).requires_grad_()
        slope = gradient(losses.varifocal_loss(x, f64(0.0), detach=detach), x)
        assert slope.item() == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("weighted", [True, False])
@pytest.mark.parametrize("gamma", [1.0, 2.0, 2.5])
def test_varifocal_gradient_equals_finite_differences(weighted, gamma):
    logit = f64(-5.0, -1.0, 0.5, 3.0, -2.0, 4.0, 2.0).requires_grad_()
    target = f64(0.0, 0.0, 0.0, 0.0, 1e-6, 0.3, 1.0)
    assert torch.autograd.gradcheck(lambda x: losses.varifocal_loss(x, target, weighted=weighted, gamma=gamma), [logit])


@settings(max_examples=50, deadline=None)
@given(st.floats(-30, 30), st.floats(1e-6, 1), st.booleans(), st.sampled_from([0.5, 1.0, 2.0, 3.0]))
def test_varifocal_loss_of_positives_is_weighted_cross_entropy(logit, q, detach, gamma):
    """-q [q log p + (1 - q) log(1 - p)], and its slope q (p - q), whatever alpha and gamma are."""
    x = f64(logit).requires_grad_()
    loss = losses.varifocal_loss(x, f64(q), gamma=gamma, detach=detach)
    p, miss = 1 / (1 + math.exp(-logit)), 1 / (1 + math.exp(logit))
    assert loss.item() == pytest.approx(-q * (q * math.log(p) + (1 - q) * math.log(miss)), rel=1e-9, abs=1e-15)
    assert gradient(loss, x).item() == pytest.approx(q * (p - q), rel=1e-9, abs=1e-12)


@pytest.mark.parametrize("logit", [-1e4, -100.0, 100.0, 1e4])
@pytest.mark.parametrize("target", [0.0, 0.5, 1.0])
def test_varifocal_loss_of_far_logits_is_finite(logit, target):
    x = torch.tensor([logit], requires_grad=True)
    loss = losses.varifocal_loss(x, torch.tensor([target]))
    assert loss.isfinite().all() and gradient(loss, x).isfinite().all()
    if target == 0:
        assert loss.item() == pytest.approx(0.75 * max(logit, 0))


def test_softmax_loss_by_hand():
    """Logits ln 1, ln 2, background ln 5: probabilities 1/8, 1/4, 5/8."""
    logit = torch.tensor([[0.0, LN2, math.log(5)]], dtype=torch.float64).repeat(3, 1)
    target = torch.tensor([[0.0, 1], [0, 0], [0.5, 0]], dtype=torch.float64)
    expected = [[0, 2 * LN2, 0], [0, 0, -math.log(5 / 8)], [1.5 * LN2, 0, -math.log(5 / 8) / 2]]
    torch.testing.assert_close(losses.softmax_loss(logit, target), torch.tensor(expected, dtype=torch.float64))
    far = torch.tensor([[1e4, -1e4, 0.0]], requires_grad=True)
    value = losses.softmax_loss(far, torch.tensor([[0.0, 1.0]])).sum()
    assert value.item() == pytest.approx(2e4)
    assert torch.autograd.grad(value, far)[0].tolist() == [[1, -1, 0]]
