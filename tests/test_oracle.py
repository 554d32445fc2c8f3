"""Ground truth in the place of an output, on one location per case, worked out by hand.

One ground truth, [0, 0, 10, 10] of class 1. Locations: 0 is the assigner's positive, its box has IoU 1/2; 1 is
background to the assigner but overlaps with IoU 4/5; 2 overlaps nothing.
"""

import pytest
import torch

from qrepro.ground_truth import GroundTruthBatch
from qrepro.oracle import apply_oracle, assigned_gt, nearest_gt
from qrepro.ranking import DenseOutputs
from qrepro.records.score_rule import Rule

BOXES = torch.tensor([[[0.0, 0, 10, 5], [0, 0, 10, 8], [20, 20, 30, 30]]])
CLS = torch.tensor([[[0.3, 0.4], [0.5, 0.2], [0.6, 0.7]]])
QUALITY = torch.tensor([[0.11, 0.22, 0.33]])
CENTRES = torch.tensor(
    [[5.0, 2.0], [5.0, 5.0], [25.0, 25.0]]
)  # centerness in the ground truth: sqrt(2 / 8) = 1/2, then 1
TRUTHS = GroundTruthBatch(torch.tensor([[[0.0, 0, 10, 10]]]), torch.tensor([[1]]), torch.ones(1, 1, dtype=torch.bool))
MATCHES = torch.tensor([[0, -1, -1]])


def seen(name, ground_truth=TRUTHS, matches=MATCHES, quality=QUALITY):
    """Outputs with an oracle, as probabilities."""
    oracle, level = Rule.parse(name).oracle, torch.zeros(len(CENTRES), dtype=torch.int64)
    log_quality = None if quality is None else quality.log()[..., None]
    outputs = DenseOutputs(CLS.log(), log_quality, BOXES, CENTRES, level, torch.ones(1, 2))
    if oracle.where == "nearest":
        target = nearest_gt(BOXES, CENTRES, ground_truth)
    else:
        target = assigned_gt(BOXES, CENTRES, ground_truth, matches)
    return apply_oracle(outputs, oracle, target)


@pytest.mark.parametrize(
    "name, expected",
    [
        ("oracle-product", [0.5, 0.8, 0.0]),
        ("oracle@positives-product", [0.5, 0.22, 0.33]),
        ("oracle-centerness-product", [0.5, 0.22, 0.33]),
        ("oracle-centerness@nearest-product", [0.5, 1.0, 0.0]),
        ("oracle-box-class", [0.11, 0.22, 0.33]),
        ("oracle-class-class", [0.11, 0.22, 0.33]),
    ],
)
def test_quality(name, expected):
    torch.testing.assert_close(seen(name).log_quality.exp()[..., 0], torch.tensor([expected]))


@pytest.mark.parametrize(
    "name, expected",
    [
        ("oracle-product", CLS[0].tolist()),
        ("oracle-class-class", [[0.3, 1.0], [0.5, 0.2], [0.6, 0.7]]),
        ("oracle-class_iou-class", [[0.3, 0.5], [0.5, 0.2], [0.6, 0.7]]),
        ("oracle-class_iou@nearest-class", [[0.3, 0.5], [0.5, 0.8], [0.6, 0.7]]),
        ("oracle-class+zero-class", [[0.0, 1.0], [0.0, 0.0], [0.0, 0.0]]),
        ("oracle-class_iou@nearest+zero-class", [[0.0, 0.5], [0.0, 0.8], [0.0, 0.0]]),
        ("oracle-box+zero-class", [[0.3, 0.4], [0.0, 0.0], [0.0, 0.0]]),
        ("oracle@positives+zero-product", [[0.3, 0.4], [0.0, 0.0], [0.0, 0.0]]),
    ],
)
def test_class_scores(name, expected):
    torch.testing.assert_close(seen(name).log_class.exp(), torch.tensor([expected]))


@pytest.mark.parametrize("name, replaced", [("oracle-box-class", [0]), ("oracle-box@nearest-class", [0, 1])])
def test_boxes(name, replaced):
    expected = BOXES.clone()
    expected[0, replaced] = torch.tensor([0.0, 0, 10, 10])
    assert torch.equal(seen(name).boxes, expected)


def test_nothing_predicted_is_changed_in_place():
    for name in ("oracle-product", "oracle-box+zero-class", "oracle-class+zero-class"):
        seen(name)
    assert CLS[0, 0, 0] == torch.tensor(0.3)
    assert QUALITY[0, 0] == torch.tensor(0.11)
    assert BOXES[0, 0, 3] == 5


def test_a_detector_without_estimate_takes_the_truth_alone():
    assert seen("oracle@positives+zero-product", quality=None).log_quality.exp().tolist() == [[[0.5], [0.0], [0.0]]]


@pytest.mark.parametrize("name", ["oracle-product", "oracle-box+zero-class", "oracle-class_iou@nearest-class"])
def test_pictures_without_truth(name):
    none = GroundTruthBatch(
        torch.zeros(1, 0, 4), torch.zeros(1, 0, dtype=torch.int64), torch.zeros(1, 0, dtype=torch.bool)
    )
    found = seen(name, none, torch.full((1, 3), -1))
    assert torch.equal(found.boxes, BOXES)
    assert not found.log_class.isnan().any()
    if name == "oracle-product":
        assert found.log_quality.exp().tolist() == [[[0.0], [0.0], [0.0]]]
    if "zero" in name:
        assert found.log_class.exp().sum() == 0
