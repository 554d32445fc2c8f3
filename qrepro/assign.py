"""Assignment: the location that is trained on each object.

An assigner takes the priors, the padded ground truth and the usable locations of a batch, and returns (B, R) int64: the
index of the matched ground truth, or BACKGROUND, or IGNORED (takes part in no loss). No loop over images or boxes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import reduce
from typing import Protocol

import torch
from torch import Tensor

from qrepro.boxes import aligned_iou, area, distances, pairwise_iou
from qrepro.ground_truth import GroundTruthBatch
from qrepro.priors import Priors

BACKGROUND = -1
IGNORED = -2


class Assigner(Protocol):
    """What a member of this axis offers: matches between priors and ground truth."""

    def __call__(self, priors: Priors, ground_truth: GroundTruthBatch, usable: Tensor, /) -> Tensor:
        """Match the priors of a batch to its ground truth.

        Args:
            priors: R priors of the whole pyramid. `MaxIoU` also takes boxes (B, R, 4) that an initial stage predicted.
            ground_truth: Ground truth (B, G), padded; G may be 0.
            usable: (B, R) bool, false for priors in the padding of an image.

        Returns:
            (B, R) int64: the index in [0, G) of the matched ground truth, BACKGROUND, or IGNORED, which all priors are
            that are not usable.
        """


@dataclass(frozen=True, kw_only=True)
class MaxIoU:
    """RetinaNet's rule (arXiv 1708.02002, section 4.1): by the highest IoU of an anchor with any ground truth.

    At or above `positive` the anchor is matched to that ground truth; below `negative` it is background; between, it is
    ignored.

    Attributes:
        positive: Lowest IoU of a positive.
        negative: IoU below which an anchor is background.
        best_prior: Each ground truth also takes the anchors of its highest IoU, whatever the thresholds say, if that
            IoU is at least `min_best` and above zero. (MMDetection gives a ground truth that no anchor touches to
            *every* such anchor.)
        min_best: See `best_prior`.
        ties: Of several anchors of its highest IoU a ground truth takes all, or the first (SSD, arXiv 1512.02325,
            section 2.2).
    """

    positive: float = 0.5
    negative: float = 0.4
    best_prior: bool = True
    min_best: float = 0.0
    ties: bool = True

    def __call__(self, priors: Priors, ground_truth: GroundTruthBatch, usable: Tensor) -> Tensor:
        """Match the R priors to ground truth (B, G), among the usable (B, R): see `Assigner`."""
        count = ground_truth.valid.shape[1]
        if count == 0:
            return _background(usable)
        iou = pairwise_iou(ground_truth.boxes, priors.boxes)  # (B, G, R)
        iou.masked_fill_(~(ground_truth.valid[..., None] & usable[:, None]), -1)
        highest, match = iou.max(1)
        match = torch.where(highest >= self.positive, match, IGNORED)
        match = torch.where(highest < self.negative, BACKGROUND, match)
        if self.best_prior:
            best_iou, best = iou.max(2, keepdim=True)
            is_best = iou == best_iou if self.ties else torch.zeros_like(iou, dtype=torch.bool).scatter_(2, best, True)
            claimed = is_best & (best_iou > 0) & (best_iou >= self.min_best)
            # A prior that several ground truths claim goes to the last of them, as in MMDetection.
            number = torch.arange(1, count + 1, device=iou.device)[:, None]
            claim = (claimed * number).amax(1) - 1
            match = torch.where(claim >= 0, claim, match)
        return match.masked_fill(~usable, IGNORED)


@dataclass(frozen=True, kw_only=True)
class ATSS:
    """Adaptive training sample selection (arXiv 1912.02424, algorithm 1).

    The candidates of a ground truth are the `top` priors of each level whose centres are nearest to its own. Those are
    positive whose IoU with the ground truth reaches mean + standard deviation over all its candidates and whose centre
    lies inside it; a prior of several ground truths goes to the one it overlaps most.

    Attributes:
        top: Number of candidates of each level, k in the paper.
        inside: Pixels by which the centre must lie within the ground truth.
    """

    top: int = 9
    inside: float = 0.01

    def __call__(self, priors: Priors, ground_truth: GroundTruthBatch, usable: Tensor) -> Tensor:
        """Match the R priors to ground truth (B, G), among the usable (B, R): see `Assigner`."""
        if ground_truth.valid.shape[1] == 0:
            return _background(usable)
        candidate, exists = self._candidates(priors, ground_truth, usable)
        points, boxes = priors.centres()[candidate], ground_truth.boxes[..., None, :]  # (B, G, K, 2), (B, G, 1, 4)
        iou = aligned_iou(boxes, priors.boxes[candidate])
        count = exists.sum(-1, keepdim=True)
        mean = (iou * exists).sum(-1, keepdim=True) / count.clamp(min=1)
        std = (((iou - mean) ** 2 * exists).sum(-1, keepdim=True) / (count - 1).clamp(min=1)).sqrt()
        within = distances(points, boxes.expand(*candidate.shape, 4)).amin(-1) > self.inside
        positive = exists & (iou >= mean + std) & within & ground_truth.valid[..., None]
        return _highest(iou, positive, candidate, usable).masked_fill(~usable, IGNORED)

    def _candidates(self, priors: Priors, ground_truth: GroundTruthBatch, usable: Tensor) -> tuple[Tensor, Tensor]:
        """Candidate priors (B, G, K) of each ground truth, and whether they exist: a level may have fewer usable."""
        centres, points = (ground_truth.boxes[..., :2] + ground_truth.boxes[..., 2:]) / 2, priors.centres()
        candidates, exist = [], []
        for level in _levels(priors):
            distance = torch.cdist(centres, points[level], compute_mode="donot_use_mm_for_euclid_dist")
            distance.masked_fill_(~usable[:, None, level], torch.inf)
            nearest = distance.topk(min(self.top, distance.shape[-1]), largest=False)
            candidates.append(nearest.indices + level.start)
            exist.append(nearest.values.isfinite())
        return torch.cat(candidates, -1), torch.cat(exist, -1)


@dataclass(frozen=True, kw_only=True)
class Ranges:
    """FCOS (arXiv 1904.01355, section 3.1): by the size of the distances that a location would have to regress.

    A location is positive for a ground truth it lies in, if the largest of its four distances falls into the range of
    its level; of several ground truths it takes the smallest.

    Attributes:
        ranges: [low, high] per level, finest first, in sides of the level's prior: with a prior of 8 strides these are
            the paper's 0 ... 64, 64 ... 128, 128 ... 256, 256 ... 512, 512 ... px.
        radius: Radius of centre sampling, in strides around the centre of the ground truth and within it; null for the
            whole box.
    """

    ranges: tuple[tuple[float, float], ...] = ((0, 1), (0.5, 1), (0.5, 1), (0.5, 1), (0.5, 1e8))
    radius: float | None = 1.5

    def __call__(self, priors: Priors, ground_truth: GroundTruthBatch, usable: Tensor) -> Tensor:
        """Match the R priors to ground truth (B, G), among the usable (B, R): see `Assigner`."""
        if ground_truth.valid.shape[1] == 0:
            return _background(usable)
        limits = _limits(self.ranges, priors)
        sides = _sides(priors, ground_truth)
        largest = reduce(torch.maximum, sides)
        positive = (largest >= limits[:, 0]) & (largest <= limits[:, 1]) & ground_truth.valid[..., None]
        positive &= reduce(torch.minimum, sides) > 0
        if self.radius is not None:
            reach = priors.stride * self.radius
            for point, low, high in _axes(priors, ground_truth):
                centre = (low + high) / 2
                positive &= (point > centre - reach) & (point < centre + reach)
        return _smallest(positive, ground_truth).masked_fill(~usable, IGNORED)


@dataclass(frozen=True, kw_only=True)
class Fovea:
    """FoveaBox (arXiv 1904.03797, sections 3.2 and 3.3): the middle of an object, on the levels that its size suits.

    A ground truth belongs to every level whose range holds sqrt(width height); there the cells are positive whose
    centres lie in the box shrunk by `sigma` about its centre. Of several ground truths a cell takes the smallest.

    Attributes:
        sigma: Sides of the shrunk box as a fraction of those of the box.
        ranges: [low, high] per level, finest first, in sides of the level's prior: with a prior of 2 strides these are
            the authors' 1 ... 64, 32 ... 128, 64 ... 256, 128 ... 512, 256 ... 2048 px.
    """

    sigma: float = 0.4
    ranges: tuple[tuple[float, float], ...] = ((0.0625, 4), (1, 4), (1, 4), (1, 4), (1, 8))

    def __call__(self, priors: Priors, ground_truth: GroundTruthBatch, usable: Tensor) -> Tensor:
        """Match the R priors to ground truth (B, G), among the usable (B, R): see `Assigner`."""
        if ground_truth.valid.shape[1] == 0:
            return _background(usable)
        slices, level = _levels(priors), priors.level()
        first_prior = [part.start for part in slices]  # of each of the L levels
        limits, stride = _limits(self.ranges, priors)[first_prior], priors.stride[first_prior]
        side = area(ground_truth.boxes).sqrt()[..., None]
        suited = (side >= limits[:, 0]) & (side <= limits[:, 1]) & ground_truth.valid[..., None]  # (B, G, L)
        positive = suited[..., level]
        for axis, (_, low, high) in enumerate(_axes(priors, ground_truth)):
            cell = priors.cells[:, axis] / priors.stride
            last_cell = torch.stack([cell[part].amax() for part in slices])
            corner, half = low / stride, (high - low) / stride / 2
            begin = (corner + (1 - self.sigma) * half - 0.5).ceil().minimum(last_cell)
            end = (corner + (1 + self.sigma) * half - 0.5).floor().clamp(min=0).minimum(last_cell)
            positive &= (cell >= begin[..., level]) & (cell <= end[..., level])
        return _smallest(positive, ground_truth).masked_fill(~usable, IGNORED)


@dataclass(frozen=True, kw_only=True)
class NearestPoint:
    """Assignment of the initial stage of RepPoints (arXiv 1904.11490, section 4.2): the nearest points are positive.

    A ground truth takes points of the level whose prior's side s is the last with s <= sqrt(width height), or of the
    first level or the last; the distance from its centre is in units of its sides. A point of several ground truths
    goes to the nearest.

    Attributes:
        number: Number of points that a ground truth takes.
    """

    number: int = 1

    def __call__(self, priors: Priors, ground_truth: GroundTruthBatch, usable: Tensor) -> Tensor:
        """Match the R priors to ground truth (B, G), among the usable (B, R): see `Assigner`."""
        if ground_truth.valid.shape[1] == 0:
            return _background(usable)
        side = (priors.boxes[:, 2] - priors.boxes[:, 0])[[part.start for part in _levels(priors)]]
        level = (area(ground_truth.boxes).sqrt()[..., None] >= side).sum(-1, keepdim=True).clamp(min=1) - 1  # (B, G, 1)
        axes = _axes(priors, ground_truth)
        relative = [(point - (low + high) / 2) / (high - low).clamp(min=1e-6) for point, low, high in axes]
        distance = torch.hypot(*relative).masked_fill((level != priors.level()) | ~usable[:, None], torch.inf)
        nearest = distance.topk(min(self.number, distance.shape[-1]), largest=False)
        positive = nearest.values.isfinite() & ground_truth.valid[..., None]
        return _highest(-nearest.values, positive, nearest.indices, usable).masked_fill(~usable, IGNORED)


def _background(usable: Tensor) -> Tensor:
    """Matches (B, R) of a batch without any object."""
    return torch.full(usable.shape, BACKGROUND, device=usable.device).masked_fill(~usable, IGNORED)


def _limits(ranges: tuple[tuple[float, float], ...], priors: Priors) -> Tensor:
    """Lowest and highest size (R, 2) in px at each prior, of ranges per level in sides of the prior."""
    if len(ranges) != len(priors.counts):
        raise ValueError(f"assign.ranges: {len(ranges)} ranges for {len(priors.counts)} levels; one each is needed")
    side = priors.boxes[:, 2] - priors.boxes[:, 0]
    return priors.boxes.new_tensor(ranges)[priors.level()] * side[:, None]


def _axes(priors: Priors, ground_truth: GroundTruthBatch) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """Along x, then y: centres of the priors (R,), low and high sides of the ground truth (B, G, 1)."""
    points, boxes = priors.centres(), ground_truth.boxes[..., None]
    for axis in (0, 1):
        yield points[:, axis], boxes[:, :, axis], boxes[:, :, axis + 2]


def _sides(priors: Priors, ground_truth: GroundTruthBatch) -> list[Tensor]:
    """Distances (B, G, R) of the priors' centres to the left, right, top, bottom of the ground truth; negative outside.

    Side by side, because one (B, G, R, 4) tensor of them takes several times as long to make and to reduce.
    """
    return [side for point, low, high in _axes(priors, ground_truth) for side in (point - low, high - point)]


def _highest(value: Tensor, positive: Tensor, location: Tensor, usable: Tensor) -> Tensor:
    """Matches (B, R): for each location the ground truth of the highest value; the first of equals.

    value, positive, location: (B, G, K) of pairs of a ground truth and a location, of which the positive ones compete.
    """
    gt = torch.arange(location.shape[1], device=location.device)[:, None].expand_as(location)
    values, locations = value.masked_fill(~positive, -torch.inf).flatten(1), location.flatten(1)
    highest = values.new_full(usable.shape, -torch.inf).scatter_reduce(1, locations, values, "amax")
    winner = positive.flatten(1) & (values == highest.gather(1, locations))
    none = location.shape[1]
    claim = gt.flatten(1).masked_fill(~winner, none)
    match = claim.new_full(usable.shape, none).scatter_reduce(1, locations, claim, "amin")
    return torch.where(match < none, match, BACKGROUND)


def _smallest(positive: Tensor, ground_truth: GroundTruthBatch) -> Tensor:
    """Matches (B, R): for each location the smallest ground truth (B, G, R) it is positive for; the first of equals."""
    size = area(ground_truth.boxes)[..., None].expand_as(positive).masked_fill(~positive, torch.inf)
    smallest, match = size.min(1)
    return torch.where(smallest.isfinite(), match, BACKGROUND)


def _levels(priors: Priors) -> list[slice]:
    """Where the priors of each level lie."""
    ends = [sum(priors.counts[: level + 1]) for level in range(len(priors.counts))]
    return [slice(end - count, end) for end, count in zip(ends, priors.counts, strict=True)]


ASSIGNERS: dict[str, Callable[..., Assigner]] = {
    "max_iou": MaxIoU,
    "atss": ATSS,
    "ranges": Ranges,
    "fovea": Fovea,
    "nearest_point": NearestPoint,
}
