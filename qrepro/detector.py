"""A dense detector assembled from parts: pyramid, towers, prediction layers, priors.

It never sees ground truth. B images, R locations (levels concatenated, finest first), C classes.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from qrepro.backbone import FPN, Backbone, Deformable
from qrepro.boxes import Priors
from qrepro.quality import Estimator, Place
from qrepro.represent import BoxRepresentation, bins_of
from qrepro.sampling import layer_at


@dataclass(frozen=True)
class Prediction:
    """The raw output of one pass.

    cls: (B, R, C) class logits; raw: (B, R, channels) box output; quality: (B, R) quality logits or None;
    priors, box: what the box output is relative to, and how it is read; first: (B, R, channels) the box output before
    it was refined, None where it was not.
    """

    cls: Tensor
    raw: Tensor
    quality: Tensor | None
    priors: Priors
    box: BoxRepresentation
    first: Tensor | None = None

    def decode(self) -> Tensor:
        """Boxes (B, R, 4) xyxy in pixels of the network input, not clipped."""
        return self.box.decode(self.raw, self.priors)


class Tower(nn.Sequential):
    """`convs` 3x3 convolutions with ReLU, shared over the levels; the last one may be deformable."""

    def __init__(
        self,
        inputs: int,
        width: int,
        convs: int,
        groups: int | None,
        bias: bool,
        std: float,
        deformable: Literal["none", "v1", "v2"] = "none",
    ) -> None:
        layers: list[nn.Module] = []
        for index in range(convs):
            moves = deformable != "none" and index == convs - 1
            conv = nn.Conv2d(width if index else inputs, width, 3, padding=1, bias=bias)
            nn.init.normal_(conv.weight, std=std)
            if conv.bias is not None:
                nn.init.zeros_(conv.bias)
            layer = Deformable(conv, modulated=deformable == "v2") if moves else conv
            layers += [layer, *([nn.GroupNorm(groups, width)] if groups else []), nn.ReLU(inplace=True)]
        super().__init__(*layers)


class Head(nn.Module):
    """Two towers and their prediction layers: class, box and quality, shared over the levels.

    convs, width: of each tower; norm: `none`, or `group` normalisation in `groups` groups; bias: of the towers'
    convolutions, `auto` where there is no norm; deformable: of the last convolution of a tower; scales: one learned
    factor per level on the box output (FCOS, section 3.1); quality_on: the tower that the estimate reads;
    prior_probability: class score at the start of training (RetinaNet, section 3.3); tower_std: of the towers' first
    weights; kernel: of the prediction layers.

    With a sampler the last of the `convs` stands on points of the box that the box tower predicts, in the class tower,
    and, with `refine`, a second time on what the box tower has before its own last one. The latter predicts a
    correction, which is added to the code of the first box, seen detached (RepPoints, arXiv 1904.11490; where the code
    is the logarithm of distances it multiplies these: VFNet, arXiv 2008.13367, section 3.4). last_norm: whether the
    last convolution of the box tower has the norm of the others (RepPoints: no).
    """

    def __init__(
        self,
        inputs: int,
        classes: int,
        per_cell: int,
        box: BoxRepresentation,
        quality: Callable[[Place], Estimator],
        levels: int = 5,
        sampler: Callable[[int], Any] | None = None,
        reader: Callable[[int, int], nn.Module] | None = None,
        *,
        convs: int = 4,
        width: int = 256,
        norm: Literal["none", "group"] = "none",
        groups: int = 32,
        bias: Literal["auto", "always"] = "auto",
        deformable: Literal["none", "v1", "v2"] = "none",
        scales: bool = False,
        quality_on: Literal["box", "class"] = "box",
        prior_probability: float = 0.01,
        tower_std: float = 0.01,
        kernel: Literal[1, 3] = 3,
        refine: bool = False,
        last_norm: bool = True,
    ) -> None:
        super().__init__()
        if sampler and (per_cell != 1 or convs < 1):
            raise ValueError(f"sampling.towers: needs one prior a cell and a convolution, here {per_cell} and {convs}")
        if refine and not sampler:
            raise ValueError("head.refine: boxes are refined at points, and sampling.towers says of none")
        self.classes, self.per_cell, self.box, self.quality_on = classes, per_cell, box, quality_on
        normed = groups if norm == "group" else None
        plain = convs - 1 if sampler else convs
        if deformable != "none" and not plain:
            raise ValueError("head.deformable: no convolution of the towers is left beside the one at points")
        rest = normed, bias == "always" or normed is None, tower_std, deformable
        self.cls_tower, self.box_tower = Tower(inputs, width, plain, *rest), Tower(inputs, width, plain, *rest)
        before = width if plain else inputs
        self.sampler = sampler(before) if sampler else None
        if self.sampler is not None:
            own = normed if last_norm else None
            self.box_last = Tower(before, width, 1, own, bias == "always" or own is None, tower_std)
            self.cls_at = layer_at(self.sampler, before, width, tower_std)
        self.refine = refine
        if refine:
            self.refine_at = layer_at(self.sampler, before, width, tower_std)
            self.refine_out = _out(width, box.channels, kernel)
            self.refine_scales = _ones(levels if scales else 0)
        self.quality = quality(Place(width, per_cell, bins_of(box), reader))
        start = -math.log(1 / prior_probability - 1)
        self.cls_out = _out(width + self.quality.appended, per_cell * classes, kernel, start)
        self.box_out = _out(width, per_cell * box.channels, kernel)
        self.scales = _ones(levels if scales else 0)

    def forward(self, pyramid: Sequence[Tensor], priors: Priors) -> Prediction:
        """Dense predictions at the priors of a pyramid of features (B, inputs, H, W), finest first."""
        seen = [
            self._level(number, features, mine)
            for number, (features, mine) in enumerate(zip(pyramid, priors.split(), strict=True))
        ]
        cls, raw, quality, first = zip(*seen, strict=True)
        estimate = self._joined(quality)[..., 0] if quality[0] is not None else None
        before = self._joined(first) if first[0] is not None else None
        return Prediction(self._joined(cls), self._joined(raw), estimate, priors, self.box, before)

    def _level(
        self, number: int, features: Tensor, priors: Priors
    ) -> tuple[Tensor, Tensor, Tensor | None, Tensor | None]:
        """Maps (B, per_cell * K, H, W) of class logits, box output, quality logits and first box output of a level."""
        cls_features, box_features = self.cls_tower(features), self.box_tower(features)
        before = box_features
        if self.sampler is not None:
            box_features = self.box_last(before)
        raw, first = self.box_out(box_features) * (self.scales[number] if self.scales else 1), None
        if self.sampler is not None:
            points = self.sampler(before, raw, self._sides(raw, priors))
            cls_features = self.cls_at(cls_features, points).relu()
            if self.refine:
                step = self.refine_out(self.refine_at(before, points).relu())
                first, raw = raw, raw.detach() + step * (self.refine_scales[number] if self.refine_scales else 1)
        seen = box_features if self.quality_on == "box" else cls_features
        quality = self.quality(seen, raw, lambda: self._sides(raw, priors))
        if self.quality.appended:
            cls_features, quality = torch.cat([cls_features, quality], 1), None
        return self.cls_out(cls_features), raw, quality, first

    def _sides(self, raw: Tensor, priors: Priors) -> Tensor:
        """Distances (B, 4, H, W) in cells of the points of the cells to the sides of boxes (B, channels, H, W)."""
        # around the origin instead of their own points, so that no digit is lost to the coordinates
        boxes = self.box.decode(self._flat(raw), priors.moved(-priors.centres())) / priors.stride[:, None]
        return torch.cat([-boxes[..., :2], boxes[..., 2:]], -1).transpose(1, 2).unflatten(2, raw.shape[-2:])

    def _joined(self, maps: Sequence[Tensor]) -> Tensor:
        """(B, R, K) of the maps (B, per_cell * K, H, W) of all levels."""
        return torch.cat([self._flat(one) for one in maps], 1)

    def _flat(self, maps: Tensor) -> Tensor:
        """(B, per_cell * K, H, W) -> (B, H * W * per_cell, K), the order of the priors."""
        batch, channels, height, width = maps.shape
        return maps.permute(0, 2, 3, 1).reshape(batch, height * width * self.per_cell, channels // self.per_cell)


def _out(inputs: int, outputs: int, kernel: int, bias: float = 0.0) -> nn.Conv2d:
    """A prediction layer."""
    layer = nn.Conv2d(inputs, outputs, kernel, padding=kernel // 2)
    nn.init.normal_(layer.weight, std=0.01)
    assert layer.bias is not None
    nn.init.constant_(layer.bias, bias)
    return layer


def _ones(count: int) -> nn.ParameterList:
    """Learned factors that begin at 1."""
    return nn.ParameterList(nn.Parameter(torch.ones(())) for _ in range(count))


class Detector(nn.Module):
    """Image in, dense predictions out. Every member is a part that the recipe names."""

    backbone: Backbone
    neck: FPN
    head: Head

    def __init__(self, backbone: Backbone, neck: FPN, head: Head, prior: Any) -> None:
        super().__init__()
        self.backbone, self.neck, self.head, self.prior = backbone, neck, head, prior

    def forward(self, images: Tensor) -> Prediction:
        """Predictions of normalised images (B, 3, H, W); H and W are best multiples of 32."""
        pyramid = self.neck(self.backbone(images))
        sizes = [tuple(level.shape[-2:]) for level in pyramid]
        return self.head(pyramid, self.prior(sizes, self.neck.strides, images.device))


HEADS: dict[str, Callable[..., Any]] = {"towers": Head}
