"""A dense detector assembled from parts: pyramid, towers, prediction layers, priors. It never sees ground truth."""

from __future__ import annotations

from torch import Tensor, nn

from qrepro.backbone import Backbone
from qrepro.detector.head import HEADS, Head, InitialStage, PerLevelHead, ReadAt
from qrepro.detector.prediction import Prediction, joined
from qrepro.neck import Neck
from qrepro.priors import Prior

__all__ = ["HEADS", "Detector", "Head", "InitialStage", "PerLevelHead", "Prediction", "ReadAt", "joined"]


class Detector(nn.Module):
    """Image in, dense predictions out. Every member is a part that the recipe names."""

    backbone: Backbone
    neck: Neck
    head: Head | PerLevelHead

    def __init__(self, backbone: Backbone, neck: Neck, head: Head | PerLevelHead, prior: Prior) -> None:
        super().__init__()
        self.backbone, self.neck, self.head, self.prior = backbone, neck, head, prior

    def forward(self, images: Tensor) -> Prediction:
        """Predictions of normalised images (B, 3, H, W); H and W are best multiples of 32."""
        pyramid = self.neck(self.backbone(images))
        sizes = [(level.shape[-2], level.shape[-1]) for level in pyramid]
        prediction: Prediction = self.head(pyramid, self.prior(sizes, self.neck.strides, images.device))
        return prediction
