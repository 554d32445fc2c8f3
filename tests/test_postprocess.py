import pytest
import torch

from qrepro.postprocess import PostProcess

FAR = [[float(20 * i), 0.0, 20.0 * i + 10, 10.0] for i in range(6)]


def run(scores, boxes=FAR, counts=None, **options):
    scores = torch.tensor(scores).log()[None]
    (kept,) = PostProcess(**options)(scores, torch.tensor([boxes]), counts or (len(boxes),))
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
    assert [k[0] for k in run(scores, FAR[:4], (2, 2), per_level=1)] == [0, 2]


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
