"""Small, medium and large: the sides of squares that part them, and the ranges of area between.

As in pycocotools both ends of a range belong to it, so that an object of exactly 32^2 px^2 is both small and medium.
"""

from __future__ import annotations

import numpy as np

Sides = tuple[float, float]
Range = tuple[float, float]

# px, of COCO (https://cocodataset.org/#detection-eval) and of tables 1 and 3 of PASSD (arXiv 1907.12736)
SIZES: dict[str, Sides] = {"coco": (32.0, 96.0), "passd": (64.0, 192.0)}
_LARGEST = 1e5  # px; pycocotools' own limit of an area is its square


def areas(sides: Sides) -> dict[str, Range]:
    """Ranges of area in px^2 of all, small, medium and large objects, for the two sides in px that part them."""
    low, high = sides
    if not 0 < low < high < _LARGEST:
        raise ValueError(
            f"sizes must be two increasing sides in px, above 0 and below {_LARGEST:g}, got {low:g},{high:g}"
        )
    most = _LARGEST**2
    return {"all": (0.0, most), "small": (0.0, low**2), "medium": (low**2, high**2), "large": (high**2, most)}


def outside(area: np.ndarray, bounds: Range) -> np.ndarray:
    """Whether areas (N,) in px^2 lie outside a range."""
    return (area < bounds[0]) | (area > bounds[1])


def size_columns(metric: str, sides: Sides) -> dict[str, Range]:
    """Ranges by the column of a metric for small, medium and large objects: AP gives APS, APM, APL."""
    return {f"{metric}{name[0].upper()}": bounds for name, bounds in areas(sides).items() if name != "all"}


def size_note(sides: Sides) -> str:
    """What S, M and L mean, in words."""
    low, high = (f"{side:g}²" for side in sides)
    return f"S, M, L: area below {low}, {low} to {high}, above {high} px² of the original picture"


def size_text(sides: Sides) -> str:
    """The sides as a cell of a table, such as 64/192: a spreadsheet takes 64,192 for one number."""
    return "/".join(f"{side:g}" for side in sides)
