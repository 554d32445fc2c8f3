import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from qrepro.assign import ATSS, BACKGROUND, IGNORED, Fovea, MaxIoU, NearestPoint, Ranges
from qrepro.ground_truth import GroundTruthBatch
from qrepro.priors import Anchors, Points, Priors

CPU = torch.device("cpu")
SQUARES = Anchors(scale=8, octaves=1, ratios=(1.0,), centre=0.0)


def ground_truth_of(boxes, labels, images=1):
    boxes = torch.as_tensor(boxes, dtype=torch.float32).reshape(1, -1, 4).expand(images, -1, 4)
    labels = torch.as_tensor(labels).reshape(1, -1).expand(images, -1)
    return GroundTruthBatch(boxes, labels, torch.ones(labels.shape, dtype=torch.bool))


def priors_of(boxes):
    boxes = torch.as_tensor(boxes, dtype=torch.float32)
    return Priors(boxes, boxes[:, :2], torch.ones(len(boxes)), (len(boxes),))


def test_max_iou_equals_mmdetection(golden):
    ref = golden("assign")
    priors = priors_of(ref["retina9_anchors"])
    usable = torch.ones(1, len(priors.boxes), dtype=torch.bool)
    match = MaxIoU()(priors, ground_truth_of(ref["gt_boxes"], ref["gt_labels"]), usable)[0]
    expected = ref["retina9_assigned"]  # 0 background, -1 ignored, i + 1 matched to i
    assert torch.equal(match, torch.where(expected > 0, expected - 1, torch.where(expected == 0, BACKGROUND, IGNORED)))


def test_max_iou_by_hand():
    priors = priors_of(
        [[0, 0, 10, 10], [0, 0, 10, 9], [0, 0, 10, 4.5], [0, 0, 10, 3], [50, 50, 60, 60], [52, 50, 62, 60]]
    )
    ground_truth = ground_truth_of([[0, 0, 10, 10], [50, 50, 53, 60]], [0, 1])
    usable = torch.tensor([[True] * 6])
    # IoU with object 0: 1, .9, .45, .3, 0, 0; with object 1: 0, 0, 0, 0, .3, 1/12: its best prior is the fifth
    assert MaxIoU()(priors, ground_truth, usable)[0].tolist() == [0, 0, IGNORED, BACKGROUND, 1, BACKGROUND]
    assert MaxIoU(best_prior=False)(priors, ground_truth, usable)[0].tolist() == [0, 0, IGNORED] + [BACKGROUND] * 3
    usable[0, [0, 4]] = False
    assert MaxIoU()(priors, ground_truth, usable)[0].tolist() == [IGNORED, 0, IGNORED, BACKGROUND, IGNORED, 1]


def test_truth_that_no_prior_touches_claims_nothing():
    priors = priors_of([[0, 0, 10, 10], [20, 20, 30, 30]])
    match = MaxIoU()(priors, ground_truth_of([[90, 90, 99, 99]], [0]), torch.ones(1, 2, dtype=torch.bool))
    assert match[0].tolist() == [BACKGROUND, BACKGROUND]


def test_padded_truths_and_empty_images_are_background():
    priors = priors_of([[0, 0, 10, 10]])
    ground_truth = ground_truth_of([[0, 0, 10, 10]], [0])
    hidden = GroundTruthBatch(ground_truth.boxes, ground_truth.labels, torch.zeros(1, 1, dtype=torch.bool))
    assert MaxIoU()(priors, hidden, torch.ones(1, 1, dtype=torch.bool)).tolist() == [[BACKGROUND]]
    none = GroundTruthBatch(
        torch.zeros(2, 0, 4), torch.zeros(2, 0, dtype=torch.int64), torch.zeros(2, 0, dtype=torch.bool)
    )
    assert MaxIoU()(priors, none, torch.tensor([[True], [False]])).tolist() == [[BACKGROUND], [IGNORED]]


def test_images_of_a_batch_do_not_mix():
    priors = priors_of([[0, 0, 10, 10], [20, 20, 30, 30]])
    boxes = torch.tensor([[[0.0, 0, 10, 10]], [[20, 20, 30, 30]]])
    ground_truth = GroundTruthBatch(boxes, torch.zeros(2, 1, dtype=torch.int64), torch.ones(2, 1, dtype=torch.bool))
    match = MaxIoU()(priors, ground_truth, torch.ones(2, 2, dtype=torch.bool))
    assert match.tolist() == [[0, BACKGROUND], [BACKGROUND, 0]]


# What all assigners share


ALL = {
    "max_iou": (MaxIoU(), Points()),
    "atss": (ATSS(), Points(scale=4.0)),
    "ranges": (Ranges(ranges=((0, 1), (0.5, 1e8))), Points()),
    "fovea": (Fovea(ranges=((0.0625, 4), (1, 8))), Points(scale=2.0)),
    "nearest_point": (NearestPoint(), Points(scale=4.0)),
}


