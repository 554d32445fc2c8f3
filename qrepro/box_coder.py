"""How a box is written in the outputs of a network, and read back.

A representation has `channels` numbers per prior; `encode` gives the code of a box, `decode` the box of an output.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from qrepro.boxes import distances
from qrepro.priors import Priors

Four = tuple[float, float, float, float]


class BoxRepresentation:
    """What a member of this axis offers."""

    @property
    def channels(self) -> int:
        """Numbers per prior that the network puts out."""
        raise NotImplementedError

    def encode(self, boxes: Tensor, priors: Priors) -> Tensor:
        """Target code (P, ...) of boxes (P, 4) at the priors (P)."""
        raise NotImplementedError

    def code(self, raw: Tensor, priors: Priors) -> Tensor:
        """What of outputs (..., R, channels) is trained towards a code: the output itself unless a member says else."""
        return raw.float()

    def decode(self, raw: Tensor, priors: Priors) -> Tensor:
        """Boxes (..., R, 4) of outputs (..., R, channels) at the priors (R); differentiable."""
        raise NotImplementedError


@dataclass(frozen=True, kw_only=True)
class Delta(BoxRepresentation):
    """Centre shift and log size relative to an anchor (R-CNN, arXiv 1311.2524, appendix C), as (dx, dy, dw, dh).

    means, stds: the codes are (delta - mean) / std; max_ratio: |dw|, |dh| are cut at ln(max_ratio) when decoding.
    clip: the centre moves by less than half a cell (PASSD, eq. 2): (dx, dy) = tanh(output) stride / (2 anchor size).
    """

    means: Four = (0.0, 0.0, 0.0, 0.0)
    stds: Four = (1.0, 1.0, 1.0, 1.0)
    max_ratio: float = 1000 / 16
    clip: bool = False

    @property
    def channels(self) -> int:
        """Four numbers per anchor."""
        return 4

    def encode(self, boxes: Tensor, priors: Priors) -> Tensor:
        """Codes (P, 4) of boxes (P, 4); boxes must have positive sides."""
        centre, size = _centre_size(boxes)
        anchor_centre, anchor_size = _centre_size(priors.boxes)
        delta = torch.cat([(centre - anchor_centre) / anchor_size, (size / anchor_size).log()], -1)
        return (delta - delta.new_tensor(self.means)) / delta.new_tensor(self.stds)

    def code(self, raw: Tensor, priors: Priors) -> Tensor:
        """Codes (..., R, 4) of outputs (..., R, 4); in float32 whatever the network ran in."""
        raw = raw.float()
        if not self.clip:
            return raw
        shift = raw[..., :2].tanh() * priors.stride[:, None] / (2 * _centre_size(priors.boxes)[1])
        return torch.cat([(shift - raw.new_tensor(self.means[:2])) / raw.new_tensor(self.stds[:2]), raw[..., 2:]], -1)

    def decode(self, raw: Tensor, priors: Priors) -> Tensor:
        """Boxes (..., R, 4) of outputs (..., R, 4)."""
        code = self.code(raw, priors)
        delta = code * code.new_tensor(self.stds) + code.new_tensor(self.means)
        limit = math.log(self.max_ratio)
        anchor_centre, anchor_size = _centre_size(priors.boxes)
        centre = anchor_centre + delta[..., :2] * anchor_size
        half = anchor_size * delta[..., 2:].clamp(-limit, limit).exp() / 2
        return torch.cat([centre - half, centre + half], -1)


@dataclass(frozen=True, kw_only=True)
class Distance(BoxRepresentation):
    """Distances from a prior's centre to the sides, left, top, right, bottom (FCOS, arXiv 1904.01355).

    activation: what makes an output a distance: `exp` (FCOS, section 3.1), `clamp` at 0 (its improved version), `none`.
    unit: of the distance, a `cell` or a `pixel` (FCOS as first published).
    """

    activation: Literal["exp", "clamp", "none"] = "clamp"
    unit: Literal["cell", "pixel"] = "cell"

    @property
    def channels(self) -> int:
        """One number per side."""
        return 4

    def encode(self, boxes: Tensor, priors: Priors) -> Tensor:
        """Distances (P, 4); negative where the centre lies outside."""
        return _in_cells(boxes, priors) if self.unit == "cell" else distances(priors.centres(), boxes)

    def decode(self, raw: Tensor, priors: Priors) -> Tensor:
        """Boxes (..., R, 4) of outputs (..., R, 4)."""
        activate = {"exp": torch.exp, "clamp": lambda x: x.clamp(min=0), "none": lambda x: x}[self.activation]
        side = activate(raw.float())
        return _around(priors.centres(), side * priors.stride[:, None] if self.unit == "cell" else side)


@dataclass(frozen=True, kw_only=True)
class Gaussian(BoxRepresentation):
    """Distances in cells as normal distributions: means, then logs of the variance (GFL, arXiv 2006.04388, table 5)."""

    @property
    def channels(self) -> int:
        """Mean and log variance per side."""
        return 8

    def encode(self, boxes: Tensor, priors: Priors) -> Tensor:
        """Distances (P, 4) in cells."""
        return _in_cells(boxes, priors)

    def decode(self, raw: Tensor, priors: Priors) -> Tensor:
        """Boxes (..., R, 4) at the means of outputs (..., R, 8)."""
        return _around(priors.centres(), raw[..., :4].float() * priors.stride[:, None])


@dataclass(frozen=True, kw_only=True)
class General(BoxRepresentation):
    """Distances as any distribution over n + 1 bins, `delta` cells apart (GFL, arXiv 2006.04388, eq. 4 and 5).

    n: number of the last bin: distances up to n delta cells are represented.
    """

    n: int = 16
    delta: float = 1.0

    @property
    def channels(self) -> int:
        """A logit per bin and side."""
        return 4 * (self.n + 1)

    def encode(self, boxes: Tensor, priors: Priors) -> Tensor:
        """Distances (P, 4) in bins, clamped to [0, n - 0.1] as in the authors' code, so that a bin lies above."""
        return (_in_cells(boxes, priors) / self.delta).clamp(0, self.n - 0.1)

    def probabilities(self, raw: Tensor) -> Tensor:
        """Distributions (..., 4, n + 1) of outputs (..., 4 (n + 1))."""
        return raw.float().unflatten(-1, (4, self.n + 1)).softmax(-1)

    def decode(self, raw: Tensor, priors: Priors) -> Tensor:
        """Boxes (..., R, 4) at the expectations of outputs (..., R, 4 (n + 1))."""
        bins = torch.arange(self.n + 1, device=raw.device, dtype=torch.float32)
        return _around(priors.centres(), (self.probabilities(raw) * bins).sum(-1) * self.delta * priors.stride[:, None])


