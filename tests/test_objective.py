import math
from dataclasses import replace

import pytest
import torch

from helpers.supervision import Supervision, supervision
from qrepro.assign import BACKGROUND, IGNORED, MaxIoU
from qrepro.box_coder import Delta, Distance, Gaussian, General
from qrepro.detector import Prediction
from qrepro.ground_truth import GroundTruthBatch
from qrepro.losses import (
    bce_loss,
    distribution_focal_loss,
    focal_loss,
    gaussian_loss,
    giou_loss,
    quality_focal_loss,
    smooth_l1_loss,
    softmax_loss,
)
from qrepro.objective import Term, positives, total
from qrepro.priors import Priors
from qrepro.target import MEASURES, hard, soft

SIZES = torch.tensor([[64, 64]])


def case(images: int = 1, ground_truth: int = 1):
    """Two anchors.

    The first is 16 x 16 at the origin, the second far from every ground truth. The ground truth is 16 x 12.
    """
    boxes = torch.tensor([[0.0, 0, 16, 16], [40, 40, 56, 56]])
    priors = Priors(boxes, torch.tensor([[0.0, 0], [40, 40]]), torch.tensor([8.0, 8.0]), (2,))
    truth = torch.tensor([0.0, 0, 16, 12]).expand(images, 1, 4)[:, :ground_truth]
    labels = torch.ones(images, 1, dtype=torch.int64)[:, :ground_truth]
    raw = torch.zeros(images, 2, 4, requires_grad=True)
    cls, quality = torch.zeros(images, 2, 3, requires_grad=True), torch.zeros(images, 2, requires_grad=True)
    return Prediction(cls, raw, quality, priors, Delta()), GroundTruthBatch(
        truth, labels, torch.ones_like(labels, dtype=torch.bool)
    )


def objective(**terms) -> Supervision:
    terms = {"class": Term(focal_loss), "encoding": Term(smooth_l1_loss), "quality": Term(bce_loss), **terms}
    return supervision(MaxIoU(), hard, terms)


def test_terms_by_hand():
    """At zero logits p = 1/2: focal = 1/4 ln 2 times 0.25 for the true class and 0.75 for the other five entries."""
    ln2 = torch.log(torch.tensor(2.0)).item()
    losses = objective(box=Term(giou_loss, weight=2.0))(*case(), SIZES)
    assert losses["class"].item() == pytest.approx((0.25 + 5 * 0.75) * 0.25 * ln2, rel=1e-6)
    # code of the ground truth: dy = (6 - 8) / 16 = -0.125, dh = ln(12 / 16); both beyond beta
    assert losses["encoding"].item() == pytest.approx(
        0.125 - 0.055 - torch.log(torch.tensor(0.75)).item() - 0.055, rel=1e-5
    )
    assert losses["quality"].item() == pytest.approx(ln2, rel=1e-6)  # u = 1/2 whatever the target
    assert losses["box"].item() == pytest.approx(2 * 0.25, rel=1e-6)  # IoU = 3/4, hull = union


@pytest.mark.parametrize("detach", [True, False])
def test_iou_target_carries_a_gradient_only_when_asked(detach):
    """Equation 5: with u > 1/2 descent on the IoU loss alone must raise the true IoU of the box."""
    prediction, ground_truth = case()
    quality = torch.full((1, 2), 2.0)
    prediction = replace(prediction, quality=quality)
    loss = objective(quality=Term(bce_loss, detach=detach))(prediction, ground_truth, SIZES)["quality"]
    if detach:
        assert not loss.requires_grad
        return
    (gradient,) = torch.autograd.grad(loss, prediction.raw)
    assert gradient[0, 0, 3] > 0  # the box is too high: descent makes it lower
    assert gradient[0, 1].abs().sum() == 0  # negatives take no part


