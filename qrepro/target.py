"""What positive locations are trained towards, and how much each of them counts.

A class target maps the IoU of each positive's decoded box with its truth, (P,) and already detached, to the value (P,)
wanted at the true class; every other entry of the dense target is 0. A measure gives a number per positive that a loss
may be weighted by or an estimate trained towards.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Positives:
    """The matched locations of a batch, P in all.

    image, location: (P,) their indices in the prediction; labels: (P,); truth: (P, 4) their boxes;
    decoded: (P, 4) the predicted boxes; iou: (P,) of the two, differentiable where the prediction is;
    centerness: (P,) of the prior's centre in the truth; score: (P,) largest score of the location, detached.
    """

    image: Tensor
    location: Tensor
    labels: Tensor
    truth: Tensor
    decoded: Tensor
    iou: Tensor
    centerness: Tensor
    score: Tensor


MEASURES: dict[str, Callable[[Positives], Tensor]] = {
    "iou": lambda found: found.iou,
    "centerness": lambda found: found.centerness,
    "score": lambda found: found.score,
}


def hard(iou: Tensor) -> Tensor:
    """1 at the true class, however well the box fits (focal loss)."""
    return torch.ones_like(iou)


def soft(iou: Tensor, *, floor: float = 0.0) -> Tensor:
    """The IoU itself: class score and quality in one number (GFL, arXiv 2006.04388, section 3).

    floor: a positive's least target (1e-6 in VFNet's code, where a target of 0 would make it a negative).
    """
    return iou.clamp(min=floor)


CLASS_TARGETS: dict[str, Callable[..., Tensor]] = {"hard": hard, "iou": soft}


def scatter(value: Tensor, labels: Tensor, image: Tensor, location: Tensor, shape: torch.Size) -> Tensor:
    """Dense target of `shape` (B, R, C): value (P,) at [image, location, labels], 0 elsewhere."""
    dense = value.new_zeros(shape)
    dense[image, location, labels] = value
    return dense
