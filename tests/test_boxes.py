from dataclasses import replace

import pytest
import torch

from qrepro.boxes import aligned_giou, aligned_iou, centerness, clip, distances, pairwise_iou
from qrepro.ground_truth import GroundTruthBatch, max_iou_gt
from qrepro.priors import Anchors, DefaultBoxes, Points


def test_iou_by_hand():
    a = torch.tensor([[0.0, 0, 4, 2], [0, 0, 1, 1], [5, 5, 5, 5]])
    b = torch.tensor([[2.0, 0, 6, 2], [1, 1, 2, 2], [5, 5, 5, 5]])
    torch.testing.assert_close(aligned_iou(a, b), torch.tensor([4 / 12, 0.0, 0.0]))
    torch.testing.assert_close(aligned_giou(a, b)[:2], torch.tensor([1 / 3, -0.5]))
    assert pairwise_iou(a, b).shape == (3, 3)
    torch.testing.assert_close(pairwise_iou(a, b).diagonal(), aligned_iou(a, b))


def test_iou_equals_torchvision_on_random_boxes():
    from torchvision.ops import box_iou, generalized_box_iou

    corner = torch.rand(2, 200, 2, generator=torch.Generator().manual_seed(0)) * 50
    boxes = torch.cat(
        [corner, corner + torch.rand(2, 200, 2, generator=torch.Generator().manual_seed(1)) * 30 + 0.1], -1
    )
    torch.testing.assert_close(pairwise_iou(boxes[0], boxes[1]), box_iou(boxes[0], boxes[1]))
    torch.testing.assert_close(aligned_giou(boxes[0], boxes[1]), generalized_box_iou(boxes[0], boxes[1]).diagonal())


def test_nearest_gt_ignores_padding_and_empty_images():
    ground_truth = GroundTruthBatch(
        torch.tensor([[[0.0, 0, 2, 2], [10, 10, 12, 12]]] * 2),
        torch.zeros(2, 2, dtype=torch.int64),
        torch.tensor([[True, False], [False, False]]),
    )
    boxes = torch.tensor([[[0.0, 0, 2, 1], [10, 10, 12, 12]]] * 2)
    torch.testing.assert_close(max_iou_gt(boxes, ground_truth)[0], torch.tensor([[0.5, 0.0], [0.0, 0.0]]))
    none = GroundTruthBatch(
        torch.zeros(2, 0, 4), torch.zeros(2, 0, dtype=torch.int64), torch.zeros(2, 0, dtype=torch.bool)
    )
    assert max_iou_gt(boxes, none)[0].tolist() == [[0.0, 0.0], [0.0, 0.0]]


def test_clip_uses_height_and_width_in_order():
    boxes = torch.tensor([[[-5.0, -5, 200, 200]]])
    assert clip(boxes, torch.tensor([[100, 150]])).tolist() == [[[0, 0, 150, 100]]]


def test_anchors_equal_mmdetection(golden):
    ref = golden("assign")
    sizes = [tuple(s) for s in ref["feature_sizes"].tolist()]
    priors = Anchors(centre=0.0)(sizes, (8, 16, 32, 64, 128), torch.device("cpu"))
    torch.testing.assert_close(priors.boxes, ref["retina9_anchors"], rtol=1e-5, atol=1e-4)
    one = Anchors(scale=8, octaves=1, ratios=(1.0,), centre=0.0)(sizes, (8, 16, 32, 64, 128), torch.device("cpu"))
    torch.testing.assert_close(one.boxes, ref["atss1_anchors"], rtol=1e-5, atol=1e-4)


def test_anchor_centre_and_levels():
    priors = Anchors(octaves=1, ratios=(1.0,), centre=0.5)([(2, 3), (1, 2)], (8, 16), torch.device("cpu"))
    assert priors.counts == (6, 2) and priors.level().tolist() == [0] * 6 + [1] * 2
    assert priors.boxes[1].tolist() == [12 - 16, 4 - 16, 12 + 16, 4 + 16]  # second cell of the first row, side 4 x 8
    assert priors.cells[4].tolist() == [8, 8] and priors.stride.tolist() == [8.0] * 6 + [16.0] * 2
    inside = priors.inside(torch.tensor([[8, 24], [16, 8]]))
    assert inside[0].tolist() == [True] * 3 + [False] * 3 + [True, True]
    assert inside[1].tolist() == [True, False, False, True, False, False, True, False]


