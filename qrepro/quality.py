"""The estimate of a box's own localisation quality, and the one place where it meets the class score.

An estimator is built with what assembly knows of its place, `Place`, and its recipe values. It is called with the last
features of a tower (B, width, H, W), the raw box output (B, per_cell * channels, H, W) and a function that returns the
sides of the boxes in cells (B, 4, H, W), and returns quality logits (B, per_cell, H, W), or None where the detector has
no estimate. One with `appended` channels returns features (B, appended, H, W) for the class layer instead.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn


@dataclass(frozen=True)
class Place:
    """Where an estimator stands.

    width: channels of the features; per_cell: boxes of a cell; bins: of the distribution of each side in the raw output
    of a box, 0 where it holds none; reader: builds the layer of (inputs, outputs) that reads features where the
    recipe's sampling says.
    """

    width: int
    per_cell: int = 1
    bins: int = 0
    reader: Callable[[int, int], nn.Module] | None = None


class Estimator(nn.Module):
    """What all members of this axis are. estimates: whether it has an estimate; samples: whether it needs a reader."""

    appended = 0
    estimates = True
    samples = False

    def forward(self, features: Tensor, raw: Tensor, sides: Callable[[], Tensor]) -> Tensor | None:
        """Quality logits (B, per_cell, H, W)."""
        raise NotImplementedError


class NoQuality(Estimator):
    """No estimate: boxes are ranked by class score."""

    estimates = False

    def __init__(self, place: Place) -> None:
        super().__init__()

    def forward(self, features: Tensor, raw: Tensor, sides: Callable[[], Tensor]) -> None:
        """Nothing to say."""
        return


class ConvQuality(Estimator):
    """One 3x3 convolution beside the box layer, one class-agnostic logit per prior (IoU-aware RetinaNet, section 3.1).

    Bias 0: every estimate starts at 0.5, as in the authors' code.
    """

    def __init__(self, place: Place) -> None:
        super().__init__()
        self.conv = _normal(nn.Conv2d(place.width, place.per_cell, 3, padding=1))

    def forward(self, features: Tensor, raw: Tensor, sides: Callable[[], Tensor]) -> Tensor:
        """Quality logits (B, per_cell, H, W)."""
        return self.conv(features)


class Statistics(Estimator):
    """How sharp the four side distributions are (GFLv2, arXiv 2011.12885, eq. 4 and 5): I = sigmoid(W2 ReLU(W1 F)).

    F: of each side its k largest probabilities (`top`), in falling order, their `mean` and their `variance` (that of
    the k values as a population); sorted, so that it does not matter at which distance a distribution peaks.
    hidden: p, outputs of W1. gradient: whether the loss on I reaches the distributions, as in the authors' code.
    The layers have biases as in the code (eq. 5 has none), and every prior of a cell has the same ones.
    """

    def __init__(
        self,
        place: Place,
        *,
        k: int = 4,
        top: bool = True,
        mean: bool = True,
        variance: bool = False,
        hidden: int = 64,
        gradient: bool = True,
    ) -> None:
        super().__init__()
        self.describe = Describe(place, k, top, mean, variance, gradient)
        self.inner = _normal(nn.Conv2d(self.describe.channels, hidden, 1))
        self.outer = _normal(nn.Conv2d(hidden, 1, 1))
        self.per_cell = place.per_cell

    def forward(self, features: Tensor, raw: Tensor, sides: Callable[[], Tensor]) -> Tensor:
        """Quality logits (B, per_cell, H, W)."""
        logit = self.outer(self.inner(self.describe(raw)).relu())
        return logit.unflatten(0, (-1, self.per_cell))[:, :, 0]


class Composed(Estimator):
    """The composed form of GFLv2 (arXiv 2011.12885, figure 5): the statistics as `d` more features of the class layer.

    There is no estimate of its own; the class score is the joint one. A ReLU follows the fully connected layer.
    """

    estimates = False

    def __init__(self, place: Place, *, k: int = 4, d: int = 64, gradient: bool = True) -> None:
        super().__init__()
        if place.per_cell != 1:
            raise ValueError(f"quality composed: needs one prior a cell, this host has {place.per_cell}")
        self.describe = Describe(place, k, top=True, mean=True, variance=False, gradient=gradient)
        self.layer = _normal(nn.Conv2d(self.describe.channels, d, 1))
        self.appended = d

    def forward(self, features: Tensor, raw: Tensor, sides: Callable[[], Tensor]) -> Tensor:
        """Features (B, d, H, W)."""
        return self.layer(self.describe(raw)).relu()


class Describe(nn.Module):
    """The statistics F of GFLv2 (eq. 4) of general distributions, without parameters."""

    def __init__(self, place: Place, k: int, top: bool, mean: bool, variance: bool, gradient: bool) -> None:
        super().__init__()
        self.bins = place.bins
        if not 1 <= k <= self.bins:
            raise ValueError(
                f"quality: the {k} largest of {self.bins} probabilities a side; statistics need a box of kind general "
                "and 1 <= k <= n + 1"
            )
        if not (top or mean or variance):
            raise ValueError("quality: at least one of top, mean and variance must be true")
        self.k, self.top, self.mean, self.variance, self.gradient = k, top, mean, variance, gradient
        self.channels = 4 * (k * top + mean + variance)

    def forward(self, raw: Tensor) -> Tensor:
        """F (B * per_cell, channels, H, W), side by side, of raw outputs (B, per_cell * 4 * bins, H, W)."""
        logit = raw.unflatten(1, (-1, 4, self.bins)).flatten(0, 1).float()
        largest = (logit if self.gradient else logit.detach()).softmax(2).topk(self.k, 2).values
        parts = [largest] if self.top else []
        if self.mean:
            parts.append(largest.mean(2, keepdim=True))
        if self.variance:
            parts.append(largest.var(2, correction=0, keepdim=True))
        return torch.cat(parts, 2).flatten(1, 2)


class Sampled(Estimator):
    """The predictor of GFLv2 on features instead (its table 3): I = sigmoid(W2 ReLU(W1 F)).

    W1 reads them where the recipe's `sampling.quality` says; hidden: its outputs.
    """

    samples = True

    def __init__(self, place: Place, *, hidden: int = 64) -> None:
        super().__init__()
        if place.per_cell != 1 or place.reader is None:
            raise ValueError("quality sampled: needs sampling.quality, and a host with one prior a cell")
        self.inner = place.reader(place.width, hidden)
        self.outer = _normal(nn.Conv2d(hidden, 1, 1))

    def forward(self, features: Tensor, raw: Tensor, sides: Callable[[], Tensor]) -> Tensor:
        """Quality logits (B, 1, H, W)."""
        return self.outer(self.inner(features, raw, sides()).relu())


def _normal(conv: nn.Conv2d) -> nn.Conv2d:
    """Weights from N(0, 0.01), bias 0."""
    nn.init.normal_(conv.weight, std=0.01)
    assert conv.bias is not None
    nn.init.zeros_(conv.bias)
    return conv


ESTIMATORS: dict[str, type[Estimator]] = {
    "none": NoQuality,
    "conv": ConvQuality,
    "statistics": Statistics,
    "composed": Composed,
    "sampled": Sampled,
}


def joint_logit(cls: Tensor, quality: Tensor) -> Tensor:
    """The logit of the joint score J = C I, with C = sigmoid(cls) and I = sigmoid(quality) (GFLv2, eq. 3).

        logit J = -log(e^-c + e^-i + e^(-c-i))

    cls: (B, R, C); quality: (B, R). Finite with finite gradients however far the logits go, where a sigmoid of J, or
    the logarithm of a product, is not. A loss on logits therefore needs nothing else to supervise the product.
    """
    c, i = torch.broadcast_tensors(-cls, -quality[..., None])
    return -torch.stack([c, i, c + i]).logsumexp(0)


@dataclass(frozen=True)
class Oracle:
    """Ground truth in the place of one output, before scores are fused (VFNet, arXiv 2008.13367, table 1).

    what: `iou`: quality becomes the IoU of the decoded box with the truth of its location; `centerness`: that of the
    prior's centre in this truth (FCOS, arXiv 1904.01355, eq. 3); `box`: the decoded box becomes the truth; `class`: the
    score of its class becomes 1; `class_iou`: it becomes the IoU.
    where: `positives`: the locations that the training assigner matches, with the truth it gives them; `nearest`: all
    whose decoded box overlaps a truth, with the one it overlaps most, of whatever class. With `iou` at `nearest` this
    is the oracle of IoU-aware RetinaNet (IoU_truth); boxes that overlap no truth then have quality 0.
    others: `keep`: what is not overwritten stays as predicted; `zero`: its scores become 0, both those of other
    locations and, where a class score was overwritten, those of the other classes there.
    """

    what: str = "iou"
    where: str = "nearest"
    others: str = "keep"

    @property
    def name(self) -> str:
        """`oracle`, with what differs from the oracle of IoU-aware RetinaNet."""
        what = "" if self.what == "iou" else f"-{self.what}"
        where = "" if self.where == _usual_place(self.what) else f"@{self.where}"
        return f"oracle{what}{where}{'+zero' if self.others == 'zero' else ''}"


ORACLES = ("iou", "centerness", "box", "class_iou", "class")
_NAME = re.compile(
    rf"(?:(?P<oracle>oracle)(?:-(?P<what>{'|'.join(ORACLES)}))?(?:@(?P<where>nearest|positives))?(?P<zero>\+zero)?-)?"
    r"(?P<kind>class|product|power)(?:-(?P<alpha>\d*\.?\d+))?"
)


def _usual_place(what: str) -> str:
    """Where an oracle stands unless its name says otherwise: each as its own paper has it."""
    return "nearest" if what == "iou" else "positives"


@dataclass(frozen=True)
class Rule:
    """How boxes are ranked: S = p^a u^b for class score p and quality u, the exponents set by `kind`.

    class: S = p. product: S = p u. power: S = p^alpha u^(1 - alpha) (IoU-aware RetinaNet, eq. 7).
    oracle: what of the truth takes the place of a prediction first.
    """

    kind: str = "class"
    alpha: float | None = None
    oracle: Oracle | None = None

    def __post_init__(self) -> None:
        if self.kind not in ("class", "product", "power"):
            raise ValueError(f"score rule {self.kind!r}: allowed are class, product, power")
        if (self.kind == "power") != (self.alpha is not None):
            raise ValueError(f"score rule {self.kind!r} with alpha {self.alpha}: power needs an alpha, the others none")
        if self.alpha is not None and not 0 <= self.alpha <= 1:
            raise ValueError(f"alpha {self.alpha:g}: must lie in [0, 1]")
        if self.kind == "class" and self.replaces_quality:
            raise ValueError(f"score rule {self.name}: the class score alone has no quality to replace")

    @classmethod
    def parse(cls, name: str) -> Rule:
        """The rule of a name: `class`, `product`, `power-0.5`, each also behind an oracle.

        An oracle is `oracle[-WHAT][@WHERE][+zero]-`: `oracle-power-0.2`, `oracle-box-product`,
        `oracle-iou@positives-product`, `oracle-class@nearest+zero-class`.
        """
        found = _NAME.fullmatch(name)
        if not found:
            raise ValueError(
                f"score rule {name!r}: allowed are class, product, power-ALPHA, each also behind "
                f"oracle[-WHAT][@WHERE][+zero]- with WHAT one of {', '.join(ORACLES)} and WHERE nearest or positives"
            )
        oracle = None
        if found["oracle"]:
            what = found["what"] or "iou"
            oracle = Oracle(what, found["where"] or _usual_place(what), "zero" if found["zero"] else "keep")
        return cls(found["kind"], float(found["alpha"]) if found["alpha"] else None, oracle)

    @property
    def name(self) -> str:
        """The inverse of `parse`; also a file name."""
        own = self.kind + ("" if self.alpha is None else f"-{self.alpha:g}")
        return f"{self.oracle.name}-{own}" if self.oracle else own

    @property
    def exponents(self) -> tuple[float, float]:
        """Exponents (a, b) of class score and quality."""
        if self.alpha is not None:
            return self.alpha, 1 - self.alpha
        return (1.0, 0.0) if self.kind == "class" else (1.0, 1.0)

    @property
    def replaces_quality(self) -> bool:
        """Whether the truth gives the quality."""
        return self.oracle is not None and self.oracle.what in ("iou", "centerness")

    @property
    def needs_estimate(self) -> bool:
        """Whether any location is ranked by a predicted quality."""
        everywhere = self.oracle is not None and (self.oracle.where == "nearest" or self.oracle.others == "zero")
        return self.exponents[1] > 0 and not (self.replaces_quality and everywhere)


def fuse(log_class: Tensor, log_quality: Tensor | None, rule: Rule) -> Tensor:
    """Log of the fused score: a log p + b log u, in log space so that neither product nor power underflows.

    log_class: (B, R, C) log of the class score; log_quality: (B, R) log of the quality, -inf where it is 0,
    None where there is none (then the rule must not need it). Returns (B, R, C).
    """
    a, b = rule.exponents
    if b == 0:  # also keeps 0 * -inf out
        return log_class if a == 1 else a * log_class
    if log_quality is None:
        raise ValueError(f"score rule {rule.name} needs a quality estimate: this detector has none (quality: none)")
    quality = b * log_quality[..., None]
    return quality.expand_as(log_class) if a == 0 else a * log_class + quality
