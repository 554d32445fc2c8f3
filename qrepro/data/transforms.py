"""Pictures and boxes on their way to the network: resize, flip, normalise. Each transform is a value, Sample -> Sample.

Random draws come from torch's global generator only: the loader seeds it for each sample, so that a resumed run sees
what an uninterrupted one would have seen.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torchvision.transforms.v2 import functional as F

# A box that is thinner than this after clipping, in pixels, holds no object any more.
THINNEST = 1e-3


@dataclass(frozen=True, eq=False)
class Sample:
    """One picture with its G training targets.

    Attributes:
        image: (3, H, W) uint8, RGB; float32 after `Normalise`.
        boxes: (G, 4) float32 xyxy in pixels of `image`.
        labels: (G,) int64.
    """

    image: Tensor
    boxes: Tensor
    labels: Tensor


Transform = Callable[[Sample], Sample]


@dataclass(frozen=True, kw_only=True)
class Compose:
    """Transforms in a row."""

    transforms: Sequence[Transform]

    def __call__(self, sample: Sample) -> Sample:
        """The sample after every transform, first to last."""
        for transform in self.transforms:
            sample = transform(sample)
        return sample


@dataclass(frozen=True, kw_only=True)
class Resize:
    """Scale to a short side, keeping the ratio of the sides.

    Attributes:
        short: the short side in pixels; two numbers are a range, from which one is drawn for each sample, each whole
            number in it (both ends included) as likely as the others.
        long: what the long side must not exceed, in pixels; where it would, the short side becomes less than `short`.
    """

    short: int | Sequence[int]
    long: int

    def __post_init__(self) -> None:
        shorts = self._range()
        if len(shorts) != 2 or shorts[0] < 1 or shorts[0] > shorts[1] or self.long < shorts[1]:
            raise ValueError(
                f"resize short {self.short}, long {self.long}: allowed are a positive `short` or a range "
                "[low, high] of them, and `long` not below it"
            )

    def __call__(self, sample: Sample) -> Sample:
        """Draw the short side where it is a range, and scale."""
        low, high = self._range()
        short = low if low == high else int(torch.randint(low, high + 1, ()))
        height, width = sample.image.shape[-2:]
        return _resized(sample, *self.size(height, width, short))

    def size(self, height: int, width: int, short: int) -> tuple[int, int]:
        """New (height, width) in pixels of a picture whose short side is to become `short`."""
        scale = min(short / min(height, width), self.long / max(height, width))
        return max(1, int(height * scale + 0.5)), max(1, int(width * scale + 0.5))

    def _range(self) -> tuple[int, ...]:
        """Lowest and highest short side."""
        return (self.short, self.short) if isinstance(self.short, int) else tuple(self.short)


@dataclass(frozen=True, kw_only=True)
class ResizeExact:
    """Scale to (height, width) in pixels whatever the ratio of the sides, as SSD does."""

    height: int
    width: int

    def __post_init__(self) -> None:
        if self.height < 1 or self.width < 1:
            raise ValueError(f"resize_exact to {self.height} x {self.width} pixels: both must be positive")

    def __call__(self, sample: Sample) -> Sample:
        """Scale."""
        return _resized(sample, self.height, self.width)


@dataclass(frozen=True, kw_only=True)
class Flip:
    """Mirror left and right with a probability."""

    probability: float = 0.5

    def __post_init__(self) -> None:
        if not 0 <= self.probability <= 1:
            raise ValueError(f"flip probability {self.probability}: a number in [0, 1] is needed")

    def __call__(self, sample: Sample) -> Sample:
        """Draw, and mirror or not."""
        if float(torch.rand(())) >= self.probability:
            return sample
        x1, y1, x2, y2 = sample.boxes.unbind(1)
        width = sample.image.shape[-1]
        boxes = torch.stack([width - x2, y1, width - x1, y2], dim=1)
        return _kept(replace(sample, image=F.horizontal_flip(sample.image), boxes=boxes))


@dataclass(frozen=True, kw_only=True)
class Normalise:
    """Subtract a mean and divide by a deviation for each channel, on the scale 0..255; defaults are ImageNet's."""

    mean: Sequence[float] = (123.675, 116.28, 103.53)
    std: Sequence[float] = (58.395, 57.12, 57.375)

    def __post_init__(self) -> None:
        if len(self.mean) != 3 or len(self.std) != 3 or min(self.std) <= 0:
            raise ValueError(f"normalise mean {self.mean}, std {self.std}: three numbers each, std positive")

    def __call__(self, sample: Sample) -> Sample:
        """The picture as float32; boxes as they are."""
        mean, std = (torch.tensor(values, dtype=torch.float32)[:, None, None] for values in (self.mean, self.std))
        return replace(sample, image=(sample.image.to(torch.float32) - mean) / std)


# What a recipe may name; the values are its further keys.
TRANSFORMS: dict[str, Callable[..., Transform]] = {"resize": Resize, "resize_exact": ResizeExact, "flip": Flip}


def _resized(sample: Sample, height: int, width: int) -> Sample:
    """Picture and boxes scaled; boxes by the ratio of each axis that rounding the size really gave."""
    old_height, old_width = sample.image.shape[-2:]
    x, y = width / old_width, height / old_height
    image = F.resize(sample.image, [height, width], antialias=True)
    return _kept(replace(sample, image=image, boxes=sample.boxes * sample.boxes.new_tensor([x, y, x, y])))


def _kept(sample: Sample) -> Sample:
    """Boxes clipped to the picture, those that vanish removed with their labels."""
    height, width = sample.image.shape[-2:]
    boxes = sample.boxes.clamp(min=0).minimum(sample.boxes.new_tensor([width, height, width, height]))
    thick = (boxes[:, 2:] - boxes[:, :2] >= THINNEST).all(dim=1)
    return replace(sample, boxes=boxes[thick], labels=sample.labels[thick])