@pytest.fixture(params=ALL)
def small(request):
    """Each assigner, and its priors on maps of 8 x 8 and 4 x 4 cells of an image of 64 x 64 px."""
    assigner, prior = ALL[request.param]
    return assigner, prior([(8, 8), (4, 4)], (8, 16), CPU)


def batch_of(boxes, valid):
    boxes = torch.tensor(boxes, dtype=torch.float32)
    return GroundTruthBatch(boxes, torch.zeros(boxes.shape[:2], dtype=torch.int64), torch.tensor(valid))


def test_images_without_truths_are_background_where_usable(small):
    assigner, priors = small
    usable = torch.ones(2, 80, dtype=torch.bool)
    usable[1, 40:] = False
    expected = torch.where(usable, BACKGROUND, IGNORED)
    none = GroundTruthBatch(
        torch.zeros(2, 0, 4), torch.zeros(2, 0, dtype=torch.int64), torch.zeros(2, 0, dtype=torch.bool)
    )
    assert torch.equal(assigner(priors, none, usable), expected)
    hidden = batch_of([[[8, 8, 40, 40]], [[0, 0, 0, 0]]], [[False], [False]])
    assert torch.equal(assigner(priors, hidden, usable), expected)


def test_padded_truths_and_other_images_change_nothing(small):
    """A ground truth is matched as if it were alone, whatever stands in the padding and in the rest of the batch."""
    assigner, priors = small
    usable = torch.ones(3, 80, dtype=torch.bool)
    box, other = [9.0, 11, 41, 40], [3.0, 3, 30, 33]
    alone = assigner(priors, batch_of([[box]], [[True]]), usable[:1])[0]
    assert (alone == 0).any()
    ground_truth = batch_of(
        [[other, box, other], [box, [0.0] * 4, [0.0] * 4], [other, other, other]],
        [[False, True, False], [True, False, False], [True, False, False]],
    )
    matches = assigner(priors, ground_truth, usable)
    assert torch.equal(matches[0], torch.where(alone == 0, 1, alone))
    assert torch.equal(matches[1], alone)
    assert not torch.equal(matches[2], alone) and (matches[2] == 0).any() and (matches[2] <= 0).all()


def test_unusable_locations_are_ignored(small):
    assigner, priors = small
    ground_truth = batch_of([[[9, 11, 41, 40]]], [[True]])
    matched = assigner(priors, ground_truth, torch.ones(1, 80, dtype=torch.bool)) == 0
    matches = assigner(priors, ground_truth, ~matched)
    assert (matches[matched] == IGNORED).all()


def random_ground_truth(seed, count, width, height, smallest=4.0, largest=200.0):
    """A batch of two images with `count` ground truths each, of which the second shows every other."""
    generator = np.random.default_rng(seed)
    centre = generator.uniform(0, [width, height], (2, count, 2))
    size = np.exp(generator.uniform(math.log(smallest), math.log(largest), (2, count, 2)))
    boxes = np.concatenate([centre - size / 2, centre + size / 2], -1).clip(0, [width, height] * 2)
    valid = np.array([[True] * count, [i % 2 == 0 for i in range(count)]])
    return batch_of(boxes.astype(np.float32), valid)


# ATSS


def test_atss_equals_mmdetection(golden):
    ref = golden("assign")
    priors = SQUARES([tuple(s) for s in ref["feature_sizes"].tolist()], (8, 16, 32, 64, 128), CPU)
    torch.testing.assert_close(priors.boxes, ref["atss1_anchors"])
    usable = torch.ones(1, len(priors.boxes), dtype=torch.bool)
    match = ATSS()(priors, ground_truth_of(ref["gt_boxes"], ref["gt_labels"]), usable)[0]
    assert torch.equal(match, ref["atss1_assigned"] - 1)  # theirs: 0 negative, i + 1 matched to i


def test_atss_of_fewer_priors_than_candidates_by_hand():
    """Two levels of two and one priors: all three are candidates.

    IoU with the ground truth: 1, 1/3, 1/4; mean 19/36, sample standard deviation 0.410: only the first reaches 0.938.
    """
    boxes = [[0, 0, 16, 16], [8, 0, 24, 16], [0, 0, 32, 32]]
    priors = Priors(torch.tensor(boxes, dtype=torch.float32), torch.zeros(3, 2), torch.ones(3), (2, 1))
    ground_truth, usable = ground_truth_of([[0, 0, 16, 16]], [0]), torch.ones(1, 3, dtype=torch.bool)
    assert ATSS()(priors, ground_truth, usable)[0].tolist() == [0, BACKGROUND, BACKGROUND]
    # without the first: 1/3, 1/4; mean 0.2917, deviation 0.0589 (divided by n - 1): 0.3506 is out of reach;
    # nor would the centre (16, 8) lie inside
    usable[0, 0] = False
    assert ATSS()(priors, ground_truth, usable)[0].tolist() == [IGNORED, BACKGROUND, BACKGROUND]


