import pytest
import torch

from qrepro.assign import MaxIoU
from qrepro.boxes import Priors, Truths
from qrepro.detector import Prediction
from qrepro.losses import bce_loss, focal_loss, giou_loss, smooth_l1_loss
from qrepro.objective import Objective, Term
from qrepro.represent import Delta
from qrepro.target import hard

SIZES = torch.tensor([[64, 64]])


def case(images: int = 1, truths: int = 1):
    """Two anchors: the first is 16 x 16 at the origin, the second far from every truth. The truth is 16 x 12."""
    boxes = torch.tensor([[0.0, 0, 16, 16], [40, 40, 56, 56]])
    priors = Priors(boxes, torch.tensor([[0.0, 0], [40, 40]]), torch.tensor([8.0, 8.0]), (2,))
    truth = torch.tensor([0.0, 0, 16, 12]).expand(images, 1, 4)[:, :truths]
    labels = torch.ones(images, 1, dtype=torch.int64)[:, :truths]
    raw = torch.zeros(images, 2, 4, requires_grad=True)
    cls, quality = torch.zeros(images, 2, 3, requires_grad=True), torch.zeros(images, 2, requires_grad=True)
    return Prediction(cls, raw, quality, priors), Truths(truth, labels, torch.ones_like(labels, dtype=torch.bool))


def objective(**terms) -> Objective:
    terms = {"class": Term(focal_loss), "code": Term(smooth_l1_loss), "quality": Term(bce_loss), **terms}
    return Objective(MaxIoU(), hard, Delta(), terms)


def test_terms_by_hand():
    """At zero logits p = 1/2: focal = 1/4 ln 2 times 0.25 for the true class and 0.75 for the other five entries."""
    ln2 = torch.log(torch.tensor(2.0)).item()
    losses = objective(box=Term(giou_loss, weight=2.0))(*case(), SIZES)
    assert losses["class"].item() == pytest.approx((0.25 + 5 * 0.75) * 0.25 * ln2, rel=1e-6)
    # code of the truth: dy = (6 - 8) / 16 = -0.125, dh = ln(12 / 16); both beyond beta
    assert losses["code"].item() == pytest.approx(
        0.125 - 0.055 - torch.log(torch.tensor(0.75)).item() - 0.055, rel=1e-5
    )
    assert losses["quality"].item() == pytest.approx(ln2, rel=1e-6)  # u = 1/2 whatever the target
    assert losses["box"].item() == pytest.approx(2 * 0.25, rel=1e-6)  # IoU = 3/4, hull = union


@pytest.mark.parametrize("detach", [True, False])
def test_iou_target_carries_a_gradient_only_when_asked(detach):
    """Equation 5: with u > 1/2 descent on the IoU loss alone must raise the true IoU of the box."""
    prediction, truths = case()
    quality = torch.full((1, 2), 2.0)
    prediction = Prediction(prediction.cls, prediction.raw, quality, prediction.priors)
    loss = objective(quality=Term(bce_loss, detach=detach))(prediction, truths, SIZES)["quality"]
    if detach:
        assert not loss.requires_grad
        return
    (gradient,) = torch.autograd.grad(loss, prediction.raw)
    assert gradient[0, 0, 3] > 0  # the box is too high: descent makes it lower
    assert gradient[0, 1].abs().sum() == 0  # negatives take no part


def test_ignored_and_padding_locations_take_no_part():
    prediction, truths = case()
    small = torch.tensor([[32, 32]])  # the second anchor's cell lies in the padding
    inside = objective()(prediction, truths, SIZES)["class"]
    outside = objective()(prediction, truths, small)["class"]
    assert outside.item() == pytest.approx(inside.item() * (0.25 + 2 * 0.75) / (0.25 + 5 * 0.75), rel=1e-5)


def test_no_objects_gives_zero_terms_with_gradients():
    """The same names whatever the batch holds, and every output in the graph: otherwise a second rank would wait."""
    prediction, truths = case(images=2, truths=0)
    losses = objective()(prediction, truths, SIZES.repeat(2, 1))
    assert set(losses) == {"class", "code", "quality"}
    assert losses["code"].item() == losses["quality"].item() == 0
    sum(losses.values()).backward()
    assert prediction.raw.grad.abs().sum() == 0 and prediction.quality.grad.abs().sum() == 0
    assert prediction.cls.grad.abs().sum() > 0


def test_positive_count_of_empty_images():
    """MMDetection's anchor heads count an image without positives as one: N is 2 then, and 1 by the batch rule."""
    prediction, truths = case(images=2)
    half = Truths(truths.boxes, truths.labels, torch.tensor([[True], [False]]))
    by_image = objective()(prediction, half, SIZES.repeat(2, 1))["quality"].item()
    rule = Objective(MaxIoU(), hard, Delta(), objective().terms, count="batch")
    assert rule(prediction, half, SIZES.repeat(2, 1))["quality"].item() == pytest.approx(2 * by_image)
