"""Targets: what positives are trained towards, and how much each of them counts.

A class target maps the IoU of each positive's decoded box with its ground truth to the target of the class score; every
other entry of the dense target is 0. A measure gives a number per positive that a loss may be weighted by or an
estimate trained towards.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor


@dataclass(frozen=True)
class Positives:
    """The matched locations of a batch, P in all.

    Attributes:
        image: (P,) int64 index of the image in the prediction.
        location: (P,) int64 index of the location in the prediction.
        labels: (P,) int64 classes of the ground truth.
        gt_boxes: (P, 4) boxes of the ground truth, xyxy in pixels.
        decoded: (P, 4) predicted boxes, xyxy in pixels.
        iou: (P,) IoU of the two, differentiable where the prediction is.
        centerness: (P,) centerness of the prior's centre in the ground truth.
        score: (P,) largest class score of the location, detached.
    """

    image: Tensor
    location: Tensor
    labels: Tensor
    gt_boxes: Tensor
    decoded: Tensor
    iou: Tensor
    centerness: Tensor
    score: Tensor


class Measure(Protocol):
    """What a member of this axis offers: a number per positive."""

    def __call__(self, positives: Positives, /) -> Tensor:
        """Measure (P,) in [0, 1] of positives; `iou` carries a gradient, which `objective` stops or lets through."""


MEASURES: dict[str, Measure] = {
    "iou": lambda positives: positives.iou,
    "centerness": lambda positives: positives.centerness,
    "score": lambda positives: positives.score,
}


class ClassTarget(Protocol):
    """What a member of this axis offers, its recipe values filled in: the target of the score of the true class."""

    def __call__(self, iou: Tensor, /) -> Tensor:
        """Target of the class score.

        Args:
            iou: (P,) IoU of each positive's decoded box with its ground truth, already detached.

        Returns:
            (P,) targets in [0, 1] at the true class.
        """


def hard(iou: Tensor) -> Tensor:
    """1 at the true class, whatever the IoU (P,) (focal loss)."""
    return torch.ones_like(iou)


def soft(iou: Tensor, *, minimum: float = 0.0) -> Tensor:
    """The IoU itself: class score and quality in one number (GFL, arXiv 2006.04388, section 3).

    Args:
        iou: (P,) IoU of each positive's decoded box with its ground truth, already detached.
        minimum: Minimum target of a positive (1e-6 in VFNet's code, where a target of 0 would make it a negative).

    Returns:
        (P,) targets in [minimum, 1].
    """
    return iou.clamp(min=minimum)


CLASS_TARGETS: dict[str, ClassTarget] = {"hard": hard, "iou": soft}


def scatter(value: Tensor, labels: Tensor, image: Tensor, location: Tensor, shape: torch.Size) -> Tensor:
    """Dense target of the class scores.

    Args:
        value: (P,) targets of the positives.
        labels: (P,) int64 their classes.
        image: (P,) int64 their images.
        location: (P,) int64 their locations.
        shape: (B, R, C) of the target.

    Returns:
        (B, R, C): `value` at [image, location, labels], 0 elsewhere.
    """
    dense = value.new_zeros(shape)
    dense[image, location, labels] = value
    return dense
