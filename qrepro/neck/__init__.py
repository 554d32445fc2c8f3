"""Necks: from a backbone's feature maps to the levels that a head reads."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from torch import Tensor

from qrepro.neck.extended import ExtendedFPN
from qrepro.neck.fpn import FPN, PAFPN
from qrepro.neck.ssd import L2Norm, SSDExtra

__all__ = ["FPN", "NECKS", "PAFPN", "ExtendedFPN", "L2Norm", "Neck", "SSDExtra"]


class Neck(Protocol):
    """What a member of this axis offers; one with parameters is a `torch.nn.Module`.

    It is built with the channels of the backbone's maps, finest first, and its recipe values.
    """

    @property
    def channels(self) -> int | tuple[int, ...]:
        """Channels of all levels, or of each."""

    @property
    def strides(self) -> tuple[int, ...]:
        """Pixels per cell of each level, finest first."""

    def __call__(self, features: list[Tensor], /) -> list[Tensor]:
        """Levels of the pyramid.

        Args:
            features: Maps (B, C, H, W) of the backbone, finest first.

        Returns:
            Maps (B, channels, H, W), finest first, one for each of `strides`.
        """


NECKS: dict[str, Callable[..., Neck]] = {
    "fpn": FPN,
    "pafpn": PAFPN,
    "ssd_extra": SSDExtra,
    "extended_fpn": ExtendedFPN,
}
