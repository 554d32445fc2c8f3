"""Priors: what the dense outputs of a detector are relative to, level after level."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor


@dataclass(frozen=True)
class Priors:
    """What the dense outputs are relative to, levels concatenated.

    boxes: (R, 4) prior boxes, (B, R, 4) where those of an image are its own: boxes that an earlier step predicted;
    cells: (R, 2) x, y of the top-left corner of each one's feature cell, pixels; stride: (R,) pixels per cell;
    counts: number of priors per level, finest first, empty for a selection.
    """

    boxes: Tensor
    cells: Tensor
    stride: Tensor
    counts: tuple[int, ...] = ()

    def at(self, image: Tensor | int, location: Tensor) -> Priors:
        """The priors at pairs of an image and a location (P,), to go with outputs gathered there."""
        boxes = self.boxes[location] if self.boxes.dim() == 2 else self.boxes[image, location]
        return Priors(boxes, self.cells[location], self.stride[location])

    def moved(self, shift: Tensor) -> Priors:
        """The prior boxes moved by (..., R, 2) pixels, their cells left where they are."""
        return replace(self, boxes=self.boxes + torch.cat([shift, shift], -1))

    def split(self) -> list[Priors]:
        """The priors of each level."""
        boxes = self.boxes.split(self.counts, -2)
        parts = zip(boxes, self.cells.split(self.counts), self.stride.split(self.counts), strict=True)
        return [Priors(*part, (count,)) for part, count in zip(parts, self.counts, strict=True)]

    def level(self) -> Tensor:
        """(R,) int64 index of the pyramid level of each prior, 0 the finest."""
        device = self.boxes.device
        return torch.arange(len(self.counts), device=device).repeat_interleave(torch.tensor(self.counts, device=device))

    def centres(self) -> Tensor:
        """(..., R, 2) x, y of the centre of each prior box, pixels."""
        return (self.boxes[..., :2] + self.boxes[..., 2:]) / 2

    def inside(self, sizes: Tensor) -> Tensor:
        """(B, R) bool: the prior's cell begins inside the image of size (B, 2) height, width in pixels."""
        return (self.cells[None] < sizes.flip(-1)[:, None]).all(-1)


@dataclass(frozen=True, kw_only=True)
class Anchors:
    """Anchor boxes of RetinaNet (arXiv 1708.02002, section 4): `octaves` scales times the ratios in every cell.

    scale: side of the smallest square anchor in strides; ratios: height / width at constant area;
    centre: where in its cell an anchor is centred, in cells (0.5 the middle; 0 the top-left corner, as MMDetection 2+).
    """

    scale: float = 4.0
    octaves: int = 3
    ratios: tuple[float, ...] = (0.5, 1.0, 2.0)
    centre: float = 0.5

    @property
    def per_cell(self) -> int:
        """Priors in one feature cell."""
        return self.octaves * len(self.ratios)

    def shapes(self, level: int, stride: float) -> Tensor:
        """(A, 2) width, height in pixels of the anchors of one cell, ratio-major; the same in strides on any level."""
        side = stride * self.scale * 2.0 ** (torch.arange(self.octaves) / self.octaves)
        root = torch.tensor(self.ratios).sqrt()
        return torch.stack([side[None] / root[:, None], side[None] * root[:, None]], -1).flatten(0, 1)

    def __call__(self, sizes: Sequence[tuple[int, int]], strides: Sequence[int], device: torch.device) -> Priors:
        """Priors of feature maps of `sizes` (height, width) and `strides`; row by row, then along x, then per cell."""
        return _grid(self, tuple(sizes), tuple(strides), device)


