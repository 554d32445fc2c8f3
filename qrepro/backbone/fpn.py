"""Feature pyramids: FPN, and FPN with a second, bottom-up path."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal

import torch.nn.functional as F
from torch import Tensor, nn

from qrepro.backbone.deformable import Deformable


class FPN(nn.Module):
    """Feature pyramid (arXiv 1612.03144) P3-P5 with two stride-2 levels P6, P7 on top (RetinaNet, section 4).

    extra: what P6 is computed from, `c5` (RetinaNet) or `p5` (FCOS, GFL); relu: a ReLU between P6 and P7.
    norm: after every convolution, `none`, or `group` normalisation in `groups` groups (RepPoints' code).
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
        super().__init__()
        normed = groups if norm == "group" else None
        self.lateral = laterals(inputs, channels, normed)
        self.output = nn.ModuleList(convolution(channels, channels, 3, 1, normed) for _ in inputs)
        first = inputs[-1] if extra == "c5" else channels
        self.extra = nn.ModuleList(convolution(width, channels, 3, 2, normed) for width in (first, channels))
        self.channels, self.source, self.relu = channels, extra, relu
        self.strides = tuple(8 * 2**i for i in range(len(inputs) + len(self.extra)))
        xavier(self)

    def forward(self, features: list[Tensor]) -> list[Tensor]:
        """[P3, ..., P7], each (B, channels, H, W), of [C3, C4, C5]."""
        maps = top_down(self.lateral, features)
        pyramid = [conv(x) for conv, x in zip(self.output, maps, strict=True)]
        return [*pyramid, *upward(self.extra, features[-1] if self.source == "c5" else pyramid[-1], self.relu)]


class PAFPN(nn.Module):
    """FPN with a bottom-up path on top (PANet, arXiv 1803.01534, section 3.1), in the form that VFNet-X has (PAFPNX).

        N_3 = P_3,   N_i+1 = P_i+1 + down(N_i),   output_i = conv(N_i),   P_i: the outputs of an FPN's 3x3 convolutions

    In PANet it is the output that goes on to N_i+1, the finest level has no convolution, and ReLUs follow the others.
    norm: after every convolution but the 1x1 laterals, `none`, or `group` normalisation in `groups` groups.
    deformable: `v1` or `v2` make the 3x3 convolution of every output, the finest one's as well, a `Deformable`.
    extra, relu: as of `FPN`; `p5` is the output of that level.
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
        super().__init__()
        normed = groups if norm == "group" else None
        self.lateral = laterals(inputs, channels)
        self.inner = nn.ModuleList(convolution(channels, channels, 3, 1, normed) for _ in inputs)
        self.down = nn.ModuleList(convolution(channels, channels, 3, 2, normed) for _ in inputs[1:])
        self.output = nn.ModuleList(convolution(channels, channels, 3, 1, normed) for _ in inputs)
        first = inputs[-1] if extra == "c5" else channels
        self.extra = nn.ModuleList(convolution(width, channels, 3, 2, normed) for width in (first, channels))
        self.channels, self.source, self.relu = channels, extra, relu
        self.strides = tuple(8 * 2**i for i in range(len(inputs) + len(self.extra)))
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
        pyramid = [conv(x) for conv, x in zip(self.output, maps, strict=True)]
        return [*pyramid, *upward(self.extra, features[-1] if self.source == "c5" else pyramid[-1], self.relu)]


def laterals(inputs: Iterable[int], channels: int, groups: int | None = None) -> nn.ModuleList:
    """1x1 convolutions from the widths of a backbone's maps to one width."""
    return nn.ModuleList(convolution(width, channels, 1, 1, groups) for width in inputs)


def convolution(inputs: int, outputs: int, kernel: int, stride: int, groups: int | None) -> nn.Conv2d | nn.Sequential:
    """A convolution; with `groups`, without bias and with group normalisation behind it."""
    conv = nn.Conv2d(inputs, outputs, kernel, stride=stride, padding=kernel // 2, bias=groups is None)
    return conv if groups is None else nn.Sequential(conv, nn.GroupNorm(groups, outputs))


def top_down(lateral: nn.ModuleList, features: list[Tensor]) -> list[Tensor]:
    """Each map through its lateral convolution, plus the sum of the level above it, enlarged to the nearest pixel."""
    maps = [conv(x) for conv, x in zip(lateral, features, strict=True)]
    for fine in range(len(maps) - 2, -1, -1):
        maps[fine] = maps[fine] + F.interpolate(maps[fine + 1], size=maps[fine].shape[-2:], mode="nearest")
    return maps


def upward(extra: nn.ModuleList, x: Tensor, relu: bool) -> list[Tensor]:
    """Coarser levels: the first of x, each further one of the one before, with `relu` through a ReLU."""
    levels: list[Tensor] = []
    for conv in extra:
        x = conv(F.relu(x) if relu and levels else x)
        levels.append(x)
    return levels


def xavier(neck: nn.Module) -> None:
    """First weights of a neck's convolutions, as RetinaNet's pyramids in Detectron and MMDetection have them."""
    for module in neck.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.xavier_uniform_(module.weight)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
