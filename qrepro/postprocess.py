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

    Attributes:
        log_score: (N,) log of the score that ranks them.
        log_class: (N,) log of the class score alone.
        label: (N,) int64 class index.
        location: (N,) int64 index into the dense outputs of the image.
        level: (N,) int64 pyramid level.
        boxes: (N, 4) xyxy, clipped, in pixels of any one frame.
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
class Detections:
    """Detections of one image, best first, K of them.

    Attributes:
        score: (K,) float64 probability: in float32 all scores of logits above 16.7 would be 1.
        label: (K,) class index.
        location: (K,) index into the dense outputs of the image.
        boxes: (K, 4) in the frame of the candidates.
        candidate: (K,) index into the candidates that they were chosen from.
    """

    score: Tensor
    label: Tensor
    location: Tensor
    boxes: Tensor
    candidate: Tensor


@dataclass(frozen=True, kw_only=True)
class PostProcess:
    """Candidate selection, suppression and cut of a recipe.

    Attributes:
        candidates: `locations` keeps the `nms_pre` best locations of a level by their largest score and then applies
            the score threshold to each of their classes (IoU-aware RetinaNet's code); `pairs` applies the threshold
            first and keeps the `nms_pre` best (location, class) pairs (MMDetection 3).
        nms_pre: candidates of a pyramid level.
        score_thr: lowest score of a candidate.
        score_thr_on: which score that is, the fused one or that of the class alone.
        rank_by: the score that `nms_pre` goes by (MMDetection 3 takes the class for both, and fuses after).
        iou_thr: IoU above which boxes of a class suppress each other.
        max_per_img: detections of an image.
        suppression: `hard` drops boxes that overlap a better one of their class by an IoU above `iou_thr`; `linear`
            multiplies their score by 1 - IoU instead, `gaussian` that of every box by exp(-IoU^2 / sigma) (Soft-NMS,
            arXiv 1704.04503, eq. 2 and 3), and what falls below `min_score` is dropped.
        sigma: of Gaussian Soft-NMS.
        min_score: lowest score that Soft-NMS leaves.
    """

    candidates: Literal["locations", "pairs"] = "locations"
    nms_pre: int = 1000
    score_thr: float = 0.05
    score_thr_on: Literal["fused", "class"] = "fused"
    rank_by: Literal["fused", "class"] = "fused"
    iou_thr: float = 0.5
    max_per_img: int = 100
    suppression: Literal["hard", "linear", "gaussian"] = "hard"
    sigma: float = 0.5
    min_score: float = 0.001

    def __call__(self, images: Iterable[Candidates]) -> list[Detections]:
        """Detections of each image, from all of its (location, class) pairs or from those above the threshold."""
        chosen, index = [], []
        for candidates in images:
            index.append(self.select_candidates(candidates))
            chosen.append(candidates.take(index[-1]))
        boxes = [_offset_by_class(image.boxes, image.label) for image in chosen]
        if self.suppression == "hard":
            ranked = [self._hard(image.log_score, apart) for image, apart in zip(chosen, boxes, strict=True)]
        else:
            ranked = self._soft([image.log_score.double().exp() for image in chosen], boxes)
        return [
            Detections(score, image.label[best], image.location[best], image.boxes[best], source[best])
            for (best, score), image, source in zip(ranked, chosen, index, strict=True)
        ]

    @property
    def log_threshold(self) -> float:
        """Log of the score threshold, in float32 as the scores are."""
        return torch.tensor(self.score_thr).log().item() if self.score_thr > 0 else -torch.inf

    def above_threshold(self, log_score: Tensor, log_class: Tensor) -> Tensor:
        """Mask of the pairs whose score is above the threshold, in the shape of the scores."""
        return (log_score if self.score_thr_on == "fused" else log_class) > self.log_threshold

    def select_candidates(self, candidates: Candidates) -> Tensor:
        """Index of the candidates of one image that enter suppression."""
        index = self.above_threshold(candidates.log_score, candidates.log_class).nonzero()[:, 0]
        index = index[self._within_level(candidates.take(index))]
        # boxes without area count in the limit and go only then, as in MMDetection
        return index[(candidates.boxes[index, 2:] > candidates.boxes[index, :2]).all(-1)]

    def _within_level(self, candidates: Candidates) -> Tensor:
        """(N,) mask of the candidates that the limit per level leaves."""
        score = candidates.log_score if self.rank_by == "fused" else candidates.log_class
        if self.candidates == "locations":
            location, unit = torch.unique_consecutive(candidates.location, return_inverse=True)
            lowest = torch.full((len(location),), -torch.inf, device=location.device)
            best = lowest.scatter_reduce(0, unit, score, "amax")
            level = torch.zeros_like(location).scatter_(0, unit, candidates.level)
        else:
            unit = torch.arange(len(score), device=score.device)
            best, level = score, candidates.level
        kept = torch.ones_like(level, dtype=torch.bool)
        for number, count in enumerate(level.bincount().tolist()):
            if count > self.nms_pre:
                members = (level == number).nonzero()[:, 0]
                kept[members[best[members].argsort(descending=True, stable=True)[self.nms_pre :]]] = False
        return kept[unit]

    def _hard(self, log_score: Tensor, boxes: Tensor) -> tuple[Tensor, Tensor]:
        """Index of the survivors, best first, and their scores.

        Whether a box survives depends on better ones only, so a head of the ranking is enough once it yields
        `max_per_img`.
        """
        order = log_score.argsort(descending=True, stable=True)
        size = 4 * self.max_per_img
        while True:
            head = order[:size]
            best = head[nms(boxes[head], log_score[head].double(), self.iou_thr)[: self.max_per_img]]
            if len(best) == self.max_per_img or size >= len(order):
                return best, log_score[best].double().exp()
            size *= 4

    def _soft(self, scores: list[Tensor], boxes: list[Tensor]) -> list[tuple[Tensor, Tensor]]:
        """Index of the `max_per_img` best of each image under decaying scores, best first, and their decayed scores.

        scores: (N,) of each image; boxes: (N, 4) of each, classes apart. A step takes one box of every image. What is
        padding or was taken is an empty box of score -inf: never the best of anything left, and nothing decays it.
        """
        left = pad_sequence(scores, batch_first=True, padding_value=-torch.inf)  # (B, N)
        corners = pad_sequence(boxes, batch_first=True)  # (B, N, 4)
        image = torch.arange(len(left), device=left.device)
        steps = min(self.max_per_img, left.shape[1])
        score = left.new_full((len(left), steps), -torch.inf)
        best = torch.zeros_like(score, dtype=torch.int64)
        for step in range(steps):
            highest, taken = left.max(1)
            score[:, step], best[:, step] = highest, taken
            if (highest.float() < self.min_score).all():
                break
            left *= self._decay(aligned_iou(corners[image, taken, None], corners))
            left[image, taken] = -torch.inf
            corners[image, taken] = 0.0
        kept = score.float() >= self.min_score  # in float32, as scores are known
        return [(index[mask], value[mask]) for index, value, mask in zip(best, score, kept, strict=True)]

    def _decay(self, iou: Tensor) -> Tensor:
        """Factor on the scores of boxes of an IoU (...) with one that is taken: Soft-NMS eq. 2 (linear) or 3."""
        if self.suppression == "linear":
            return torch.where(iou > self.iou_thr, 1 - iou, 1.0)
        return (-(iou**2) / self.sigma).exp()


def _offset_by_class(boxes: Tensor, label: Tensor) -> Tensor:
    """Boxes (N, 4) moved so that classes do not overlap, float64.

    The step is a power of two, so that boxes are moved without rounding whatever the largest of them is.
    """
    boxes = boxes.double()
    step = 2.0 ** (boxes.max() + 1).log2().ceil() if len(boxes) else 0.0
    return boxes + (label * step)[:, None]


POSTPROCESSES: dict[str, Callable[..., PostProcess]] = {"nms": PostProcess}
