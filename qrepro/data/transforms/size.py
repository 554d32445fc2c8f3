"""Scaling images and boxes."""

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
            A range as of `short`, drawn for itself; should it turn out the smaller of the two, they change places.
    """

    short: int | Sequence[int]
    long: int | Sequence[int]

    def __post_init__(self) -> None:
        shorts, longs = _range(self.short), _range(self.long)
        sound = all(len(ends) == 2 and 1 <= ends[0] <= ends[1] for ends in (shorts, longs))
        if not sound or longs[1] < shorts[1]:
            raise ValueError(
                f"resize short {self.short}, long {self.long}: allowed are a positive `short` or a range "
                "[low, high] of them, and `long` not below it"
            )

    @property
    def fixed(self) -> bool:
        """Whether nothing is drawn."""
        return isinstance(self.short, int) and isinstance(self.long, int)

    def __call__(self, sample: Sample) -> Sample:
        """Draw the sides where they are ranges, and scale."""
        ranges = _range(self.short), _range(self.long)
        short, long = (low if low == high else whole(low, high) for low, high in ranges)
        height, width = sample.image.shape[-2:]
        return _resized(sample, *self.size(height, width, min(short, long), max(short, long)))

    def size(self, height: int, width: int, short: int, long: int) -> tuple[int, int]:
        """New (height, width) in pixels of an image whose short side is to become `short`, its long at most `long`."""
        scale = min(short / min(height, width), long / max(height, width))
        return max(1, int(height * scale + 0.5)), max(1, int(width * scale + 0.5))


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


def _range(side: int | Sequence[int]) -> tuple[int, ...]:
    """Lowest and highest of a side."""
    return (side, side) if isinstance(side, int) else tuple(side)


def _resized(sample: Sample, height: int, width: int) -> Sample:
    """Image and boxes scaled; boxes by the ratio of each axis that rounding the size really gave."""
    old_height, old_width = sample.image.shape[-2:]
    x, y = width / old_width, height / old_height
    image = F.resize(sample.image, [height, width], antialias=True)
    return replace(sample, image=image, boxes=sample.boxes * sample.boxes.new_tensor([x, y, x, y])).clipped()
