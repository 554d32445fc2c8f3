"""From an image to feature maps: backbones and the necks on top of them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from qrepro.backbone.base import Backbone
from qrepro.backbone.deformable import FLOPS, Deformable
from qrepro.backbone.extended import ExtendedFPN
from qrepro.backbone.fpn import FPN, PAFPN
from qrepro.backbone.mobilenet import MobileNet
from qrepro.backbone.res2net import Res2Net
from qrepro.backbone.residual import Residual
from qrepro.backbone.ssd import L2Norm, SSDExtra
from qrepro.backbone.vgg import VGG
from qrepro.backbone.weights import load_weights

__all__ = [
    "BACKBONES",
    "FLOPS",
    "FPN",
    "NECKS",
    "PAFPN",
    "VGG",
    "Backbone",
    "Deformable",
    "ExtendedFPN",
    "L2Norm",
    "MobileNet",
    "Res2Net",
    "Residual",
    "SSDExtra",
    "load_weights",
]

BACKBONES: dict[str, Callable[..., Any]] = {
    "resnet": Residual,
    "res2net": Res2Net,
    "vgg": VGG,
    "mobilenet": MobileNet,
}
NECKS: dict[str, Callable[..., Any]] = {
    "fpn": FPN,
    "pafpn": PAFPN,
    "ssd_extra": SSDExtra,
    "extended_fpn": ExtendedFPN,
}
