"""Res2Net, timm's module under timm's parameter names."""

from __future__ import annotations

from typing import Any, Literal

from torch import nn

from qrepro.backbone.residual import Stages
from qrepro.backbone.weights import timm_for


class Res2Net(Stages):
    """Res2Net v1d 26w4s (arXiv 1904.01169) up to C5: deep stem, pooled shortcuts, 4 scales of width 26 in a block.

    depth: 50 or 101. deformable: `v1` or `v2` make all three 3x3 convolutions of every block in `deformable_stages`
    (2 for C2, ..., 5 for C5) a `Deformable`.
    weights: as of `Residual`, e.g. `timm/res2net101d.in1k`; frozen_stages, frozen_norm: as of `Residual`.
    timm pools the last scale of C2's first block as well (3x3, stride 1), as the authors' network does; MMDetection
    does so in C3 to C5 only. Raises `ValueError` without the timm extra.
    """

    def __init__(
        self,
        *,
        depth: Literal[50, 101] = 101,
        deformable: Literal["none", "v1", "v2"] = "none",
        deformable_stages: tuple[Literal[2, 3, 4, 5], ...] = (3, 4, 5),
        weights: str | None = None,
        frozen_stages: int = 1,
        frozen_norm: bool = True,
    ) -> None:
        body = timm_for("backbone.kind res2net").create_model(f"res2net{depth}d")
        super().__init__(body, body.act1, 4, deformable, deformable_stages, weights, frozen_stages, frozen_norm)

    def spatial(self, unit: Any) -> tuple[nn.Module, list[str]]:
        """The 3x3 convolutions, one a scale but the last."""
        return unit.convs, [name for name, _ in unit.convs.named_children()]
