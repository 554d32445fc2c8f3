"""The colours of an image: distorted in training, normalised always; boxes stay as they are."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from qrepro.data.transforms.draw import between, check_probability, happens, is_range
from qrepro.data.transforms.sample import Sample


@dataclass(frozen=True, kw_only=True)
class Normalise:
    """Subtract a mean and divide by a deviation for each channel, on the scale 0..255; defaults are ImageNet's."""

    mean: Sequence[float] = (123.675, 116.28, 103.53)
    std: Sequence[float] = (58.395, 57.12, 57.375)

    def __post_init__(self) -> None:
        if len(self.mean) != 3 or len(self.std) != 3 or min(self.std) <= 0:
            raise ValueError(f"normalise mean {self.mean}, std {self.std}: three numbers each, std positive")

    def __call__(self, sample: Sample) -> Sample:
        """The image as float32; boxes as they are."""
        mean, std = (torch.tensor(values, dtype=torch.float32)[:, None, None] for values in (self.mean, self.std))
        return replace(sample, image=(sample.image.to(torch.float32) - mean) / std)


@dataclass(frozen=True, kw_only=True)
class Photometric:
    """Photometric distortion of SSD (arXiv 1512.02325, section 2.2), as MMDetection's PhotoMetricDistortion.

    Four changes in this order, each made or not by a draw of its own, then the channels permuted. The steps work on
    float32 and only the result is clipped and rounded to uint8. Therefore contrast has one place: SSD puts it second or
    last by a coin, which matters only where 8 bits clip in between (saturation and hue commute with a factor).

    Attributes:
        brightness: Most that is added to all channels, or taken away, on the scale 0..255.
        contrast: Range of the factor of all channels.
        saturation: Range of the factor of the saturation in HSV.
        hue: Most that the hue is turned, either way, in degrees of 360. SSD's released settings say 18 too, but as
            steps of OpenCV's 8-bit hue, which are 36 degrees.
        probability: Probability of each of the four.
        permute: Probability that the channels are put in a drawn order, one of six (the old one included). SSD's
            released settings have 0.
    """

    brightness: float = 32.0
    contrast: tuple[float, float] = (0.5, 1.5)
    saturation: tuple[float, float] = (0.5, 1.5)
    hue: float = 18.0
    probability: float = 0.5
    permute: float = 0.5

    def __post_init__(self) -> None:
        if not (0 <= self.brightness <= 255 and 0 <= self.hue <= 180):
            raise ValueError(
                f"photometric brightness {self.brightness}, hue {self.hue}: allowed are [0, 255] and [0, 180] degrees"
            )
        if not (is_range(self.contrast, 0) and is_range(self.saturation, 0)):
            raise ValueError(
                f"photometric contrast {self.contrast}, saturation {self.saturation}: allowed are ranges [low, high] "
                "of factors, not negative"
            )
        check_probability("photometric", self.probability)
        check_probability("photometric permute", self.permute)

    def __call__(self, sample: Sample) -> Sample:
        """Draw, and change the image."""
        pixels = sample.image.to(torch.float32)
        if happens(self.probability):
            pixels = pixels + between(-self.brightness, self.brightness)
        if happens(self.probability):
            pixels = pixels * between(*self.contrast)
        saturation = between(*self.saturation) if happens(self.probability) else 1.0
        turn = between(-self.hue, self.hue) if happens(self.probability) else 0.0
        if (saturation, turn) != (1.0, 0.0):
            pixels = recoloured(pixels, saturation, turn)
        if happens(self.permute):
            pixels = pixels[torch.randperm(3)]
        return replace(sample, image=pixels.round().clamp(0, 255).to(torch.uint8))


def recoloured(pixels: Tensor, saturation: float, turn: float) -> Tensor:
    """Saturation multiplied and hue turned in HSV, without clipping; the value (largest channel) stays.

    Works with the chroma (saturation times value), which needs no division by the value and is therefore right for dark
    pixels that brightness has made negative.

    Args:
        pixels: (3, H, W) float, RGB on any scale.
        saturation: Factor of the saturation.
        turn: Degrees that the hue is turned.

    Returns:
        (3, H, W).
    """
    red, green, blue = pixels.unbind(0)
    value = pixels.amax(0)
    chroma = value - pixels.amin(0)
    divisor = torch.where(chroma > 0, chroma, 1)  # grey has no hue, and needs none
    # The hue in sixths of the circle, counted from the largest channel: red at 0, green at 2, blue at 4.
    of_green_or_blue = torch.where(value == green, (blue - red) / divisor + 2, (red - green) / divisor + 4)
    hue = torch.where(value == red, (green - blue) / divisor, of_green_or_blue)
    # A channel lies below the value by the chroma times a trapezium of the hue: 0, 1 or a slope for one sixth each.
    start = pixels.new_tensor([5, 3, 1])[:, None, None]
    place = (hue + turn / 60 + start) % 6
    return value - saturation * chroma * torch.minimum(place, 4 - place).clamp(0, 1)
