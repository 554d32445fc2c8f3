"""What the class scores of a positive location are trained towards.

A class target maps the IoU of each positive's decoded box with its truth, (P,) and already detached, to the value (P,)
wanted at the true class. Every other entry of the dense target is 0.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor


def hard(iou: Tensor) -> Tensor:
    """1 at the true class, however well the box fits (focal loss)."""
    return torch.ones_like(iou)


CLASS_TARGETS: dict[str, Callable[[Tensor], Tensor]] = {"hard": hard}


def scatter(value: Tensor, labels: Tensor, image: Tensor, location: Tensor, shape: torch.Size) -> Tensor:
    """Dense target of `shape` (B, R, C): value (P,) at [image, location, labels], 0 elsewhere."""
    dense = value.new_zeros(shape)
    dense[image, location, labels] = value
    return dense
