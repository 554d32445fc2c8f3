"""What the image shows: a part of it (crops), or all of it on a larger canvas."""

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from qrepro.boxes import pairwise_iou
from qrepro.data.transforms.draw import between, check_probability, happens, is_range, whole
from qrepro.data.transforms.sample import Sample


@dataclass(frozen=True, kw_only=True)
class ZoomOut:
    """Put the image somewhere on a larger canvas: SSD's expansion (arXiv 1512.02325, section 3.6).

    Attributes:
        ratio: range of the canvas's sides over the image's, one draw for both.
        fill: colour of the rest of the canvas, RGB on the scale 0..255, rounded; the default is ImageNet's mean.
        probability: that it is done.
    """

    ratio: tuple[float, float] = (1.0, 4.0)
    fill: tuple[float, float, float] = (123.675, 116.28, 103.53)
    probability: float = 0.5

    def __post_init__(self) -> None:
        if not is_range(self.ratio, 1):
            raise ValueError(f"zoom_out ratio {self.ratio}: a range [low, high] is needed, not below 1")
        if len(self.fill) != 3 or not all(0 <= channel <= 255 for channel in self.fill):
            raise ValueError(f"zoom_out fill {self.fill}: three numbers in [0, 255] are needed")
        check_probability("zoom_out", self.probability)

    def __call__(self, sample: Sample) -> Sample:
        """Draw the canvas and the place on it; every whole offset is as likely as the others."""
        if not happens(self.probability):
            return sample
        height, width = sample.image.shape[-2:]
        ratio = between(*self.ratio)
        tall, wide = int(height * ratio), int(width * ratio)
        top, left = whole(0, tall - height), whole(0, wide - width)
        canvas = torch.tensor(self.fill).round().to(torch.uint8)[:, None, None].repeat(1, tall, wide)
        canvas[:, top : top + height, left : left + width] = sample.image
        sample = sample.clipped()  # a box must not reach from the image into the canvas
        return replace(sample, image=canvas, boxes=sample.boxes + sample.boxes.new_tensor([left, top, left, top]))


@dataclass(frozen=True, kw_only=True)
class CropIoU:
    """SSD's crop that keeps its overlap with the objects (arXiv 1512.02325, section 2.2).

    Draws one of: the whole image; a crop of which the IoU with *every* box is at least one of `overlap`; any crop.
    Where no trial gives such a crop it draws again what to look for. A crop must hold the centre of a box and takes
    the boxes whose centres it holds, clipped. Without boxes every crop will do.
    MMDetection's MinIoURandomCrop has this rule; SSD's own code is content if *one* box has the overlap.

    Attributes:
        overlap: the least IoUs; the whole image and any crop are always drawn from too.
        smallest: least height and width of a crop, as a part of the image's; each is drawn for itself.
        aspect: range of a crop's height / width.
        trials: crops that are tried for one draw of the IoU; one that has a wrong ratio counts.
    """

    overlap: tuple[float, ...] = (0.1, 0.3, 0.5, 0.7, 0.9)
    smallest: float = 0.3
    aspect: tuple[float, float] = (0.5, 2.0)
    trials: int = 50

    def __post_init__(self) -> None:
        if not all(0 <= least <= 1 for least in self.overlap):
            raise ValueError(f"crop_iou overlap {self.overlap}: numbers in [0, 1] are needed")
        if not 0 < self.smallest <= 1:
            raise ValueError(f"crop_iou smallest {self.smallest}: a number in (0, 1] is needed")
        if not is_range(self.aspect, 0) or self.aspect[0] == 0:
            raise ValueError(f"crop_iou aspect {self.aspect}: a range [low, high] of positive numbers is needed")
        if self.trials < 1:
            raise ValueError(f"crop_iou trials {self.trials}: a positive number is needed")

    def __call__(self, sample: Sample) -> Sample:
        """Draw until a crop fits or the whole image is drawn."""
        wanted = (None, *self.overlap, 0.0)  # None: the whole image
        while (least := wanted[whole(0, len(wanted) - 1)]) is not None:
            windows = self._windows(*sample.image.shape[-2:])
            held = _holds_centre(windows, sample.boxes)
            fit = (pairwise_iou(windows, sample.boxes) >= least).all(1)
            if len(sample.boxes):
                fit &= held.any(1)
            if fit.any():
                first = int(fit.nonzero()[0])
                return _cut(sample.only(held[first]), *windows[first].int().tolist())
        return sample

    def _windows(self, height: int, width: int) -> Tensor:
        """(T, 4) float32 xyxy, whole pixels: those of `trials` drawn crops that have an allowed ratio and an area."""
        draws = torch.rand(self.trials, 4)
        image = torch.tensor([width, height], dtype=torch.float32)
        size = image * (self.smallest + (1 - self.smallest) * draws[:, :2])
        corner = (image - size) * draws[:, 2:]
        windows = torch.cat([corner, corner + size], dim=1).floor()
        ratio = size[:, 1] / size[:, 0]
        allowed = (ratio >= self.aspect[0]) & (ratio <= self.aspect[1])
        return windows[allowed & (windows[:, 2:] > windows[:, :2]).all(dim=1)]


@dataclass(frozen=True, kw_only=True)
class Crop:
    """Cut out a part of any place and size: VFNet-X's crop, MMDetection's RandomCrop by `relative_range`.

    A crop without any box is not made: the sample stays as it was (MMDetection takes another image instead).

    Attributes:
        smallest: least height and width of the crop, as parts of the image's; each is drawn from [least, 1].
        probability: that it is done.
    """

    smallest: tuple[float, float] = (0.75, 0.75)
    probability: float = 0.5

    def __post_init__(self) -> None:
        if len(self.smallest) != 2 or not all(0 < least <= 1 for least in self.smallest):
            raise ValueError(f"crop smallest {self.smallest}: two numbers in (0, 1] are needed, height and width")
        check_probability("crop", self.probability)

    def __call__(self, sample: Sample) -> Sample:
        """Draw the size and the place; boxes are clipped to the crop."""
        if not happens(self.probability):
            return sample
        sides = sample.image.shape[-2:]
        tall, wide = (int(side * between(least, 1) + 0.5) for side, least in zip(sides, self.smallest, strict=True))
        top, left = whole(0, sides[0] - tall), whole(0, sides[1] - wide)
        cut = _cut(sample, left, top, left + wide, top + tall)
        return cut if len(cut.boxes) else sample


def _holds_centre(windows: Tensor, boxes: Tensor) -> Tensor:
    """(T, G) bool: the centre of a box (G, 4) lies inside a window (T, 4), not on its edge."""
    centre = (boxes[:, :2] + boxes[:, 2:]) / 2
    return ((centre > windows[:, None, :2]) & (centre < windows[:, None, 2:])).all(dim=-1)


def _cut(sample: Sample, left: int, top: int, right: int, bottom: int) -> Sample:
    """The part of the image between whole coordinates, with its boxes."""
    boxes = sample.boxes - sample.boxes.new_tensor([left, top, left, top])
    return replace(sample, image=sample.image[:, top:bottom, left:right], boxes=boxes).clipped()
