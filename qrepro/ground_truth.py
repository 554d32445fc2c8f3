"""Ground truth of a batch, padded, and the ground-truth box that a box overlaps most."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from qrepro.boxes import pairwise_iou


@dataclass(frozen=True)
class GroundTruthBatch:
    """Ground truth of a batch, padded to the image with most objects.

    Attributes:
        boxes: (B, G, 4) xyxy in pixels of the network input.
        labels: (B, G) int64 in [0, classes).
        valid: (B, G) bool, false where padded.
    """

    boxes: Tensor
    labels: Tensor
    valid: Tensor

    def to(self, device: torch.device | str) -> GroundTruthBatch:
        """The same ground truth on another device."""
        return GroundTruthBatch(*(t.to(device, non_blocking=True) for t in (self.boxes, self.labels, self.valid)))


def max_iou_gt(boxes: Tensor, ground_truth: GroundTruthBatch) -> tuple[Tensor, Tensor]:
    """Match each box to the ground truth that it overlaps most, of any class.

    The IoU is IoU_truth of IoU-aware RetinaNet (arXiv 1912.05992).

    Args:
        boxes: (B, N, 4) xyxy.
        ground_truth: Ground truth (B, G).

    Returns:
        (B, N) largest IoU, 0 where a box overlaps no object, and (B, N) int64 index of the ground truth that it is of.
    """
    if ground_truth.boxes.shape[1] == 0:
        return boxes.new_zeros(boxes.shape[:2]), torch.zeros(boxes.shape[:2], dtype=torch.int64, device=boxes.device)
    iou = pairwise_iou(ground_truth.boxes, boxes)  # (B, G, N)
    best = iou.masked_fill_(~ground_truth.valid[..., None], 0).max(1)
    return best.values, best.indices
