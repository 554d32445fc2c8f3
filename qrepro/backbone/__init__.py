"""Backbones: from an image to feature maps."""

from __future__ import annotations

from qrepro.backbone.base import Backbone
from qrepro.backbone.mobilenet import MobileNet
from qrepro.backbone.res2net import Res2Net
from qrepro.backbone.residual import Residual
from qrepro.backbone.vgg import VGG
from qrepro.backbone.weights import load_weights

__all__ = ["BACKBONES", "VGG", "Backbone", "MobileNet", "Res2Net", "Residual", "load_weights"]

BACKBONES: dict[str, type[Backbone]] = {
    "resnet": Residual,
    "res2net": Res2Net,
    "vgg": VGG,
    "mobilenet": MobileNet,
}
