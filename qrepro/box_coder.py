"""Box coders: how a box is encoded in the outputs of a network, and decoded from them.

A coder has `channels` numbers per prior; `encode` gives the code of a box (deltas, distances, bins), `decode` the box
of an output. Outputs are float of any precision; codes and boxes are float32.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from qrepro.boxes import distances
from qrepro.priors import Priors

Four = tuple[float, float, float, float]


@dataclass(frozen=True)
class Distributions:
    """Discrete distributions of the distances to the four sides, which outputs of a network parametrise.

    Attributes:
        probability: (..., 4, n + 1) of distances of 0 ... n bins to the left, top, right, bottom side.
        spacing: Cells (strides) per bin.
    """

    probability: Tensor
    spacing: float


class BoxCoder:
    """Base class of the axis: a user's own coder inherits from it and defines `channels`, `encode` and `decode`.

    A coder whose outputs are distributions also defines `bins` and `distributions`; GFLv2's statistics and the tables
    of distributions then work with it.
    """

    @property
    def channels(self) -> int:
        """Numbers per prior that the network puts out."""
        raise NotImplementedError

    @property
    def bins(self) -> int:
        """Number of bins of the distribution of each side, 0 where the outputs are no distributions.

        Where it is above 0, `channels` is 4 * bins, and outputs (..., 4 * bins) are the logits of the bins of the left
        side, then of the top, right and bottom side, each normalised by a softmax.
        """
        return 0

    def encode(self, boxes: Tensor, priors: Priors) -> Tensor:
        """Encode boxes as regression targets.

        Args:
            boxes: (P, 4) xyxy in pixels.
            priors: The P priors they are matched to.

        Returns:
            Target codes (P, ...).
        """
        raise NotImplementedError

    def code(self, raw: Tensor, priors: Priors) -> Tensor:
        """Codes that outputs stand for, which a loss compares with encoded boxes: by default the outputs themselves.

        Args:
            raw: (..., R, channels) outputs, of any precision.
            priors: The R priors of the outputs.

        Returns:
            Codes (..., R, channels) in float32, whatever the network ran in; differentiable.
        """
        return raw.float()

    def decode(self, raw: Tensor, priors: Priors) -> Tensor:
        """Decode outputs to boxes.

        Args:
            raw: (..., R, channels) outputs, of any precision.
            priors: The R priors of the outputs.

        Returns:
            Boxes (..., R, 4) xyxy in pixels of the network input, not clipped; differentiable.
        """
        raise NotImplementedError

    def distributions(self, raw: Tensor) -> Distributions | None:
        """Distributions of the sides that outputs (..., channels) stand for, None for a coder without any."""
        return None


@dataclass(frozen=True, kw_only=True)
class Delta(BoxCoder):
    """Deltas (dx, dy, dw, dh): centre shift and log size relative to an anchor (R-CNN, arXiv 1311.2524, appendix C).

    Attributes:
        means: The codes are (delta - mean) / std.
        stds: See `means`.
        max_ratio: |dw| and |dh| are cut at ln(max_ratio) when decoding.
        clip: The centre moves by less than half a cell (PASSD, eq. 2): (dx, dy) = tanh(output) stride / (2 anchor
            size).
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
        """Encode boxes (P, 4) as deltas (P, 4); boxes must have positive sides."""
        centre, size = _centre_size(boxes)
        anchor_centre, anchor_size = _centre_size(priors.boxes)
        delta = torch.cat([(centre - anchor_centre) / anchor_size, (size / anchor_size).log()], -1)
        return (delta - delta.new_tensor(self.means)) / delta.new_tensor(self.stds)

    def code(self, raw: Tensor, priors: Priors) -> Tensor:
        """Codes (..., R, 4) of outputs (..., R, 4), with `clip` their shift after the tanh; in float32."""
        raw = raw.float()
        if not self.clip:
            return raw
        shift = raw[..., :2].tanh() * priors.stride[:, None] / (2 * _centre_size(priors.boxes)[1])
        return torch.cat([(shift - raw.new_tensor(self.means[:2])) / raw.new_tensor(self.stds[:2]), raw[..., 2:]], -1)

    def decode(self, raw: Tensor, priors: Priors) -> Tensor:
        """Decode outputs (..., R, 4) to boxes (..., R, 4)."""
        code = self.code(raw, priors)
        delta = code * code.new_tensor(self.stds) + code.new_tensor(self.means)
        limit = math.log(self.max_ratio)
        anchor_centre, anchor_size = _centre_size(priors.boxes)
        centre = anchor_centre + delta[..., :2] * anchor_size
        half = anchor_size * delta[..., 2:].clamp(-limit, limit).exp() / 2
        return torch.cat([centre - half, centre + half], -1)


_ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "exp": torch.exp,
    "clamp": lambda output: output.clamp(min=0),
    "none": lambda output: output,
}


@dataclass(frozen=True, kw_only=True)
class Distance(BoxCoder):
    """Distances from a prior's centre to the sides, left, top, right, bottom (FCOS, arXiv 1904.01355).

    Attributes:
        activation: The function from an output to a distance: `exp` (FCOS, section 3.1), `clamp` at 0 (its improved
            version), `none`.
        unit: Unit of the distances, a `cell` (stride) or a `pixel` (FCOS as first published).
    """

    activation: Literal["exp", "clamp", "none"] = "clamp"
    unit: Literal["cell", "pixel"] = "cell"

    @property
    def channels(self) -> int:
        """One number per side."""
        return 4

    def encode(self, boxes: Tensor, priors: Priors) -> Tensor:
        """Encode boxes (P, 4) as distances (P, 4) in `unit`, negative where the prior's centre lies outside the box."""
        return _in_cells(boxes, priors) if self.unit == "cell" else distances(priors.centres(), boxes)

    def decode(self, raw: Tensor, priors: Priors) -> Tensor:
        """Decode outputs (..., R, 4) to boxes (..., R, 4)."""
        distance = _ACTIVATIONS[self.activation](raw.float())
        return _around(priors.centres(), distance * priors.stride[:, None] if self.unit == "cell" else distance)


@dataclass(frozen=True, kw_only=True)
class Gaussian(BoxCoder):
    """Normal distributions of the distances in cells (GFL, arXiv 2006.04388, table 5).

    Outputs are the four means, then the four logs of the variance; sides left, top, right, bottom.
    """

    @property
    def channels(self) -> int:
        """Mean and log variance per side."""
        return 8

    def encode(self, boxes: Tensor, priors: Priors) -> Tensor:
        """Encode boxes (P, 4) as distances (P, 4) in cells, negative where the prior's centre lies outside the box."""
        return _in_cells(boxes, priors)

    def decode(self, raw: Tensor, priors: Priors) -> Tensor:
        """Decode outputs (..., R, 8) to the boxes (..., R, 4) at their means."""
        return _around(priors.centres(), raw[..., :4].float() * priors.stride[:, None])


@dataclass(frozen=True, kw_only=True)
class General(BoxCoder):
    """General distributions of the distances, over n + 1 bins `delta` cells apart (GFL, arXiv 2006.04388, eq. 4, 5).

    Attributes:
        n: Number of the last bin: distances up to n delta cells are represented.
        delta: Cells per bin.
    """

    n: int = 16
    delta: float = 1.0

    @property
    def channels(self) -> int:
        """A logit per bin and side."""
        return 4 * self.bins

    @property
    def bins(self) -> int:
        """Bins 0 ... n."""
        return self.n + 1

    def encode(self, boxes: Tensor, priors: Priors) -> Tensor:
        """Encode boxes (P, 4) as distances (P, 4) in bins.

        They are clamped to [0, n - 0.1] as in the authors' code, so that a bin lies above.
        """
        return (_in_cells(boxes, priors) / self.delta).clamp(0, self.n - 0.1)

    def probabilities(self, raw: Tensor) -> Tensor:
        """Probabilities (..., 4, n + 1) of outputs (..., 4 (n + 1)), in float32."""
        return torch.unflatten(raw.float(), -1, (4, self.bins)).softmax(-1)

    def decode(self, raw: Tensor, priors: Priors) -> Tensor:
        """Decode outputs (..., R, 4 (n + 1)) to the boxes (..., R, 4) at the expected distances."""
        bins = torch.arange(self.bins, device=raw.device, dtype=torch.float32)
        return _around(priors.centres(), (self.probabilities(raw) * bins).sum(-1) * self.delta * priors.stride[:, None])

    def distributions(self, raw: Tensor) -> Distributions:
        """Distributions of the sides that outputs (..., 4 (n + 1)) are the logits of."""
        return Distributions(self.probabilities(raw), self.delta)


