"""The convolutions between a pyramid and the prediction layers."""

from __future__ import annotations

from typing import Literal

from torch import Tensor, nn

from qrepro.layers import Deformable


class Tower(nn.Sequential):
    """`convs` 3x3 convolutions with ReLU, shared over the levels; the last one may be deformable.

    Args:
        inputs: Channels of the features.
        width: Channels of each convolution.
        convs: Number of convolutions.
        groups: Groups of the norm behind each convolution; None for no norm.
        bias: Whether the convolutions have a bias.
        std: Initialisation std of their weights.
        deformable: Kind of the last convolution.
        residual: Whether each is a block of two convolutions instead, added to what it gets before the last ReLU (arXiv
            1512.03385, figure 2).

    Raises:
        ValueError: A residual tower is not as wide as its inputs.
    """

    def __init__(
        self,
        inputs: int,
        width: int,
        convs: int,
        groups: int | None,
        bias: bool,
        std: float,
        deformable: Literal["none", "v1", "v2"] = "none",
        residual: bool = False,
    ) -> None:
        if residual and inputs != width:
            raise ValueError(f"head.residual: what is added must be as wide as the tower, here {inputs} and {width}")
        layers: list[nn.Module] = []
        for index in range(convs):
            conv = nn.Conv2d(width if index else inputs, width, 3, padding=1, bias=bias)
            nn.init.normal_(conv.weight, std=std)
            if conv.bias is not None:
                nn.init.zeros_(conv.bias)
            moves = deformable != "none" and index == convs - 1
            layer = Deformable(conv, modulated=deformable == "v2") if moves else conv
            normed = [layer, *([nn.GroupNorm(groups, width)] if groups else [])]
            if residual:
                inner = Tower(width, width, 1, groups, bias, std)
                layers.append(Shortcut(*inner, *normed))
            else:
                layers += [*normed, nn.ReLU(inplace=True)]
        super().__init__(*layers)


class Shortcut(nn.Sequential):
    """Layers whose output is added to their input, then a ReLU."""

    def forward(self, x: Tensor) -> Tensor:
        """Features of the shape of x."""
        added: Tensor = super().forward(x)  # type: ignore[no-untyped-call]  # torch's own
        return (x + added).relu()
