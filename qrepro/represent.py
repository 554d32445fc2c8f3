"""How a box is written in the outputs of a network, and read back.

A representation has `channels` numbers per prior; `encode` gives the code of a box, `decode` the box of an output.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

from qrepro.boxes import Priors

Four = tuple[float, float, float, float]


class BoxRepresentation(Protocol):
    """What a member of this axis offers."""

    @property
    def channels(self) -> int:
        """Numbers per prior that the network puts out."""

    def encode(self, boxes: Tensor, priors: Priors) -> Tensor:
        """Target code (P, ...) of boxes (P, 4) at the priors (P)."""

    def decode(self, raw: Tensor, priors: Priors) -> Tensor:
        """Boxes (..., R, 4) of outputs (..., R, channels) at the priors (R); differentiable."""


@dataclass(frozen=True, kw_only=True)
class Delta:
    """Centre shift and log size relative to an anchor (R-CNN, arXiv 1311.2524, appendix C), as (dx, dy, dw, dh).

    means, stds: the codes are (delta - mean) / std; max_ratio: |dw|, |dh| are cut at ln(max_ratio) when decoding.
    """

    means: Four = (0.0, 0.0, 0.0, 0.0)
    stds: Four = (1.0, 1.0, 1.0, 1.0)
    max_ratio: float = 1000 / 16

    @property
    def channels(self) -> int:
        """Four numbers per anchor."""
        return 4

    def encode(self, boxes: Tensor, priors: Priors) -> Tensor:
        """Codes (P, 4) of boxes (P, 4); boxes must have positive sides."""
        centre, size = _centre_size(boxes)
        anchor_centre, anchor_size = _centre_size(priors.boxes)
        delta = torch.cat([(centre - anchor_centre) / anchor_size, (size / anchor_size).log()], -1)
        return (delta - delta.new_tensor(self.means)) / delta.new_tensor(self.stds)

    def decode(self, raw: Tensor, priors: Priors) -> Tensor:
        """Boxes (..., R, 4) of codes (..., R, 4); in float32 whatever the network ran in."""
        delta = raw.float() * raw.new_tensor(self.stds, dtype=torch.float32) + raw.new_tensor(
            self.means, dtype=torch.float32
        )
        limit = math.log(self.max_ratio)
        anchor_centre, anchor_size = _centre_size(priors.boxes)
        centre = anchor_centre + delta[..., :2] * anchor_size
        half = anchor_size * delta[..., 2:].clamp(-limit, limit).exp() / 2
        return torch.cat([centre - half, centre + half], -1)


def _centre_size(boxes: Tensor) -> tuple[Tensor, Tensor]:
    """Centre (..., 2) and width, height (..., 2) of boxes (..., 4)."""
    return (boxes[..., :2] + boxes[..., 2:]) / 2, boxes[..., 2:] - boxes[..., :2]


REPRESENTATIONS: dict[str, Callable[..., Any]] = {"delta": Delta}
