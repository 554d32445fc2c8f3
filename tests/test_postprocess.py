import math

import pytest
import torch

from helpers.ranking import suppressed
from qrepro import postprocess
from qrepro.postprocess import Candidates, PostProcess

try:
    from mmcv.ops import soft_nms
except ImportError:
    soft_nms = None

FAR = [[float(20 * i), 0.0, 20.0 * i + 10, 10.0] for i in range(6)]


def run(scores, boxes=FAR, level=None, **options):
    scores = torch.tensor(scores).log()[None]
    level = torch.tensor(level or [0] * len(boxes))
    (kept,) = suppressed(PostProcess(**options), scores, scores, torch.tensor([boxes]), level)
    return list(
        zip(kept.location.tolist(), kept.label.tolist(), [round(s, 4) for s in kept.score.tolist()], strict=True)
    )


def test_candidate_rules_differ_as_the_codes_do():
    """Three locations, two classes, two candidates a level: by location both classes of the two best stay."""
    scores = [[0.9, 0.1], [0.5, 0.6], [0.55, 0.04]]
    by_location = run(scores, FAR[:3], nms_pre=2, score_thr=0.05)
    assert by_location == [(0, 0, 0.9), (1, 1, 0.6), (1, 0, 0.5), (0, 1, 0.1)]
    by_pair = run(scores, FAR[:3], candidates="pairs", nms_pre=2, score_thr=0.05)
    assert by_pair == [(0, 0, 0.9), (1, 1, 0.6)]


def test_per_level_means_each_level():
    scores = [[0.9], [0.8], [0.7], [0.6]]
    assert [k[0] for k in run(scores, FAR[:4], [0, 0, 1, 1], nms_pre=1)] == [0, 2]


def test_threshold_is_strict_and_on_the_fused_score():
    assert [k[0] for k in run([[0.5], [0.25], [0.1]], FAR[:3], score_thr=0.25)] == [0]


def test_nms_is_by_class_and_keeps_the_best():
    boxes = [[0.0, 0, 10, 10], [0, 0, 10, 9], [0, 0, 10, 4]]  # IoU with the first: 0.9 and 0.4
    assert [k[0] for k in run([[0.5], [0.9], [0.4]], boxes)] == [1, 2]
    assert len(run([[0.5, 0.01], [0.01, 0.9], [0.4, 0.01]], boxes)) == 3


def test_keep_cuts_the_ranked_list():
    assert [k[2] for k in run([[0.1], [0.9], [0.5]], FAR[:3], max_per_img=2)] == [0.9, 0.5]


@pytest.mark.parametrize("rule", ["locations", "pairs"])
def test_boxes_without_area_and_empty_results(rule):
    assert run([[0.9], [0.8]], [[5.0, 5, 5, 9], FAR[0]], candidates=rule) == [(1, 0, 0.8)]
    assert run([[0.01], [0.02]], FAR[:2], candidates=rule) == []


def test_equal_scores_are_ordered_by_location_then_class():
    assert [k[:2] for k in run([[0.5, 0.5], [0.5, 0.5], [0.6, 0.5]], FAR[:3])] == [
        (2, 0),
        (0, 0),
        (0, 1),
        (1, 0),
        (1, 1),
        (2, 1),
    ]
    assert [k[:2] for k in run([[0.5]] * 4, FAR[:4], nms_pre=2)] == [(0, 0), (1, 0)]


def random_candidates(seed, n=600, classes=3):
    generator = torch.Generator().manual_seed(seed)
    corner = torch.rand(n, 2, generator=generator) * 200
    boxes = torch.cat([corner, corner + 5 + torch.rand(n, 2, generator=generator) * 60], 1)
    score = torch.rand(n, generator=generator)
    label = torch.randint(classes, (n,), generator=generator)
    return Candidates(score.log(), score.log(), label, torch.arange(n), torch.zeros(n, dtype=torch.int64), boxes)


