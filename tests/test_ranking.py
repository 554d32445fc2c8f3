"""From outputs to detections where float32 can no longer tell scores from 1."""

import pytest
import torch

from qrepro.box_coder import Delta
from qrepro.detector import Prediction
from qrepro.postprocess import PostProcess
from qrepro.priors import Priors
from qrepro.ranking import DenseOutputs, rank
from qrepro.records.score_rule import Rule

LOGITS = torch.tensor([18.0, 30.0, 17.0, 24.0])
BEST_FIRST = [1, 3, 0, 2]


def outputs(cls, quality):
    corners = torch.arange(4.0)[:, None] * 40 + torch.tensor([0.0, 0, 20, 20])
    priors = Priors(corners, corners[:, :2], torch.full((4,), 8.0), (4,))
    prediction = Prediction(cls[None, :, None], torch.zeros(1, 4, 4), quality[None], priors, Delta())
    return DenseOutputs.of(prediction, torch.tensor([[200, 200]]))


@pytest.mark.parametrize("rule", ["class", "product", "power-0.5", "power-0.1"])
@pytest.mark.parametrize("candidates", ["locations", "pairs"])
def test_logits_whose_sigmoid_is_one_in_float32_still_rank(rule, candidates):
    assert (LOGITS.sigmoid() == 1).all()
    process = PostProcess(
        candidates=candidates, score_thr=0.05, nms_pre=3
    )  # the cut before NMS must tell them apart too
    (kept,) = rank(outputs(LOGITS, torch.full((4,), 20.0)), Rule.parse(rule), process)
    assert kept.location.tolist() == BEST_FIRST[:3]
    assert (kept.score.diff() < 0).all(), "scores that are written are apart"


@pytest.mark.parametrize("rule", ["product", "power-0.5", "power-0"])
def test_estimates_whose_sigmoid_is_one_in_float32_still_rank(rule):
    (kept,) = rank(outputs(torch.full((4,), 20.0), LOGITS), Rule.parse(rule), PostProcess(score_thr=0.05))
    assert kept.location.tolist() == BEST_FIRST
