"""Ground truth in the place of a prediction: what perfect knowledge of one output would be worth.

It works on the dense outputs of one pass, before fusion, candidates and NMS, and outside the detector.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from qrepro.boxes import aligned_iou, centerness
from qrepro.ground_truth import Truths, nearest_truth
from qrepro.quality import Oracle


@dataclass(frozen=True)
class Dense:
    """Dense outputs as they are ranked.

    cls: (B, R, C) class scores and quality: (B, R) estimates, None without one, both in [0, 1];
    boxes: (B, R, 4) decoded and clipped, pixels of the network input; centres: (..., R, 2) of the priors; level:
    (R,) of each.
    """

    cls: Tensor
    quality: Tensor | None
    boxes: Tensor
    centres: Tensor
    level: Tensor


@dataclass(frozen=True)
class Owners:
    """The truth of each location. box: (B, R, 4); label, iou, owned: (B, R), iou 0 and owned false where it has none.

    iou: of the decoded box with the truth.
    """

    box: Tensor
    label: Tensor
    iou: Tensor
    owned: Tensor


def owners(where: str, boxes: Tensor, truths: Truths, matches: Tensor) -> Owners:
    """The truths of locations with decoded boxes (B, R, 4), found as `Oracle.where` says.

    matches: (B, R) index of the truth that the training assigner gives a location, negative for none.
    """
    truths = _never_empty(truths)
    if where == "positives":
        owned, owner = matches >= 0, matches.clamp(min=0)
        box = _at(truths.boxes, owner)
        iou = aligned_iou(boxes, box) * owned
    else:
        iou, owner = nearest_truth(boxes, truths)
        owned, box = iou > 0, _at(truths.boxes, owner)
    return Owners(box, truths.labels.gather(1, owner), iou, owned)


def overwrite(dense: Dense, oracle: Oracle, found: Owners) -> Dense:
    """The outputs with one of them replaced by ground truth, as `Oracle` defines it."""
    cls, quality, boxes = dense.cls, dense.quality, dense.boxes
    if oracle.what in ("iou", "centerness"):
        true = found.iou if oracle.what == "iou" else centerness(dense.centres, found.box)
        other = torch.zeros_like(true) if quality is None or oracle.where == "nearest" else quality
        quality = torch.where(found.owned, true, other)
    elif oracle.what == "box":
        boxes = torch.where(found.owned[..., None], found.box, boxes)
    else:
        own = found.owned[..., None] & _is_label(found.label, cls.shape[-1])
        rest = torch.zeros_like(cls) if oracle.others == "zero" else cls
        cls = torch.where(own, found.iou[..., None] if oracle.what == "class_iou" else torch.ones_like(cls), rest)
    if oracle.others == "zero":
        cls = cls * found.owned[..., None]
    return replace(dense, cls=cls, quality=quality, boxes=boxes)


def _never_empty(truths: Truths) -> Truths:
    """The truths with room for at least one, so that a batch without any can be indexed like the others."""
    images, room = truths.valid.shape
    if room:
        return truths
    empty = truths.boxes.new_zeros(images, 1, 4), truths.labels.new_zeros(images, 1), truths.valid.new_zeros(images, 1)
    return Truths(*empty)


def _at(boxes: Tensor, owner: Tensor) -> Tensor:
    """Boxes (B, G, 4) at indices (B, R): (B, R, 4)."""
    return boxes.gather(1, owner[..., None].expand(-1, -1, 4))


def _is_label(labels: Tensor, classes: int) -> Tensor:
    """(B, R, C) bool, true at the class of each location."""
    return labels[..., None] == torch.arange(classes, device=labels.device)
