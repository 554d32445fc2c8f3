"""Residual networks. Parameter names follow torchvision's ResNet: its weights, timm's and MMDetection's load as is."""

from __future__ import annotations

from typing import Literal, Protocol

from torch import Tensor, nn
from torchvision.models.resnet import BasicBlock, Bottleneck, ResNet

from qrepro.backbone.base import Backbone
from qrepro.layers.deformable import Deformable

BLOCKS: dict[int, tuple[type[BasicBlock] | type[Bottleneck], list[int]]] = {
    18: (BasicBlock, [2, 2, 2, 2]),
    34: (BasicBlock, [3, 4, 6, 3]),
    50: (Bottleneck, [3, 4, 6, 3]),
    101: (Bottleneck, [3, 4, 23, 3]),
}


class ResidualClassifier(Protocol):
    """What a classifier of torchvision's or timm's ResNet family has: the modules of its stem, and its stages."""

    conv1: nn.Module
    bn1: nn.Module
    maxpool: nn.Module
    layer1: nn.Sequential
    layer2: nn.Sequential
    layer3: nn.Sequential
    layer4: nn.Sequential


class Stages(Backbone):
    """The stem and the stages C2 to C5 of a classifier of torchvision's or timm's ResNet family.

    Args:
        body: The classifier.
        relu: Activation of its stem.
        expansion: Channels of C2 in units of 64.
        deformable: See `Residual`.
        deformable_stages: See `Residual`.
        weights: See `Residual`.
        frozen_stages: See `Residual`.
        frozen_norm: See `Residual`.
    """

    def __init__(
        self,
        body: ResidualClassifier,
        relu: nn.Module,
        expansion: int,
        deformable: Literal["none", "v1", "v2"],
        deformable_stages: tuple[Literal[2, 3, 4, 5], ...],
        weights: str | None,
        frozen_stages: int,
        frozen_norm: bool,
    ) -> None:
        super().__init__()
        self.conv1, self.bn1, self.relu, self.maxpool = body.conv1, body.bn1, relu, body.maxpool
        self.layer1, self.layer2, self.layer3, self.layer4 = body.layer1, body.layer2, body.layer3, body.layer4
        if deformable != "none":
            for stage in sorted(set(deformable_stages)):
                for unit in getattr(self, f"layer{stage - 1}"):
                    owner, names = self.spatial(unit)
                    for name in names:
                        setattr(owner, name, Deformable(getattr(owner, name), modulated=deformable == "v2"))
        self.channels = tuple(expansion * width for width in (128, 256, 512))  # of C3, C4, C5
        stages = [self.conv1, self.bn1, self.layer1], [self.layer2], [self.layer3], [self.layer4]
        self.settle(stages, weights, frozen_stages, frozen_norm)

    def spatial(self, unit: nn.Module) -> tuple[nn.Module, list[str]]:
        """The convolutions of a unit that can be deformable.

        Args:
            unit: A residual block of a stage.

        Returns:
            The module that holds the convolutions, and their names in it.
        """
        return unit, ["conv2"]

    def forward(self, images: Tensor) -> list[Tensor]:
        """Features [C3, C4, C5], strides 8, 16, 32, of images (B, 3, H, W)."""
        x = self.maxpool(self.relu(self.bn1(self.conv1(images))))
        features = []
        for layer in (self.layer1, self.layer2, self.layer3, self.layer4):
            x = layer(x)
            features.append(x)
        return features[1:]


class Residual(Stages):
    """ResNet and ResNeXt (arXiv 1512.03385, 1611.05431) up to C5.

    Args:
        depth: 18, 34, 50 or 101.
        groups: Groups of the 3x3 convolutions; with `group_width`, 32 and 4 make ResNeXt-32x4d.
        group_width: Channels of a group in C2.
        style: Where a bottleneck has its stride, `pytorch` in the 3x3 convolution, `caffe` in the first 1x1.
        deformable: `v1` or `v2` make `conv2` of every block in `deformable_stages` a `Deformable`: a bottleneck's 3x3
            convolution, or the second one of a basic block (depth 18, 34), which MMDetection refuses. Weight files need
            not have its offset layers: they then begin at zero.
        deformable_stages: 2 for C2, ..., 5 for C5.
        weights: null (from scratch), `torchvision/<name>`, `timm/<name>` or a local file (see `load_weights`).
        frozen_stages: 0 none, 1 the stem and the first stage (C2), ..., offset layers included.
        frozen_norm: Batch norms keep their stored statistics.
    """

    def __init__(
        self,
        *,
        depth: Literal[18, 34, 50, 101] = 50,
        groups: int = 1,
        group_width: int = 64,
        style: Literal["pytorch", "caffe"] = "pytorch",
        deformable: Literal["none", "v1", "v2"] = "none",
        deformable_stages: tuple[Literal[2, 3, 4, 5], ...] = (3, 4, 5),
        weights: str | None = None,
        frozen_stages: int = 1,
        frozen_norm: bool = True,
    ) -> None:
        block, layers = BLOCKS[depth]
        body = ResNet(block, layers, groups=groups, width_per_group=group_width)
        if style == "caffe":
            for module in body.modules():
                if isinstance(module, Bottleneck):
                    module.conv1.stride, module.conv2.stride = module.conv2.stride, module.conv1.stride
        super().__init__(
            body, body.relu, block.expansion, deformable, deformable_stages, weights, frozen_stages, frozen_norm
        )