def test_atss_deviation_is_that_of_a_sample():
    """IoU 1, 0.6 and 0: mean 0.533, squares 0.507 in all. Divided by n - 1 the deviation is 0.503 and even the first
    stays below 1.037; by n it would be 0.411, and the first positive."""
    priors = priors_of([[0, 0, 16, 16], [4, 0, 20, 16], [40, 0, 56, 16]])
    match = ATSS()(priors, ground_truth_of([[0, 0, 16, 16]], [0]), torch.ones(1, 3, dtype=torch.bool))
    assert match.tolist() == [[BACKGROUND] * 3]


def test_atss_unusable_priors_are_no_candidates():
    """The case above and four priors of IoU 0 in the padding, which would lower the threshold to .636."""
    far = [[x, 0, x + 16, 16] for x in (60, 80, 100, 120)]
    priors = priors_of([[0, 0, 16, 16], [4, 0, 20, 16], [40, 0, 56, 16], *far])
    usable = torch.tensor([[True] * 3 + [False] * 4])
    match = ATSS()(priors, ground_truth_of([[0, 0, 16, 16]], [0]), usable)
    assert match.tolist() == [[BACKGROUND] * 3 + [IGNORED] * 4]


def test_atss_takes_the_nearest_of_each_level_and_only_centres_inside():
    """One candidate on each of two levels: only equal IoUs reach the threshold (a + b) / 2 + |a - b| / sqrt(2)."""
    boxes = torch.tensor([[0.0, 0, 16, 16], [2, 0, 18, 16], [0, 0, 16, 16], [0, 4, 16, 20]])
    priors = Priors(boxes, torch.zeros(4, 2), torch.ones(4), (2, 2))
    usable = torch.ones(1, 4, dtype=torch.bool)
    top = ATSS(top=1)
    assert top(priors, ground_truth_of([[0, 0, 16, 16]], [0]), usable)[0].tolist() == [0, BACKGROUND, 0, BACKGROUND]
    # the centre (8, 8) of both lies on the left side of this ground truth, which none of the others is nearer to
    assert top(priors, ground_truth_of([[8, 0, 10, 16]], [0]), usable)[0, [0, 2]].tolist() == [BACKGROUND] * 2
    wide = ATSS(top=1, inside=7.9)(priors, ground_truth_of([[0, 0, 16, 16]], [0]), usable)
    assert wide[0].tolist() == [0, BACKGROUND, 0, BACKGROUND]
    strict = ATSS(top=1, inside=8.0)(priors, ground_truth_of([[0, 0, 16, 16]], [0]), usable)
    assert (strict == BACKGROUND).all()


def atss_by_loops(priors: Priors, boxes, usable, top=9):
    """Algorithm 1 of arXiv 1912.02424 for one image, ground truth by ground truth, in float64."""
    anchors, level = priors.boxes.double().numpy(), priors.level().numpy()
    centres = (anchors[:, :2] + anchors[:, 2:]) / 2
    best = np.full(len(anchors), -1.0)
    match = np.where(usable, BACKGROUND, IGNORED)
    for number, truth in enumerate(boxes):
        if truth is None:
            continue
        overlap = np.minimum(anchors[:, 2:], truth[2:]) - np.maximum(anchors[:, :2], truth[:2])
        inter = overlap.clip(0).prod(1)
        iou = inter / ((anchors[:, 2:] - anchors[:, :2]).prod(1) + (truth[2:] - truth[:2]).prod() - inter)
        away = np.hypot(*(centres - (truth[:2] + truth[2:]) / 2).T)
        candidates = []
        for one in range(level.max() + 1):
            members = [i for i in range(len(anchors)) if level[i] == one and usable[i]]
            candidates += sorted(members, key=lambda i: away[i])[:top]
        threshold = iou[candidates].mean() + iou[candidates].std(ddof=1)
        for i in candidates:
            within = min(*(centres[i] - truth[:2]), *(truth[2:] - centres[i])) > 0.01
            if iou[i] >= threshold and within and iou[i] > best[i]:
                best[i], match[i] = iou[i], number
    return match.tolist()


def test_atss_equals_plain_loops():
    """Crowded images, so that priors are claimed twice; the second has invalid ground truths and padding."""
    priors = SQUARES([(16, 20), (8, 10), (4, 5), (2, 3), (1, 2)], (8, 16, 32, 64, 128), CPU)
    ground_truth = random_ground_truth(0, 30, 160, 128)
    usable = priors.inside(torch.tensor([[128, 160], [96, 112]]))
    matches = ATSS()(priors, ground_truth, usable)
    assert (matches >= 0).sum() > 100
    for image in range(2):
        boxes = [
            b.double().numpy() if v else None
            for b, v in zip(ground_truth.boxes[image], ground_truth.valid[image], strict=True)
        ]
        assert matches[image].tolist() == atss_by_loops(priors, boxes, usable[image].numpy())


