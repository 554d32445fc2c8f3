"""Small, medium and large objects: the square sides that separate them, and the ranges of area between these sides.

As in pycocotools both ends of a range belong to it, so that an object of exactly 32^2 px^2 is both small and medium.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from qrepro.records.columns import Column

Sides = tuple[float, float]
Range = tuple[float, float]

# px, of COCO (https://cocodataset.org/#detection-eval) and of tables 1 and 3 of PASSD (arXiv 1907.12736)
SIZES: dict[str, Sides] = {"coco": (32.0, 96.0), "passd": (64.0, 192.0)}
_LARGEST = 1e5  # px; pycocotools' own limit of an area is its square


def areas(sides: Sides) -> dict[str, Range]:
    """Return the ranges of area of all, small, medium and large objects.

    Args:
        sides: The two sides in px of the squares that separate small from medium and medium from large.

    Returns:
        Ranges (low, high) in px^2 by the names "all", "small", "medium" and "large".

    Raises:
        ValueError: If the sides do not increase from above 0 to below 1e5 px.
    """
    low, high = sides
    if not 0 < low < high < _LARGEST:
        raise ValueError(
            f"sizes must be two increasing sides in px, above 0 and below {_LARGEST:g}, got {low:g},{high:g}"
        )
    most = _LARGEST**2
    return {"all": (0.0, most), "small": (0.0, low**2), "medium": (low**2, high**2), "large": (high**2, most)}


def outside(area: NDArray[np.float64], bounds: Range) -> NDArray[np.bool_]:
    """Tell which areas lie outside a range.

    Args:
        area: (N,) in px^2.
        bounds: Lowest and highest area of the range in px^2, both included.

    Returns:
        (N,) mask.
    """
    return (area < bounds[0]) | (area > bounds[1])


def size_columns(metric: str, sides: Sides) -> dict[str, Range]:
    """Return the ranges of area by the column of a metric for small, medium and large objects.

    Args:
        metric: Name of the metric; AP gives the columns APS, APM and APL.
        sides: The two sides in px, as for `areas`.

    Returns:
        Ranges (low, high) in px^2 by column.
    """
    return {f"{metric}{name[0].upper()}": bounds for name, bounds in areas(sides).items() if name != "all"}


def size_note(sides: Sides) -> str:
    """Explain S, M and L in words, for two sides in px."""
    low, high = (f"{side:g}²" for side in sides)
    return f"S, M, L: area below {low}, {low} to {high}, above {high} px² of the original image"


def size_text(sides: Sides) -> str:
    """Write two sides as a cell of a table, such as 64/192: a spreadsheet takes 64,192 for one number."""
    return "/".join(f"{side:g}" for side in sides)


def column_sides(column: Column) -> Sides:
    """Sides in px that part the sizes of a column: PASSD's for mAP; no other of the papers has mAPS, mAPM, mAPL."""
    return SIZES["passd" if column.family == "mAP" else "coco"]


def column_area(column: Column) -> Range:
    """Range of area in px^2 of the objects that count in a column."""
    sides = column_sides(column)
    return size_columns("", sides)[column.size] if column.size else areas(sides)["all"]
