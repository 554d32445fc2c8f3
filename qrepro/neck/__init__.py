"""From a backbone's feature maps to the levels that a head reads."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from qrepro.neck.extended import ExtendedFPN
from qrepro.neck.fpn import FPN, PAFPN
from qrepro.neck.ssd import L2Norm, SSDExtra

__all__ = ["FPN", "NECKS", "PAFPN", "ExtendedFPN", "L2Norm", "SSDExtra"]

NECKS: dict[str, Callable[..., Any]] = {
    "fpn": FPN,
    "pafpn": PAFPN,
    "ssd_extra": SSDExtra,
    "extended_fpn": ExtendedFPN,
}
