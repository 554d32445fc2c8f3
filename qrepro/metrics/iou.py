"""IoU of detections and ground truth: the two definitions of IoU-aware RetinaNet (arXiv 1912.05992).

`IoU_truth`, used by the oracle, is the largest IoU of a box with *any* object of its image; `IoU_eval`, used by the
analyses, the largest with an object of its *own class*. Hence IoU_truth >= IoU_eval, and a high IoU_truth with a low
IoU_eval is a well-placed box of the wrong class (fig. 5 of the paper). Crowd and difficult objects count for neither.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from qrepro.records.ground_truth import BOX, GroundTruth

_PAIRS_AT_ONCE = 2_000_000  # bounds the memory of a pass to a few hundred MB whatever the size of the set


def iou_eval(ground_truth: GroundTruth, detections: pd.DataFrame) -> NDArray[np.float64]:
    """Return IoU_eval: the largest IoU of each detection with an object of its image and class.

    Args:
        ground_truth: Ground truth, of which `annotations` is read: image_id, category_id, x1, y1, x2, y2 (px) and
            iscrowd; objects with iscrowd = 1 (crowd, difficult) are left out.
        detections: Frame of N detections with image_id, category_id, x1, y1, x2, y2 in the same pixels.

    Returns:
        (N,) in [0, 1]; 0 where the image has no such object.
    """
    return _best_iou(ground_truth, detections, ["image_id", "category_id"])


def iou_truth(ground_truth: GroundTruth, detections: pd.DataFrame) -> NDArray[np.float64]:
    """Return IoU_truth: the largest IoU of each detection with an object of its image, of any class.

    Args:
        ground_truth: Ground truth, of which `annotations` is read: image_id, x1, y1, x2, y2 (px) and iscrowd; objects
            with iscrowd = 1 (crowd, difficult) are left out.
        detections: Frame of N detections with image_id, x1, y1, x2, y2 in the same pixels.

    Returns:
        (N,) in [0, 1]; 0 where the image has no object.
    """
    return _best_iou(ground_truth, detections, ["image_id"])


def pair_iou(first: NDArray[np.float64], second: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the IoU of aligned boxes, without the legacy "+1" pixel.

    Args:
        first: (P, 4) boxes `xyxy` in px.
        second: (P, 4) boxes `xyxy` in the same pixels.

    Returns:
        (P,) in [0, 1]; 0 for two boxes without area.
    """
    sides = np.minimum(first[:, 2:], second[:, 2:]) - np.maximum(first[:, :2], second[:, :2])
    overlap: NDArray[np.float64] = np.clip(sides, 0, None).prod(axis=1)
    union = (first[:, 2:] - first[:, :2]).prod(axis=1) + (second[:, 2:] - second[:, :2]).prod(axis=1) - overlap
    iou: NDArray[np.float64] = np.divide(overlap, union, out=np.zeros_like(overlap), where=union > 0)
    return iou


def pairs_by_key(
    left: pd.DataFrame, right: pd.DataFrame, key: list[str]
) -> Iterator[tuple[NDArray[np.intp], NDArray[np.intp]]]:
    """Yield blocks of all pairs (left row, right row) with equal key, ordered by left row, then by right row.

    A block holds all pairs of its left rows, so that reductions per left row need no carry between blocks.

    Args:
        left: Frame with the columns of `key`, such as detections.
        right: Frame with the columns of `key`, such as annotations.
        key: Columns that must be equal in both rows of a pair.

    Yields:
        (P,) positions of the left rows and (P,) positions of the right rows of P pairs.
    """
    codes = pd.concat([left[key], right[key]], ignore_index=True).groupby(key, sort=False).ngroup().to_numpy()
    left_code, right_code = codes[: len(left)], codes[len(left) :]
    by_code = np.argsort(right_code, kind="stable")
    starts = np.searchsorted(right_code[by_code], left_code, side="left")
    counts = np.searchsorted(right_code[by_code], left_code, side="right") - starts
    block = np.cumsum(counts) // _PAIRS_AT_ONCE
    for rows in np.split(np.arange(len(left)), np.flatnonzero(np.diff(block)) + 1):
        n = counts[rows]
        within = np.arange(n.sum()) - np.repeat(np.cumsum(n) - n, n)
        yield np.repeat(rows, n), by_code[np.repeat(starts[rows], n) + within]


def _best_iou(ground_truth: GroundTruth, detections: pd.DataFrame, key: list[str]) -> NDArray[np.float64]:
    """(N,) largest IoU of each detection with the objects of equal key that are not ignored."""
    objects = ground_truth.annotations[ground_truth.annotations["iscrowd"] == 0]
    boxes, gt_boxes = (frame[BOX].to_numpy(np.float64) for frame in (detections, objects))
    best = np.zeros(len(detections))
    for rows, gt_rows in pairs_by_key(detections, objects, key):
        if len(rows):
            first = np.flatnonzero(np.diff(rows, prepend=-1))
            best[rows[first]] = np.maximum.reduceat(pair_iou(boxes[rows], gt_boxes[gt_rows]), first)
    return best
