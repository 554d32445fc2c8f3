import math

import pytest
import torch

from qrepro.postprocess import Candidates, PostProcess

FAR = [[float(20 * i), 0.0, 20.0 * i + 10, 10.0] for i in range(6)]


def run(scores, boxes=FAR, level=None, **options):
    scores = torch.tensor(scores).log()[None]
    (kept,) = PostProcess(**options)(scores, scores, torch.tensor([boxes]), torch.tensor(level or [0] * len(boxes)))
    return list(
        zip(kept.location.tolist(), kept.label.tolist(), [round(s, 4) for s in kept.score.tolist()], strict=True)
    )


def test_candidate_rules_differ_as_the_codes_do():
    """Three locations, two classes, two candidates a level: by location both classes of the two best stay."""
    scores = [[0.9, 0.1], [0.5, 0.6], [0.55, 0.04]]
    by_location = run(scores, FAR[:3], per_level=2, threshold=0.05)
    assert by_location == [(0, 0, 0.9), (1, 1, 0.6), (1, 0, 0.5), (0, 1, 0.1)]
    by_pair = run(scores, FAR[:3], candidates="pairs", per_level=2, threshold=0.05)
    assert by_pair == [(0, 0, 0.9), (1, 1, 0.6)]


def test_per_level_means_each_level():
    scores = [[0.9], [0.8], [0.7], [0.6]]
    assert [k[0] for k in run(scores, FAR[:4], [0, 0, 1, 1], per_level=1)] == [0, 2]


def test_threshold_is_strict_and_on_the_fused_score():
    assert [k[0] for k in run([[0.5], [0.25], [0.1]], FAR[:3], threshold=0.25)] == [0]


def test_nms_is_by_class_and_keeps_the_best():
    boxes = [[0.0, 0, 10, 10], [0, 0, 10, 9], [0, 0, 10, 4]]  # IoU with the first: 0.9 and 0.4
    assert [k[0] for k in run([[0.5], [0.9], [0.4]], boxes)] == [1, 2]
    assert len(run([[0.5, 0.01], [0.01, 0.9], [0.4, 0.01]], boxes)) == 3


def test_keep_cuts_the_ranked_list():
    assert [k[2] for k in run([[0.1], [0.9], [0.5]], FAR[:3], keep=2)] == [0.9, 0.5]


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
    assert [k[:2] for k in run([[0.5]] * 4, FAR[:4], per_level=2)] == [(0, 0), (1, 0)]


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


@pytest.mark.parametrize("suppression", ["hard", "linear", "gaussian"])
@pytest.mark.parametrize("keep", [5, 40, 600])
def test_suppression_equals_a_plain_loop(suppression, keep):
    """Bodla et al., figure 2, one box after the other; hard NMS is the case in which overlap takes the whole score."""
    found = random_candidates(keep)
    process = PostProcess(suppression=suppression, keep=keep, nms=0.4, sigma=0.3, threshold=0.0, soft_floor=0.02)
    left = dict(enumerate(found.log_score.exp().double().tolist()))
    boxes, label = found.boxes.tolist(), found.label.tolist()
    expected = []
    while left and len(expected) < keep:
        best = max(left, key=left.get)
        score = left.pop(best)
        if suppression != "hard" and score < 0.02:
            break
        expected.append((best, score))
        for other in list(left):
            overlap = iou(boxes[best], boxes[other]) if label[best] == label[other] else 0.0
            if suppression == "gaussian":
                left[other] *= math.exp(-(overlap**2) / 0.3)
            elif overlap > 0.4:
                left[other] *= 1 - overlap
                if suppression == "hard":
                    del left[other]
    kept = process.choose(found)
    assert kept.candidate.tolist() == [index for index, _ in expected]
    assert kept.score.tolist() == pytest.approx([score for _, score in expected], rel=1e-5)


@pytest.mark.parametrize("suppression", ["hard", "linear", "gaussian"])
def test_what_ranks_below_the_kept_does_not_matter(suppression):
    """Candidates below the last detection may be missing: what rescoring from a file relies on."""
    found = random_candidates(7)
    process = PostProcess(suppression=suppression, keep=30)
    kept = process.choose(found)
    high = (found.log_score.exp() >= kept.score[-1]).nonzero()[:, 0]
    assert len(high) < len(found.label)
    again = process.choose(found.take(high))
    assert torch.equal(high[again.candidate], kept.candidate)
    assert torch.equal(again.score, kept.score)


def test_classes_far_away_from_each_other_round_nothing():
    """A box of the last of many classes in a large picture is compared as exactly as one of the first."""
    box = [[4000.125, 3999.0625, 4000.625, 4000.0625], [4000.125, 3999.0625, 4000.625, 3999.5625]]  # IoU 1/2
    for label in (0, 10_000):
        scores = torch.full((1, 2, label + 1), -torch.inf)
        scores[..., label] = torch.tensor([-0.1, -0.2])
        level = torch.zeros(2, dtype=torch.int64)
        (just,) = PostProcess(nms=0.5)(scores, scores, torch.tensor([box]), level)
        (below,) = PostProcess(nms=0.49)(scores, scores, torch.tensor([box]), level)
        assert (len(just.score), len(below.score)) == (2, 1)


def test_threshold_and_limit_by_the_class_score_alone():
    """Fused scores 0.04, 0.03, 0.5 of class scores 0.4, 0.6, 0.5: the threshold and the limit of two see the latter."""
    fused, classes = (torch.tensor(v).log()[None, :, None] for v in ([0.04, 0.03, 0.5], [0.4, 0.6, 0.5]))
    boxes, level = torch.tensor([FAR[:3]]), torch.zeros(3, dtype=torch.int64)

    def kept(**options):
        (found,) = PostProcess(per_level=2, **options)(fused, classes, boxes, level)
        return found.location.tolist()

    assert kept() == [2]
    assert kept(threshold_on="class") == [2, 0]
    assert kept(threshold_on="class", limit_by="class") == [2, 1]
    assert kept(threshold_on="class", threshold=0.45) == [2, 1]
