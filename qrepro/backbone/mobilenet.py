"""MobileNet, timm's module under timm's parameter names."""

from __future__ import annotations

from torch import Tensor, nn

from qrepro.backbone.base import Backbone
from qrepro.backbone.weights import timm_for


class MobileNet(Backbone):
    """MobileNet v1 of full width (arXiv 1704.04861, table 1) up to its last depthwise block; ReLU6 as timm has it.

    Args:
        weights: null (from scratch), `timm/mobilenetv1_100.ra4_e3600_r224_in1k` or a file (see `load_weights`).
        frozen_stages: 0 none, 1 the stem and all of strides 2 and 4, 2 stride 8 as well, ...
        frozen_norm: Batch norms keep their stored statistics.

    Raises:
        ValueError: The timm extra is not installed.
    """

    def __init__(self, *, weights: str | None = None, frozen_stages: int = 0, frozen_norm: bool = True) -> None:
        super().__init__()
        body = timm_for("backbone.kind mobilenet").create_model("mobilenetv1_100")
        self.conv_stem, self.bn1, self.blocks = body.conv_stem, body.bn1, body.blocks
        self.channels = (256, 512, 1024)
        stem: list[nn.Module] = [self.conv_stem, self.bn1, *self.blocks[:2]]
        self.settle([stem, *([block] for block in self.blocks[2:])], weights, frozen_stages, frozen_norm)

    def forward(self, images: Tensor) -> list[Tensor]:
        """Features [C3, C4, C5], strides 8, 16, 32, each of the last block of its stride, of images (B, 3, H, W)."""
        x = self.bn1(self.conv_stem(images))  # timm's norms hold their activation
        features = []
        for block in self.blocks:
            x = block(x)
            features.append(x)
        return features[2:]
