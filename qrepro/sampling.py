"""Where features are read: points that follow a box, and layers whose taps stand on them.

A sampler is built with the width of the features. It is called with these features (B, width, H, W), the raw output of
the box of each cell (B, channels, H, W) and its sides (B, 4, H, W): the distances from the point of the cell to left,
top, right and bottom, in cells. It returns points (B, taps, 2, H, W), y before x, in cells relative to their own cell.
Its `shape` is the rows and columns that the taps are numbered in, row by row; `extreme` says that of each row only the
strongest response counts; its `of_box` whether the points depend on the box, so that each prior of a cell has its own.
`share` is the part of the gradient that passes through the points into the box.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.ops import deform_conv2d

from qrepro.amp import unmixed

Axis = tuple[float, float]  # a coordinate as multiples of the distances to its low and its high side
CELL: Axis = (0.0, 0.0)


def along(fraction: float) -> Axis:
    """The coordinate at a fraction of the box, 0 at its low side and 1 at its high side."""
    return fraction - 1, fraction


def partly(value: Tensor, share: float) -> Tensor:
    """The value, with `share` of its gradient (RepPoints, arXiv 1904.11490, its code: `gradient_mul`)."""
    return value if share == 1 else share * value + (1 - share) * value.detach()


class Pattern(nn.Module):
    """Points at fixed places of the box. places: (y, x) of each tap; shape: their rows and columns."""

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
    """The cell itself: what an ordinary 1x1 convolution reads."""

    def __init__(self, width: int) -> None:
        super().__init__([(CELL, CELL)], (1, 1), 1.0)


class Star(Pattern):
    """The cell, the points beside it on the four sides, and the corners (VFNet, arXiv 2008.13367, section 3.3)."""

    def __init__(self, width: int, *, share: float = 0.1) -> None:
        steps = along(0), CELL, along(1)
        super().__init__([(y, x) for y in steps for x in steps], (3, 3), share)


class Region(Pattern):
    """Centres of `bins` x `bins` parts of the box: region features, one sample a bin (IoU-Net, arXiv 1807.11590).

    With 3 x 3 these are the taps of PASSD's attending process (eq. 4 and 5).
    """

    def __init__(self, width: int, *, bins: int = 7, share: float = 0.1) -> None:
        steps = [along((i + 0.5) / bins) for i in range(bins)]
        super().__init__([(y, x) for y in steps for x in steps], (bins, bins), share)


class Border(Pattern):
    """`number` points along the top, left, bottom and right side, a row each (BorderDet, arXiv 2007.11056).

    One point a side is its middle; more run from corner to corner. extreme: of each side the strongest response counts.
    """

    def __init__(self, width: int, *, number: int = 10, extreme: bool = False, share: float = 0.1) -> None:
        steps = [along(i / (number - 1)) for i in range(number)] if number > 1 else [along(0.5)]
        low, high = along(0), along(1)
        top, left = [(low, x) for x in steps], [(y, low) for y in steps]
        bottom, right = [(high, x) for x in steps], [(y, high) for y in steps]
        super().__init__([*top, *left, *bottom, *right], (4, number), share)
        self.extreme = extreme


class Grid(nn.Module):
    """The 3x3 grid around the cell, `dilation` cells apart: what a dilated convolution reads."""

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
            return self.grid + self.offset(features.float()).unflatten(1, (9, 2))


def _grid(step: float = 1.0) -> Tensor:
    """(9, 2, 1, 1) y, x of the 3x3 grid around a cell, `step` cells apart, row by row."""
    return step * torch.tensor([(y, x) for y in (-1.0, 0.0, 1.0) for x in (-1.0, 0.0, 1.0)])[..., None, None]


class Predicted(nn.Module):
    """The points that the raw output itself is: a set of nine, y before x, in cells (RepPoints, arXiv 1904.11490)."""

    extreme = False
    of_box = True

    def __init__(self, width: int, *, share: float = 0.1) -> None:
        super().__init__()
        self.shape, self.share = (3, 3), share

    def forward(self, features: Tensor, raw: Tensor, sides: Tensor) -> Tensor:
        """Points (B, 9, 2, H, W)."""
        if raw.shape[1] != 18:
            raise ValueError("sampling.towers predicted: reads nine points; it needs box: {kind: points, points: 9}")
        return partly(raw, self.share).unflatten(1, (9, 2))


class ConvAt(nn.Module):
    """A convolution without bias whose taps stand on points: the features there, in a row, times a matrix."""

    grid: Tensor

    def __init__(self, inputs: int, outputs: int, shape: tuple[int, int], std: float = 0.01) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(outputs, inputs, *shape))
        nn.init.normal_(self.weight, std=std)
        rows, columns = shape
        # Two cells apart, a grid of any shape has a middle on the cell, so that the output has the size of the input.
        self.padding = rows - 1, columns - 1
        grid = [(2.0 * y - rows + 1, 2.0 * x - columns + 1) for y in range(rows) for x in range(columns)]
        self.register_buffer("grid", torch.tensor(grid)[..., None, None], persistent=False)

    def forward(self, features: Tensor, points: Tensor) -> Tensor:
        """(B, outputs, H, W), in float32, of features (B, inputs, H, W) at points (B, taps, 2, H, W)."""
        # On a CPU reading first is several times as fast; on a GPU it only takes the memory of all taps at once.
        return (self.gathered if features.device.type == "cpu" else self.deformed)(features, points)

    def gathered(self, features: Tensor, points: Tensor) -> Tensor:
        """By reading the features of all taps, then a product of matrices."""
        with unmixed(features.device.type):
            return torch.einsum("bithw,oit->bohw", read(features, points), self.weight.float().flatten(2))

    def deformed(self, features: Tensor, points: Tensor) -> Tensor:
        """By a deformable convolution."""
        offset = (points.float() - self.grid).flatten(1, 2)
        return deform_conv2d(features.float(), offset, self.weight.float(), padding=self.padding, dilation=2)


class ExtremeAt(nn.Module):
    """Of each row of points, the strongest response of each channel (BorderDet, arXiv 2007.11056, eq. 1), then summed.

    Each row has a 1x1 convolution of its own, before the choice and not after it as in BorderDet, because that keeps
    memory at outputs / inputs of it.
    """

    def __init__(self, inputs: int, outputs: int, shape: tuple[int, int], std: float = 0.01) -> None:
        super().__init__()
        self.shape = shape
        rows = [nn.Conv2d(inputs, outputs, 1, bias=False) for _ in range(shape[0])]
        for row in rows:
            nn.init.normal_(row.weight, std=std)
        self.rows = nn.ModuleList(rows)

    def forward(self, features: Tensor, points: Tensor) -> Tensor:
        """(B, outputs, H, W) of features (B, inputs, H, W) at points (B, taps, 2, H, W)."""
        rows = points.float().unflatten(1, self.shape).unbind(1)
        return sum((read(row(features), at).amax(2) for row, at in zip(self.rows, rows, strict=True)), torch.zeros(()))


def layer_at(sampler: Any, inputs: int, outputs: int, std: float = 0.01) -> nn.Module:
    """What reads features at the points of a sampler; std: of its first weights."""
    return (ExtremeAt if sampler.extreme else ConvAt)(inputs, outputs, sampler.shape, std)


class Reader(nn.Module):
    """A layer with bias at the points of a sampler of its own."""

    def __init__(self, sampler: Callable[[int], Any], inputs: int, outputs: int) -> None:
        super().__init__()
        self.sampler = sampler(inputs)
        self.layer = layer_at(self.sampler, inputs, outputs)
        self.bias = nn.Parameter(torch.zeros(outputs))

    def forward(self, features: Tensor, raw: Tensor, sides: Tensor) -> Tensor:
        """Responses (B, outputs, H, W) of what a sampler is called with."""
        return self.layer(features, self.sampler(features, raw, sides)) + self.bias[:, None, None]


class OutAt(nn.Module):
    """A layer with bias that predicts at points: `sets` of them for as many priors of a cell, or one for all."""

    def __init__(self, sampler: Any, sets: int, inputs: int, outputs: int, bias: float = 0.0) -> None:
        super().__init__()
        self.layers = nn.ModuleList(layer_at(sampler, inputs, outputs // sets) for _ in range(sets))
        self.bias = nn.Parameter(torch.full((outputs,), bias))

    def forward(self, features: Tensor, points: Tensor) -> Tensor:
        """Maps (B, outputs, H, W), prior by prior, of features (B, inputs, H, W) at points (B, sets, taps, 2, H, W)."""
        maps = [layer(features, at) for layer, at in zip(self.layers, points.unbind(1), strict=True)]
        return torch.cat(maps, 1) + self.bias[:, None, None]


def read(features: Tensor, points: Tensor) -> Tensor:
    """Features (B, C, N, H, W), bilinear and 0 outside, of (B, C, H, W) at points (B, N, 2, H, W), float32."""
    height, width = features.shape[-2:]
    points = points.float()
    y = points[:, :, 0] + torch.arange(height, device=points.device, dtype=points.dtype)[:, None]
    x = points[:, :, 1] + torch.arange(width, device=points.device, dtype=points.dtype)
    place = torch.stack([(2 * x + 1) / width - 1, (2 * y + 1) / height - 1], -1)
    found = F.grid_sample(features.float(), place.flatten(1, 2), padding_mode="zeros", align_corners=False)
    return found.unflatten(2, (points.shape[1], height))


SAMPLERS: dict[str, Callable[..., Any]] = {
    "cell": Cell,
    "region": Region,
    "border": Border,
    "star": Star,
    "grid": Grid,
    "learned": Learned,
    "predicted": Predicted,
}