def test_ignored_and_padding_locations_take_no_part():
    prediction, ground_truth = case()
    small = torch.tensor([[32, 32]])  # the second anchor's cell lies in the padding
    inside = objective()(prediction, ground_truth, SIZES)["class"]
    outside = objective()(prediction, ground_truth, small)["class"]
    assert outside.item() == pytest.approx(inside.item() * (0.25 + 2 * 0.75) / (0.25 + 5 * 0.75), rel=1e-5)


def test_no_objects_gives_zero_terms_with_gradients():
    """The same names whatever the batch holds, and every output in the graph: otherwise a second rank would wait."""
    prediction, ground_truth = case(images=2, ground_truth=0)
    losses = objective()(prediction, ground_truth, SIZES.repeat(2, 1))
    assert set(losses) == {"class", "encoding", "quality"}
    assert losses["encoding"].item() == losses["quality"].item() == 0
    sum(losses.values()).backward()
    assert prediction.raw.grad.abs().sum() == 0 and prediction.quality.grad.abs().sum() == 0
    assert prediction.cls.grad.abs().sum() > 0


def test_positive_count_of_empty_images():
    """MMDetection's anchor heads count an image without positives as one: N is 2 then, and 1 by the batch rule."""
    prediction, ground_truth = case(images=2)
    half = GroundTruthBatch(ground_truth.boxes, ground_truth.labels, torch.tensor([[True], [False]]))
    by_image = objective()(prediction, half, SIZES.repeat(2, 1))["quality"].item()
    rule = supervision(MaxIoU(), hard, objective().objective.terms, count="batch")
    assert rule(prediction, half, SIZES.repeat(2, 1))["quality"].item() == pytest.approx(2 * by_image)


# Measures: two positives of known IoU, centerness and score

LN2, LN3 = math.log(2), math.log(3)
IOU = 3 / 4, 5 / 8
CENTERNESS = math.sqrt(1 / 2), 1 / 2
SCORE = 3 / 4, 1 / 2
GIOU_LOSS = 1 / 4, 3 / 8  # the anchors hold their ground truths, so that hull = union


def pair(images: int = 1):
    """Anchors of 16 px at (0, 0), (40, 40) and, without a ground truth, (80, 80); the objects are 12 and 10 px high.

    Outputs are 0, so that the boxes are the anchors and scores 1/2, but for one class logit of the first: ln 3, and the
    quality logits ln 3. Centres (8, 8), (48, 48): sides 8, 8, 8, 4 and 8, 8, 8, 2. Only the first image has objects.
    """
    corner = torch.tensor([[0.0, 0], [40, 40], [80, 80]])
    priors = Priors(torch.cat([corner, corner + 16], -1), corner, torch.full((3,), 8.0), (3,))
    boxes = torch.tensor([[0.0, 0, 16, 12], [40, 40, 56, 50]]).repeat(images, 1, 1)
    valid = torch.zeros(images, 2, dtype=torch.bool)
    valid[0] = True
    cls = torch.zeros(images, 3, 2)
    cls[0, 0, 1] = LN3
    cls.requires_grad_()
    raw = torch.zeros(images, 3, 4, requires_grad=True)
    quality = torch.full((images, 3), LN3, requires_grad=True)
    ground_truth = GroundTruthBatch(boxes, torch.zeros(images, 2, dtype=torch.int64), valid)
    return Prediction(cls, raw, quality, priors, Delta()), ground_truth, torch.tensor([[96, 96]]).repeat(images, 1)


def focal(p: float, target: int) -> float:
    """Focal loss of a score, alpha 1/4 and gamma 2."""
    return -(1 / 4) * (1 - p) ** 2 * math.log(p) if target else -(3 / 4) * p**2 * math.log(1 - p)


FIRST = focal(0.5, 1) + focal(0.75, 0)  # the class terms of the three locations
SECOND = focal(0.5, 1) + focal(0.5, 0)
THIRD = 2 * focal(0.5, 0)


def terms(target=hard, count="images", count_images=False, **parts):
    rule = supervision(MaxIoU(), target, {"class": Term(focal_loss), **parts}, count, count_images)
    return lambda case: rule(*case)


