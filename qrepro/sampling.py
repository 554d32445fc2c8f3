"""Sampling: points that follow a box, and layers that read features there.

A sampler is built with the width of the features, and called on every level with features, outputs and sides of boxes:
see `Sampler`. The recipe value `share`, where a sampler has it, is the part of the gradient that passes through the
points into the box.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.ops import deform_conv2d

from qrepro.amp import unmixed

Axis = tuple[float, float]  # a coordinate as multiples of the distances to its low and its high side
CELL: Axis = (0.0, 0.0)


class Sampler(Protocol):
    """What a member of this axis offers; one with parameters is a `torch.nn.Module`."""

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and columns that the taps are numbered in, row by row."""

    @property
    def extreme(self) -> bool:
        """Whether only the strongest response of each row counts."""

    @property
    def of_box(self) -> bool:
        """Whether the points depend on the box, so that each prior of a cell has its own."""

    def __call__(self, features: Tensor, raw: Tensor, sides: Tensor, /) -> Tensor:
        """Points to read features at.

        Args:
            features: (B, width, H, W).
            raw: (B, channels, H, W) output of the box of each cell, before decoding.
            sides: (B, 4, H, W) distances from the point of the cell to the left, top, right and bottom side of the box,
                in cells.

        Returns:
            (B, taps, 2, H, W), y before x, in cells relative to their own cell; taps is rows times columns.
        """


def along(fraction: float) -> Axis:
    """Coordinate at a fraction of the box, 0 at its low side and 1 at its high side."""
    return fraction - 1, fraction


def partly(value: Tensor, share: float) -> Tensor:
    """Scale the gradient of a value by `share` (RepPoints, arXiv 1904.11490, its code: `gradient_mul`)."""
    return value if share == 1 else share * value + (1 - share) * value.detach()


class Pattern(nn.Module):
    """Points at fixed places of the box.

    Args:
        places: (y, x) of each tap, row by row.
        shape: Rows and columns of the taps.
        share: Part of the gradient that passes through the points into the box.
    """

    low: Tensor
    high: Tensor
    extreme = False
    of_box = True

    def __init__(self, places: Sequence[tuple[Axis, Axis]], shape: tuple[int, int], share: float) -> None:
        super().__init__()
        low, high = (torch.tensor([[y[end], x[end]] for y, x in places])[..., None, None] for end in (0, 1))
        self.register_buffer("low", low, persistent=False)
        self.register_buffer("high", high, persistent=False)
        self.shape, self.share = shape, share

    def forward(self, features: Tensor, raw: Tensor, sides: Tensor) -> Tensor:
        """Points (B, taps, 2, H, W)."""
        left, top, right, bottom = partly(sides, self.share)[:, :, None].unbind(1)
        # no matrix product, which autocast would round to a quarter of a cell
        return self.low * torch.stack([top, left], 2) + self.high * torch.stack([bottom, right], 2)


class Cell(Pattern):
    """The cell itself, which an ordinary 1x1 convolution reads."""

    def __init__(self, width: int) -> None:
        super().__init__([(CELL, CELL)], (1, 1), 1.0)


class Star(Pattern):
    """The cell, the points beside it on the four sides, and the corners (VFNet, arXiv 2008.13367, section 3.3).

    Args:
        width: Channels of the features.
        share: Part of the gradient that passes through the points into the box.
    """

    def __init__(self, width: int, *, share: float = 0.1) -> None:
        steps = along(0), CELL, along(1)
        super().__init__([(y, x) for y in steps for x in steps], (3, 3), share)


class Region(Pattern):
    """Centres of `bins` x `bins` parts of the box: region features, one sample per bin (IoU-Net, arXiv 1807.11590).

    With 3 x 3 these are the taps of PASSD's attending process (eq. 4 and 5).

    Args:
        width: Channels of the features.
        bins: Rows, and columns, of the parts.
        share: Part of the gradient that passes through the points into the box.
    """

    def __init__(self, width: int, *, bins: int = 7, share: float = 0.1) -> None:
        steps = [along((i + 0.5) / bins) for i in range(bins)]
        super().__init__([(y, x) for y in steps for x in steps], (bins, bins), share)


class Border(Pattern):
    """`number` points along the top, left, bottom and right side, a row each (BorderDet, arXiv 2007.11056).

    Args:
        width: Channels of the features.
        number: Points of each side: one is its middle, more run from corner to corner.
        extreme: Of each side only the strongest response counts.
        share: Part of the gradient that passes through the points into the box.
    """

    def __init__(self, width: int, *, number: int = 10, extreme: bool = False, share: float = 0.1) -> None:
        steps = [along(i / (number - 1)) for i in range(number)] if number > 1 else [along(0.5)]
        low, high = along(0), along(1)
        top, left = [(low, x) for x in steps], [(y, low) for y in steps]
        bottom, right = [(high, x) for x in steps], [(y, high) for y in steps]
        super().__init__([*top, *left, *bottom, *right], (4, number), share)
        self.extreme = extreme


