"""From outputs to detections: an oracle where the rule has one, fusion, candidates, suppression. The only such way."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import torch
from torch import Tensor

from qrepro.boxes import clip
from qrepro.detector import Prediction
from qrepro.fusion import fuse
from qrepro.oracle import LocationGroundTruth, Outputs, apply_oracle
from qrepro.postprocess import Candidates, Detections, PostProcess
from qrepro.records.score_rule import Oracle, Rule

FindGroundTruth = Callable[[Oracle], LocationGroundTruth]


class RankableOutputs(Outputs, Protocol):
    """Outputs that know how to become candidates."""

    def candidates(self, log_score: Tensor, postprocess: PostProcess) -> Iterator[Candidates]:
        """The scored pairs of each image, those below the score threshold left out where that saves memory."""
        ...


@dataclass(frozen=True)
class DenseOutputs:
    """What a pass over a batch predicts, as it is ranked.

    Attributes:
        log_class: (B, R, C) log of the class scores.
        log_quality: (B, R, 1) log of the quality estimate; None of a detector without one.
        boxes: (B, R, 4) decoded and clipped, xyxy in pixels of the network input.
        centres: (..., R, 2) centres of the priors.
        level: (R,) pyramid level of each location; views of test-time augmentation have levels of their own.
        scale: (B, 2) pixels of the network input to one of the original image, along x and y: detections are in the
            latter.
    """

    log_class: Tensor
    log_quality: Tensor | None
    boxes: Tensor
    centres: Tensor
    level: Tensor
    scale: Tensor

    @classmethod
    def of(cls, prediction: Prediction, sizes: Tensor, scale: Tensor | None = None) -> DenseOutputs:
        """Of a prediction for images of size (B, 2) height, width in pixels; scale: 1 where it is not given."""
        boxes, priors = clip(prediction.decode(), sizes), prediction.priors
        scale = torch.ones_like(boxes[:, 0, :2]) if scale is None else scale.to(boxes)
        return cls(prediction.log_class(), prediction.log_quality(), boxes, priors.centres(), priors.level(), scale)

    def candidates(self, log_score: Tensor, postprocess: PostProcess) -> Iterator[Candidates]:
        """The pairs of each image above the threshold; one image after the other, because there can be very many."""
        for image, (score, log_class) in enumerate(zip(log_score, self.log_class, strict=True)):
            location, label = postprocess.above_threshold(score, log_class).nonzero(as_tuple=True)
            pair, boxes = (location, label), self.original_boxes(image, location)
            yield Candidates(score[pair], log_class[pair], label, location, self.level[location], boxes)

    def original_boxes(self, image: int, location: Tensor) -> Tensor:
        """(K, 4) boxes at locations (K,) of one image, in pixels of the original image."""
        return self.boxes[image, location] / self.scale[image].repeat(2)

    def mirrored(self, width: Tensor) -> DenseOutputs:
        """The outputs of an image of this width in pixels, left and right exchanged."""
        x1, y1, x2, y2 = self.boxes.unbind(-1)
        boxes = torch.stack([width - x2, y1, width - x1, y2], -1)
        return replace(self, boxes=boxes, centres=torch.stack([width - self.centres[..., 0], self.centres[..., 1]], -1))

    def at_scale(self, scale: Tensor) -> DenseOutputs:
        """The outputs of one image in the frame of another scale (1, 2)."""
        factor = (scale / self.scale)[0].to(self.boxes)
        return replace(self, boxes=self.boxes * factor.repeat(2), centres=self.centres * factor, scale=scale)


def concatenate_views(views: Sequence[DenseOutputs]) -> DenseOutputs:
    """Views of one image, all in the same frame, as one; each has levels of its own, so that `nms_pre` is per view."""
    levels, first = [], 0
    for view in views:
        levels.append(view.level + first)
        first = int(levels[-1].max()) + 1
    log_class, boxes = (torch.cat([getattr(view, name) for view in views], 1) for name in ("log_class", "boxes"))
    qualities = [view.log_quality for view in views if view.log_quality is not None]
    centres = torch.cat([view.centres for view in views], -2)
    log_quality, level = torch.cat(qualities, 1) if qualities else None, torch.cat(levels)
    return DenseOutputs(log_class, log_quality, boxes, centres, level, views[0].scale)


def rank(
    outputs: RankableOutputs, rule: Rule, postprocess: PostProcess, find_gt: FindGroundTruth | None = None
) -> list[Detections]:
    """Detections of each image by a score rule.

    Args:
        outputs: of a pass, or of candidates that were stored.
        rule: how class score and quality become the score.
        postprocess: candidate selection, suppression and cut.
        find_gt: the ground truth of each location for an oracle; needed by a rule that has one.

    Raises:
        ValueError: the rule needs a quality estimate and the outputs have none.
    """
    if rule.oracle:
        if find_gt is None:
            raise ValueError(f"score rule {rule.name}: needs ground truth")
        outputs = apply_oracle(outputs, rule.oracle, find_gt(rule.oracle))
    log_score = fuse(outputs.log_class, outputs.log_quality, rule.fusion)
    return postprocess(outputs.candidates(log_score, postprocess))
