"""An FPN that starts above the backbone's top."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Literal

from torch import Tensor, nn
from torchvision.models.resnet import Bottleneck

from qrepro.neck.fpn import laterals, top_down
from qrepro.neck.ssd import L2Norm, ssd_layers


def bottleneck(inputs: int, width: int) -> Bottleneck:
    """Residual bottleneck of stride 2, a quarter of `width` in the middle, with a projection (ResNet)."""
    shortcut = nn.Sequential(nn.Conv2d(inputs, width, 1, stride=2, bias=False), nn.BatchNorm2d(width))
    return Bottleneck(inputs, width // Bottleneck.expansion, stride=2, downsample=shortcut)


def depthwise(inputs: int, width: int) -> nn.Sequential:
    """Depthwise 3x3 convolution of stride 2, then 1x1 to `width`, each with batch norm and ReLU (MobileNet)."""
    return nn.Sequential(
        nn.Conv2d(inputs, inputs, 3, stride=2, padding=1, groups=inputs, bias=False),
        nn.BatchNorm2d(inputs),
        nn.ReLU(inplace=True),
        nn.Conv2d(inputs, width, 1, bias=False),
        nn.BatchNorm2d(width),
        nn.ReLU(inplace=True),
    )


BLOCKS: dict[str, Callable[[int, int], nn.Module]] = {
    "ssd": ssd_layers,
    "ssd_norm": partial(ssd_layers, norm=True),
    "bottleneck": bottleneck,
    "depthwise": depthwise,
}


class ExtendedFPN(nn.Module):
    """FPN whose top-down path starts at layers of stride 2 that are added to the backbone (PASSD, section 4).

    Args:
        inputs: Channels of the backbone's maps, finest first.
        channels: Channels of the pyramid.
        block: Kind of the added layers, SSD's for `vgg` (`ssd_norm` with batch norms), `bottleneck` for `resnet` and
            `depthwise` for `mobilenet`.
        widths: Channels of the added layers, one for each.
        smooth: Number of the finest levels that have a 3x3 convolution after the sum; the sums of the others are the
            pyramid's maps. (Not in the paper: with 3 its printed numbers of parameters come out, with four levels and
            with five.)
        l2_scale: Initial factor of an `L2Norm` of the finest map, null for none.
        std: Initialisation std of the new convolutions.

    Raises:
        ValueError: `smooth` is negative or above the number of levels.
    """

    def __init__(
        self,
        inputs: tuple[int, ...],
        *,
        channels: int = 256,
        block: Literal["ssd", "ssd_norm", "bottleneck", "depthwise"] = "bottleneck",
        widths: tuple[int, ...] = (512,),
        smooth: int = 3,
        l2_scale: float | None = None,
        std: float = 0.01,
    ) -> None:
        super().__init__()
        level_widths = *inputs, *widths
        if not 0 <= smooth <= len(level_widths):
            raise ValueError(f"neck.smooth {smooth}: the pyramid has {len(level_widths)} levels")
        self.extra = nn.ModuleList(
            BLOCKS[block](*pair) for pair in zip(level_widths[len(inputs) - 1 : -1], widths, strict=True)
        )
        self.lateral = laterals(level_widths, channels)
        self.output = nn.ModuleList(nn.Conv2d(channels, channels, 3, padding=1) for _ in range(smooth))
        self.channels, self.smooth = channels, smooth
        self.strides = tuple(8 * 2**i for i in range(len(level_widths)))
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.normal_(module.weight, std=std)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
        self.l2_norm = L2Norm(inputs[0], l2_scale) if l2_scale is not None else nn.Identity()

    def forward(self, features: list[Tensor]) -> list[Tensor]:
        """Maps (B, channels, H, W) at the backbone's strides and at those of the added layers, finest first."""
        features = [self.l2_norm(features[0]), *features[1:]]
        for layer in self.extra:
            features.append(layer(features[-1]))
        maps = top_down(self.lateral, features)
        return [*(conv(x) for conv, x in zip(self.output, maps[: self.smooth], strict=True)), *maps[self.smooth :]]