def test_atss_prior_of_two_truths_goes_to_the_larger_overlap():
    """Both ground truths hold the only prior, whose IoU with them is 1/4 and 1/2, and single candidates pass.

    No deviation.
    """
    priors = priors_of([[0, 0, 16, 16]])
    usable = torch.ones(1, 1, dtype=torch.bool)
    assert ATSS()(priors, ground_truth_of([[0, 0, 32, 32], [0, 0, 16, 32]], [0, 1]), usable).tolist() == [[1]]
    assert ATSS()(priors, ground_truth_of([[0, 0, 16, 32], [0, 0, 32, 32]], [0, 1]), usable).tolist() == [[0]]
    assert ATSS()(priors, ground_truth_of([[0, 0, 16, 32], [0, 0, 16, 32]], [0, 1]), usable).tolist() == [[0]]


# FCOS


def grid(matches, priors, level, shape):
    """The matches (R,) of a level as rows of cells."""
    start = sum(priors.counts[:level])
    return matches[start : start + priors.counts[level]].reshape(shape).tolist()


B = BACKGROUND


def test_ranges_plain_fcos_by_hand():
    """Points at 4, 12, 20, 28 px.

    The ground truth spans x 2 ... 22, y 10 ... 22: x = 4, 12, 20 and y = 12, 20 lie inside.
    """
    priors = Points()([(4, 4)], (8,), CPU)
    matches = Ranges(ranges=((0, 1),), radius=None)(
        priors, ground_truth_of([[2, 10, 22, 22]], [0]), torch.ones(1, 16) > 0
    )[0]
    assert grid(matches, priors, 0, (4, 4)) == [[B, B, B, B], [0, 0, 0, B], [0, 0, 0, B], [B, B, B, B]]


def test_ranges_exclude_points_on_a_side():
    """x 4 ... 20 and y 4 ... 28 run through points at 4, 20 and 28, which lie on the sides and not inside."""
    priors = Points()([(4, 4)], (8,), CPU)
    matches = Ranges(ranges=((0, 1),), radius=None)(
        priors, ground_truth_of([[4, 4, 20, 28]], [0]), torch.ones(1, 16) > 0
    )[0]
    assert grid(matches, priors, 0, (4, 4)) == [[B, B, B, B], [B, 0, B, B], [B, 0, B, B], [B, B, B, B]]


def test_ranges_centre_sampling_by_hand():
    """Centre of the object (12, 16). One stride of 8 px around it: x 4 ... 20 and y 8 ... 24, strictly inside: x = 12,
    y = 12 and 20; within the ground truth, whose y ends at 22. Radius 1.5: x 0 ... 24 takes 4, 12, 20."""
    priors = Points()([(4, 4)], (8,), CPU)
    usable = torch.ones(1, 16) > 0
    ground_truth = ground_truth_of([[2, 10, 22, 22]], [0])
    one = Ranges(ranges=((0, 1),), radius=1.0)(priors, ground_truth, usable)[0]
    assert grid(one, priors, 0, (4, 4)) == [[B, B, B, B], [B, 0, B, B], [B, 0, B, B], [B, B, B, B]]
    wide = Ranges(ranges=((0, 1),), radius=1.5)(priors, ground_truth, usable)[0]
    assert grid(wide, priors, 0, (4, 4)) == [[B, B, B, B], [0, 0, 0, B], [0, 0, 0, B], [B, B, B, B]]
    low = ground_truth_of(
        [[2, 13, 22, 19]], [0]
    )  # no row of points in y 13 ... 19, though y 8 ... 24 of the radius has two
    assert (Ranges(ranges=((0, 1),), radius=1.0)(priors, low, usable) == B).all()


def test_ranges_smallest_truth_wins_whatever_the_order():
    priors = Points()([(4, 4)], (8,), CPU)
    usable = torch.ones(1, 16) > 0
    large, tiny = [0, 0, 32, 32], [8, 8, 24, 16]
    rule = Ranges(ranges=((0, 1),), radius=None)
    for order, (big, little) in (([large, tiny], (0, 1)), ([tiny, large], (1, 0))):
        matches = rule(priors, ground_truth_of(order, [0, 1]), usable)[0]
        expected = [[big] * 4, [big, little, little, big], [big] * 4, [big] * 4]
        assert grid(matches, priors, 0, (4, 4)) == expected


def test_ranges_hold_their_borders():
    """Default ranges are 0 ... 64, 64 ... 128 px: a largest distance of 64 px belongs to both levels, of 63 to the
    first, of 65 to the second. Points of stride 8 and 16 at (36, 36) and (40, 40)."""
    priors = Points()([(16, 16), (8, 8)], (8, 16), CPU)
    rule = Ranges(ranges=Ranges().ranges[:2], radius=None)
    at = [4 * 16 + 4, 256 + 2 * 8 + 2]
    assert priors.centres()[at].tolist() == [[36, 36], [40, 40]]
    found = {}
    for reach in (63, 64, 65, 128, 129):
        pair = []
        for point in (36, 40):
            ground_truth = ground_truth_of([[point - 10, point - 10, point + reach, point + 10]], [0])
            matches = rule(priors, ground_truth, torch.ones(1, 320) > 0)[0]
            pair.append(matches[at[len(pair)]].item() == 0)
        found[reach] = pair
    assert found == {
        63: [True, False], 64: [True, True], 65: [False, True], 128: [False, True], 129: [False, False]
    }  # fmt: skip


