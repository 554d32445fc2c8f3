"""SSD's feature maps: a norm on the finest, extra layers on top."""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from qrepro.neck.fpn import xavier

# Of the extra layers, by side of the picture: width, and size, stride and padding of the second convolution.
LAYERS = {
    300: ((512, 3, 2, 1), (256, 3, 2, 1), (256, 3, 1, 0), (256, 3, 1, 0)),
    512: ((512, 3, 2, 1), (256, 3, 2, 1), (256, 3, 2, 1), (256, 3, 2, 1), (256, 4, 1, 1)),
}
STRIDES = {300: (8, 16, 32, 64, 100, 300), 512: (8, 16, 32, 64, 128, 256, 512)}  # the `step` of SSD's prior boxes


class L2Norm(nn.Module):
    """Features of unit L2 norm over the channels, times one learned factor w a channel (SSD, 1512.02325, section 3.1).

        y_c = w_c x_c / max(||x||, 1e-10)   at every position of x (B, channels, H, W); w begins at `scale`.

    Computed in float32, given back in the precision of x.
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
    """An extra layer of SSD: a 1x1 convolution to half of `width`, then `size` x `size` to `width`; ReLU after both.

    norm: batch norms between.
    """
    layers: list[nn.Module] = []
    for conv in (nn.Conv2d(inputs, width // 2, 1), nn.Conv2d(width // 2, width, size, stride, padding)):
        layers += [conv, *([nn.BatchNorm2d(conv.out_channels)] if norm else []), nn.ReLU(inplace=True)]
    return nn.Sequential(*layers)


class SSDExtra(nn.Module):
    """SSD's maps (arXiv 1512.02325, figure 2): conv4_3 with `L2Norm`, fc7, then extra layers, each from the one before.

    size: of the pictures, 300 (6 maps, the last two layers without stride and rim) or 512 (7, the last layer 4x4);
    l2_scale: first factor of conv4_3's norm. channels: of each map, they differ.
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
            raise ValueError(f"neck.kind ssd_extra: pictures need sides of 257 pixels or more, fc7 is {tuple(x.shape)}")
        maps = [self.l2_norm(features[0]), x]
        for layer in self.extra:
            maps.append(layer(maps[-1]))
        return maps