def test_points_are_cell_centres_with_one_square_each():
    """FCOS: a location of the map lies at (x + 1/2) stride; the square around it has a side of `scale` strides."""
    priors = Points(scale=2.0)([(1, 2), (1, 1)], (8, 16), torch.device("cpu"))
    assert Points().per_cell == 1 and priors.counts == (2, 1) and priors.stride.tolist() == [8, 8, 16]
    assert priors.centres().tolist() == [[4, 4], [12, 4], [8, 8]]
    assert priors.cells.tolist() == [[0, 0], [8, 0], [0, 0]]
    assert priors.boxes.tolist() == [[-4, -4, 12, 12], [4, -4, 20, 12], [-8, -8, 24, 24]]
    corner = Points(centre=0.0)([(1, 2)], (8,), torch.device("cpu"))
    assert corner.centres().tolist() == [[0, 0], [8, 0]]
    assert corner.boxes[1].tolist() == [8 - 32, -32, 8 + 32, 32]  # side 8 strides


def test_centerness_by_hand():
    """Distances 1, 3 and 2, 2: sqrt(1/3 * 1); in the middle 1; on the edge and outside 0."""
    points = torch.tensor([[1.0, 2.0], [2.0, 2.0], [0.0, 2.0], [5.0, 2.0]])
    box = torch.tensor([0.0, 0.0, 4.0, 4.0]).expand(4, 4)
    assert distances(points, box)[0].tolist() == [1, 2, 3, 2]
    assert distances(points, box)[3].tolist() == [5, 2, -1, 2]
    torch.testing.assert_close(centerness(points, box), torch.tensor([3**-0.5, 1.0, 0.0, 0.0]))


def test_default_boxes_by_hand():
    """SSD: squares of 8 and of sqrt(8 * 18) = 12, then ratios 1/2 and 2 of area 64; the second level also 1/3 and 3."""
    prior = DefaultBoxes(sizes=(8, 18, 32), ratios=((2,), (2, 3)))
    assert prior.per_cell == (4, 6)
    found = prior([(1, 2), (1, 1)], (8, 16), torch.device("cpu"))
    assert found.counts == (8, 6) and found.stride.tolist() == [8.0] * 8 + [16.0] * 6
    sides = found.boxes[:, 2:] - found.boxes[:, :2]
    root = 2**0.5
    expected = [[8, 8], [12, 12], [8 * root, 8 / root], [8 / root, 8 * root]]
    torch.testing.assert_close(sides[:4], torch.tensor(expected))
    torch.testing.assert_close(sides[4:8], torch.tensor(expected))
    torch.testing.assert_close(sides[8:10], torch.tensor([[18.0, 18], [24, 24]]))
    torch.testing.assert_close(sides[12], torch.tensor([18 * 3**0.5, 18 / 3**0.5]))
    assert found.centres()[:8].tolist() == [[4, 4]] * 4 + [[12, 4]] * 4 and found.centres()[8].tolist() == [8, 8]
    for sizes, ratios in (((8, 18), ((2,), (2,))), ((8, 18, 32, 64), ((2,), (2,)))):
        with pytest.raises(ValueError, match="which need one more"):
            DefaultBoxes(sizes=sizes, ratios=ratios)
    with pytest.raises(ValueError, match="default boxes of 2 levels, the neck has 1"):
        prior([(1, 2)], (8,), torch.device("cpu"))


def test_priors_that_differ_by_image():
    shared = Points(scale=1.0)([(1, 2), (1, 1)], (8, 16), torch.device("cpu"))
    own = replace(shared, boxes=torch.stack([shared.boxes, shared.boxes + 100]))
    assert own.centres().tolist() == [[[4, 4], [12, 4], [8, 8]], [[104, 104], [112, 104], [108, 108]]]
    image, location = torch.tensor([1, 0]), torch.tensor([0, 2])
    assert own.at(image, location).boxes.tolist() == [[100, 100, 108, 108], [0, 0, 16, 16]]
    assert own.at(1, location).boxes.tolist() == [[100, 100, 108, 108], [100, 100, 116, 116]]
    assert shared.at(image, location).boxes.tolist() == [[0, 0, 8, 8], [0, 0, 16, 16]]
    assert own.at(image, location).stride.tolist() == [8, 16] and own.at(1, location).cells.tolist() == [[0, 0], [0, 0]]
    fine, coarse = own.split()
    assert fine.boxes.shape == (2, 2, 4) and coarse.boxes[1].tolist() == [[100, 100, 116, 116]]
    assert (fine.counts, coarse.counts) == ((2,), (1,))
    assert own.moved(-shared.centres()).boxes[0, 1].tolist() == [-4, -4, 4, 4]