def test_default_ranges_are_those_of_the_papers():
    """In px at strides 8 ... 128: FCOS section 3.1, with priors of 8 strides; FoveaBox with priors of 2 strides."""
    strides = (8, 16, 32, 64, 128)
    fcos = [[low * 8 * s, high * 8 * s] for (low, high), s in zip(Ranges().ranges, strides, strict=True)]
    assert fcos[:4] == [[0, 64], [64, 128], [128, 256], [256, 512]] and fcos[4][0] == 512 and fcos[4][1] > 1e9
    fovea = [[low * 2 * s, high * 2 * s] for (low, high), s in zip(Fovea().ranges, strides, strict=True)]
    assert fovea == [[1, 64], [32, 128], [64, 256], [128, 512], [256, 2048]]


@pytest.mark.parametrize("rule", [Ranges(), Fovea()])
def test_one_range_per_level_is_asked_for(rule):
    priors = Points()([(2, 2), (1, 1)], (8, 16), CPU)
    with pytest.raises(ValueError, match="5 ranges for 2 levels"):
        rule(priors, ground_truth_of([[0, 0, 8, 8]], [0]), torch.ones(1, 5) > 0)


def ranges_by_loops(priors, boxes, usable, ranges, radius):
    """FCOS for one image, location by location; ranges in px."""
    match = []
    for (x, y), stride, level, use in zip(
        priors.centres().tolist(), priors.stride.tolist(), priors.level().tolist(), usable, strict=True
    ):
        least, chosen = math.inf, BACKGROUND
        for number, box in enumerate(boxes):
            if box is None:
                continue
            x1, y1, x2, y2 = box
            sides = (x - x1, y - y1, x2 - x, y2 - y)
            fits = min(sides) > 0 and ranges[level][0] <= max(sides) <= ranges[level][1]
            if radius is not None:
                fits &= abs(x - (x1 + x2) / 2) < radius * stride and abs(y - (y1 + y2) / 2) < radius * stride
            if fits and (x2 - x1) * (y2 - y1) < least:
                least, chosen = (x2 - x1) * (y2 - y1), number
        match.append(chosen if use else IGNORED)
    return match


PYRAMID = [(16, 20), (8, 10), (4, 5), (2, 3), (1, 2)], (8, 16, 32, 64, 128), CPU


@pytest.mark.parametrize("radius", [None, 0.5, 1.5])
def test_ranges_equal_plain_loops(radius):
    priors, ground_truth = Points()(*PYRAMID), random_ground_truth(1, 20, 160, 128)
    usable = priors.inside(torch.tensor([[128, 160], [96, 112]]))
    matches = Ranges(radius=radius)(priors, ground_truth, usable)
    px = ((0, 64), (64, 128), (128, 256), (256, 512), (512, math.inf))
    for image in range(2):
        boxes = [
            b.tolist() if v else None for b, v in zip(ground_truth.boxes[image], ground_truth.valid[image], strict=True)
        ]
        assert matches[image].tolist() == ranges_by_loops(priors, boxes, usable[image].tolist(), px, radius)


# FoveaBox


def test_fovea_shrunk_region_by_hand():
    """Cell centres at 4, 12 ... 60 px. The object 0 ... 48 by 8 ... 56 shrinks to 24 -+ 0.4 * 24 = 14.4 ... 33.6 and
    32 -+ 9.6 = 22.4 ... 41.6 px: centres x = 20, 28 and y = 28, 36. Its side of 48 px suits the first level (1 ... 64)
    and the second (32 ... 128), where the centres are 8, 24, 40, 56: x = 24, y = 24 and 40."""
    priors = Points(scale=2.0)([(8, 8), (4, 4)], (8, 16), CPU)
    rule = Fovea(ranges=Fovea().ranges[:2])
    matches = rule(priors, ground_truth_of([[0, 8, 48, 56]], [0]), torch.ones(1, 80) > 0)[0]
    expected = [[0 if x in (2, 3) and y in (3, 4) else B for x in range(8)] for y in range(8)]
    assert grid(matches, priors, 0, (8, 8)) == expected
    assert grid(matches, priors, 1, (4, 4)) == [[B, B, B, B], [B, 0, B, B], [B, 0, B, B], [B, B, B, B]]


