"""IoU of detections and ground truth: the two definitions of IoU-aware RetinaNet (arXiv 1912.05992).

`IoU_truth`, used by the oracle, is the largest IoU of a box with *any* truth of its image; `IoU_eval`, used by the
analyses, the largest with a truth of its *own class*. Hence IoU_truth >= IoU_eval, and a high IoU_truth with a low
IoU_eval is a well-placed box of the wrong class (fig. 5 of the paper). Crowd and difficult truths count for neither.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pandas as pd

from qrepro.records.ground_truth import BOX, Truths

_PAIRS_AT_ONCE = 2_000_000  # bounds the memory of a pass to a few hundred MB whatever the size of the set


def iou_eval(truths: Truths, detections: pd.DataFrame) -> np.ndarray:
    """(N,) largest IoU in [0, 1] of each detection with a non-ignored truth of its image and class; 0 where none."""
    return _best_iou(truths, detections, ["image_id", "category_id"])


def iou_truth(truths: Truths, detections: pd.DataFrame) -> np.ndarray:
    """(N,) largest IoU in [0, 1] of each detection with a non-ignored truth of its image, any class; 0 where none."""
    return _best_iou(truths, detections, ["image_id"])


def pair_iou(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """IoU of aligned `xyxy` boxes, (P, 4) and (P, 4) -> (P,); 0 for two boxes without area. No legacy "+1"."""
    sides = np.minimum(first[:, 2:], second[:, 2:]) - np.maximum(first[:, :2], second[:, :2])
    overlap = np.clip(sides, 0, None).prod(axis=1)
    union = (first[:, 2:] - first[:, :2]).prod(axis=1) + (second[:, 2:] - second[:, :2]).prod(axis=1) - overlap
    return np.divide(overlap, union, out=np.zeros_like(overlap), where=union > 0)


def pairs_by_key(left: pd.DataFrame, right: pd.DataFrame, key: list[str]) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Blocks of all (left row, right row) pairs with equal key, ordered by left row, then by right row.

    A block holds all pairs of its left rows, so that reductions per left row need no carry between blocks.
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


def _best_iou(truths: Truths, detections: pd.DataFrame, key: list[str]) -> np.ndarray:
    """(N,) largest IoU of each detection with the non-ignored truths of equal key."""
    objects = truths.annotations[truths.annotations["iscrowd"] == 0]
    boxes, truth_boxes = (frame[BOX].to_numpy(np.float64) for frame in (detections, objects))
    best = np.zeros(len(detections))
    for rows, others in pairs_by_key(detections, objects, key):
        if len(rows):
            first = np.flatnonzero(np.diff(rows, prepend=-1))
            best[rows[first]] = np.maximum.reduceat(pair_iou(boxes[rows], truth_boxes[others]), first)
    return best
