"""Deformable convolutions."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torchvision.ops import deform_conv2d

from qrepro.amp import unmixed


class Deformable(nn.Module):
    """A convolution whose K taps move from position to position (arXiv 1703.06211, eq. 2; 1811.11168, eq. 1).

        y(p) = sum over taps k of  w_k m_k(p) x(p + p_k + o_k(p)),   x interpolated bilinearly, 0 outside.

    Computed in the weight's precision, float32 under autocast: a bfloat16 offset has steps of 1/64 pixel from 2 on.

    Args:
        conv: The convolution that it takes the place of; its weight (out, in / groups, 3, 3) and bias, if any, keep
            their names, its stride, padding, dilation and groups hold.
        modulated: v2, else v1, where every m_k is 1.

    Attributes:
        offset: An ungrouped convolution of the same input, kernel and stride that predicts o and m, one deformable
            group for all channels. It begins at zero, so that v1 begins as the plain convolution and v2 as half of it
            (m = 0.5), the bias apart. Its channels are those of MMDetection's `conv_offset`, whose values can be
            copied: [y_1, x_1, ..., y_K, x_K] in pixels of the input, taps row by row, and in v2 then K logits of m.
            (MMDetection splits v2's in three and joins the first two again, which is the same layout.)
    """

    def __init__(self, conv: nn.Conv2d, modulated: bool) -> None:
        super().__init__()
        self.weight, self.bias = conv.weight, conv.bias
        self.geometry: dict[str, Any] = {"stride": conv.stride, "padding": conv.padding, "dilation": conv.dilation}
        size = conv.kernel_size[0]
        self.taps = size * size
        self.offset = nn.Conv2d(conv.in_channels, (3 if modulated else 2) * self.taps, size, **self.geometry)
        nn.init.zeros_(self.offset.weight)
        assert self.offset.bias is not None
        nn.init.zeros_(self.offset.bias)
        self.modulated = modulated

    def forward(self, x: Tensor) -> Tensor:
        """Features (B, out, H', W') in the weight's precision, of x (B, in, H, W) in any."""
        with unmixed(x.device.type):
            x = x.to(self.weight.dtype)
            predicted: Tensor = self.offset(x)
            offset, logit = predicted[:, : 2 * self.taps], predicted[:, 2 * self.taps :]
            mask = logit.sigmoid() if self.modulated else None
            output: Tensor = deform_conv2d(x, offset, self.weight, self.bias, mask=mask, **self.geometry)
            return output


def _deformable_flops(x: list[int], weight: list[int], *_: object, out_shape: list[int], **__: object) -> int:
    """FLOPs of the convolution that it replaces; interpolation is not counted, as elsewhere in a network."""
    batch, channels, height, width = out_shape
    return 2 * batch * channels * height * width * weight[1] * weight[2] * weight[3]


# `custom_mapping` of torch's `FlopCounterMode`, for operations that it does not count.
FLOPS: dict[object, Callable[..., int]] = {torch.ops.torchvision.deform_conv2d: _deformable_flops}
