"""Ground truth in the place of a prediction: what perfect knowledge of one output would be worth.

It works on the outputs of one pass as they are ranked, before fusion, candidates and NMS, and outside the detector.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, ClassVar, Protocol, TypeVar

import torch
from torch import Tensor

from qrepro.boxes import aligned_iou, centerness
from qrepro.ground_truth import GroundTruthBatch, max_iou_gt
from qrepro.records.score_rule import Oracle


class Outputs(Protocol):
    """What is ranked: log of class scores and of quality, which broadcast, and boxes; see `qrepro.ranking`.

    A dataclass, so that an oracle can put one of them anew.
    """

    __dataclass_fields__: ClassVar[dict[str, Any]]

    @property
    def log_class(self) -> Tensor:
        """Log of the class scores."""
        ...

    @property
    def log_quality(self) -> Tensor | None:
        """Log of the quality estimate; None without one."""
        ...

    @property
    def boxes(self) -> Tensor:
        """(..., 4) xyxy in pixels."""
        ...


Ranked = TypeVar("Ranked", bound=Outputs)


@dataclass(frozen=True)
class LocationGroundTruth:
    """The ground truth of each location; of stored candidates only the IoU is known.

    Attributes:
        iou: (B, R, 1) of the decoded box with its ground truth, 0 where a location has none.
        has_gt: (B, R, 1) bool, whether it has one.
        box: (B, R, 4) the ground truth, xyxy in pixels of the network input.
        label: (B, R, 1) its class.
        centres: (..., R, 2) centres of the priors.
    """

    iou: Tensor
    has_gt: Tensor
    box: Tensor | None = None
    label: Tensor | None = None
    centres: Tensor | None = None


def nearest_gt(boxes: Tensor, centres: Tensor, ground_truth: GroundTruthBatch) -> LocationGroundTruth:
    """To each location the ground truth that its decoded box overlaps most, of whatever class.

    Args:
        boxes: (B, R, 4) decoded boxes, pixels of the network input.
        centres: (..., R, 2) centres of the priors.
        ground_truth: of the batch.
    """
    ground_truth = _never_empty(ground_truth)
    iou, index = max_iou_gt(boxes, ground_truth)
    return _at(ground_truth, index, iou, iou > 0, centres)


def assigned_gt(boxes: Tensor, centres: Tensor, ground_truth: GroundTruthBatch, matches: Tensor) -> LocationGroundTruth:
    """To each location the ground truth that the training assigner gives it.

    Args:
        boxes: (B, R, 4) decoded boxes, pixels of the network input.
        centres: (..., R, 2) centres of the priors.
        ground_truth: of the batch.
        matches: (B, R) index of the assigned ground truth, negative for none.
    """
    ground_truth = _never_empty(ground_truth)
    positive, index = matches >= 0, matches.clamp(min=0)
    iou = aligned_iou(boxes, _boxes_at(ground_truth, index)) * positive
    return _at(ground_truth, index, iou, positive, centres)


def apply_oracle(outputs: Ranked, oracle: Oracle, target: LocationGroundTruth) -> Ranked:
    """The outputs with one of them replaced by ground truth, as `Oracle` defines it.

    Args:
        outputs: as predicted.
        oracle: what is replaced, and what becomes of the rest.
        target: the ground truth of each location, found as `Oracle.where` says.
    """
    log_class, log_quality, boxes = outputs.log_class, outputs.log_quality, outputs.boxes
    has_gt = target.has_gt
    if oracle.replaces_quality:
        true = target.iou if oracle.what == "iou" else _centerness(target)
        nothing = torch.full_like(true, -torch.inf)
        kept = nothing if log_quality is None or oracle.where == "nearest" else log_quality
        log_quality = torch.where(has_gt, true.log(), kept)
    elif oracle.what == "box":
        assert target.box is not None
        boxes = torch.where(has_gt, target.box, boxes)
    else:
        assert target.label is not None
        replaced = has_gt & (target.label == torch.arange(log_class.shape[-1], device=log_class.device))
        kept = torch.full_like(log_class, -torch.inf) if oracle.others == "zero" else log_class
        log_class = torch.where(
            replaced, target.iou.log() if oracle.what == "class_iou" else torch.zeros_like(log_class), kept
        )
    if oracle.others == "zero":
        log_class = log_class.masked_fill(~has_gt, -torch.inf)
    return replace(outputs, log_class=log_class, log_quality=log_quality, boxes=boxes)


def _centerness(target: LocationGroundTruth) -> Tensor:
    """(B, R, 1) centerness of each prior's centre in the ground truth of its location."""
    assert target.centres is not None and target.box is not None
    return centerness(target.centres, target.box)[..., None]


def _at(
    ground_truth: GroundTruthBatch, index: Tensor, iou: Tensor, has_gt: Tensor, centres: Tensor
) -> LocationGroundTruth:
    """The ground truth at indices (B, R)."""
    label = ground_truth.labels.gather(1, index)
    return LocationGroundTruth(
        iou[..., None], has_gt[..., None], _boxes_at(ground_truth, index), label[..., None], centres
    )


def _boxes_at(ground_truth: GroundTruthBatch, index: Tensor) -> Tensor:
    """(B, R, 4) boxes at indices (B, R)."""
    return ground_truth.boxes.gather(1, index[..., None].expand(-1, -1, 4))


def _never_empty(ground_truth: GroundTruthBatch) -> GroundTruthBatch:
    """With room for at least one object, so that a batch without any can be indexed like the others."""
    images, room = ground_truth.valid.shape
    if room:
        return ground_truth
    boxes, labels = ground_truth.boxes.new_zeros(images, 1, 4), ground_truth.labels.new_zeros(images, 1)
    return GroundTruthBatch(boxes, labels, ground_truth.valid.new_zeros(images, 1))
