"""Scaling pictures and boxes."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from torchvision.transforms.v2 import functional as F

from qrepro.data.transforms.draw import whole
from qrepro.data.transforms.sample import Sample


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
        short = low if low == high else whole(low, high)
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


def _resized(sample: Sample, height: int, width: int) -> Sample:
    """Picture and boxes scaled; boxes by the ratio of each axis that rounding the size really gave."""
    old_height, old_width = sample.image.shape[-2:]
    x, y = width / old_width, height / old_height
    image = F.resize(sample.image, [height, width], antialias=True)
    return replace(sample, image=image, boxes=sample.boxes * sample.boxes.new_tensor([x, y, x, y])).clipped()