def test_measures_of_the_positives():
    prediction, ground_truth, _ = pair()
    found = positives(prediction, ground_truth, torch.tensor([[0, 1, BACKGROUND]]))
    assert found.image.tolist() == [0, 0] and found.location.tolist() == [0, 1] and found.labels.tolist() == [0, 0]
    for name, expected in (("iou", IOU), ("centerness", CENTERNESS), ("score", SCORE)):
        torch.testing.assert_close(MEASURES[name](found).detach(), torch.tensor(expected))
    assert found.iou.requires_grad and not found.score.requires_grad


@pytest.mark.parametrize("by, share", [("iou", IOU), ("centerness", CENTERNESS), ("score", SCORE)])
def test_box_terms_are_weighted_by_a_measure_and_divided_by_its_sum(by, share):
    """As in GFL's code, both the box and the code term. All three sums are above the floor of 1."""
    case = pair()
    losses = terms(box=Term(giou_loss, 2.0, weight_by=by), encoding=Term(smooth_l1_loss, 0.25, weight_by=by))(case)
    mean = (share[0] * GIOU_LOSS[0] + share[1] * GIOU_LOSS[1]) / sum(share)
    assert losses["box"].item() == pytest.approx(2 * mean, rel=1e-6)
    # codes dy = -2 / 16, -3 / 16 and dh = ln 3/4, ln 5/8, all beyond the kink at 0.11: each less 0.055
    code = 2 / 16 - math.log(3 / 4) - 0.11, 3 / 16 - math.log(5 / 8) - 0.11
    mean = (share[0] * code[0] + share[1] * code[1]) / sum(share)
    assert losses["encoding"].item() == pytest.approx(0.25 * mean, rel=1e-5)


def test_weights_are_constants_of_the_gradient():
    """With the weights 3/4 and 5/8 as numbers, the gradient by the box outputs is the same; none reaches the scores."""
    case = pair()
    losses = terms(box=Term(giou_loss, weight_by="iou"))(case)
    (slope,) = torch.autograd.grad(losses["box"], case[0].raw)
    other = pair()
    plain = terms(box=Term(giou_loss))(other)["box"]  # (a + b) / 2
    (mean,) = torch.autograd.grad(plain, other[0].raw)
    weights = torch.tensor([*IOU, 0.0])[:, None] / sum(IOU)
    torch.testing.assert_close(slope[0], 2 * mean[0] * weights)
    scored = terms(box=Term(giou_loss, weight_by="score"))(case)["box"]
    assert torch.autograd.grad(scored, case[0].cls, allow_unused=True) == (None,)


@pytest.mark.parametrize("floor, divisor", [(1.0, 1.0), (0.5, 3 / 4), (1e-6, 3 / 4), (2.0, 2.0)])
def test_floor_of_the_sum_of_weights(floor, divisor):
    """One positive of IoU 3/4: MMDetection's ATSS and GFL divide by at least 1, its FCOS by at least 1e-6."""
    prediction, ground_truth, sizes = pair()
    ground_truth = GroundTruthBatch(ground_truth.boxes, ground_truth.labels, torch.tensor([[True, False]]))
    loss = terms(box=Term(giou_loss, weight_by="iou", min_normalizer=floor))((prediction, ground_truth, sizes))["box"]
    assert loss.item() == pytest.approx(3 / 4 * 1 / 4 / divisor, rel=1e-6)


def test_no_positives_give_zero_weighted_terms():
    prediction, ground_truth, sizes = pair()
    ground_truth = GroundTruthBatch(ground_truth.boxes, ground_truth.labels, torch.zeros(1, 2, dtype=torch.bool))
    for by in MEASURES:
        rule = terms(
            box=Term(giou_loss, weight_by=by, min_normalizer=1e-6), quality=Term(bce_loss, target="centerness")
        )
        losses = rule((prediction, ground_truth, sizes))
        assert losses["box"].item() == losses["quality"].item() == 0
        total(losses).backward()
        assert prediction.raw.grad.isfinite().all()


