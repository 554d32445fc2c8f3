"""Res2Net, timm's module under timm's parameter names."""

from __future__ import annotations

from typing import Literal

from torch import nn

from qrepro.backbone.residual import Stages
from qrepro.backbone.weights import timm_for


class Res2Net(Stages):
    """Res2Net v1d 26w4s (arXiv 1904.01169) up to C5: deep stem, pooled shortcuts, 4 scales of width 26 in a block.

    Args:
        depth: 50 or 101.
        pooled_c2: Whether C2's first block pools its last scale (3x3, stride 1), as those of C3 to C5 do: true in the
            authors' network and in timm's, false in MMDetection's and so in all detectors trained with it.
        deformable: `v1` or `v2` make all three 3x3 convolutions of every block in `deformable_stages` a `Deformable`.
        deformable_stages: 2 for C2, ..., 5 for C5.
        weights: As of `Residual`, e.g. `timm/res2net101d.in1k`.
        frozen_stages: As of `Residual`.
        frozen_norm: As of `Residual`.

    Raises:
        ValueError: The timm extra is not installed.
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

    def spatial(self, unit: nn.Module) -> tuple[nn.Module, list[str]]:
        """The 3x3 convolutions of a unit, one for each scale but the last: as of `Stages`."""
        convs = unit.get_submodule("convs")
        return convs, [name for name, _ in convs.named_children()]
