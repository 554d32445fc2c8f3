"""What every reader does with the boxes of a file: clip them to their image, drop the unusable, report both."""

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from qrepro.data.annotations import Defect

# COCO rounds x, y, width and height to 0.01 px, so an honest box can end that much beyond its image.
ROUNDING = 0.02


def clean_boxes(
    boxes: NDArray[np.float64], sizes: NDArray[np.int64], where: Callable[[int], str]
) -> tuple[NDArray[np.float32], NDArray[np.bool_], list[Defect]]:
    """Clip boxes to their images and find those that cannot be used.

    Args:
        boxes: (N, 4) xyxy in pixels; may hold NaN, infinities, empty and outlying boxes.
        sizes: (N, 2) width and height in pixels of the image of each box.
        where: names box n for a message (called for defective boxes only).

    Returns:
        (N, 4) float32 clipped boxes (zeros where unusable), (N,) bool usable, and the defects in order of the boxes.
        A box is unusable when a coordinate is not finite, its area is not positive, or it lies outside its image.
    """
    finite: NDArray[np.bool_] = np.asarray(np.isfinite(boxes).all(axis=1))
    boxes = np.where(finite[:, None], boxes, 0.0)
    proper = finite & (boxes[:, 2] > boxes[:, 0]) & (boxes[:, 3] > boxes[:, 1])
    limit = np.concatenate([sizes, sizes], axis=1)
    clipped = np.clip(boxes, 0, limit).astype(np.float32)
    inside = proper & (clipped[:, 2] > clipped[:, 0]) & (clipped[:, 3] > clipped[:, 1])
    moved = inside & ((boxes < -ROUNDING) | (boxes > limit + ROUNDING)).any(axis=1)

    defects = []
    for n in np.flatnonzero(~inside | moved).tolist():
        shown = "[" + ", ".join(f"{value:g}" for value in boxes[n].tolist()) + "]"
        size = f"{sizes[n, 0]} x {sizes[n, 1]} image"
        if not finite[n]:
            what = "box has a coordinate that is not a finite number: skipped"
        elif not proper[n]:
            what = f"box {shown} (xyxy) has no positive area: skipped"
        elif not inside[n]:
            what = f"box {shown} (xyxy) lies outside its {size}: skipped"
        else:
            what = f"box {shown} (xyxy) reaches beyond its {size}: clipped"
        defects.append(Defect(where(n), what))
    return np.where(inside[:, None], clipped, 0).astype(np.float32), inside, defects


def box_area(boxes: NDArray[np.float32]) -> NDArray[np.float32]:
    """Area in pixels^2, (N,), of (N, 4) xyxy boxes."""
    return (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