@pytest.mark.parametrize("towards, target", [("iou", IOU), ("centerness", CENTERNESS), ("score", SCORE)])
def test_quality_is_trained_towards_a_measure(towards, target):
    """BCE at u = 3/4 towards t: t (2 ln 2 - ln 3) + (1 - t) 2 ln 2 = 2 ln 2 - t ln 3; of the positives, by N = 2."""
    loss = terms(quality=Term(bce_loss, 3.0, target=towards))(pair())["quality"]
    assert loss.item() == pytest.approx(3 * (2 * 2 * LN2 - sum(target) * LN3) / 2, rel=1e-6)


@pytest.mark.parametrize("by, share", [(None, (1, 1)), ("iou", IOU), ("centerness", CENTERNESS)])
def test_guided_class_loss(by, share):
    """Implicit variants of GFL table 1a: labels stay one-hot, positives count by their measure, negatives 1, by N."""
    loss = terms(**{"class": Term(focal_loss, weight_by=by)})(pair())["class"]
    assert loss.item() == pytest.approx((share[0] * FIRST + share[1] * SECOND + THIRD) / 2, rel=1e-6)
    assert loss.requires_grad


def test_guided_class_loss_sends_no_gradient_to_the_boxes():
    case = pair()
    loss = terms(**{"class": Term(focal_loss, weight_by="iou")})(case)["class"]
    assert torch.autograd.grad(loss, case[0].raw, allow_unused=True) == (None,)


def test_joint_class_loss_with_qfl():
    """GFL section 3: the target is the IoU at the true class, 0 elsewhere: |y - s|^2 BCE(s, y)."""
    case = pair()
    loss = terms(target=soft, **{"class": Term(quality_focal_loss)})(case)["class"]
    true = sum((u - 1 / 2) ** 2 * LN2 for u in IOU)  # s = 1/2
    other = (3 / 4) ** 2 * 2 * LN2 + 3 * (1 / 2) ** 2 * LN2
    assert loss.item() == pytest.approx((true + other) / 2, rel=1e-6)
    assert torch.autograd.grad(loss, case[0].raw, allow_unused=True) == (None,)  # the target is detached


@pytest.mark.parametrize(
    "count, images, divisor",
    [
        ("batch", False, 2),  # positives of the batch
        ("images", False, 3),  # the empty image counts as one
        ("batch", True, 4),  # FoveaBox: positives and images
        ("images", True, 5),
    ],
)
def test_what_the_class_loss_is_divided_by(count, images, divisor):
    """Two images, two positives in the first, none in the second."""
    loss = terms(count=count, count_images=images, **{"class": Term(focal_loss)})(pair(images=2))["class"]
    assert loss.item() == pytest.approx((FIRST + SECOND + THIRD + 3 * THIRD) / divisor, rel=1e-6)


def test_images_count_in_the_class_term_alone():
    with_images = terms(count="batch", count_images=True, **{"class": Term(focal_loss)}, box=Term(giou_loss))(
        pair(images=2)
    )
    assert with_images["box"].item() == pytest.approx(sum(GIOU_LOSS) / 2, rel=1e-6)


def test_a_batch_without_objects_is_divided_by_at_least_one():
    prediction, ground_truth, sizes = pair()
    ground_truth = GroundTruthBatch(ground_truth.boxes, ground_truth.labels, torch.zeros(1, 2, dtype=torch.bool))
    for count in ("batch", "images"):
        loss = terms(count=count)((prediction, ground_truth, sizes))["class"]
        expected = 5 * focal(0.5, 0) + focal(0.75, 0)
        assert loss.item() == pytest.approx(expected, rel=1e-6)


