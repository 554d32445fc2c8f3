"""Mirroring images and boxes."""

from dataclasses import dataclass, replace

import torch
from torchvision.transforms.v2 import functional as F

from qrepro.data.transforms.draw import check_probability, happens
from qrepro.data.transforms.sample import Sample


@dataclass(frozen=True, kw_only=True)
class Flip:
    """Mirror left and right with a probability."""

    probability: float = 0.5

    def __post_init__(self) -> None:
        check_probability("flip", self.probability)

    def __call__(self, sample: Sample) -> Sample:
        """Draw, and mirror or not."""
        if not happens(self.probability):
            return sample
        x1, y1, x2, y2 = sample.boxes.unbind(1)
        width = sample.image.shape[-1]
        boxes = torch.stack([width - x2, y1, width - x1, y2], dim=1)
        return replace(sample, image=F.horizontal_flip(sample.image), boxes=boxes).clipped()
