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
    pooled_c2: whether C2's first block pools its last scale (3x3, stride 1), as those of C3 to C5 do: true in the
    authors' network and in timm's, false in MMDetection's and so in all detectors trained with it.
    Raises `ValueError` without the timm extra.
    """

    def __init__(
        self,
        *,
        depth: Literal[50, 101] = 101,
        pooled_c2: bool = True,
        deformable: Literal["none", "v1", "v2"] = "none",
        deformable_stages: tuple[Literal[2, 3, 4, 5], ...] = (3, 4, 5),
        weights: str | None = None,
        frozen_stages: int = 1,
        frozen_norm: bool = True,
    ) -> None:
        body = timm_for("backbone.kind res2net").create_model(f"res2net{depth}d")
        if not pooled_c2:
            body.layer1[0].pool = nn.Identity()
        super().__init__(body, body.act1, 4, deformable, deformable_stages, weights, frozen_stages, frozen_norm)

    def spatial(self, unit: Any) -> tuple[nn.Module, list[str]]:
        """The 3x3 convolutions, one a scale but the last."""
        return unit.convs, [name for name, _ in unit.convs.named_children()]
