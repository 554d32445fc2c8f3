"""Priors: the boxes that the dense outputs of a detector are relative to, level after level."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Protocol

import torch
from torch import Tensor


@dataclass(frozen=True)
class Priors:
    """The priors of feature maps, levels concatenated.

    Attributes:
        boxes: (R, 4) prior boxes, xyxy in pixels; (B, R, 4) where each image has its own, boxes that an initial stage
            predicted.
        cells: (R, 2) x, y of the top-left corner of each prior's feature cell, pixels.
        stride: (R,) pixels per cell.
        counts: Number of priors per level, finest first; empty for a selection.
    """

    boxes: Tensor
    cells: Tensor
    stride: Tensor
    counts: tuple[int, ...] = ()

    def at(self, image: Tensor | int, location: Tensor) -> Priors:
        """Select priors, to go with outputs gathered at the same places.

        Args:
            image: Index of the image of each pair (P,), or of all.
            location: (P,) index of the prior of each pair.

        Returns:
            The P priors, as a selection without levels.
        """
        boxes = self.boxes[location] if self.boxes.dim() == 2 else self.boxes[image, location]
        return Priors(boxes, self.cells[location], self.stride[location])

    def moved(self, shift: Tensor) -> Priors:
        """Priors whose boxes are moved by (..., R, 2) pixels in x, y; their cells stay where they are."""
        return replace(self, boxes=self.boxes + torch.cat([shift, shift], -1))

    def split(self) -> list[Priors]:
        """The priors of each level, finest first."""
        counts = list(self.counts)
        boxes, cells = torch.split(self.boxes, counts, -2), torch.split(self.cells, counts)
        levels = zip(boxes, cells, torch.split(self.stride, counts), strict=True)
        return [Priors(*level, (count,)) for level, count in zip(levels, counts, strict=True)]

    def level(self) -> Tensor:
        """Index (R,) int64 of the pyramid level of each prior, 0 the finest."""
        device = self.boxes.device
        return torch.arange(len(self.counts), device=device).repeat_interleave(torch.tensor(self.counts, device=device))

    def centres(self) -> Tensor:
        """Centres (..., R, 2) x, y of the prior boxes, pixels."""
        return (self.boxes[..., :2] + self.boxes[..., 2:]) / 2

    def inside(self, sizes: Tensor) -> Tensor:
        """Whether each prior's cell begins inside the image.

        Args:
            sizes: (B, 2) height, width of the images in pixels.

        Returns:
            (B, R) bool.
        """
        return (self.cells[None] < sizes.flip(-1)[:, None]).all(-1)


class Prior(Protocol):
    """What a member of this axis offers: the priors of any feature maps."""

    @property
    def per_cell(self) -> int | tuple[int, ...]:
        """Number of priors in one feature cell, A, of all levels or of each."""

    def __call__(self, sizes: Sequence[tuple[int, int]], strides: Sequence[int], device: torch.device, /) -> Priors:
        """Priors of a pyramid.

        Args:
            sizes: Height and width of the feature map of each level in cells, finest first.
            strides: Pixels per cell of each level.
            device: Device of the priors.

        Returns:
            Priors level by level; in a level row by row, then along x, then the A priors of a cell.
        """


@dataclass(frozen=True, kw_only=True)
class Anchors:
    """Anchor boxes of RetinaNet (arXiv 1708.02002, section 4): `octaves` scales times the ratios in every cell.

    Attributes:
        scale: Side of the smallest square anchor in strides.
        octaves: Number of scales, 2^(i / octaves) times the smallest.
        ratios: Height / width, at constant area.
        centre: Where in its cell an anchor is centred, in cells (0.5 the middle; 0 the top-left corner, as
            MMDetection 2+).
    """

    scale: float = 4.0
    octaves: int = 3
    ratios: tuple[float, ...] = (0.5, 1.0, 2.0)
    centre: float = 0.5

    @property
    def per_cell(self) -> int:
        """Number of priors in one feature cell."""
        return self.octaves * len(self.ratios)

    def shapes(self, level: int, stride: float) -> Tensor:
        """Shapes of the anchors of one cell, the same in strides on any level.

        Args:
            level: Index of the pyramid level, 0 the finest.
            stride: Pixels per cell of the level.

        Returns:
            (A, 2) width, height in pixels, ratio-major.
        """
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

    Attributes:
        sizes: s_k per level in pixels, finest first, and one more.
        ratios: The ratios r of each level.
        centre: Where in its cell a box is centred, in cells.

    Raises:
        ValueError: `sizes` is not one longer than `ratios`, or a pyramid has another number of levels.
    """

    sizes: tuple[float, ...] = (21, 45, 99, 153, 207, 261, 315)
    ratios: tuple[tuple[float, ...], ...] = ((2,), (2, 3), (2, 3), (2, 3), (2,), (2,))
    centre: float = 0.5

    def __post_init__(self) -> None:
        if len(self.sizes) != len(self.ratios) + 1:
            raise ValueError(f"prior: {len(self.sizes)} sizes for {len(self.ratios)} levels, which need one more")

    @property
    def per_cell(self) -> tuple[int, ...]:
        """Number of priors in one feature cell of each level."""
        return tuple(2 + 2 * len(ratios) for ratios in self.ratios)

    def shapes(self, level: int, stride: float) -> Tensor:
        """Shapes of the boxes of one cell.

        Args:
            level: Index of the pyramid level, 0 the finest.
            stride: Pixels per cell of the level; the sizes, in pixels, do not depend on it.

        Returns:
            (A, 2) width, height in pixels.
        """
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
    boxes, cells, pixels_per_cell = [], [], []
    for level, ((height, width), stride) in enumerate(zip(sizes, strides, strict=True)):
        y, x = torch.meshgrid(torch.arange(height) * stride, torch.arange(width) * stride, indexing="ij")
        shapes = prior.shapes(level, stride)
        corner = torch.stack([x, y], -1).float().view(-1, 1, 2).expand(-1, len(shapes), 2).reshape(-1, 2)
        half = shapes.repeat(height * width, 1) / 2
        centre = corner + prior.centre * stride
        boxes.append(torch.cat([centre - half, centre + half], -1))
        cells.append(corner)
        pixels_per_cell.append(torch.full((len(corner),), float(stride)))
    return Priors(
        torch.cat(boxes).to(device),
        torch.cat(cells).to(device),
        torch.cat(pixels_per_cell).to(device),
        tuple(len(level) for level in boxes),
    )


@dataclass(frozen=True, kw_only=True)
class Points:
    """One point per cell (FCOS, arXiv 1904.01355; FoveaBox, arXiv 1904.03797), the centre of a square box.

    Attributes:
        scale: Side of the square in strides: what FoveaBox calls the basic size of a level, and what the ranges of FCOS
            are multiples of.
        centre: Where in its cell the point lies, in cells.
    """

    scale: float = 8.0
    centre: float = 0.5

    @property
    def per_cell(self) -> int:
        """Number of priors in one feature cell."""
        return 1

    def __call__(self, sizes: Sequence[tuple[int, int]], strides: Sequence[int], device: torch.device) -> Priors:
        """Priors of feature maps of `sizes` (height, width) and `strides`; row by row, then along x, then per cell."""
        return Anchors(scale=self.scale, octaves=1, ratios=(1.0,), centre=self.centre)(sizes, strides, device)


PRIORS: dict[str, Callable[..., Prior]] = {"anchors": Anchors, "points": Points, "default_boxes": DefaultBoxes}
