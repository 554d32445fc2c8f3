"""SSD's head on MMDetection's weights: priors, outputs, losses, gradients and detections."""

from functools import partial

import pytest
import torch

from helpers.supervision import supervision
from qrepro.assign import MaxIoU
from qrepro.box_coder import Delta
from qrepro.detector import Head, PerLevelHead
from qrepro.ground_truth import GroundTruthBatch
from qrepro.losses import smooth_l1_loss, softmax_loss
from qrepro.objective import Term, total
from qrepro.postprocess import PostProcess
from qrepro.priors import DefaultBoxes
from qrepro.quality import NoQuality
from qrepro.ranking import DenseOutputs, rank
from qrepro.records.score_rule import Rule
from qrepro.target import hard

STRIDES = (16, 32, 64)
PRIOR = DefaultBoxes(sizes=(21, 45, 270, 495), ratios=((2,), (2, 3), (2, 3)))
OBJECTIVE = supervision(
    MaxIoU(positive=0.5, negative=0.5, ties=False),
    hard,
    {"class": Term(softmax_loss), "encoding": Term(partial(smooth_l1_loss, beta=1.0))},
    negatives=3,
)
SIZES = torch.full((2, 2), 300)


@pytest.fixture
def ref(golden):
    return golden("head_ssd")


@pytest.fixture
def features(ref):
    return [ref[f"feat{i}"] for i in range(3)]


@pytest.fixture
def head(ref):
    box, options = Delta(stds=(0.1, 0.1, 0.2, 0.2)), {"convs": 0, "scores": "softmax", "init": "xavier"}
    heads = [Head(c, 4, n, box, NoQuality, 1, **options) for c, n in zip((16, 24, 16), PRIOR.per_cell, strict=True)]
    made = PerLevelHead(heads)
    made.load_state_dict({name: ref[f"p/{theirs(name)}"] for name, _ in made.named_parameters()})
    return made


def theirs(name: str) -> str:
    """MMDetection's name of a parameter."""
    _, level, layer, kind = name.split(".")
    return f"{ {'cls_out': 'cls_convs', 'box_out': 'reg_convs'}[layer] }.{level}.0.{kind}"


@pytest.fixture
def prediction(head, features):
    return head(features, PRIOR([tuple(f.shape[-2:]) for f in features], STRIDES, torch.device("cpu")))


def test_first_weights_are_xaviers(head):
    """Uniform up to sqrt(6 / (9 (inputs + outputs)))."""
    torch.manual_seed(0)
    layer = Head(16, 4, 6, Delta(), NoQuality, 1, convs=0, scores="softmax", init="xavier").cls_out
    assert layer.weight.abs().max().item() == pytest.approx((6 / 9 / (16 + 30)) ** 0.5, rel=0.01)
    assert not layer.bias.any()


def test_default_boxes_equal_mmdetection(ref, prediction):
    torch.testing.assert_close(prediction.priors.boxes, ref["anchors"], rtol=1e-6, atol=1e-4)
    assert prediction.priors.counts == (19 * 19 * 4, 10 * 10 * 6, 5 * 5 * 6)


def test_forward_equals_mmdetection(ref, prediction):
    for output, mine in enumerate((prediction.cls, prediction.raw)):
        maps = [ref[f"out{output}_level{i}"].permute(0, 2, 3, 1).reshape(2, -1, mine.shape[-1]) for i in range(3)]
        torch.testing.assert_close(mine, torch.cat(maps, 1), rtol=1e-5, atol=1e-5)
    assert prediction.background and prediction.scores().shape == (2, 2194, 4)


def test_losses_and_gradients_equal_mmdetection(ref, head, prediction):
    boxes, labels, valid = torch.zeros(2, 4, 4), torch.zeros(2, 4, dtype=torch.int64), torch.zeros(2, 4).bool()
    for i in range(2):
        count = len(ref[f"gt_labels{i}"])
        boxes[i, :count], labels[i, :count], valid[i, :count] = ref[f"gt_boxes{i}"], ref[f"gt_labels{i}"], True
    losses = OBJECTIVE(prediction, GroundTruthBatch(boxes, labels, valid), SIZES)
    assert set(losses) == {"class", "encoding"}
    torch.testing.assert_close(losses["class"], ref["loss/loss_cls"][0], rtol=1e-5, atol=0)
    torch.testing.assert_close(losses["encoding"], ref["loss/loss_bbox"], rtol=1e-5, atol=0)
    total(losses).backward()
    for name, parameter in head.named_parameters():
        expected = ref[f"gradnorm/{theirs(name)}"]
        torch.testing.assert_close(parameter.grad.norm(), expected, rtol=1e-5, atol=1e-6, msg=name)


def test_detections_equal_mmdetection(ref, prediction):
    process = PostProcess(candidates="pairs", score_thr=0.02, iou_thr=0.45, max_per_img=200)
    for i, kept in enumerate(rank(DenseOutputs.of(prediction, SIZES), Rule(), process)):
        torch.testing.assert_close(kept.score.float(), ref[f"pred{i}_scores"], rtol=1e-5, atol=1e-6)
        assert torch.equal(kept.label, ref[f"pred{i}_labels"])
        torch.testing.assert_close(kept.boxes, ref[f"pred{i}_boxes"], rtol=1e-5, atol=1e-3)