@pytest.mark.parametrize(
    "width, height, levels",
    [(31, 31, [0]), (16, 64, [0, 1]), (64, 64, [0, 1]), (16, 63, [0]), (65, 64, [1]), (128, 128, [1]), (129, 128, [])],
)
def test_fovea_levels_by_the_root_of_the_area(width, height, levels):
    priors = Points(scale=2.0)([(32, 32), (16, 16)], (8, 16), CPU)
    rule = Fovea(ranges=Fovea().ranges[:2])
    # around (92, 92), a cell centre of the first level; whole boxes, so that each has a centre on both levels
    box = [92 - width / 2, 92 - height / 2, 92 + width / 2, 92 + height / 2]
    whole = Fovea(ranges=rule.ranges, sigma=1.0)(priors, ground_truth_of([box], [0]), torch.ones(1, 1280) > 0)[0]
    assert priors.level()[whole == 0].unique().tolist() == levels


def test_fovea_smaller_object_wins_whatever_the_order():
    priors = Points(scale=2.0)([(8, 8)], (8,), CPU)
    rule = Fovea(ranges=((0.0625, 4),))
    large, tiny = [4, 4, 60, 60], [26, 26, 38, 38]  # 20.8 ... 43.2: centres 28, 36; and 29.6 ... 34.4: none
    least = [24, 24, 48, 40]  # 31.2 ... 40.8: x = 36; 28.8 ... 35.2: none
    mid = [20, 20, 44, 44]  # 27.2 ... 36.8: x, y = 28, 36
    assert (rule(priors, ground_truth_of([tiny, least], [0, 1]), torch.ones(1, 64) > 0) == B).all()
    narrow = [20, 0, 32, 56]  # 23.6 ... 28.4: x = 28; 16.8 ... 39.2: y = 20, 28, 36
    for order in ([large, mid, narrow], [narrow, mid, large], [mid, narrow, large]):
        matches = torch.tensor(
            grid(rule(priors, ground_truth_of(order, [0, 1, 2]), torch.ones(1, 64) > 0)[0], priors, 0, (8, 8))
        )
        # areas 3136, 576, 672
        assert (matches[3:5, 3:5] == order.index(mid)).all()
        assert matches[2, 3] == order.index(narrow)
        assert (matches >= 0).sum() == 5


def test_fovea_region_beyond_the_map_is_moved_to_its_border():
    """The authors' code clamps the first and last cell of a region to the map: an object whose region lies between the
    border and the first centre, at 4 px, takes the first cell; between two centres it takes none."""
    priors = Points(scale=2.0)([(4, 4)], (8,), CPU)
    rule = Fovea(ranges=((0.0625, 4),))
    matches = rule(priors, ground_truth_of([[0, 0, 4, 4]], [0]), torch.ones(1, 16) > 0)[0]  # 1.2 ... 2.8 px: no centre
    assert (matches >= 0).nonzero().flatten().tolist() == [0]
    inner = rule(priors, ground_truth_of([[8, 8, 12, 12]], [0]), torch.ones(1, 16) > 0)[0]  # 9.2 ... 10.8 px: no centre
    assert (inner == B).all()
    last = rule(priors, ground_truth_of([[29, 29, 32, 32]], [0]), torch.ones(1, 16) > 0)[
        0
    ]  # 29.9 ... 31.1 px: no centre
    assert (last >= 0).nonzero().flatten().tolist() == [15]


def fovea_by_loops(priors, shapes, boxes, usable, sigma=0.4):
    """FoveaBox as published for one image: objects painted on each level's map, the largest first; ranges in px."""
    ranges = ((1, 64), (32, 128), (64, 256), (128, 512), (256, 2048))
    match = []
    for (rows, columns), stride, (low, high) in zip(shapes, (8, 16, 32, 64, 128), ranges, strict=True):
        painted = np.full((rows, columns), BACKGROUND)
        sized = [(math.sqrt((b[2] - b[0]) * (b[3] - b[1])), i) for i, b in enumerate(boxes) if b is not None]
        for side, number in sorted(sized, reverse=True):
            if not low <= side <= high:
                continue
            spans = []
            for axis, cells in ((0, columns), (1, rows)):
                middle = (boxes[number][axis] + boxes[number][axis + 2]) / 2
                half = sigma * (boxes[number][axis + 2] - boxes[number][axis]) / 2
                first = math.ceil((middle - half) / stride - 0.5)  # the first cell with its centre in the region
                last = math.floor((middle + half) / stride - 0.5)
                spans.append(slice(min(max(first, 0), cells - 1), min(max(last, 0), cells - 1) + 1))
            painted[spans[1], spans[0]] = number
        match += painted.flatten().tolist()
    return [m if use else IGNORED for m, use in zip(match, usable, strict=True)]


@pytest.mark.parametrize("sigma", [0.2, 0.4, 1.0])
def test_fovea_equals_plain_loops(sigma):
    priors, ground_truth = (
        Points(scale=2.0)(*PYRAMID),
        random_ground_truth(2, 20, 160, 128, smallest=2.0, largest=1000.0),
    )
    usable = priors.inside(torch.tensor([[128, 160], [96, 112]]))
    matches = Fovea(sigma=sigma)(priors, ground_truth, usable)
    assert all((matches[:, priors.level() == level] >= 0).any() for level in range(3))
    for image in range(2):
        boxes = [
            b.tolist() if v else None for b, v in zip(ground_truth.boxes[image], ground_truth.valid[image], strict=True)
        ]
        assert matches[image].tolist() == fovea_by_loops(priors, PYRAMID[0], boxes, usable[image].tolist(), sigma)


