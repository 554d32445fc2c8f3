"""Dense scores and boxes of a test, ranked by the code that evaluation uses."""

from __future__ import annotations

import torch
from torch import Tensor

from qrepro.postprocess import Detections, PostProcess
from qrepro.ranking import DenseOutputs


def suppressed(
    process: PostProcess, log_score: Tensor, log_class: Tensor, boxes: Tensor, level: Tensor
) -> list[Detections]:
    """Detections per image of log scores (B, R, C), boxes (B, R, 4) and levels (R,)."""
    centres = torch.zeros(boxes.shape[1], 2)
    outputs = DenseOutputs(log_class, None, boxes, centres, level, torch.ones(len(boxes), 2))
    return process(outputs.candidates(log_score, process))
