"""SSD's feature maps: a norm on the finest, extra layers on top."""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from qrepro.neck.fpn import xavier

# Extra layers by side of the image: width, and kernel, stride and padding of the second convolution.
LAYERS = {
    300: ((512, 3, 2, 1), (256, 3, 2, 1), (256, 3, 1, 0), (256, 3, 1, 0)),
    512: ((512, 3, 2, 1), (256, 3, 2, 1), (256, 3, 2, 1), (256, 3, 2, 1), (256, 4, 1, 1)),
}
STRIDES = {300: (8, 16, 32, 64, 100, 300), 512: (8, 16, 32, 64, 128, 256, 512)}  # the `step` of SSD's prior boxes


class L2Norm(nn.Module):
    """Features of unit L2 norm over the channels, times a learned factor w per channel (SSD, 1512.02325, section 3.1).

        y_c = w_c x_c / max(||x||, 1e-10)   at every position of x (B, channels, H, W); w begins at `scale`.

    Computed in float32, given back in the precision of x.

    Args:
        channels: Channels of the features.
        scale: Initial value of the factors.
    """

    def __init__(self, channels: int, scale: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.full((channels,), float(scale)))

    def forward(self, x: Tensor) -> Tensor:
        """Features of the shape and precision of x."""
        unit = F.normalize(x.float(), dim=1, eps=1e-10)  # its gradient is finite where x is 0
        return (self.weight[:, None, None] * unit).to(x.dtype)


def ssd_layers(
    inputs: int, width: int, size: int = 3, stride: int = 2, padding: int = 1, norm: bool = False
) -> nn.Sequential:
    """Extra layer of SSD: a 1x1 convolution to half of `width`, then `size` x `size` to `width`; ReLU after both.

    Args:
        inputs: Channels of the features.
        width: Channels of the output.
        size: Kernel of the second convolution.
        stride: Stride of the second convolution.
        padding: Padding of the second convolution.
        norm: A batch norm before each ReLU.
    """
    layers: list[nn.Module] = []
    for conv in (nn.Conv2d(inputs, width // 2, 1), nn.Conv2d(width // 2, width, size, stride, padding)):
        layers += [conv, *([nn.BatchNorm2d(conv.out_channels)] if norm else []), nn.ReLU(inplace=True)]
    return nn.Sequential(*layers)


class SSDExtra(nn.Module):
    """SSD's maps (arXiv 1512.02325, figure 2): conv4_3 with `L2Norm`, fc7, then extra layers, each from the one before.

    Args:
        inputs: Channels of conv4_3 and fc7.
        size: Side of the images, 300 (6 maps, the last two layers without stride and padding) or 512 (7, the last layer
            4x4).
        l2_scale: Initial factor of conv4_3's norm.

    Attributes:
        channels: Channels of each map: they differ.
        strides: Pixels per cell of each map, the `step` of SSD's prior boxes.

    Raises:
        ValueError: The backbone does not have two maps, or an image has a side below 257 pixels.
    """

    def __init__(self, inputs: tuple[int, ...], *, size: Literal[300, 512] = 300, l2_scale: float = 20.0) -> None:
        super().__init__()
        if len(inputs) != 2:
            raise ValueError(f"neck.kind ssd_extra: needs the two maps of backbone vgg, got {len(inputs)} maps")
        layers = LAYERS[size]
        self.channels = (*inputs, *(width for width, *_ in layers))
        self.strides = STRIDES[size]
        self.l2_norm = L2Norm(inputs[0], l2_scale)
        self.extra = nn.ModuleList(ssd_layers(c, *layer) for c, layer in zip(self.channels[1:-1], layers, strict=True))
        xavier(self)

    def forward(self, features: list[Tensor]) -> list[Tensor]:
        """The maps, finest first, of [conv4_3, fc7]."""
        x = features[1]
        if min(x.shape[-2:]) < 17:
            raise ValueError(f"neck.kind ssd_extra: images need sides of 257 pixels or more, fc7 is {tuple(x.shape)}")
        maps = [self.l2_norm(features[0]), x]
        for layer in self.extra:
            maps.append(layer(maps[-1]))
        return maps