class Grid(nn.Module):
    """The 3x3 grid around the cell, which a dilated convolution reads.

    Args:
        width: Channels of the features.
        dilation: Cells from one point to the next.
    """

    grid: Tensor
    extreme = False
    of_box = False

    def __init__(self, width: int, *, dilation: int = 1) -> None:
        super().__init__()
        self.shape = 3, 3
        self.register_buffer("grid", _grid(dilation), persistent=False)

    def forward(self, features: Tensor, raw: Tensor, sides: Tensor) -> Tensor:
        """Points (B, 9, 2, H, W)."""
        return self.grid.expand(len(features), -1, -1, *features.shape[-2:])


class Learned(nn.Module):
    """Points that a 3x3 convolution of the features puts around the cell (arXiv 1703.06211); starts as the 3x3 grid."""

    grid: Tensor
    extreme = False
    of_box = False

    def __init__(self, width: int) -> None:
        super().__init__()
        self.shape = 3, 3
        self.offset = nn.Conv2d(width, 18, 3, padding=1)
        nn.init.zeros_(self.offset.weight)
        assert self.offset.bias is not None
        nn.init.zeros_(self.offset.bias)
        self.register_buffer("grid", _grid(), persistent=False)

    def forward(self, features: Tensor, raw: Tensor, sides: Tensor) -> Tensor:
        """Points (B, 9, 2, H, W)."""
        with unmixed(features.device.type):
            offset: Tensor = self.offset(features.float())
            return self.grid + torch.unflatten(offset, 1, (9, 2))


def _grid(step: float = 1.0) -> Tensor:
    """Points (9, 2, 1, 1), y before x, of the 3x3 grid around a cell, `step` cells apart, row by row."""
    return step * torch.tensor([(y, x) for y in (-1.0, 0.0, 1.0) for x in (-1.0, 0.0, 1.0)])[..., None, None]


class Predicted(nn.Module):
    """The points of a box coder of points: its raw output, nine of them, y before x, in cells (RepPoints, 1904.11490).

    Args:
        width: Channels of the features.
        share: Part of the gradient that passes through the points into the box.
    """

    extreme = False
    of_box = True

    def __init__(self, width: int, *, share: float = 0.1) -> None:
        super().__init__()
        self.shape, self.share = (3, 3), share

    def forward(self, features: Tensor, raw: Tensor, sides: Tensor) -> Tensor:
        """Points (B, 9, 2, H, W); raises `ValueError` for outputs that are not nine points."""
        if raw.shape[1] != 18:
            raise ValueError("sampling.towers predicted: reads nine points; it needs box: {kind: points, points: 9}")
        return torch.unflatten(partly(raw, self.share), 1, (9, 2))


class ConvAt(nn.Module):
    """A convolution without bias whose taps stand on points: the features there, in a row, times a matrix.

    Args:
        inputs: Channels of the features.
        outputs: Channels of the responses.
        shape: Rows and columns of the taps.
        std: Initialisation std of the weights, N(0, std).
    """

    grid: Tensor

    def __init__(self, inputs: int, outputs: int, shape: tuple[int, int], std: float = 0.01) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(outputs, inputs, *shape))
        nn.init.normal_(self.weight, std=std)
        rows, columns = shape
        # Two cells apart, taps of any shape have their middle on the cell, so that the output has the input's size.
        self.padding = rows - 1, columns - 1
        grid = [(2.0 * y - rows + 1, 2.0 * x - columns + 1) for y in range(rows) for x in range(columns)]
        self.register_buffer("grid", torch.tensor(grid)[..., None, None], persistent=False)

    def forward(self, features: Tensor, points: Tensor) -> Tensor:
        """Responses (B, outputs, H, W), in float32, of features (B, inputs, H, W) at points (B, taps, 2, H, W)."""
        # On a CPU reading first is several times as fast; on a GPU it only takes the memory of all taps at once.
        return (self.gathered if features.device.type == "cpu" else self.deformed)(features, points)

    def gathered(self, features: Tensor, points: Tensor) -> Tensor:
        """Responses as of `forward`, by reading the features of all taps, then a product of matrices."""
        with unmixed(features.device.type):
            return torch.einsum("bithw,oit->bohw", read(features, points), self.weight.float().flatten(2))

    def deformed(self, features: Tensor, points: Tensor) -> Tensor:
        """Responses as of `forward`, by a deformable convolution."""
        offset = (points.float() - self.grid).flatten(1, 2)
        responses: Tensor = deform_conv2d(
            features.float(), offset, self.weight.float(), padding=self.padding, dilation=2
        )
        return responses