@dataclass(frozen=True, kw_only=True)
class LogDistance(BoxRepresentation):
    """Logs of the distances relative to the side of the prior (FoveaBox, arXiv 1904.03797, eq. 4).

    limit: distances are cut to [1 / limit, limit] sides when encoded.
    """

    limit: float = 16.0

    @property
    def channels(self) -> int:
        """One number per side."""
        return 4

    def encode(self, boxes: Tensor, priors: Priors) -> Tensor:
        """Codes (P, 4)."""
        relative = distances(priors.centres(), boxes) / _centre_size(priors.boxes)[1][..., :1]
        return relative.clamp(1 / self.limit, self.limit).log()

    def decode(self, raw: Tensor, priors: Priors) -> Tensor:
        """Boxes (..., R, 4) of codes (..., R, 4)."""
        return _around(priors.centres(), raw.float().exp() * _centre_size(priors.boxes)[1][..., :1])


class PointSet(nn.Module, BoxRepresentation):
    """A set of points, y before x, in cells from the prior's centre; the box is read off it (RepPoints, 1904.11490).

    points: their number. transform: `moment`, mean +- deviation times a factor per axis, learned as its logarithm;
    `minmax`, the smallest box around all. moment_share: of the gradient that reaches the factors (0.01 in the code).
    """

    def __init__(
        self, *, points: int = 9, transform: Literal["moment", "minmax"] = "moment", moment_share: float = 0.01
    ) -> None:
        super().__init__()
        self.points, self.transform, self.moment_share = points, transform, moment_share
        if transform == "moment":
            self.moment = nn.Parameter(torch.zeros(2))  # x, y

    @property
    def channels(self) -> int:
        """Two numbers a point."""
        return 2 * self.points

    def encode(self, boxes: Tensor, priors: Priors) -> Tensor:
        """Not possible: many sets of points make the same box."""
        raise ValueError("loss.code: a box of kind points has no code; use a loss of boxes (loss.box)")

    def decode(self, raw: Tensor, priors: Priors) -> Tensor:
        """Boxes (..., R, 4) of outputs (..., R, 2 * points)."""
        place = raw.float().unflatten(-1, (self.points, 2)).flip(-1)
        place = place * priors.stride[:, None, None] + priors.centres()[..., None, :]
        if self.transform == "minmax":
            return torch.cat([place.amin(-2), place.amax(-2)], -1)
        middle = place.mean(-2)
        factor = self.moment_share * self.moment + (1 - self.moment_share) * self.moment.detach()
        deviation = torch.linalg.vector_norm(place - middle[..., None, :], dim=-2) / math.sqrt(self.points - 1)
        half = deviation * factor.exp()
        return torch.cat([middle - half, middle + half], -1)


def _in_cells(boxes: Tensor, priors: Priors) -> Tensor:
    """Distances (P, 4) of the priors' centres to the sides of boxes (P, 4), in cells."""
    return distances(priors.centres(), boxes) / priors.stride[:, None]


def _around(centre: Tensor, sides: Tensor) -> Tensor:
    """Boxes (..., R, 4) at distances (..., R, 4) from centres (..., R, 2)."""
    return torch.cat([centre - sides[..., :2], centre + sides[..., 2:]], -1)


def _centre_size(boxes: Tensor) -> tuple[Tensor, Tensor]:
    """Centre (..., 2) and width, height (..., 2) of boxes (..., 4)."""
    return (boxes[..., :2] + boxes[..., 2:]) / 2, boxes[..., 2:] - boxes[..., :2]


@dataclass(frozen=True)
class Distributions:
    """What an output says of the sides. probability: (..., 4, n + 1) of 0 ... n bins; spacing: cells per bin."""

    probability: Tensor
    spacing: float


def distributions_of(box: BoxRepresentation, raw: Tensor) -> Distributions | None:
    """The distributions behind outputs (..., channels), where the representation has any."""
    return Distributions(box.probabilities(raw), box.delta) if isinstance(box, General) else None


def bins_of(box: BoxRepresentation) -> int:
    """Numbers of the distribution of each side, 0 where the representation has none."""
    return box.n + 1 if isinstance(box, General) else 0


REPRESENTATIONS: dict[str, Callable[..., Any]] = {
    "delta": Delta,
    "distance": Distance,
    "log_distance": LogDistance,
    "gaussian": Gaussian,
    "general": General,
    "points": PointSet,
}
