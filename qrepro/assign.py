"""Which location is trained on which object.

An assigner takes the priors, the padded truths and the usable locations of a batch, and returns (B, R) int64: the index
of the matched truth, or BACKGROUND, or IGNORED (takes part in no loss). No loop over images or boxes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import reduce
from typing import Any

import torch
from torch import Tensor

from qrepro.boxes import aligned_iou, area, distances, pairwise_iou
from qrepro.ground_truth import Truths
from qrepro.priors import Priors

BACKGROUND = -1
IGNORED = -2


@dataclass(frozen=True, kw_only=True)
class MaxIoU:
    """RetinaNet's rule (arXiv 1708.02002, section 4.1): by the best IoU of an anchor with any truth.

    At or above `positive` the anchor belongs to that truth; below `negative` it is background; between, ignored.
    best_prior: each truth also takes the anchors of its highest IoU, whatever the thresholds say (if that IoU is
    above `min_best` and above zero: MMDetection gives a truth that no anchor touches to *every* such anchor).
    ties: all of them, or the first (SSD, arXiv 1512.02325, section 2.2).
    """

    positive: float = 0.5
    negative: float = 0.4
    best_prior: bool = True
    min_best: float = 0.0
    ties: bool = True

    def __call__(self, priors: Priors, truths: Truths, usable: Tensor) -> Tensor:
        """Matches (B, R) int64 for priors R, truths (B, G) and usable (B, R) bool."""
        count = truths.valid.shape[1]
        if count == 0:
            return _nothing(usable)
        iou = pairwise_iou(truths.boxes, priors.boxes)  # (B, G, R)
        iou.masked_fill_(~(truths.valid[..., None] & usable[:, None]), -1)
        best, match = iou.max(1)
        match = torch.where(best >= self.positive, match, IGNORED)
        match = torch.where(best < self.negative, BACKGROUND, match)
        if self.best_prior:
            top, at = iou.max(2, keepdim=True)
            best_of = iou == top if self.ties else torch.zeros_like(iou, dtype=torch.bool).scatter_(2, at, True)
            claimed = best_of & (top > 0) & (top >= self.min_best)
            # A prior claimed by several truths goes to the last of them, as in MMDetection.
            number = torch.arange(1, count + 1, device=iou.device)[:, None]
            claim = (claimed * number).amax(1) - 1
            match = torch.where(claim >= 0, claim, match)
        return match.masked_fill(~usable, IGNORED)


@dataclass(frozen=True, kw_only=True)
class ATSS:
    """Adaptive training sample selection (arXiv 1912.02424, algorithm 1).

    The candidates of a truth are the `top` priors of each level whose centres are nearest to its own. Of these are
    positive whose IoU with the truth reaches mean + standard deviation of all its candidates and whose centre lies
    inside it; a prior of several truths goes to the one it overlaps most.
    inside: pixels by which the centre must lie within the truth.
    """

    top: int = 9
    inside: float = 0.01

    def __call__(self, priors: Priors, truths: Truths, usable: Tensor) -> Tensor:
        """Matches (B, R) int64 for priors R, truths (B, G) and usable (B, R) bool."""
        if truths.valid.shape[1] == 0:
            return _nothing(usable)
        chosen, found = self._candidates(priors, truths, usable)
        points, boxes = priors.centres()[chosen], truths.boxes[..., None, :]  # (B, G, K, 2), (B, G, 1, 4)
        iou = aligned_iou(boxes, priors.boxes[chosen])
        number = found.sum(-1, keepdim=True)
        mean = (iou * found).sum(-1, keepdim=True) / number.clamp(min=1)
        spread = (((iou - mean) ** 2 * found).sum(-1, keepdim=True) / (number - 1).clamp(min=1)).sqrt()
        within = distances(points, boxes.expand(*chosen.shape, 4)).amin(-1) > self.inside
        positive = found & (iou >= mean + spread) & within & truths.valid[..., None]
        return _most(iou, positive, chosen, usable).masked_fill(~usable, IGNORED)

    def _candidates(self, priors: Priors, truths: Truths, usable: Tensor) -> tuple[Tensor, Tensor]:
        """(B, G, K) which priors are candidates of each truth, and whether they are: a level may have fewer usable."""
        centres, points = (truths.boxes[..., :2] + truths.boxes[..., 2:]) / 2, priors.centres()
        chosen, found = [], []
        for level in _levels(priors):
            away = torch.cdist(centres, points[level], compute_mode="donot_use_mm_for_euclid_dist")
            away.masked_fill_(~usable[:, None, level], torch.inf)
            nearest = away.topk(min(self.top, away.shape[-1]), largest=False)
            chosen.append(nearest.indices + level.start)
            found.append(nearest.values.isfinite())
        return torch.cat(chosen, -1), torch.cat(found, -1)


@dataclass(frozen=True, kw_only=True)
class Ranges:
    """FCOS (arXiv 1904.01355, section 3.1): by the size of the distances that a location would have to regress.

    A location is positive for a truth it lies in, if the largest of its four distances falls into the range of its
    level; of several truths it takes the smallest.
    ranges: [low, high] per level, finest first, in sides of the level's prior: with a prior of 8 strides these are the
    paper's 0 ... 64, 64 ... 128, 128 ... 256, 256 ... 512, 512 ... px; radius: of centre sampling, in strides around
    the centre of the truth and within it; null for the whole box.
    """

    ranges: tuple[tuple[float, float], ...] = ((0, 1), (0.5, 1), (0.5, 1), (0.5, 1), (0.5, 1e8))
    radius: float | None = 1.5

    def __call__(self, priors: Priors, truths: Truths, usable: Tensor) -> Tensor:
        """Matches (B, R) int64 for priors R, truths (B, G) and usable (B, R) bool."""
        if truths.valid.shape[1] == 0:
            return _nothing(usable)
        limits = _limits(self.ranges, priors)
        sides = _sides(priors, truths)
        largest = reduce(torch.maximum, sides)
        wanted = (largest >= limits[:, 0]) & (largest <= limits[:, 1]) & truths.valid[..., None]
        wanted &= reduce(torch.minimum, sides) > 0
        if self.radius is not None:
            reach = priors.stride * self.radius
            for point, low, high in _axes(priors, truths):
                centre = (low + high) / 2
                wanted &= (point > centre - reach) & (point < centre + reach)
        return _smallest(wanted, truths).masked_fill(~usable, IGNORED)


@dataclass(frozen=True, kw_only=True)
class Fovea:
    """FoveaBox (arXiv 1904.03797, sections 3.2 and 3.3): the middle of an object, on the levels that its size suits.

    A truth belongs to every level whose range holds sqrt(width height); there the cells are positive whose centres lie
    in the box shrunk by `sigma` about its centre. Of several truths a cell takes the smallest.
    ranges: [low, high] per level, finest first, in sides of the level's prior: with a prior of 2 strides these are the
    authors' 1 ... 64, 32 ... 128, 64 ... 256, 128 ... 512, 256 ... 2048 px.
    """

    sigma: float = 0.4
    ranges: tuple[tuple[float, float], ...] = ((0.0625, 4), (1, 4), (1, 4), (1, 4), (1, 8))

    def __call__(self, priors: Priors, truths: Truths, usable: Tensor) -> Tensor:
        """Matches (B, R) int64 for priors R, truths (B, G) and usable (B, R) bool."""
        if truths.valid.shape[1] == 0:
            return _nothing(usable)
        slices, level = _levels(priors), priors.level()
        one = [part.start for part in slices]  # a prior of each level, of which there are L
        limits, stride = _limits(self.ranges, priors)[one], priors.stride[one]
        side = area(truths.boxes).sqrt()[..., None]
        suited = (side >= limits[:, 0]) & (side <= limits[:, 1]) & truths.valid[..., None]  # (B, G, L)
        wanted = suited[..., level]
        for axis, (_, low, high) in enumerate(_axes(priors, truths)):
            cell = priors.cells[:, axis] / priors.stride
            last = torch.stack([cell[part].amax() for part in slices])
            corner, half = low / stride, (high - low) / stride / 2
            first = (corner + (1 - self.sigma) * half - 0.5).ceil().minimum(last)
            end = (corner + (1 + self.sigma) * half - 0.5).floor().clamp(min=0).minimum(last)
            wanted &= (cell >= first[..., level]) & (cell <= end[..., level])
        return _smallest(wanted, truths).masked_fill(~usable, IGNORED)


@dataclass(frozen=True, kw_only=True)
class NearestPoint:
    """The first matching of RepPoints (arXiv 1904.11490, section 4.2): a truth takes the `number` points nearest to it.

    They are sought on the level whose prior's side s is the last with s <= sqrt(width height), or on the first level or
    the last, and near its centre, in units of its sides. A point of several truths goes to the nearest.
    """

    number: int = 1

    def __call__(self, priors: Priors, truths: Truths, usable: Tensor) -> Tensor:
        """Matches (B, R) int64 for priors R, truths (B, G) and usable (B, R) bool."""
        if truths.valid.shape[1] == 0:
            return _nothing(usable)
        side = (priors.boxes[:, 2] - priors.boxes[:, 0])[[part.start for part in _levels(priors)]]
        level = (area(truths.boxes).sqrt()[..., None] >= side).sum(-1, keepdim=True).clamp(min=1) - 1  # (B, G, 1)
        axes = _axes(priors, truths)
        relative = [(point - (low + high) / 2) / (high - low).clamp(min=1e-6) for point, low, high in axes]
        away = torch.hypot(*relative).masked_fill((level != priors.level()) | ~usable[:, None], torch.inf)
        nearest = away.topk(min(self.number, away.shape[-1]), largest=False)
        positive = nearest.values.isfinite() & truths.valid[..., None]
        return _most(-nearest.values, positive, nearest.indices, usable).masked_fill(~usable, IGNORED)


def _nothing(usable: Tensor) -> Tensor:
    """Matches where there is no truth at all."""
    return torch.full(usable.shape, BACKGROUND, device=usable.device).masked_fill(~usable, IGNORED)


def _limits(ranges: tuple[tuple[float, float], ...], priors: Priors) -> Tensor:
    """(R, 2) lowest and highest size in px at each prior, of ranges per level in sides of the prior."""
    if len(ranges) != len(priors.counts):
        raise ValueError(f"assign.ranges: {len(ranges)} ranges for {len(priors.counts)} levels; one each is needed")
    side = priors.boxes[:, 2] - priors.boxes[:, 0]
    return priors.boxes.new_tensor(ranges)[priors.level()] * side[:, None]


def _axes(priors: Priors, truths: Truths) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """Along x, then y: centres of the priors (R,), low and high sides of the truths (B, G, 1)."""
    points, boxes = priors.centres(), truths.boxes[..., None]
    for axis in (0, 1):
        yield points[:, axis], boxes[:, :, axis], boxes[:, :, axis + 2]


def _sides(priors: Priors, truths: Truths) -> list[Tensor]:
    """Distances (B, G, R) of the priors' centres to the left, right, top, bottom of the truths; negative outside.

    Side by side, because one (B, G, R, 4) tensor of them takes several times as long to make and to reduce.
    """
    return [side for point, low, high in _axes(priors, truths) for side in (point - low, high - point)]


def _most(worth: Tensor, positive: Tensor, chosen: Tensor, usable: Tensor) -> Tensor:
    """(B, R) for each location the truth of the highest worth among the positive pairs; the first of equals.

    worth, positive: (B, G, K) of the pairs of a truth and the location `chosen` (B, G, K).
    """
    truth = torch.arange(chosen.shape[1], device=chosen.device)[:, None].expand_as(chosen)
    value, at = worth.masked_fill(~positive, -torch.inf).flatten(1), chosen.flatten(1)
    best = value.new_full(usable.shape, -torch.inf).scatter_reduce(1, at, value, "amax")
    winner = positive.flatten(1) & (value == best.gather(1, at))
    none = chosen.shape[1]
    claim = truth.flatten(1).masked_fill(~winner, none)
    match = claim.new_full(usable.shape, none).scatter_reduce(1, at, claim, "amin")
    return torch.where(match < none, match, BACKGROUND)


def _smallest(wanted: Tensor, truths: Truths) -> Tensor:
    """(B, R) for each location the smallest of the truths (B, G, R) that want it; the first of equals."""
    size = area(truths.boxes)[..., None].expand_as(wanted).masked_fill(~wanted, torch.inf)
    least, match = size.min(1)
    return torch.where(least.isfinite(), match, BACKGROUND)


def _levels(priors: Priors) -> list[slice]:
    """The priors of each level."""
    ends = [sum(priors.counts[: level + 1]) for level in range(len(priors.counts))]
    return [slice(end - count, end) for end, count in zip(ends, priors.counts, strict=True)]


ASSIGNERS: dict[str, Callable[..., Any]] = {
    "max_iou": MaxIoU,
    "atss": ATSS,
    "ranges": Ranges,
    "fovea": Fovea,
    "nearest_point": NearestPoint,
}