# RepPoints


def test_max_iou_on_the_boxes_of_each_image_equals_a_call_for_each():
    """The final boxes of RepPoints are matched on the first ones, which every image has its own of."""
    priors, ground_truth = Points(scale=4.0)(*PYRAMID), random_ground_truth(3, 12, 160, 128)
    usable = priors.inside(torch.tensor([[128, 160], [96, 112]]))
    generator = torch.Generator().manual_seed(0)
    shift = 8 * torch.randn(2, len(priors.boxes), 2, generator=generator)
    scale = (0.5 * torch.randn(2, len(priors.boxes), 2, generator=generator)).exp()
    half = scale * (priors.boxes[:, 2:] - priors.boxes[:, :2]) / 2
    centre = priors.centres() + shift
    boxes = torch.cat([centre - half, centre + half], -1)
    for rule in (MaxIoU(), MaxIoU(best_prior=False), MaxIoU(positive=0.6, negative=0.3, min_best=0.2)):
        together = rule(replace(priors, boxes=boxes), ground_truth, usable)
        assert (together >= 0).any()
        for image in range(2):
            own = GroundTruthBatch(
                *(t[image : image + 1] for t in (ground_truth.boxes, ground_truth.labels, ground_truth.valid))
            )
            alone = rule(replace(priors, boxes=boxes[image]), own, usable[image : image + 1])
            assert torch.equal(together[image], alone[0])


def nearest_by_loops(priors: Priors, boxes, usable, number: int, scale: float = 4.0):
    """PointAssigner of MMDetection for one image: level by logarithms of width and height, then object by object.

    Points are what it is given: the usable ones. A point goes to a later object only where that is strictly nearer.
    """
    points, strides = priors.centres().double().numpy(), priors.stride.double().numpy()
    levels = np.log2(strides).astype(int)
    match = np.where(usable, BACKGROUND, IGNORED)
    recorded = np.full(len(points), np.inf)
    for index, box in enumerate(boxes):
        if box is None:
            continue
        centre, size = (box[:2] + box[2:]) / 2, np.maximum(box[2:] - box[:2], 1e-6)
        wanted = int((np.log2(size[0] / scale) + np.log2(size[1] / scale)) / 2)
        wanted = min(max(wanted, levels.min()), levels.max())
        members = np.flatnonzero((levels == wanted) & usable)
        away = np.linalg.norm((points[members] - centre) / size, axis=1)
        for i in np.argsort(away, kind="stable")[:number]:
            if away[i] < recorded[members[i]]:
                recorded[members[i]], match[members[i]] = away[i], index
    return match.tolist()


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10**6), st.sampled_from([1, 2, 5]), st.integers(1, 25), st.sampled_from([0.0, 0.5]))
def test_nearest_point_equals_plain_loops(seed, number, count, centre):
    """Crowded images too, where ground truths compete; the second has invalid ground truths and padding."""
    priors = Points(scale=4.0, centre=centre)(*PYRAMID)
    ground_truth = random_ground_truth(seed, count, 160, 128, largest=800.0)
    # less than a pixel aside, so that no ground truth has the image's own centre, from which points are equally far
    aside = torch.rand(ground_truth.boxes.shape, generator=torch.Generator().manual_seed(seed))
    ground_truth = replace(ground_truth, boxes=ground_truth.boxes + aside)
    usable = priors.inside(torch.tensor([[128, 160], [96, 112]]))
    matches = NearestPoint(number=number)(priors, ground_truth, usable)
    for image in range(2):
        boxes = [
            b.double().numpy() if v else None
            for b, v in zip(ground_truth.boxes[image], ground_truth.valid[image], strict=True)
        ]
        assert matches[image].tolist() == nearest_by_loops(priors, boxes, usable[image].numpy(), number)