def iou(a, b):
    """IoU of two lists of corners, in Python's doubles."""
    w, h = min(a[2], b[2]) - max(a[0], b[0]), min(a[3], b[3]) - max(a[1], b[1])
    shared = max(w, 0) * max(h, 0)
    return shared / ((a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - shared)


def plain(boxes, label, score, suppression, max_per_img, iou_thr, sigma=0.5, min_score=0.001):
    """Bodla et al., figure 2, one box after the other: [(index, score)], best first.

    Hard NMS is the case in which overlap takes the whole score. Of equal scores the first is taken; scores
    and IoU are in Python's doubles, as in the code.
    """
    left, taken = dict(enumerate(score)), []
    while left and len(taken) < max_per_img:
        best = max(left, key=left.get)
        if suppression != "hard" and left[best] < min_score:
            break
        taken.append((best, left.pop(best)))
        for other in [i for i in left if label[i] == label[best]]:
            overlap = iou(boxes[best], boxes[other])
            if suppression == "gaussian":
                left[other] *= math.exp(-(overlap**2) / sigma)
            elif overlap > iou_thr:
                left[other] *= 1 - overlap
                if suppression == "hard":
                    del left[other]
    return taken


@pytest.mark.parametrize("suppression", ["hard", "linear", "gaussian"])
@pytest.mark.parametrize("keep", [5, 40, 600])
def test_suppression_equals_a_plain_loop(suppression, keep):
    found = random_candidates(keep)
    options = {"suppression": suppression, "max_per_img": keep, "iou_thr": 0.4, "sigma": 0.3, "min_score": 0.02}
    scores = found.log_score.double().exp().tolist()
    expected = plain(found.boxes.tolist(), found.label.tolist(), scores, **options)
    kept = PostProcess(score_thr=0.0, **options)([found])[0]
    assert kept.candidate.tolist() == [index for index, _ in expected]
    assert kept.score.tolist() == pytest.approx([score for _, score in expected], rel=1e-6)


def random_batch(seed, shares, locations=70, classes=3):
    """Log scores (B, R, C) and boxes (B, R, 4); of image i about a share of shares[i] of the scores is above 0.

    Scores are sixteenths, and the boxes of the last ten locations are those of the first ten: there are many ties.
    """
    generator = torch.Generator().manual_seed(seed)
    corner = torch.rand(len(shares), locations, 2, generator=generator) * 100
    boxes = torch.cat([corner, corner + 20 + torch.rand(corner.shape, generator=generator) * 60], -1)
    boxes[:, -10:] = boxes[:, :10]
    score = (torch.rand(len(shares), locations, classes, generator=generator) * 16).ceil() / 16
    present = torch.rand(score.shape, generator=generator) < torch.tensor(shares)[:, None, None]
    return torch.where(present, score, 0.0).log(), boxes


@pytest.mark.parametrize("suppression", ["linear", "gaussian"])
@pytest.mark.parametrize("keep", [1, 25, 1000])
@pytest.mark.parametrize("nms, sigma, min_score", [(0.5, 0.5, 0.001), (0.2, 0.1, 0.0), (0.3, 2.0, 0.3)])
@pytest.mark.parametrize("shares", [(1.0, 0.0, 0.02, 0.4), (0.0, 0.1), (0.0,), (0.7,)])
def test_a_batch_equals_a_plain_loop_over_each_image(suppression, keep, nms, sigma, min_score, shares):
    options = {"suppression": suppression, "max_per_img": keep, "iou_thr": nms, "sigma": sigma, "min_score": min_score}
    log_score, boxes = random_batch(keep, shares)
    level = torch.zeros(boxes.shape[1], dtype=torch.int64)
    batch = suppressed(PostProcess(score_thr=0.0, **options), log_score, log_score / 2, boxes, level)
    assert len(batch) == len(shares)
    for scores, corners, kept in zip(log_score.double().exp().tolist(), boxes.tolist(), batch, strict=True):
        pairs = [(r, c) for r, row in enumerate(scores) for c, score in enumerate(row) if score > 0]
        found = [scores[r][c] for r, c in pairs]
        expected = plain([corners[r] for r, _ in pairs], [c for _, c in pairs], found, **options)
        assert kept.candidate.tolist() == [index for index, _ in expected]
        at = list(zip(kept.location.tolist(), kept.label.tolist(), strict=True))
        assert at == [pairs[index] for index, _ in expected]
        assert kept.score.tolist() == pytest.approx([score for _, score in expected], rel=1e-12, abs=0)


TALL, HALF, QUARTER = [0.0, 0, 10, 10], [0.0, 0, 10, 5], [0.0, 0, 10, 2.5]  # IoU 1/2, 1/4; HALF with QUARTER 1/2
SOLVED = {
    # 1/4 takes nothing from QUARTER, which then comes before HALF and halves it again
    "linear": ({"iou_thr": 0.4}, [(0, 0.9), (2, 0.7), (1, 0.8 / 4)]),
    "linear, at the threshold": ({"iou_thr": 0.5}, [(0, 0.9), (1, 0.8), (2, 0.7)]),
    "linear, all": ({"iou_thr": 0.2}, [(0, 0.9), (2, 0.7 * 3 / 4), (1, 0.8 / 4)]),
    # IoU^2 / sigma: 1/2 for an IoU of 1/2, 1/8 for 1/4
    "gaussian": ({"sigma": 0.5}, [(0, 0.9), (2, 0.7 * math.exp(-1 / 8)), (1, 0.8 * math.exp(-1))]),
    "gaussian, wide": ({"sigma": 4}, [(0, 0.9), (1, 0.8 * math.exp(-1 / 16)), (2, 0.7 * math.exp(-5 / 64))]),
    "gaussian, cut": ({"max_per_img": 2}, [(0, 0.9), (2, 0.7 * math.exp(-1 / 8))]),
    "gaussian, dropped": ({"min_score": 0.3}, [(0, 0.9), (2, 0.7 * math.exp(-1 / 8))]),
}


@pytest.mark.parametrize("name", SOLVED)
def test_soft_suppression_of_three_boxes_by_hand(name):
    options, expected = SOLVED[name]
    kept = run([[0.9], [0.8], [0.7]], [TALL, HALF, QUARTER], suppression=name.split(",")[0], **options)
    assert [(location, score) for location, _, score in kept] == [(i, round(score, 4)) for i, score in expected]


def test_a_score_at_the_floor_stays():
    """1/2 of IoU 1/2 is 1/4."""
    for floor, count in ((0.25, 2), (0.26, 1)):
        options = {"suppression": "linear", "iou_thr": 0.4, "min_score": floor}
        assert len(run([[0.75], [0.5]], [TALL, HALF], **options)) == count


def test_soft_suppression_leaves_other_classes_alone():
    kept = run([[0.9, 0.8], [0.1, 0.7]], [TALL, TALL], suppression="gaussian", score_thr=0.5)
    assert kept == [(0, 0, 0.9), (0, 1, 0.8), (1, 1, round(0.7 * math.exp(-2), 4))]


@pytest.mark.parametrize("suppression", ["linear", "gaussian"])
def test_a_box_is_taken_once_though_nothing_is_left_of_the_others(suppression):
    """Three times the same box: the scores of the second and third are 0, and without a floor they are detections."""
    options = {"suppression": suppression, "sigma": 1e-3, "min_score": 0.0}
    assert [k[0] for k in run([[0.9], [0.8], [0.7]], [TALL] * 3, **options)] == [0, 1, 2]


def test_a_step_takes_one_box_of_every_image(monkeypatch):
    """Images of 2, 0 and 6 candidates, of which 1, 0 and 3 stay above the floor: three steps of (3, 6) overlaps."""
    overlaps = []

    def watched(a, b):
        overlaps.append(tuple(torch.broadcast_shapes(a.shape, b.shape)))
        return aligned_iou(a, b)

    aligned_iou = postprocess.aligned_iou
    monkeypatch.setattr(postprocess, "aligned_iou", watched)
    score = torch.zeros(3, 6, 1)
    score[0, :2, 0], score[2, :, 0] = torch.tensor([0.9, 0.8]), torch.tensor([0.9, 0.8, 0.7, 0.6, 0.5, 0.4])
    boxes = torch.tensor([[TALL] * 6, [TALL] * 6, [*FAR[:3], *FAR[:3]]])
    process = PostProcess(suppression="linear", min_score=0.01)
    batch = suppressed(process, score.log(), score.log(), boxes, torch.zeros(6, dtype=torch.int64))
    assert [kept.location.tolist() for kept in batch] == [[0], [], [0, 1, 2]]
    assert overlaps == [(3, 6, 4)] * 3


@pytest.mark.skipif(soft_nms is None, reason="mmcv.ops, of an optional extra, cannot be imported")
@pytest.mark.parametrize("method", ["linear", "gaussian"])
@pytest.mark.parametrize("threshold, sigma, floor", [(0.3, 0.5, 0.001), (0.6, 0.1, 0.2)])
def test_soft_suppression_equals_mmcv(method, threshold, sigma, floor):
    """One class: mmcv knows none. It decays at an IoU of exactly the threshold too, which no pair here has."""
    found = random_candidates(11, n=300, classes=1)
    dets, index = soft_nms(found.boxes, found.log_score.exp(), threshold, sigma, floor, method, offset=0)
    process = PostProcess(
        suppression=method, iou_thr=threshold, sigma=sigma, min_score=floor, score_thr=0.0, max_per_img=len(found.label)
    )
    kept = process([found])[0]
    assert 0 < len(index) < len(found.label)
    assert torch.equal(kept.candidate, index)
    torch.testing.assert_close(kept.score.float(), dets[:, 4], rtol=1e-5, atol=0.0)


@pytest.mark.parametrize("suppression", ["hard", "linear", "gaussian"])
def test_what_ranks_below_the_kept_does_not_matter(suppression):
    """Candidates below the last detection may be missing: what rescoring from a file relies on."""
    found = random_candidates(7)
    process = PostProcess(suppression=suppression, max_per_img=30)
    kept = process([found])[0]
    high = (found.log_score.double().exp() >= kept.score[-1]).nonzero()[:, 0]
    assert len(high) < len(found.label)
    again = process([found.take(high)])[0]
    assert torch.equal(high[again.candidate], kept.candidate)
    assert torch.equal(again.score, kept.score)


def test_classes_far_away_from_each_other_round_nothing():
    """A box of the last of many classes in a large image is compared as exactly as one of the first."""
    box = [[4000.125, 3999.0625, 4000.625, 4000.0625], [4000.125, 3999.0625, 4000.625, 3999.5625]]  # IoU 1/2
    for label in (0, 10_000):
        scores = torch.full((1, 2, label + 1), -torch.inf)
        scores[..., label] = torch.tensor([-0.1, -0.2])
        level = torch.zeros(2, dtype=torch.int64)
        (just,) = suppressed(PostProcess(iou_thr=0.5), scores, scores, torch.tensor([box]), level)
        (below,) = suppressed(PostProcess(iou_thr=0.49), scores, scores, torch.tensor([box]), level)
        assert (len(just.score), len(below.score)) == (2, 1)


def test_threshold_and_limit_by_the_class_score_alone():
    """Fused scores 0.04, 0.03, 0.5 of class scores 0.4, 0.6, 0.5: the threshold and the limit of two see the latter."""
    fused, classes = (torch.tensor(v).log()[None, :, None] for v in ([0.04, 0.03, 0.5], [0.4, 0.6, 0.5]))
    boxes, level = torch.tensor([FAR[:3]]), torch.zeros(3, dtype=torch.int64)

    def kept(**options):
        (found,) = suppressed(PostProcess(nms_pre=2, **options), fused, classes, boxes, level)
        return found.location.tolist()

    assert kept() == [2]
    assert kept(score_thr_on="class") == [2, 0]
    assert kept(score_thr_on="class", rank_by="class") == [2, 1]
    assert kept(score_thr_on="class", score_thr=0.45) == [2, 1]
