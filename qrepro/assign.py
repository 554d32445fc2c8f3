"""Which location is trained on which object.

An assigner takes the priors, the padded truths and the usable locations of a batch, and returns (B, R) int64: the index
of the matched truth, or BACKGROUND, or IGNORED (takes part in no loss). No loop over images or boxes.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from qrepro.boxes import Priors, Truths, pairwise_iou

BACKGROUND = -1
IGNORED = -2


@dataclass(frozen=True, kw_only=True)
class MaxIoU:
    """RetinaNet's rule (arXiv 1708.02002, section 4.1): by the best IoU of an anchor with any truth.

    At or above `positive` the anchor belongs to that truth; below `negative` it is background; between, ignored.
    best_prior: each truth also takes the anchors of its highest IoU, whatever the thresholds say (if that IoU is
    above `min_best` and above zero: MMDetection gives a truth that no anchor touches to *every* such anchor).
    """

    positive: float = 0.5
    negative: float = 0.4
    best_prior: bool = True
    min_best: float = 0.0

    def __call__(self, priors: Priors, truths: Truths, usable: Tensor) -> Tensor:
        """Matches (B, R) int64 for priors R, truths (B, G) and usable (B, R) bool."""
        images, count = truths.valid.shape
        if count == 0:
            none = torch.full((images, len(priors.boxes)), BACKGROUND, device=priors.boxes.device)
            return none.masked_fill(~usable, IGNORED)
        iou = pairwise_iou(truths.boxes, priors.boxes)  # (B, G, R)
        iou.masked_fill_(~(truths.valid[..., None] & usable[:, None]), -1)
        best, match = iou.max(1)
        match = torch.where(best >= self.positive, match, IGNORED)
        match = torch.where(best < self.negative, BACKGROUND, match)
        if self.best_prior:
            top = iou.amax(2, keepdim=True)
            claimed = (iou == top) & (top > 0) & (top >= self.min_best)
            # A prior claimed by several truths goes to the last of them, as in MMDetection.
            number = torch.arange(1, count + 1, device=iou.device)[:, None]
            claim = (claimed * number).amax(1) - 1
            match = torch.where(claim >= 0, claim, match)
        return match.masked_fill(~usable, IGNORED)


ASSIGNERS: dict[str, Callable[..., Any]] = {"max_iou": MaxIoU}
