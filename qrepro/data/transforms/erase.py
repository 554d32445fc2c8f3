"""Parts of an image made unreadable; boxes stay as they are."""

from dataclasses import dataclass, replace

import torch

from qrepro.data.transforms.draw import check_probability, happens, is_range, whole
from qrepro.data.transforms.sample import Sample


@dataclass(frozen=True, kw_only=True)
class Cutout:
    """Fill rectangular holes (arXiv 1708.04552); the defaults are those of VFNet-X (arXiv 2008.13367).

    The top-left corner of a hole may be any pixel: the image's right and bottom borders cut holes off.

    Attributes:
        holes: range of their number, both ends included.
        shapes: (height, width) in pixels, one of which is drawn for each hole.
        fill: what the holes are filled with, RGB on the scale 0..255.
        probability: that it is done.
    """

    holes: tuple[int, int] = (5, 10)
    shapes: tuple[tuple[int, int], ...] = (
        (4, 4),
        (4, 8),
        (8, 4),
        (8, 8),
        (16, 8),
        (8, 16),
        (16, 16),
        (16, 32),
        (32, 16),
        (32, 32),
        (32, 48),
        (48, 32),
        (48, 48),
    )
    fill: tuple[int, int, int] = (0, 0, 0)
    probability: float = 0.5

    def __post_init__(self) -> None:
        if not is_range(self.holes, 0):
            raise ValueError(f"cutout holes {self.holes}: a range [low, high] is needed, not negative")
        if not self.shapes or not all(len(shape) == 2 and min(shape) >= 1 for shape in self.shapes):
            raise ValueError(f"cutout shapes {self.shapes}: one or more [height, width] are needed, both positive")
        if len(self.fill) != 3 or not all(0 <= channel <= 255 for channel in self.fill):
            raise ValueError(f"cutout fill {self.fill}: three whole numbers in [0, 255] are needed")
        check_probability("cutout", self.probability)

    def __call__(self, sample: Sample) -> Sample:
        """Draw the number of holes, and for each its place and shape."""
        if not happens(self.probability):
            return sample
        image = sample.image.clone()
        height, width = image.shape[-2:]
        fill = torch.tensor(self.fill, dtype=image.dtype)[:, None, None]
        for _ in range(whole(*self.holes)):
            top, left = whole(0, height - 1), whole(0, width - 1)
            tall, wide = self.shapes[whole(0, len(self.shapes) - 1)]
            image[:, top : top + tall, left : left + wide] = fill
        return replace(sample, image=image)
