"""VGG-16 as SSD changes it. Parameter names are those of torchvision's `features`, of fc6 and fc7 MMDetection's."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor, nn
from torchvision.models.vgg import cfgs, make_layers

from qrepro.backbone.base import Backbone


class VGG(Backbone):
    """VGG-16 (arXiv 1409.1556) in the form of SSD (arXiv 1512.02325, section 3): conv4_3 and fc7, both after ReLU.

    Pooling rounds sides up; pool5 is 3x3 with stride 1; fc6 is a 3x3 convolution to 1024 channels with dilation 6, fc7
    a 1x1 convolution to 1024.

    Args:
        batch_norm: A batch norm after every convolution, fc6 and fc7 included.
        weights: null (from scratch), `torchvision/VGG16_Weights.IMAGENET1K_V1`, with batch_norm `VGG16_BN_Weights`, or
            a file (see `load_weights`); `VGG16_Weights.IMAGENET1K_FEATURES` is for images that are not divided by a
            standard deviation. fc6 and fc7 are subsampled from the file's classifier (see `thinned`). Where it has no
            usable one, as in `IMAGENET1K_FEATURES`, they keep their initial values, and so do their batch norms, of
            which no classifier has any.
        frozen_stages: Number of the blocks conv1 to conv5 that are not trained, from conv1 on.
        frozen_norm: Batch norms keep their stored statistics.
    """

    def __init__(
        self,
        *,
        batch_norm: bool = False,
        weights: str | None = None,
        frozen_stages: int = 0,
        frozen_norm: bool = False,
    ) -> None:
        super().__init__()
        layers: list[nn.Module] = [*make_layers(cfgs["D"], batch_norm)][:-1]
        pools = [i for i, layer in enumerate(layers) if isinstance(layer, nn.MaxPool2d)]
        for i in pools:
            layers[i] = nn.MaxPool2d(2, 2, ceil_mode=True)
        blocks = [layers[i:j] for i, j in zip([0, *pools], [*pools, len(layers)], strict=True)]
        layers.append(nn.MaxPool2d(3, 1, 1))
        begin = len(layers)
        for conv in (nn.Conv2d(512, 1024, 3, padding=6, dilation=6), nn.Conv2d(1024, 1024, 1)):
            layers += [conv, *([nn.BatchNorm2d(1024)] if batch_norm else []), nn.ReLU(inplace=True)]
        self.features = nn.Sequential(*layers)
        for layer in layers:
            if isinstance(layer, nn.Conv2d):  # as torchvision's and MMDetection's VGG
                nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")
                assert layer.bias is not None
                nn.init.zeros_(layer.bias)
        self.pool4 = pools[3]
        self.channels = (512, 1024)
        self.fresh = tuple(f"features.{i}." for i in range(begin, len(layers)))
        self.settle(blocks, weights, frozen_stages, frozen_norm)

    def forward(self, images: Tensor) -> list[Tensor]:
        """Features [conv4_3, fc7], strides 8 and 16, of images (B, 3, H, W)."""
        fine = self.features[: self.pool4](images)
        return [fine, self.features[self.pool4 :](fine)]

    def translated(self, state: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        """Entries of a weight file; fc6 and fc7 are those of its classifier where it has none under these names."""
        convs = [f"features.{i}" for i, layer in self.features.named_children() if isinstance(layer, nn.Conv2d)]
        if f"{convs[-1]}.weight" in state:
            return state
        return {**state, **{f"{convs[layer]}.{entry}": value for (layer, entry), value in thinned(state).items()}}


def thinned(state: Mapping[str, Tensor]) -> dict[tuple[int, str], Tensor]:
    """Subsample the classifier of VGG-16 to fc6 and fc7.

    SSD (section 3) "subsamples" the layers: here every 4th of the 4096 channels, every 3rd row and column of fc6's 7x7
    kernel, which its dilation puts back in their places.

    Args:
        state: Entries of a weight file, `classifier.0` and `classifier.3` among them.

    Returns:
        `weight` and `bias` of fc6 (-2) and fc7 (-1), weights (1024, 512, 3, 3) and (1024, 1024, 1, 1). Empty where the
        classifier is absent or not finite.

    Raises:
        ValueError: The classifier has other shapes than VGG-16's.
    """
    entries = {}
    for layer, name, inputs, size, step in ((-2, "classifier.0", 512, 7, 1), (-1, "classifier.3", 4096, 1, 4)):
        weight, bias = state.get(f"{name}.weight"), state.get(f"{name}.bias")
        if weight is None or bias is None or not weight.isfinite().all():
            return {}
        shape = 4096, inputs * size * size
        if weight.shape != shape:
            raise ValueError(f"backbone.weights: {name}.weight is {tuple(weight.shape)}, that of VGG-16 is {shape}")
        entries[layer, "weight"] = weight.view(4096, inputs, size, size)[::4, ::step, ::3, ::3]
        entries[layer, "bias"] = bias[::4]
    return entries
