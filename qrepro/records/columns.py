"""Names of metric columns: AP, AP75, APS, AR100 of COCO; mAP, mAP60, mAPS of VOC."""

from __future__ import annotations

import re
from dataclasses import dataclass

_NAME = re.compile(r"(?P<family>AP|mAP)((?P<percent>\d+(\.\d+)?)|(?P<size>[SML]))?|AR\d+")


@dataclass(frozen=True)
class Column:
    """A column of average precision or recall.

    Attributes:
        family: AP and AR are COCO's, mAP is VOC's.
        threshold: the IoU of AP75 or mAP60, None where the name has none.
        size: S, M, L, or empty for objects of every size.
    """

    family: str
    threshold: float | None = None
    size: str = ""

    @classmethod
    def of(cls, name: str) -> Column | None:
        """The column of a name; None for one that is no such column."""
        match = _NAME.fullmatch(name)
        if not match:
            return None
        percent = match["percent"]
        return cls(match["family"] or "AR", float(percent) / 100 if percent else None, match["size"] or "")
