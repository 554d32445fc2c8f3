"""Towers and prediction layers, in one step or in two."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Literal

import torch
from torch import Tensor, nn

from qrepro.box_coder import BoxCoder
from qrepro.detector.prediction import Prediction, joined
from qrepro.detector.tower import Tower
from qrepro.priors import Priors
from qrepro.quality import Estimator, EstimatorContext
from qrepro.sampling import OutAt, layer_at


@dataclass(frozen=True)
class ReadAt:
    """Where features are read, if not in their own cell.

    Attributes:
        towers: constructor, of a width, of a `qrepro.sampling.Sampler`: the last convolution of each tower reads at its
            points of the (initial) box (VFNet's star, RepPoints).
        outputs: the same for the prediction layers (PASSD).
        quality: constructor, of inputs and outputs, of the layer with which the estimate reads (GFLv2, table 3).
    """

    towers: Callable[[int], Any] | None = None
    outputs: Callable[[int], Any] | None = None
    quality: Callable[[int, int], nn.Module] | None = None


@dataclass(frozen=True)
class InitialStage:
    """Boxes that a second step refines.

    Attributes:
        refine: what the second step predicts. `encoding`: a correction that is added to the encoding of the first box,
            seen detached (RepPoints, arXiv 1904.11490; where the encoding is the logarithm of distances it multiplies
            these: VFNet, arXiv 2008.13367, section 3.4). `box`: an encoding relative to the first box, also detached
            (PASSD).
        box: how first boxes are encoded.
        objectness: whether the step also tells objects from background.
    """

    refine: Literal["encoding", "box"]
    box: BoxCoder
    objectness: bool = False

    def refined(self, first: Prediction, raw: Tensor, second: Tensor) -> tuple[Tensor, Priors]:
        """The box output after the second step, and what it is relative to.

        Args:
            first: the prediction of this stage.
            raw: (B, channels, H, W) its box output.
            second: (B, channels, H, W) the output of the second step.
        """
        if self.refine == "encoding":
            return raw.detach() + second, first.priors
        return second, replace(first.priors, boxes=first.decode().detach())


class Head(nn.Module):
    """Two towers and their prediction layers: class, box and quality, shared over the levels of a pyramid.

    On each level

        features -> box tower -> box_out -> box
                 |                           +-> quality estimate, of the tower that `quality_on` names
                 -> class tower -> cls_out -> class logits

    is RetinaNet, FCOS, ATSS, FoveaBox, GFL and GFLv2; without convolutions in the towers it is SSD. VFNet, RepPoints
    and PASSD go on from the box of `box_out`:

    * `read_at.towers`: the last of the `convs` of each tower reads at points of this box. The box itself cannot come
      from there; it has the last convolution `box_last` of its own.
    * `read_at.outputs`: the prediction layers read at points of this box, those of each prior of a cell on its own.
    * `initial`: this box is a first one, which `refine_out` refines, from the features at its points where there are
      some; the estimate belongs to the refined box.

    Args:
        inputs: channels of the pyramid.
        classes: number of classes.
        per_cell: priors of a cell.
        box: coder of the (final) box.
        quality: constructor of the quality estimate.
        levels: levels of the pyramid, for `scales`.
        read_at: where features are read, if not in their own cell.
        initial: the stage whose boxes are refined, if any.
        convs: convolutions of each tower.
        width: channels of each tower.
        norm: of the towers' convolutions.
        groups: of `norm: group`.
        bias: of the towers' convolutions; `auto`: where there is no norm.
        deformable: kind of the last convolution of each tower that does not read at points.
        residual: whether the towers are of so many residual blocks instead.
        scales: one learned factor per level on the box output (FCOS, arXiv 1904.01355, section 3.1).
        quality_on: the tower that the estimate reads.
        scores: a `sigmoid` per class, or a `softmax` over classes and background.
        prior_probability: class score at the start of training (RetinaNet, arXiv 1708.02002, section 3.3); under a
            softmax all are equal.
        tower_std: initialisation std of the towers' weights.
        kernel: of the prediction layers.
        init: initialisation of the prediction layers, N(0, 0.01) or Xavier's.
        last_norm: whether `box_last` has the norm of the other convolutions (RepPoints: no).

    Raises:
        ValueError: points for the towers with several priors a cell or with no convolution to read at them, or
            `deformable` with no convolution left beside that one.
    """

    def __init__(
        self,
        inputs: int,
        classes: int,
        per_cell: int,
        box: BoxCoder,
        quality: Callable[[EstimatorContext], Estimator],
        levels: int = 5,
        read_at: ReadAt = ReadAt(),
        initial: InitialStage | None = None,
        *,
        convs: int = 4,
        width: int = 256,
        norm: Literal["none", "group"] = "none",
        groups: int = 32,
        bias: Literal["auto", "always"] = "auto",
        deformable: Literal["none", "v1", "v2"] = "none",
        residual: bool = False,
        scales: bool = False,
        quality_on: Literal["box", "class"] = "box",
        scores: Literal["sigmoid", "softmax"] = "sigmoid",
        prior_probability: float = 0.01,
        tower_std: float = 0.01,
        kernel: Literal[1, 3] = 3,
        init: Literal["normal", "xavier"] = "normal",
        last_norm: bool = True,
    ) -> None:
        super().__init__()
        at_points = read_at.towers is not None
        if at_points and (per_cell != 1 or convs < 1):
            raise ValueError(f"sampling.towers: needs one prior a cell and a convolution, here {per_cell} and {convs}")
        plain = convs - at_points
        if deformable != "none" and not plain:
            raise ValueError("head.deformable: no convolution of the towers is left beside the one at points")
        self.classes, self.per_cell, self.quality_on = classes, per_cell, quality_on
        self.background = scores == "softmax"
        self.box, self.initial = box, initial

        normed = groups if norm == "group" else None
        rest = normed, bias == "always" or normed is None, tower_std, deformable, residual
        self.cls_tower, self.box_tower = Tower(inputs, width, plain, *rest), Tower(inputs, width, plain, *rest)
        before = width if plain else inputs
        width = width if convs else inputs
        self.towers_at = read_at.towers(before) if read_at.towers else None
        self.outputs_at = read_at.outputs(width) if read_at.outputs else None
        own = normed if last_norm else None
        self.box_last = Tower(before, width, int(at_points), own, bias == "always" or own is None, tower_std)
        if self.towers_at is not None:
            self.cls_at = layer_at(self.towers_at, before, width, tower_std)

        out: Callable[..., nn.Module] = partial(_out, kernel=kernel, init=init)
        final = out
        if self.outputs_at is not None:
            final = partial(OutAt, self.outputs_at, per_cell if self.outputs_at.of_box else 1)
        self.box_out = out(width, per_cell * self.first_box.channels)
        self.scales = LevelScales(levels if scales else 0)
        if initial:
            if initial.objectness:
                self.object_out = out(width, per_cell * (1 + self.background))
            if self.towers_at is not None:
                self.refine_at = layer_at(self.towers_at, before, width, tower_std)
            self.refine_out = final(width, per_cell * box.channels)
            self.refine_scales = LevelScales(levels if scales else 0)
        self.quality = quality(EstimatorContext(width, per_cell, box.bins, read_at.quality))
        start = 0.0 if self.background else -math.log(1 / prior_probability - 1)
        self.cls_out = final(width + self.quality.appended, per_cell * (classes + self.background), bias=start)

    @property
    def first_box(self) -> BoxCoder:
        """Coder of the box that `box_out` puts out."""
        return self.initial.box if self.initial else self.box

    def forward(self, pyramid: Sequence[Tensor], priors: Priors) -> Prediction:
        """Dense predictions at the priors of a pyramid of features (B, inputs, H, W), finest first."""
        levels = enumerate(zip(pyramid, priors.split(), strict=True))
        return joined([self._level(number, features, mine) for number, (features, mine) in levels], priors)

    def _level(self, number: int, features: Tensor, priors: Priors) -> Prediction:
        """The prediction of one level."""
        cls_features, box_features = self.cls_tower(features), self.box_tower(features)
        of_box = self.box_last(box_features)
        raw = self.scales.scaled(number, self.box_out(of_box))
        sides = partial(self._sides, raw, self.first_box, priors, priors)
        if self.towers_at is not None:
            points = self.towers_at(box_features, raw, sides())
            cls_features = self.cls_at(cls_features, points).relu()
            if self.initial:
                box_features = self.refine_at(box_features, points).relu()
        at = () if self.outputs_at is None else (self._points(self.outputs_at, box_features, raw, sides()),)

        initial, reference = None, priors
        if self.initial:
            objects = self._flat(self.object_out(of_box)) if self.initial.objectness else None
            initial = Prediction(objects, self._flat(raw), None, priors, self.first_box, background=self.background)
            second = self.refine_scales.scaled(number, self.refine_out(box_features, *at))
            raw, reference = self.initial.refined(initial, raw, second)

        sides = partial(self._sides, raw, self.box, reference, priors)
        quality = self.quality(of_box if self.quality_on == "box" else cls_features, raw, sides)
        if self.quality.appended:
            cls_features, quality = torch.cat([cls_features, quality], 1), None
        estimate = None if quality is None else self._flat(quality)[..., 0]
        cls = self._flat(self.cls_out(cls_features, *at))
        return Prediction(cls, self._flat(raw), estimate, reference, self.box, initial, self.background)

    def _points(self, sampler: Any, features: Tensor, raw: Tensor, sides: Tensor) -> Tensor:
        """Points (B, sets, taps, 2, H, W): of each prior of a cell, or one set for all where no box moves them."""
        if not sampler.of_box:
            shared: Tensor = sampler(features, raw, sides)
            return shared[:, None]
        each = raw.unflatten(1, (self.per_cell, -1)).flatten(0, 1)
        points: Tensor = sampler(features, each, sides).unflatten(0, (-1, self.per_cell))
        return points

    def _sides(self, raw: Tensor, box: BoxCoder, reference: Priors, priors: Priors) -> Tensor:
        """Distances (B * per_cell, 4, H, W) in cells of the centres of priors to the sides of boxes.

        raw: (B, per_cell * channels, H, W), the code of boxes relative to `reference`.
        """
        # around the origin instead of their own points, so that no digit is lost to the coordinates
        boxes = box.decode(self._flat(raw), reference.moved(-priors.centres())) / priors.stride[:, None]
        sides = torch.cat([-boxes[..., :2], boxes[..., 2:]], -1)
        maps: Tensor = sides.unflatten(1, (*raw.shape[-2:], self.per_cell))
        return maps.permute(0, 3, 4, 1, 2).flatten(0, 1)

    def _flat(self, maps: Tensor) -> Tensor:
        """(B, per_cell * K, H, W) -> (B, H * W * per_cell, K), the order of the priors."""
        batch, channels, height, width = maps.shape
        return maps.permute(0, 2, 3, 1).reshape(batch, height * width * self.per_cell, channels // self.per_cell)


class PerLevelHead(nn.Module):
    """A head of its own for every level (SSD, arXiv 1512.02325, figure 2)."""

    def __init__(self, heads: Sequence[Head]) -> None:
        super().__init__()
        self.heads = nn.ModuleList(heads)

    def forward(self, pyramid: Sequence[Tensor], priors: Priors) -> Prediction:
        """Dense predictions at the priors of a pyramid of features (B, inputs, H, W), finest first."""
        levels = zip(self.heads, pyramid, priors.split(), strict=True)
        return joined([head([features], mine) for head, features, mine in levels], priors)


def _out(inputs: int, outputs: int, bias: float = 0.0, *, kernel: int, init: str) -> nn.Conv2d:
    """A prediction layer."""
    layer = nn.Conv2d(inputs, outputs, kernel, padding=kernel // 2)
    if init == "xavier":
        nn.init.xavier_uniform_(layer.weight)
    else:
        nn.init.normal_(layer.weight, std=0.01)
    assert layer.bias is not None
    nn.init.constant_(layer.bias, bias)
    return layer


class LevelScales(nn.ParameterList):
    """Learned factors, one per level, which begin at 1; of none, nothing is scaled."""

    def __init__(self, levels: int) -> None:
        super().__init__(nn.Parameter(torch.ones(())) for _ in range(levels))

    def scaled(self, level: int, maps: Tensor) -> Tensor:
        """Maps of a level times its factor."""
        factor: Tensor | int = self[level] if len(self) else 1
        return maps * factor


HEADS: dict[str, Callable[..., Head]] = {"towers": Head}
