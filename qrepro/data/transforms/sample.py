"""One image with its training targets: what every transform takes and gives."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from torch import Tensor

# A box that is thinner than this after clipping, in pixels, holds no object any more.
THINNEST = 1e-3


@dataclass(frozen=True, eq=False)
class Sample:
    """One image with its G training targets.

    Attributes:
        image: (3, H, W) uint8, RGB; float32 after `Normalise`. May be kept by the loader: never changed in place.
        boxes: (G, 4) float32 xyxy in pixels of `image`.
        labels: (G,) int64.
    """

    image: Tensor
    boxes: Tensor
    labels: Tensor

    def only(self, chosen: Tensor) -> Sample:
        """The same image with the boxes and labels where `chosen` (G,) bool is true."""
        return replace(self, boxes=self.boxes[chosen], labels=self.labels[chosen])

    def clipped(self) -> Sample:
        """Boxes clipped to the image, those that vanish removed with their labels."""
        height, width = self.image.shape[-2:]
        boxes = self.boxes.clamp(min=0).minimum(self.boxes.new_tensor([width, height, width, height]))
        thick = (boxes[:, 2:] - boxes[:, :2] >= THINNEST).all(dim=1)
        return replace(self, boxes=boxes).only(thick)


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