class ExtremeAt(nn.Module):
    """The strongest response of each channel in each row of points, summed (BorderDet, arXiv 2007.11056, eq. 1).

    Each row has a 1x1 convolution of its own, before the maximum and not after it as in BorderDet, because that keeps
    memory at outputs / inputs of it.

    Args:
        inputs: Channels of the features.
        outputs: Channels of the responses.
        shape: Rows and columns of the taps.
        std: Initialisation std of the weights, N(0, std).
    """

    def __init__(self, inputs: int, outputs: int, shape: tuple[int, int], std: float = 0.01) -> None:
        super().__init__()
        self.shape = shape
        rows = [nn.Conv2d(inputs, outputs, 1, bias=False) for _ in range(shape[0])]
        for row in rows:
            nn.init.normal_(row.weight, std=std)
        self.rows = nn.ModuleList(rows)

    def forward(self, features: Tensor, points: Tensor) -> Tensor:
        """Responses (B, outputs, H, W) of features (B, inputs, H, W) at points (B, taps, 2, H, W)."""
        rows = torch.unflatten(points.float(), 1, self.shape).unbind(1)
        strongest = (read(conv(features), row).amax(2) for conv, row in zip(self.rows, rows, strict=True))
        return sum(strongest, torch.zeros(()))


def layer_at(sampler: Sampler, inputs: int, outputs: int, std: float = 0.01) -> ExtremeAt | ConvAt:
    """Layer that reads features at the points of a sampler.

    Args:
        sampler: The sampler, whose `shape` and `extreme` the layer follows.
        inputs: Channels of the features.
        outputs: Channels of the responses.
        std: Initialisation std of the weights, N(0, std).

    Returns:
        A layer of features (B, inputs, H, W) and points (B, taps, 2, H, W).
    """
    return (ExtremeAt if sampler.extreme else ConvAt)(inputs, outputs, sampler.shape, std)


class Reader(nn.Module):
    """A layer with bias at the points of a sampler of its own.

    Args:
        sampler: Constructor of the sampler, called with the width of the features.
        inputs: Channels of the features.
        outputs: Channels of the responses.
    """

    def __init__(self, sampler: Callable[[int], Sampler], inputs: int, outputs: int) -> None:
        super().__init__()
        self.sampler = sampler(inputs)
        self.layer = layer_at(self.sampler, inputs, outputs)
        self.bias = nn.Parameter(torch.zeros(outputs))

    def forward(self, features: Tensor, raw: Tensor, sides: Tensor) -> Tensor:
        """Responses (B, outputs, H, W) to the arguments of a `Sampler`."""
        responses: Tensor = self.layer(features, self.sampler(features, raw, sides))
        return responses + self.bias[:, None, None]


class OutAt(nn.Module):
    """A prediction layer with bias at points.

    Args:
        sampler: The sampler, whose `shape` and `extreme` the layer follows.
        sets: Sets of points: one for each prior of a cell, or one for all of them.
        inputs: Channels of the features.
        outputs: Channels of the maps, of all priors of a cell.
        bias: Value that the bias begins at.
    """

    def __init__(self, sampler: Sampler, sets: int, inputs: int, outputs: int, bias: float = 0.0) -> None:
        super().__init__()
        self.layers = nn.ModuleList(layer_at(sampler, inputs, outputs // sets) for _ in range(sets))
        self.bias = nn.Parameter(torch.full((outputs,), bias))

    def forward(self, features: Tensor, points: Tensor) -> Tensor:
        """Maps (B, outputs, H, W), prior by prior, of features (B, inputs, H, W) at points (B, sets, taps, 2, H, W)."""
        maps = [layer(features, one_set) for layer, one_set in zip(self.layers, points.unbind(1), strict=True)]
        return torch.cat(maps, 1) + self.bias[:, None, None]


def read(features: Tensor, points: Tensor) -> Tensor:
    """Read features at points, bilinearly, 0 outside the map.

    Args:
        features: (B, C, H, W), of any precision.
        points: (B, N, 2, H, W), y before x, in cells relative to their own cell.

    Returns:
        (B, C, N, H, W) in float32; differentiable in both.
    """
    height, width = features.shape[-2:]
    points = points.float()
    y = points[:, :, 0] + torch.arange(height, device=points.device, dtype=points.dtype)[:, None]
    x = points[:, :, 1] + torch.arange(width, device=points.device, dtype=points.dtype)
    position = torch.stack([(2 * x + 1) / width - 1, (2 * y + 1) / height - 1], -1)
    values = F.grid_sample(features.float(), position.flatten(1, 2), padding_mode="zeros", align_corners=False)
    return torch.unflatten(values, 2, (points.shape[1], height))


SAMPLERS: dict[str, Callable[..., Sampler]] = {
    "cell": Cell,
    "region": Region,
    "border": Border,
    "star": Star,
    "grid": Grid,
    "learned": Learned,
    "predicted": Predicted,
}