@dataclass(frozen=True, kw_only=True)
class LogDistance(BoxCoder):
    """Logs of the distances relative to the side of the prior (FoveaBox, arXiv 1904.03797, eq. 4).

    Attributes:
        limit: Distances are cut to [1 / limit, limit] sides of the prior when encoded.
    """

    limit: float = 16.0

    @property
    def channels(self) -> int:
        """One number per side."""
        return 4

    def encode(self, boxes: Tensor, priors: Priors) -> Tensor:
        """Encode boxes (P, 4) as log distances (P, 4)."""
        relative = distances(priors.centres(), boxes) / _centre_size(priors.boxes)[1][..., :1]
        return relative.clamp(1 / self.limit, self.limit).log()

    def decode(self, raw: Tensor, priors: Priors) -> Tensor:
        """Decode outputs (..., R, 4) to boxes (..., R, 4)."""
        return _around(priors.centres(), raw.float().exp() * _centre_size(priors.boxes)[1][..., :1])


class PointSet(nn.Module, BoxCoder):
    """A set of points, y before x, in cells from the prior's centre, that a box is read off (RepPoints, 1904.11490).

    Args:
        points: Number of points.
        transform: How the box is read off: `moment`, mean +- standard deviation times a factor per axis, learned as its
            logarithm; `minmax`, the smallest box around all points.
        moment_share: Share of the gradient that reaches the factors (0.01 in the authors' code).
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
        """Two numbers per point."""
        return 2 * self.points

    def encode(self, boxes: Tensor, priors: Priors) -> Tensor:
        """Not possible, because many sets of points make the same box.

        Raises:
            ValueError: Always.
        """
        raise ValueError("loss.code: a box of kind points has no code; use a loss of boxes (loss.box)")

    def decode(self, raw: Tensor, priors: Priors) -> Tensor:
        """Decode outputs (..., R, 2 * points) to boxes (..., R, 4)."""
        points = torch.unflatten(raw.float(), -1, (self.points, 2)).flip(-1)
        points = points * priors.stride[:, None, None] + priors.centres()[..., None, :]
        if self.transform == "minmax":
            return torch.cat([points.amin(-2), points.amax(-2)], -1)
        mean = points.mean(-2)
        log_factor = self.moment_share * self.moment + (1 - self.moment_share) * self.moment.detach()
        std = torch.linalg.vector_norm(points - mean[..., None, :], dim=-2) / math.sqrt(self.points - 1)
        half = std * log_factor.exp()
        return torch.cat([mean - half, mean + half], -1)


def _in_cells(boxes: Tensor, priors: Priors) -> Tensor:
    """Distances (P, 4) of the priors' centres to the sides of boxes (P, 4), in cells."""
    return distances(priors.centres(), boxes) / priors.stride[:, None]


def _around(centre: Tensor, sides: Tensor) -> Tensor:
    """Boxes (..., R, 4) at distances (..., R, 4) from centres (..., R, 2)."""
    return torch.cat([centre - sides[..., :2], centre + sides[..., 2:]], -1)


def _centre_size(boxes: Tensor) -> tuple[Tensor, Tensor]:
    """Centre (..., 2) and width, height (..., 2) of boxes (..., 4)."""
    return (boxes[..., :2] + boxes[..., 2:]) / 2, boxes[..., 2:] - boxes[..., :2]


BOX_CODERS: dict[str, type[BoxCoder]] = {
    "delta": Delta,
    "distance": Distance,
    "log_distance": LogDistance,
    "gaussian": Gaussian,
    "general": General,
    "points": PointSet,
}