def test_weights_scale_their_terms_and_the_sum_is_minimised():
    parts = {"class": Term(focal_loss, 2.0), "box": Term(giou_loss, 3.0)}
    losses = terms(**parts)(pair())
    expected = 2 * (FIRST + SECOND + THIRD) / 2 + 3 * sum(GIOU_LOSS) / 2
    assert total(losses).item() == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize(
    "box, loss, expected",
    [
        # sides of the ground truths from the centres in cells of 8 px: 1, 1, 1, 1/2 and 1, 1, 1, 1/4
        (General(n=4, delta=1.0), distribution_focal_loss, (math.log(5), math.log(5))),  # flat whatever the target
        (Gaussian(), gaussian_loss, ((3 + 1 / 4) / 2, (3 + 1 / 16) / 2)),  # mean 0, variance 1
        (Distance(activation="none"), smooth_l1_loss, (3 * 0.945 + 0.445, 3 * 0.945 + 0.195)),
    ],
)
def test_code_terms_of_the_representations(box, loss, expected):
    """The code term is of the representation's own code: bins for General, distances for the others."""
    prediction, ground_truth, sizes = pair()
    raw = torch.zeros(1, 3, box.channels, requires_grad=True)
    prediction = replace(prediction, raw=raw, box=box)
    rule = supervision(MaxIoU(), hard, {"class": Term(focal_loss), "encoding": Term(loss)})
    assert rule(prediction, ground_truth, sizes)["encoding"].item() == pytest.approx(sum(expected) / 2, rel=1e-5)


def test_ignored_locations_take_no_part_in_a_guided_class_loss():
    prediction, ground_truth, sizes = pair()

    def matches(*_):
        return torch.tensor([[0, IGNORED, BACKGROUND]])

    rule = supervision(matches, hard, {"class": Term(focal_loss, weight_by="iou")})
    assert rule(prediction, ground_truth, sizes)["class"].item() == pytest.approx(IOU[0] * FIRST + THIRD, rel=1e-6)


def test_hard_negatives_by_hand():
    """Of each image as many negatives as asked for a positive, those of the highest loss; ignored ones never."""
    ln = math.log
    corner = torch.arange(5.0)[:, None] * torch.tensor([20.0, 0])
    priors = Priors(torch.cat([corner, corner + 16], -1), corner, torch.full((5,), 8.0), (5,))
    # scores of the background: 1/2 at the positive, then 1/3, 1/5, 1/4, 1/9
    odds = torch.tensor([1.0, 2, 4, 3, 8]).log()
    cls = torch.stack([odds, torch.zeros(5)], -1).repeat(2, 1, 1).requires_grad_()
    matches = torch.tensor([[0, BACKGROUND, BACKGROUND, BACKGROUND, IGNORED], [BACKGROUND] * 5])
    boxes = torch.cat([corner, corner + 16], -1)[:1].expand(2, 1, 4)
    ground_truth = GroundTruthBatch(boxes, torch.zeros(2, 1, dtype=torch.int64), torch.tensor([[True], [False]]))
    prediction = Prediction(cls, torch.zeros(2, 5, 4), None, priors, Delta(), background=True)

    def loss(negatives):
        rule = supervision(lambda *_: matches, hard, {"class": Term(softmax_loss)}, "batch", negatives=negatives)
        return rule(prediction, ground_truth, torch.full((2, 2), 200))["class"]

    assert loss(1).item() == pytest.approx(ln(2) + ln(5))  # the image without objects gives none
    assert loss(2).item() == pytest.approx(ln(2) + ln(5) + ln(4))
    assert loss(1.5).item() == pytest.approx(ln(2) + ln(5) + ln(4))  # what one and a half reach into
    assert loss(7).item() == pytest.approx(ln(2) + ln(5) + ln(4) + ln(3))
    assert loss(None).item() == pytest.approx(ln(2) + ln(5) + ln(4) + ln(3) + ln(2 * 3 * 5 * 4 * 9))
    (slope,) = torch.autograd.grad(loss(1), cls)
    assert [bool(row.any()) for row in slope[0]] == [True, False, True, False, False] and not slope[1].any()
