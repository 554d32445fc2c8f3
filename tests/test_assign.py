import torch

from qrepro.assign import BACKGROUND, IGNORED, MaxIoU
from qrepro.boxes import Priors, Truths


def truths_of(boxes, labels, images=1):
    boxes = torch.as_tensor(boxes, dtype=torch.float32).reshape(1, -1, 4).expand(images, -1, 4)
    labels = torch.as_tensor(labels).reshape(1, -1).expand(images, -1)
    return Truths(boxes, labels, torch.ones(labels.shape, dtype=torch.bool))


def priors_of(boxes):
    boxes = torch.as_tensor(boxes, dtype=torch.float32)
    return Priors(boxes, boxes[:, :2], torch.ones(len(boxes)), (len(boxes),))


def test_max_iou_equals_mmdetection(golden):
    ref = golden("assign")
    priors = priors_of(ref["retina9_anchors"])
    usable = torch.ones(1, len(priors.boxes), dtype=torch.bool)
    match = MaxIoU()(priors, truths_of(ref["gt_boxes"], ref["gt_labels"]), usable)[0]
    expected = ref["retina9_assigned"]  # 0 background, -1 ignored, i + 1 matched to i
    assert torch.equal(match, torch.where(expected > 0, expected - 1, torch.where(expected == 0, BACKGROUND, IGNORED)))


def test_max_iou_by_hand():
    priors = priors_of(
        [[0, 0, 10, 10], [0, 0, 10, 9], [0, 0, 10, 4.5], [0, 0, 10, 3], [50, 50, 60, 60], [52, 50, 62, 60]]
    )
    truths = truths_of([[0, 0, 10, 10], [50, 50, 53, 60]], [0, 1])
    usable = torch.tensor([[True] * 6])
    # IoU with truth 0: 1, .9, .45, .3, 0, 0; with truth 1: 0, 0, 0, 0, .3, 1/12: its best prior is the fifth
    assert MaxIoU()(priors, truths, usable)[0].tolist() == [0, 0, IGNORED, BACKGROUND, 1, BACKGROUND]
    assert MaxIoU(best_prior=False)(priors, truths, usable)[0].tolist() == [0, 0, IGNORED] + [BACKGROUND] * 3
    usable[0, [0, 4]] = False
    assert MaxIoU()(priors, truths, usable)[0].tolist() == [IGNORED, 0, IGNORED, BACKGROUND, IGNORED, 1]


def test_truth_that_no_prior_touches_claims_nothing():
    priors = priors_of([[0, 0, 10, 10], [20, 20, 30, 30]])
    match = MaxIoU()(priors, truths_of([[90, 90, 99, 99]], [0]), torch.ones(1, 2, dtype=torch.bool))
    assert match[0].tolist() == [BACKGROUND, BACKGROUND]


def test_padded_truths_and_empty_images_are_background():
    priors = priors_of([[0, 0, 10, 10]])
    truths = truths_of([[0, 0, 10, 10]], [0])
    hidden = Truths(truths.boxes, truths.labels, torch.zeros(1, 1, dtype=torch.bool))
    assert MaxIoU()(priors, hidden, torch.ones(1, 1, dtype=torch.bool)).tolist() == [[BACKGROUND]]
    none = Truths(torch.zeros(2, 0, 4), torch.zeros(2, 0, dtype=torch.int64), torch.zeros(2, 0, dtype=torch.bool))
    assert MaxIoU()(priors, none, torch.tensor([[True], [False]])).tolist() == [[BACKGROUND], [IGNORED]]


def test_images_of_a_batch_do_not_mix():
    priors = priors_of([[0, 0, 10, 10], [20, 20, 30, 30]])
    boxes = torch.tensor([[[0.0, 0, 10, 10]], [[20, 20, 30, 30]]])
    truths = Truths(boxes, torch.zeros(2, 1, dtype=torch.int64), torch.ones(2, 1, dtype=torch.bool))
    match = MaxIoU()(priors, truths, torch.ones(2, 2, dtype=torch.bool))
    assert match.tolist() == [[0, BACKGROUND], [BACKGROUND, 0]]
