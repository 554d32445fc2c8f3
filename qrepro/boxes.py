"""Boxes, priors and padded ground truth: the geometry that every other module speaks.

A box is `xyxy` in pixels of the network input, float32, without the legacy "+1": its width is x2 - x1.
Letters: B images, R locations (all priors of all levels), G padded truths, P positive pairs.
"""

from __future__ import annotations

import torch
from torch import Tensor

UNION_FLOOR = 1e-6  # square pixels; keeps 0 / 0 of two empty boxes at IoU 0


def area(boxes: Tensor) -> Tensor:
    """(...,) square pixels of (..., 4) boxes; 0 for an inverted box."""
    return (boxes[..., 2] - boxes[..., 0]).clamp(min=0) * (boxes[..., 3] - boxes[..., 1]).clamp(min=0)


def _intersection(a: Tensor, b: Tensor) -> Tensor:
    """Overlap of broadcast boxes, one coordinate at a time so that no (..., 2) copy of a large pairing is made."""
    width = torch.minimum(a[..., 2], b[..., 2]) - torch.maximum(a[..., 0], b[..., 0])
    height = torch.minimum(a[..., 3], b[..., 3]) - torch.maximum(a[..., 1], b[..., 1])
    return width.clamp(min=0) * height.clamp(min=0)


def aligned_iou(a: Tensor, b: Tensor) -> Tensor:
    """(...,) IoU of boxes (..., 4) taken in pairs; differentiable in both."""
    inter = _intersection(a, b)
    return inter / (area(a) + area(b) - inter).clamp(min=UNION_FLOOR)


def pairwise_iou(a: Tensor, b: Tensor) -> Tensor:
    """(..., N, M) IoU of every box of a (..., N, 4) with every box of b (..., M, 4)."""
    return aligned_iou(a[..., :, None, :], b[..., None, :, :])


def aligned_giou(a: Tensor, b: Tensor) -> Tensor:
    """(...,) generalised IoU of pairs (arXiv 1902.09630, algorithm 1), in [-1, 1]; differentiable in both."""
    inter = _intersection(a, b)
    union = (area(a) + area(b) - inter).clamp(min=UNION_FLOOR)
    hull = area(torch.cat([torch.minimum(a[..., :2], b[..., :2]), torch.maximum(a[..., 2:], b[..., 2:])], -1))
    hull = hull.clamp(min=UNION_FLOOR)
    return inter / union - (hull - union) / hull


def clip(boxes: Tensor, sizes: Tensor) -> Tensor:
    """Boxes (B, N, 4) clipped to images of size (B, 2) height, width in pixels."""
    limit = sizes.flip(-1).repeat(1, 2)[:, None].to(boxes)
    return torch.minimum(boxes.clamp(min=0), limit)


def distances(points: Tensor, boxes: Tensor) -> Tensor:
    """Left, top, right, bottom (..., 4) of points (..., 2) to the sides of boxes (..., 4); negative when outside."""
    return torch.cat([points - boxes[..., :2], boxes[..., 2:] - points], -1)


def centerness(points: Tensor, boxes: Tensor) -> Tensor:
    """Centerness (...,) of points (..., 2) in boxes (..., 4), FCOS (arXiv 1904.01355) eq. 3; 0 outside.

    sqrt(min(l, r) / max(l, r) * min(t, b) / max(t, b)) of the distances to the four sides.
    """
    first, second = distances(points, boxes).split(2, -1)
    near, far = torch.minimum(first, second).clamp(min=0), torch.maximum(first, second)
    return (near / far.clamp(min=UNION_FLOOR)).prod(-1).sqrt()
