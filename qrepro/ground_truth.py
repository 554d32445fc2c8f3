"""Ground truth of a batch, padded, and which of it a box overlaps most."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from qrepro.boxes import pairwise_iou


@dataclass(frozen=True)
class Truths:
    """Ground truth of a batch, padded to the image with most objects.

    boxes: (B, G, 4) xyxy; labels: (B, G) int64 in [0, classes); valid: (B, G) bool, false where padded.
    """

    boxes: Tensor
    labels: Tensor
    valid: Tensor

    def to(self, device: torch.device | str) -> Truths:
        """The same truths on another device."""
        return Truths(*(t.to(device, non_blocking=True) for t in (self.boxes, self.labels, self.valid)))


def nearest_truth(boxes: Tensor, truths: Truths) -> tuple[Tensor, Tensor]:
    """(B, N) max IoU of boxes (B, N, 4) with any truth of any class, 0 for none, and (B, N) which truth it is.

    The IoU is IoU_truth of IoU-aware RetinaNet (arXiv 1912.05992).
    """
    if truths.boxes.shape[1] == 0:
        return boxes.new_zeros(boxes.shape[:2]), torch.zeros(boxes.shape[:2], dtype=torch.int64, device=boxes.device)
    iou = pairwise_iou(truths.boxes, boxes)  # (B, G, N)
    best = iou.masked_fill_(~truths.valid[..., None], 0).max(1)
    return best.values, best.indices
