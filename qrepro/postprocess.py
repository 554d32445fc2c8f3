"""From dense scores to a short ranked list: candidates, non-maximum suppression, the best of an image.

Equal scores are ordered by location, then by class, and suppression does not depend on which other candidates there
are, so that the same candidates give the same detections whether they come from a network or from a file.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, fields
from typing import Literal

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from torchvision.ops import nms

from qrepro.boxes import aligned_iou


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
        # one image after the other: before the limit per level there can be very many candidates
        return self._choose(self._found(*image, level) for image in zip(log_score, log_class, boxes, strict=True))

    def choose(self, found: Candidates) -> Kept:
        """The detections among candidates of one image."""
        (kept,) = self._choose([found])
        return kept

    @property
    def log_threshold(self) -> float:
        """Log of the threshold, in float32 as the scores are."""
        return torch.tensor(self.threshold).log().item() if self.threshold > 0 else -torch.inf

    def _found(self, log_score: Tensor, log_class: Tensor, boxes: Tensor, level: Tensor) -> Candidates:
        """The (location, class) pairs of one image above the threshold; (R, C), (R, C), (R, 4) and (R,)."""
        gate = log_score if self.threshold_on == "fused" else log_class
        location, label = (gate > self.log_threshold).nonzero(as_tuple=True)
        at = location, label
        return Candidates(log_score[at], log_class[at], label, location, level[location], boxes[location])

    def _choose(self, images: Iterable[Candidates]) -> list[Kept]:
        """The detections of each image among its candidates."""
        usable, chosen = [], []
        for found in images:
            usable.append(self._usable(found))
            chosen.append(found.take(usable[-1]))
        boxes = [_apart(image.boxes, image.label) for image in chosen]
        if self.suppression == "hard":
            ranked = [self._hard(image.log_score, apart) for image, apart in zip(chosen, boxes, strict=True)]
        else:
            ranked = self._soft([image.log_score.exp() for image in chosen], boxes)
        return [
            Kept(score, image.label[best], image.location[best], index[best])
            for (best, score), image, index in zip(ranked, chosen, usable, strict=True)
        ]

    def _usable(self, found: Candidates) -> Tensor:
        """Index of the candidates of one image that enter suppression."""
        gate = found.log_score if self.threshold_on == "fused" else found.log_class
        usable = (gate > self.log_threshold).nonzero()[:, 0]
        usable = usable[self._within_level(found.take(usable))]
        # boxes without area count in the limit and go only then, as in MMDetection
        return usable[(found.boxes[usable, 2:] > found.boxes[usable, :2]).all(-1)]

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

    def _soft(self, scores: list[Tensor], boxes: list[Tensor]) -> list[tuple[Tensor, Tensor]]:
        """Index of the `keep` best of each image under decaying scores, best first, and their decayed scores.

        scores: (N,) of each image; boxes: (N, 4) of each, classes apart. A step takes one box of every image. What is
        padding or was taken is an empty box of score -inf: never the best of anything left, and nothing decays it.
        """
        left = pad_sequence(scores, batch_first=True, padding_value=-torch.inf)  # (B, N)
        places = pad_sequence(boxes, batch_first=True)  # (B, N, 4)
        image = torch.arange(len(left), device=left.device)
        steps = min(self.keep, left.shape[1])
        score = left.new_full((len(left), steps), -torch.inf)
        best = torch.zeros_like(score, dtype=torch.int64)
        for step in range(steps):
            highest, taken = left.max(1)
            score[:, step], best[:, step] = highest, taken
            if (highest < self.soft_floor).all():
                break
            left *= self._decay(aligned_iou(places[image, taken, None], places).float())
            left[image, taken] = -torch.inf
            places[image, taken] = 0.0
        kept = score >= self.soft_floor
        return [(index[mask], value[mask]) for index, value, mask in zip(best, score, kept, strict=True)]

    def _decay(self, iou: Tensor) -> Tensor:
        """Factor on the scores of boxes of an IoU (...) with one that is taken: Soft-NMS eq. 2 (linear) or 3."""
        if self.suppression == "linear":
            return torch.where(iou > self.nms, 1 - iou, 1.0)
        return (-(iou**2) / self.sigma).exp()


def _apart(boxes: Tensor, label: Tensor) -> Tensor:
    """Boxes (N, 4) moved so that classes do not overlap, float64.

    The step is a power of two, so that boxes are moved without rounding whatever the largest of them is.
    """
    boxes = boxes.double()
    step = 2.0 ** (boxes.max() + 1).log2().ceil() if len(boxes) else 0.0
    return boxes + (label * step)[:, None]


POSTPROCESSES: dict[str, Callable[..., PostProcess]] = {"nms": PostProcess}
