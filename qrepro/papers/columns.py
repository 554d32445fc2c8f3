"""Columns of precision and recall in the papers' tables, by their names: AP, AP75, APS, AR100, mAP, mAP60, mAPS."""

from __future__ import annotations

import re
from dataclasses import dataclass

from qrepro.metrics.area_ranges import SIZES, Range, Sides, areas, size_columns

_NAME = re.compile(r"(?P<family>AP|mAP)((?P<percent>\d+(\.\d+)?)|(?P<size>[SML]))?|AR\d+")


@dataclass(frozen=True)
class Column:
    """One such column.

    family: AP and AR are COCO's, mAP is VOC's.   threshold: the IoU of AP75 or mAP60, None where the name has none.
    size: S, M, L, or nothing for objects of every size.
    """

    family: str
    threshold: float | None = None
    size: str = ""

    @classmethod
    def of(cls, name: str) -> Column | None:
        """The column of a name; None for one that is no such column."""
        found = _NAME.fullmatch(name)
        if not found:
            return None
        percent = found["percent"]
        return cls(found["family"] or "AR", float(percent) / 100 if percent else None, found["size"] or "")

    @property
    def sides(self) -> Sides:
        """Sides in px that part the sizes: PASSD's own for mAP, as no other of the papers has mAPS, mAPM and mAPL."""
        return SIZES["passd" if self.family == "mAP" else "coco"]

    @property
    def area(self) -> Range:
        """Range of area in px^2 of the objects that count."""
        return size_columns("", self.sides)[self.size] if self.size else areas(self.sides)["all"]
