"""Feature pyramids: FPN, and FPN with a second, bottom-up path."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal

import torch.nn.functional as F
from torch import Tensor, nn

from qrepro.layers.deformable import Deformable


class Pyramid(nn.Module):
    """Base class of the pyramids: an output convolution per level, and two further levels of stride 2 on top.

    Args:
        inputs: Channels of the backbone's maps, finest first.
        channels: Channels of the pyramid.
        extra: Input of the first further level, `c5` (RetinaNet) or the output `p5` (FCOS, GFL).
        relu: A ReLU between the two further levels.
        groups: Groups of the normalisation after each convolution, None for no normalisation.
    """

    def __init__(
        self, inputs: tuple[int, ...], channels: int, extra: Literal["c5", "p5"], relu: bool, groups: int | None
    ) -> None:
        super().__init__()
        self.output = nn.ModuleList(convolution(channels, channels, 3, 1, groups) for _ in inputs)
        first = inputs[-1] if extra == "c5" else channels
        self.extra = nn.ModuleList(convolution(width, channels, 3, 2, groups) for width in (first, channels))
        self.channels, self.source, self.relu = channels, extra, relu
        self.strides = tuple(8 * 2**i for i in range(len(inputs) + len(self.extra)))

    def finished(self, maps: list[Tensor], top: Tensor) -> list[Tensor]:
        """Add the output convolutions and the further levels.

        Args:
            maps: Sums (B, channels, H, W) at the backbone's strides, finest first.
            top: Last map of the backbone.

        Returns:
            All levels (B, channels, H, W), finest first.
        """
        pyramid = [conv(x) for conv, x in zip(self.output, maps, strict=True)]
        x = top if self.source == "c5" else pyramid[-1]
        for level, conv in enumerate(self.extra):
            x = conv(F.relu(x) if self.relu and level else x)
            pyramid.append(x)
        return pyramid


class FPN(Pyramid):
    """Feature pyramid (arXiv 1612.03144) P3-P5 with two stride-2 levels P6, P7 on top (RetinaNet, section 4).

    Args:
        inputs: Channels of the backbone's maps, finest first.
        channels: Channels of the pyramid.
        extra: See `Pyramid`.
        relu: See `Pyramid`.
        norm: After every convolution, `none`, or `group` normalisation (RepPoints' code).
        groups: Groups of this normalisation.
    """

    def __init__(
        self,
        inputs: tuple[int, ...],
        *,
        channels: int = 256,
        extra: Literal["c5", "p5"] = "c5",
        relu: bool = False,
        norm: Literal["none", "group"] = "none",
        groups: int = 32,
    ) -> None:
        norm_groups = groups if norm == "group" else None
        super().__init__(inputs, channels, extra, relu, norm_groups)
        self.lateral = laterals(inputs, channels, norm_groups)
        xavier(self)

    def forward(self, features: list[Tensor]) -> list[Tensor]:
        """[P3, ..., P7], each (B, channels, H, W), of [C3, C4, C5]."""
        return self.finished(top_down(self.lateral, features), features[-1])


class PAFPN(Pyramid):
    """FPN with a bottom-up path on top (PANet, arXiv 1803.01534, section 3.1), in the form that VFNet-X has (PAFPNX).

        N_3 = P_3,   N_i+1 = P_i+1 + down(N_i),   output_i = conv(N_i),   P_i: the outputs of an FPN's 3x3 convolutions

    In PANet it is the output that goes on to N_i+1, the finest level has no convolution, and ReLUs follow the others.

    Args:
        inputs: Channels of the backbone's maps, finest first.
        channels: Channels of the pyramid.
        extra: See `Pyramid`.
        relu: See `Pyramid`.
        norm: After every convolution but the 1x1 laterals, `none`, or `group` normalisation.
        groups: Groups of this normalisation.
        deformable: `v1` or `v2` make the 3x3 convolution of every output, that of the finest as well, a `Deformable`.
    """

    def __init__(
        self,
        inputs: tuple[int, ...],
        *,
        channels: int = 256,
        extra: Literal["c5", "p5"] = "c5",
        relu: bool = False,
        norm: Literal["none", "group"] = "none",
        groups: int = 32,
        deformable: Literal["none", "v1", "v2"] = "none",
    ) -> None:
        norm_groups = groups if norm == "group" else None
        super().__init__(inputs, channels, extra, relu, norm_groups)
        self.lateral = laterals(inputs, channels)
        self.inner = nn.ModuleList(convolution(channels, channels, 3, 1, norm_groups) for _ in inputs)
        self.down = nn.ModuleList(convolution(channels, channels, 3, 2, norm_groups) for _ in inputs[1:])
        xavier(self)
        if deformable != "none":  # only now: its offset layers must stay at zero
            for number, level in enumerate(self.output):
                if isinstance(level, nn.Conv2d):
                    self.output[number] = Deformable(level, modulated=deformable == "v2")
                elif isinstance(level, nn.Sequential) and isinstance(level[0], nn.Conv2d):
                    level[0] = Deformable(level[0], modulated=deformable == "v2")

    def forward(self, features: list[Tensor]) -> list[Tensor]:
        """[N3, ..., N7], each (B, channels, H, W), of [C3, C4, C5]."""
        maps = [conv(x) for conv, x in zip(self.inner, top_down(self.lateral, features), strict=True)]
        for fine, conv in enumerate(self.down):
            maps[fine + 1] = maps[fine + 1] + conv(maps[fine])
        return self.finished(maps, features[-1])


def laterals(inputs: Iterable[int], channels: int, groups: int | None = None) -> nn.ModuleList:
    """Lateral 1x1 convolutions, from the channels of a backbone's maps to those of the pyramid."""
    return nn.ModuleList(convolution(width, channels, 1, 1, groups) for width in inputs)


def convolution(inputs: int, outputs: int, kernel: int, stride: int, groups: int | None) -> nn.Conv2d | nn.Sequential:
    """A convolution; with `groups`, without bias and with group normalisation after it."""
    conv = nn.Conv2d(inputs, outputs, kernel, stride=stride, padding=kernel // 2, bias=groups is None)
    return conv if groups is None else nn.Sequential(conv, nn.GroupNorm(groups, outputs))


def top_down(lateral: nn.ModuleList, features: list[Tensor]) -> list[Tensor]:
    """Top-down path of an FPN.

    Args:
        lateral: A convolution for each map.
        features: Maps (B, C, H, W), finest first.

    Returns:
        Each map after its lateral convolution, plus the sum of the level above it, enlarged to the nearest pixel.
    """
    maps = [conv(x) for conv, x in zip(lateral, features, strict=True)]
    for fine in range(len(maps) - 2, -1, -1):
        maps[fine] = maps[fine] + F.interpolate(maps[fine + 1], size=maps[fine].shape[-2:], mode="nearest")
    return maps


def xavier(neck: nn.Module) -> None:
    """Initialise a neck's convolutions by Xavier, biases with 0, as RetinaNet's in Detectron and MMDetection."""
    for module in neck.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.xavier_uniform_(module.weight)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