@pytest.mark.parametrize(
    "width, height, level",
    [(4, 4, 0), (31, 32, 0), (63, 64, 0), (64, 64, 1), (32, 128, 1), (127, 128, 1), (128, 128, 2), (900, 900, 2)],
)
def test_nearest_point_level_by_the_root_of_the_area(width, height, level):
    """Sides of the priors 32, 64, 128 px. Below the first it is of the first level, beyond the last of the last."""
    priors = Points(scale=4.0)([(16, 16), (8, 8), (4, 4)], (8, 16, 32), CPU)
    box = [63 - width / 2, 62 - height / 2, 63 + width / 2, 62 + height / 2]
    matches = NearestPoint()(priors, ground_truth_of([box], [0]), torch.ones(1, 336) > 0)[0]
    assert priors.level()[matches == 0].tolist() == [level]
    stride = 8 * 2**level  # the cell that holds the ground truth's centre
    assert priors.cells[matches == 0].tolist() == [[63 // stride * stride, 62 // stride * stride]]


def test_nearest_point_measures_in_sides_of_the_truth():
    """Points at 4, 12, 20, 28 px. From (17, 9) they are 3, 3 px away at (20, 12), the nearest in either measure; next
    in px comes (12, 12) at (5, 3), but in sides of 4 x 40 px (20, 4) at (3 / 4, 5 / 40)."""
    priors = Points(scale=4.0)([(4, 4)], (8,), CPU)
    upright = [15, -11, 19, 29]
    one = NearestPoint()(priors, ground_truth_of([upright], [0]), torch.ones(1, 16) > 0)[0]
    two = NearestPoint(number=2)(priors, ground_truth_of([upright], [0]), torch.ones(1, 16) > 0)[0]
    assert (one == 0).nonzero().flatten().tolist() == [4 + 2]
    assert (two == 0).nonzero().flatten().tolist() == [2, 4 + 2]
    lying = [-3, 7, 37, 11]
    two = NearestPoint(number=2)(priors, ground_truth_of([lying], [0]), torch.ones(1, 16) > 0)[0]
    assert (two == 0).nonzero().flatten().tolist() == [4 + 1, 4 + 2]


def test_nearest_point_of_two_truths_goes_to_the_nearer_and_the_other_has_none():
    """Both want (12, 12): the centres (13, 13) and (11, 11.5) are 0.088 and 0.070 sides of 16 px away."""
    priors, usable = Points(scale=4.0)([(4, 4)], (8,), CPU), torch.ones(1, 16) > 0
    far, near = [5, 5, 21, 21], [3, 3.5, 19, 19.5]
    for order, winner in (([far, near], 1), ([near, far], 0), ([near, near], 0)):
        matches = NearestPoint()(priors, ground_truth_of(order, [0, 1]), usable)[0]
        assert (matches >= 0).nonzero().flatten().tolist() == [4 + 1]
        assert matches[5] == winner
    large = [-35, -35, 61, 61]  # (13, 13) again, of 96 px: 0.015 sides away
    assert NearestPoint()(priors, ground_truth_of([near, large], [0, 1]), usable)[0][5] == 1


def test_nearest_usable_point_is_taken():
    """From (11, 11.5) the points (12, 12), (4, 12), (12, 4), (12, 20) are 1.1, 7.02, 7.6, 8.6 px away."""
    priors, ground_truth = Points(scale=4.0)([(4, 4), (2, 2)], (8, 16), CPU), ground_truth_of([[3, 3.5, 19, 19.5]], [0])
    usable = torch.ones(1, 20) > 0
    for nearest in (5, 4, 1, 9):
        matches = NearestPoint()(priors, ground_truth, usable)[0]
        assert (matches == 0).nonzero().flatten().tolist() == [nearest]
        assert ((matches == IGNORED) == ~usable[0]).all()
        usable[0, nearest] = False
    usable[0, :16] = False  # none is left on its level: no other level is asked
    assert NearestPoint()(priors, ground_truth, usable)[0].tolist() == [IGNORED] * 16 + [BACKGROUND] * 4


def test_nearest_point_may_take_more_than_there_are():
    priors = Points(scale=4.0)([(2, 2), (1, 1)], (8, 16), CPU)
    matches = NearestPoint(number=9)(priors, ground_truth_of([[0, 0, 16, 16]], [0]), torch.ones(1, 5) > 0)[0]
    assert matches.tolist() == [0, 0, 0, 0, BACKGROUND]


def test_of_equal_best_priors_all_or_the_first_are_taken():
    """Two boxes of IoU 1/2 with the ground truth, below the threshold: SSD takes one of them."""
    priors = priors_of([[0, 0, 10, 5], [0, 5, 10, 10], [50, 50, 60, 60]])
    ground_truth, usable = ground_truth_of([[0, 0, 10, 10]], [0]), torch.ones(1, 3, dtype=torch.bool)
    rule = {"positive": 0.6, "negative": 0.6}
    assert MaxIoU(**rule)(priors, ground_truth, usable)[0].tolist() == [0, 0, BACKGROUND]
    assert MaxIoU(**rule, ties=False)(priors, ground_truth, usable)[0].tolist() == [0, BACKGROUND, BACKGROUND]
    assert MaxIoU(**rule, ties=False, min_best=0.6)(priors, ground_truth, usable)[0].tolist() == [BACKGROUND] * 3
    assert MaxIoU(**rule, ties=False, best_prior=False)(priors, ground_truth, usable)[0].tolist() == [BACKGROUND] * 3
    nothing = ground_truth_of([[90, 90, 99, 99]], [0])
    assert MaxIoU(**rule, ties=False)(priors, nothing, usable)[0].tolist() == [BACKGROUND] * 3
