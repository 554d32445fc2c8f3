"""From dense scores to a short ranked list: candidates, non-maximum suppression, the best of an image."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor
from torchvision.ops import batched_nms


@dataclass(frozen=True)
class Kept:
    """Detections of one image, best first, K of them.

    score: (K,) probability; label: (K,) class index; location: (K,) index into the image's dense outputs.
    """

    score: Tensor
    label: Tensor
    location: Tensor


@dataclass(frozen=True, kw_only=True)
class PostProcess:
    """Candidate rule, NMS and cut of a recipe.

    candidates: `locations` keeps the `per_level` best locations of a level by their largest score and then applies the
    threshold to each of their classes (IoU-aware RetinaNet's code); `pairs` applies the threshold first and keeps the
    `per_level` best (location, class) pairs (MMDetection 3).
    threshold: on the fused score; nms: IoU at which a lower-scored box of the same class is dropped; keep: per image.
    """

    candidates: Literal["locations", "pairs"] = "locations"
    per_level: int = 1000
    threshold: float = 0.05
    nms: float = 0.5
    keep: int = 100

    def __call__(self, log_score: Tensor, boxes: Tensor, counts: tuple[int, ...]) -> list[Kept]:
        """Detections per image of log scores (B, R, C) and clipped boxes (B, R, 4); counts: locations per level."""
        usable = ((boxes[..., 2:] - boxes[..., :2]) > 0).all(-1)
        log_score = log_score.masked_fill(~usable[..., None], -torch.inf)
        return [self._image(s, b, counts) for s, b in zip(log_score, boxes, strict=True)]

    def _image(self, log_score: Tensor, boxes: Tensor, counts: tuple[int, ...]) -> Kept:
        log_threshold = torch.tensor(self.threshold).log().item() if self.threshold > 0 else -torch.inf
        select = self._locations if self.candidates == "locations" else self._pairs
        parts, start = [], 0
        for level in log_score.split(counts):
            location, label = select(level, log_threshold)
            parts.append((level[location, label], label, location + start))
            start += len(level)
        score, label, location = (torch.cat(column) for column in zip(*parts, strict=True))
        score = score.exp()
        best = batched_nms(boxes[location], score, label, self.nms)[: self.keep]
        return Kept(score[best], label[best], location[best])

    def _locations(self, level: Tensor, log_threshold: float) -> tuple[Tensor, Tensor]:
        """(location, label) of the candidates of one level (L, C)."""
        best = level.amax(1).topk(min(self.per_level, len(level))).indices
        kept, label = (level[best] > log_threshold).nonzero(as_tuple=True)
        return best[kept], label

    def _pairs(self, level: Tensor, log_threshold: float) -> tuple[Tensor, Tensor]:
        """(location, label) of the candidates of one level (L, C)."""
        location, label = (level > log_threshold).nonzero(as_tuple=True)
        best = level[location, label].topk(min(self.per_level, len(location))).indices
        return location[best], label[best]


POSTPROCESSES: dict[str, Callable[..., PostProcess]] = {"nms": PostProcess}
