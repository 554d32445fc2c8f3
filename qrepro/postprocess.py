"""From dense scores to a short ranked list: candidates, non-maximum suppression, the best of an image.

Equal scores are ordered by location, then by class, and suppression does not depend on which other candidates there
are, so that the same candidates give the same detections whether they come from a network or from a file.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import Literal

import torch
from torch import Tensor
from torchvision.ops import nms

from qrepro.boxes import pairwise_iou


@dataclass(frozen=True)
class Candidates:
    """Scored (location, class) pairs of one image in order of location, then class; N of them.

    log_score: (N,) by which they are ranked; log_class: (N,) of the class score alone; label, location, level: (N,)
    int64; boxes: (N, 4) clipped, in pixels of any one frame.
    """

    log_score: Tensor
    log_class: Tensor
    label: Tensor
    location: Tensor
    level: Tensor
    boxes: Tensor

    def take(self, index: Tensor) -> Candidates:
        """The candidates at an index or mask."""
        return Candidates(*(getattr(self, column.name)[index] for column in fields(self)))


@dataclass(frozen=True)
class Kept:
    """Detections of one image, best first, K of them.

    score: (K,) probability; label: (K,) class index; location: (K,) index into the image's dense outputs;
    candidate: (K,) index into the candidates they were chosen from.
    """

    score: Tensor
    label: Tensor
    location: Tensor
    candidate: Tensor


@dataclass(frozen=True, kw_only=True)
class PostProcess:
    """Candidate rule, suppression and cut of a recipe.

    candidates: `locations` keeps the `per_level` best locations of a level by their largest score and then applies the
    threshold to each of their classes (IoU-aware RetinaNet's code); `pairs` applies the threshold first and keeps the
    `per_level` best (location, class) pairs (MMDetection 3).
    threshold, threshold_on: lowest score and which one, the fused score or that of the class alone; limit_by: the score
    that `per_level` goes by (MMDetection 3 takes the class for both, and fuses after); keep: detections per image.
    suppression: `hard` drops boxes that overlap a better one of their class by an IoU above `nms`; `linear` multiplies
    their score by 1 - IoU instead, `gaussian` that of every box by exp(-IoU^2 / sigma) (Soft-NMS, arXiv 1704.04503,
    eq. 2 and 3), and what falls below `soft_floor` is dropped.
    """

    candidates: Literal["locations", "pairs"] = "locations"
    per_level: int = 1000
    threshold: float = 0.05
    threshold_on: Literal["fused", "class"] = "fused"
    limit_by: Literal["fused", "class"] = "fused"
    nms: float = 0.5
    keep: int = 100
    suppression: Literal["hard", "linear", "gaussian"] = "hard"
    sigma: float = 0.5
    soft_floor: float = 0.001

    def __call__(self, log_score: Tensor, log_class: Tensor, boxes: Tensor, level: Tensor) -> list[Kept]:
        """Detections per image.

        log_score, log_class: (B, R, C) logs of the fused score and of the class score; boxes: (B, R, 4) clipped; level:
        (R,) of each location.
        """
        detections = []
        for scores, classes, image_boxes in zip(log_score, log_class, boxes, strict=True):
            gate = scores if self.threshold_on == "fused" else classes
            location, label = (gate > self.log_threshold).nonzero(as_tuple=True)
            at = location, label
            found = Candidates(scores[at], classes[at], label, location, level[location], image_boxes[location])
            detections.append(self.choose(found))
        return detections

    @property
    def log_threshold(self) -> float:
        """Log of the threshold, in float32 as the scores are."""
        return torch.tensor(self.threshold).log().item() if self.threshold > 0 else -torch.inf

    def choose(self, found: Candidates) -> Kept:
        """The detections among candidates of one image."""
        gate = found.log_score if self.threshold_on == "fused" else found.log_class
        usable = (gate > self.log_threshold).nonzero()[:, 0]
        usable = usable[self._within_level(found.take(usable))]
        # boxes without area count in the limit and go only then, as in MMDetection
        usable = usable[(found.boxes[usable, 2:] > found.boxes[usable, :2]).all(-1)]
        chosen = found.take(usable)
        boxes = _apart(chosen.boxes, chosen.label)
        if self.suppression == "hard":
            best, score = self._hard(chosen.log_score, boxes)
        else:
            best, score = self._soft(chosen.log_score.exp(), boxes)
        return Kept(score, chosen.label[best], chosen.location[best], usable[best])

    def _within_level(self, found: Candidates) -> Tensor:
        """(N,) mask of the candidates that the limit per level leaves."""
        score = found.log_score if self.limit_by == "fused" else found.log_class
        if self.candidates == "locations":
            location, unit = torch.unique_consecutive(found.location, return_inverse=True)
            lowest = torch.full((len(location),), -torch.inf, device=location.device)
            best = lowest.scatter_reduce(0, unit, score, "amax")
            level = torch.zeros_like(location).scatter_(0, unit, found.level)
        else:
            unit = torch.arange(len(score), device=score.device)
            best, level = score, found.level
        kept = torch.ones_like(level, dtype=torch.bool)
        for number, count in enumerate(level.bincount().tolist()):
            if count > self.per_level:
                members = (level == number).nonzero()[:, 0]
                kept[members[best[members].argsort(descending=True, stable=True)[self.per_level :]]] = False
        return kept[unit]

    def _hard(self, log_score: Tensor, boxes: Tensor) -> tuple[Tensor, Tensor]:
        """Index of the survivors, best first, and their scores.

        Whether a box survives depends on better ones only, so a head of the ranking is enough once it yields `keep`.
        """
        order = log_score.argsort(descending=True, stable=True)
        size = 4 * self.keep
        while True:
            head = order[:size]
            best = head[nms(boxes[head], log_score[head].double(), self.nms)[: self.keep]]
            if len(best) == self.keep or size >= len(order):
                return best, log_score[best].exp()
            size *= 4

    def _soft(self, score: Tensor, boxes: Tensor) -> tuple[Tensor, Tensor]:
        """Index of the `keep` best under decaying scores, best first, and their decayed scores."""
        left, chosen, scores = score.clone(), [], []
        for _ in range(min(self.keep, len(score))):
            best = left.argmax()
            if left[best] < self.soft_floor:
                break
            chosen.append(best)
            scores.append(left[best].clone())
            iou = pairwise_iou(boxes[best][None], boxes)[0].float()
            if self.suppression == "linear":
                left = left * torch.where(iou > self.nms, 1 - iou, 1.0)
            else:
                left = left * (-(iou**2) / self.sigma).exp()
            left[best] = -1.0
        if not chosen:
            return torch.zeros(0, dtype=torch.int64, device=score.device), score[:0]
        return torch.stack(chosen), torch.stack(scores)


def _apart(boxes: Tensor, label: Tensor) -> Tensor:
    """Boxes (N, 4) moved so that classes do not overlap, float64.

    The step is a power of two, so that boxes are moved without rounding whatever the largest of them is.
    """
    boxes = boxes.double()
    step = 2.0 ** (boxes.max() + 1).log2().ceil() if len(boxes) else 0.0
    return boxes + (label * step)[:, None]


POSTPROCESSES: dict[str, Callable[..., PostProcess]] = {"nms": PostProcess}
