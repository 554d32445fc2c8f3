import math

import pytest
import torch

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
