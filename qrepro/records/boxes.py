"""The two forms of a box: corners `xyxy`, which qrepro computes with, and `xywh` of COCO-format files.

`xyxy` is x1, y1, x2, y2; `xywh` is x, y, width, height. Both are in pixels, without the legacy
"+1": the width is x2 - x1.
"""

from __future__ import annotations

from typing import TypeGuard

import numpy as np
from numpy.typing import ArrayLike


def xyxy_of(boxes: ArrayLike) -> np.ndarray:
    """Boxes from COCO's form into corners.

    Args:
        boxes: (N, 4) x, y, width, height in pixels.

    Returns:
        (N, 4) float64 x1, y1, x2, y2 in pixels; nothing is checked, NaN and negative sides pass.
    """
    xywh = np.asarray(boxes, dtype=np.float64)
    return np.concatenate([xywh[:, :2], xywh[:, :2] + xywh[:, 2:]], axis=1)


def xywh_of(boxes: ArrayLike) -> np.ndarray:
    """Boxes from corners into COCO's form.

    The sides are differences in float64, in which those of float32 corners are exact: differences in float32 would move
    boxes across IoU thresholds.

    Args:
        boxes: (N, 4) x1, y1, x2, y2 in pixels, of any float or integer type.

    Returns:
        (N, 4) float64 x, y, width, height in pixels; nothing is checked.
    """
    xyxy = np.asarray(boxes, dtype=np.float64)
    return np.concatenate([xyxy[:, :2], xyxy[:, 2:] - xyxy[:, :2]], axis=1)


def is_box(value: object) -> TypeGuard[list[float]]:
    """Whether a parsed JSON value is a list of four numbers.

    NaN and infinity are numbers; `true`, and an integer of more than 64 bits, are not.
    """
    if type(value) is not list or len(value) != 4:
        return False
    # A loop and not `all` of a generator, which takes half as long again: data sets have a million boxes.
    for number in value:
        if type(number) is not float and (type(number) is not int or abs(number) >= 2**63):
            return False
    return True
