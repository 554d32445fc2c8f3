"""A dense detector assembled from parts: pyramid, towers, one prediction stage, priors.

It never sees ground truth. B images, R locations (levels concatenated, finest first), C classes.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from qrepro.backbone import FPN, Residual
from qrepro.boxes import Priors
from qrepro.represent import BoxRepresentation


@dataclass(frozen=True)
class Prediction:
    """The raw output of one pass.

    cls: (B, R, C) class logits; raw: (B, R, channels) box output; quality: (B, R) quality logits or None.
    """

    cls: Tensor
    raw: Tensor
    quality: Tensor | None
    priors: Priors


class Tower(nn.Sequential):
    """`convs` 3x3 convolutions with ReLU, shared over the levels."""

    def __init__(self, inputs: int, width: int, convs: int, groups: int | None, bias: bool, std: float) -> None:
        layers: list[nn.Module] = []
        for index in range(convs):
            conv = nn.Conv2d(width if index else inputs, width, 3, padding=1, bias=bias)
            nn.init.normal_(conv.weight, std=std)
            if conv.bias is not None:
                nn.init.zeros_(conv.bias)
            layers += [conv, *([nn.GroupNorm(groups, width)] if groups else []), nn.ReLU(inplace=True)]
        super().__init__(*layers)


class Head(nn.Module):
    """Two towers and their prediction layers: class, box and quality, shared over the levels.

    convs, width: of each tower; norm: `none`, or `group` normalisation in `groups` groups; bias: of the towers'
    convolutions, `auto` where there is no norm; scales: one learned factor per level on the box output (FCOS, section
    3.1); quality_on: the tower that the estimate reads; prior_probability: class score at the start of training
    (RetinaNet, section 3.3); tower_std: of the towers' first weights.
    """

    def __init__(
        self,
        inputs: int,
        classes: int,
        per_cell: int,
        box: BoxRepresentation,
        quality: Callable[[int, int], nn.Module],
        levels: int = 5,
        *,
        convs: int = 4,
        width: int = 256,
        norm: Literal["none", "group"] = "none",
        groups: int = 32,
        bias: Literal["auto", "always"] = "auto",
        scales: bool = False,
        quality_on: Literal["box", "class"] = "box",
        prior_probability: float = 0.01,
        tower_std: float = 0.01,
    ) -> None:
        super().__init__()
        self.classes, self.per_cell = classes, per_cell
        shape = inputs, width, convs, groups if norm == "group" else None, bias == "always" or norm == "none", tower_std
        self.cls_tower, self.box_tower = Tower(*shape), Tower(*shape)
        self.cls_out = nn.Conv2d(width, per_cell * classes, 3, padding=1)
        self.box_out = nn.Conv2d(width, per_cell * box.channels, 3, padding=1)
        for layer, start in ((self.cls_out, -math.log(1 / prior_probability - 1)), (self.box_out, 0.0)):
            nn.init.normal_(layer.weight, std=0.01)
            assert layer.bias is not None
            nn.init.constant_(layer.bias, start)
        self.quality = quality(width, per_cell)
        self.quality_on = quality_on
        self.scales = nn.ParameterList(nn.Parameter(torch.ones(())) for _ in range(levels if scales else 0))

    def forward(self, pyramid: list[Tensor]) -> tuple[Tensor, Tensor, Tensor | None]:
        """Class logits (B, R, C), box output (B, R, channels) and quality logits (B, R) or None."""
        cls, raw, quality = [], [], []
        for level, features in enumerate(pyramid):
            cls_features, box_features = self.cls_tower(features), self.box_tower(features)
            box = self.box_out(box_features)
            if self.scales:
                box = box * self.scales[level]
            estimate = self.quality(box_features if self.quality_on == "box" else cls_features, box)
            cls.append(self._flat(self.cls_out(cls_features)))
            raw.append(self._flat(box))
            quality += [] if estimate is None else [self._flat(estimate)[..., 0]]
        return torch.cat(cls, 1), torch.cat(raw, 1), torch.cat(quality, 1) if quality else None

    def _flat(self, maps: Tensor) -> Tensor:
        """(B, per_cell * K, H, W) -> (B, H * W * per_cell, K), the order of the priors."""
        batch, channels, height, width = maps.shape
        flat = maps.permute(0, 2, 3, 1).reshape(batch, height * width * self.per_cell, channels // self.per_cell)
        return flat


class Detector(nn.Module):
    """Image in, dense predictions out. Every member is a part that the recipe names."""

    backbone: Residual
    neck: FPN
    head: Head

    def __init__(self, backbone: Residual, neck: FPN, head: Head, prior: Any, box: BoxRepresentation) -> None:
        super().__init__()
        self.backbone, self.neck, self.head = backbone, neck, head
        self.prior, self.box = prior, box

    def forward(self, images: Tensor) -> Prediction:
        """Predictions of normalised images (B, 3, H, W); H and W are best multiples of 32."""
        pyramid = self.neck(self.backbone(images))
        cls, raw, quality = self.head(pyramid)
        sizes = [tuple(level.shape[-2:]) for level in pyramid]
        return Prediction(cls, raw, quality, self.prior(sizes, self.neck.strides, images.device))

    def decode(self, prediction: Prediction) -> Tensor:
        """Boxes (B, R, 4) xyxy in pixels of the network input, not clipped."""
        return self.box.decode(prediction.raw, prediction.priors)


HEADS: dict[str, Callable[..., Any]] = {"towers": Head}