@dataclass(frozen=True, kw_only=True)
class DefaultBoxes:
    """Default boxes of SSD (arXiv 1512.02325, section 2.2), each level with shapes of its own.

    A cell has a square of side s_k, one of sqrt(s_k s_k+1), and for each ratio r of the level the boxes of area s_k^2
    whose height / width is 1 / r and r, in this order.
    sizes: s_k per level in pixels, finest first, and one more; ratios: per level; centre: where in its cell, in cells.
    """

    sizes: tuple[float, ...] = (21, 45, 99, 153, 207, 261, 315)
    ratios: tuple[tuple[float, ...], ...] = ((2,), (2, 3), (2, 3), (2, 3), (2,), (2,))
    centre: float = 0.5

    def __post_init__(self) -> None:
        if len(self.sizes) != len(self.ratios) + 1:
            raise ValueError(f"prior: {len(self.sizes)} sizes for {len(self.ratios)} levels, which need one more")

    @property
    def per_cell(self) -> tuple[int, ...]:
        """Priors in one feature cell of each level."""
        return tuple(2 + 2 * len(ratios) for ratios in self.ratios)

    def shapes(self, level: int, stride: float) -> Tensor:
        """(A, 2) width, height in pixels of the boxes of one cell of a level."""
        side, following = self.sizes[level : level + 2]
        roots = [math.sqrt(ratio) ** sign for ratio in self.ratios[level] for sign in (-1, 1)]
        squares = [side, math.sqrt(side * following)]
        return torch.tensor([*((s, s) for s in squares), *((side / root, side * root) for root in roots)])

    def __call__(self, sizes: Sequence[tuple[int, int]], strides: Sequence[int], device: torch.device) -> Priors:
        """Priors of feature maps of `sizes` (height, width) and `strides`; row by row, then along x, then per cell."""
        if len(sizes) != len(self.ratios):
            raise ValueError(f"prior: default boxes of {len(self.ratios)} levels, the neck has {len(sizes)}")
        return _grid(self, tuple(sizes), tuple(strides), device)


@lru_cache(maxsize=32)
def _grid(
    prior: Anchors | DefaultBoxes,
    sizes: tuple[tuple[int, int], ...],
    strides: tuple[int, ...],
    device: torch.device,
) -> Priors:
    """The priors of one input size: kept, because most batches of a run share a handful of sizes."""
    boxes, cells, stride_of = [], [], []
    for level, ((height, width), stride) in enumerate(zip(sizes, strides, strict=True)):
        y, x = torch.meshgrid(torch.arange(height) * stride, torch.arange(width) * stride, indexing="ij")
        shapes = prior.shapes(level, stride)
        corner = torch.stack([x, y], -1).float().view(-1, 1, 2).expand(-1, len(shapes), 2).reshape(-1, 2)
        half = shapes.repeat(height * width, 1) / 2
        centre = corner + prior.centre * stride
        boxes.append(torch.cat([centre - half, centre + half], -1))
        cells.append(corner)
        stride_of.append(torch.full((len(corner),), float(stride)))
    return Priors(
        torch.cat(boxes).to(device),
        torch.cat(cells).to(device),
        torch.cat(stride_of).to(device),
        tuple(len(b) for b in boxes),
    )


@dataclass(frozen=True, kw_only=True)
class Points:
    """One point per cell (FCOS, arXiv 1904.01355; FoveaBox, arXiv 1904.03797), the centre of a square box.

    scale: side of the square in strides: what FoveaBox calls the basic size of a level, and what the ranges of FCOS are
    multiples of; centre: where in its cell, in cells.
    """

    scale: float = 8.0
    centre: float = 0.5

    @property
    def per_cell(self) -> int:
        """Priors in one feature cell."""
        return 1

    def __call__(self, sizes: Sequence[tuple[int, int]], strides: Sequence[int], device: torch.device) -> Priors:
        """Priors of feature maps of `sizes` (height, width) and `strides`; row by row, then along x."""
        return Anchors(scale=self.scale, octaves=1, ratios=(1.0,), centre=self.centre)(sizes, strides, device)


PRIORS: dict[str, Callable[..., Any]] = {"anchors": Anchors, "points": Points, "default_boxes": DefaultBoxes}
