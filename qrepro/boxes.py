"""Geometry of boxes that every other module uses: areas, IoU, clipping, distances to the sides.

A box is `xyxy` in pixels of the network input, float32, without the legacy "+1": its width is x2 - x1.
Letters: B images, R locations (all priors of all levels), G padded ground-truth boxes, P positive pairs.
"""

from __future__ import annotations

import torch
from torch import Tensor

UNION_FLOOR = 1e-6  # square pixels; keeps 0 / 0 of two empty boxes at IoU 0


def area(boxes: Tensor) -> Tensor:
    """Areas (...) in square pixels of boxes (..., 4); 0 for an inverted box."""
    return (boxes[..., 2] - boxes[..., 0]).clamp(min=0) * (boxes[..., 3] - boxes[..., 1]).clamp(min=0)


def _intersection(a: Tensor, b: Tensor) -> Tensor:
    """Overlap of broadcast boxes, one coordinate at a time so that no (..., 2) copy of a large pairing is made."""
    width = torch.minimum(a[..., 2], b[..., 2]) - torch.maximum(a[..., 0], b[..., 0])
    height = torch.minimum(a[..., 3], b[..., 3]) - torch.maximum(a[..., 1], b[..., 1])
    return width.clamp(min=0) * height.clamp(min=0)


def aligned_iou(a: Tensor, b: Tensor) -> Tensor:
    """IoU (...) in [0, 1] of boxes (..., 4) taken in pairs; differentiable in both."""
    inter = _intersection(a, b)
    return inter / (area(a) + area(b) - inter).clamp(min=UNION_FLOOR)


def pairwise_iou(a: Tensor, b: Tensor) -> Tensor:
    """IoU (..., N, M) in [0, 1] of every box of a (..., N, 4) with every box of b (..., M, 4)."""
    return aligned_iou(a[..., :, None, :], b[..., None, :, :])


def aligned_giou(a: Tensor, b: Tensor) -> Tensor:
    """Generalised IoU (...) in [-1, 1] of boxes (..., 4) taken in pairs (arXiv 1902.09630, algorithm 1).

    It is differentiable in both.
    """
    inter = _intersection(a, b)
    union = (area(a) + area(b) - inter).clamp(min=UNION_FLOOR)
    hull = area(torch.cat([torch.minimum(a[..., :2], b[..., :2]), torch.maximum(a[..., 2:], b[..., 2:])], -1))
    hull = hull.clamp(min=UNION_FLOOR)
    return inter / union - (hull - union) / hull


def clip(boxes: Tensor, sizes: Tensor) -> Tensor:
    """Clip boxes (B, N, 4) to images of sizes (B, 2) height, width in pixels."""
    limit = sizes.flip(-1).repeat(1, 2)[:, None].to(boxes)
    return torch.minimum(boxes.clamp(min=0), limit)


def distances(points: Tensor, boxes: Tensor) -> Tensor:
    """Distances from points to the sides of boxes.

    Args:
        points: (..., 2) x, y.
        boxes: (..., 4) xyxy, in the unit of the points.

    Returns:
        Distances (..., 4) to the left, top, right, bottom side, in this unit; negative beyond a side.
    """
    return torch.cat([points - boxes[..., :2], boxes[..., 2:] - points], -1)


def centerness(points: Tensor, boxes: Tensor) -> Tensor:
    """Centerness of points in boxes, FCOS (arXiv 1904.01355) eq. 3, of their distances to the four sides.

        sqrt(min(l, r) / max(l, r) * min(t, b) / max(t, b))

    Args:
        points: (..., 2) x, y.
        boxes: (..., 4) xyxy.

    Returns:
        Centerness (...) in [0, 1]; 0 outside the box.
    """
    first, second = torch.split(distances(points, boxes), 2, -1)
    near, far = torch.minimum(first, second).clamp(min=0), torch.maximum(first, second)
    return (near / far.clamp(min=UNION_FLOOR)).prod(-1).sqrt()
