"""Estimators of a box's own localisation quality.

An estimator is built with what assembly knows of it, its `EstimatorContext`, and its recipe values. It is called with
the last features of a tower (B, width, H, W), the raw box output (B, per_cell * channels, H, W) and a function that
returns the sides of the boxes in cells (B, 4, H, W), and returns quality logits (B, per_cell, H, W), or None where the
detector has no estimate. One with `appended` channels returns features (B, appended, H, W) for the class layer instead.
Where the estimate meets the class score: `qrepro.fusion`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn


@dataclass(frozen=True)
class EstimatorContext:
    """What assembly tells an estimator.

    Attributes:
        width: Channels of the features.
        per_cell: Priors of a cell.
        bins: Bins of the distribution of each side in the raw output of a box, 0 where it holds none.
        reader: Builder of the layer of (inputs, outputs) that reads features where the recipe's sampling says.
    """

    width: int
    per_cell: int = 1
    bins: int = 0
    reader: Callable[[int, int], nn.Module] | None = None


class Estimator(nn.Module):
    """What all members of this axis are.

    Attributes:
        appended: Channels that it appends to the features of the class layer.
        estimates: Whether it has an estimate.
        samples: Whether it needs a reader.
    """

    appended = 0
    estimates = True
    samples = False

    def forward(self, features: Tensor, raw: Tensor, sides: Callable[[], Tensor]) -> Tensor | None:
        """Quality logits (B, per_cell, H, W)."""
        raise NotImplementedError


class NoQuality(Estimator):
    """No estimate: boxes are ranked by class score."""

    estimates = False

    def __init__(self, context: EstimatorContext) -> None:
        super().__init__()

    def forward(self, features: Tensor, raw: Tensor, sides: Callable[[], Tensor]) -> None:
        """Nothing to say."""
        return


class ConvQuality(Estimator):
    """One 3x3 convolution beside the box layer, one class-agnostic logit per prior (IoU-aware RetinaNet, section 3.1).

    Bias 0: every estimate starts at 0.5, as in the authors' code.
    """

    def __init__(self, context: EstimatorContext) -> None:
        super().__init__()
        self.conv = _normal(nn.Conv2d(context.width, context.per_cell, 3, padding=1))

    def forward(self, features: Tensor, raw: Tensor, sides: Callable[[], Tensor]) -> Tensor:
        """Quality logits (B, per_cell, H, W)."""
        logit: Tensor = self.conv(features)
        return logit


class Statistics(Estimator):
    """How sharp the four side distributions are (GFLv2, arXiv 2011.12885, eq. 4 and 5): I = sigmoid(W2 ReLU(W1 F)).

    F holds of each side its k largest probabilities, in falling order, their mean and their variance, each where it is
    asked for; sorted, so that it does not matter at which distance a distribution peaks. The layers have biases as in
    the code (eq. 5 has none), and every prior of a cell has the same ones.

    Args:
        context: What assembly tells the estimator.
        k: Number of largest probabilities of each side.
        top: Whether F has these.
        mean: Whether F has their mean.
        variance: Whether F has their variance, that of the k values as a population.
        hidden: Outputs of W1, p in the paper.
        gradient: Whether the loss on I reaches the distributions, as in the authors' code.

    Raises:
        ValueError: k is below 1 or above the number of bins, or F is empty.
    """

    def __init__(
        self,
        context: EstimatorContext,
        *,
        k: int = 4,
        top: bool = True,
        mean: bool = True,
        variance: bool = False,
        hidden: int = 64,
        gradient: bool = True,
    ) -> None:
        super().__init__()
        self.describe = Describe(context, k, top, mean, variance, gradient)
        self.inner = _normal(nn.Conv2d(self.describe.channels, hidden, 1))
        self.outer = _normal(nn.Conv2d(hidden, 1, 1))
        self.per_cell = context.per_cell

    def forward(self, features: Tensor, raw: Tensor, sides: Callable[[], Tensor]) -> Tensor:
        """Quality logits (B, per_cell, H, W)."""
        logit = self.outer(self.inner(self.describe(raw)).relu())
        each: Tensor = logit.unflatten(0, (-1, self.per_cell))
        return each[:, :, 0]


class Composed(Estimator):
    """The composed form of GFLv2 (arXiv 2011.12885, figure 5): the statistics as `d` more features of the class layer.

    There is no estimate of its own; the class score is the joint one. A ReLU follows the fully connected layer.

    Args:
        context: What assembly tells the estimator.
        k: As for `Statistics`.
        d: Number of features.
        gradient: Whether the loss on the class score reaches the distributions.

    Raises:
        ValueError: A cell has several priors, or k is below 1 or above the number of bins.
    """

    estimates = False

    def __init__(self, context: EstimatorContext, *, k: int = 4, d: int = 64, gradient: bool = True) -> None:
        super().__init__()
        if context.per_cell != 1:
            raise ValueError(f"quality composed: needs one prior a cell, this host has {context.per_cell}")
        self.describe = Describe(context, k, top=True, mean=True, variance=False, gradient=gradient)
        self.layer = _normal(nn.Conv2d(self.describe.channels, d, 1))
        self.appended = d

    def forward(self, features: Tensor, raw: Tensor, sides: Callable[[], Tensor]) -> Tensor:
        """Features (B, d, H, W)."""
        described: Tensor = self.layer(self.describe(raw)).relu()
        return described


class Describe(nn.Module):
    """The statistics F of GFLv2 (eq. 4) of general distributions, without parameters."""

    def __init__(
        self, context: EstimatorContext, k: int, top: bool, mean: bool, variance: bool, gradient: bool
    ) -> None:
        super().__init__()
        self.bins = context.bins
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

    W1 reads them where the recipe's `sampling.quality` says.

    Args:
        context: What assembly tells the estimator.
        hidden: Outputs of W1.

    Raises:
        ValueError: A cell has several priors, or there is no reader.
    """

    samples = True

    def __init__(self, context: EstimatorContext, *, hidden: int = 64) -> None:
        super().__init__()
        if context.per_cell != 1 or context.reader is None:
            raise ValueError("quality sampled: needs sampling.quality, and a host with one prior a cell")
        self.inner = context.reader(context.width, hidden)
        self.outer = _normal(nn.Conv2d(hidden, 1, 1))

    def forward(self, features: Tensor, raw: Tensor, sides: Callable[[], Tensor]) -> Tensor:
        """Quality logits (B, 1, H, W)."""
        logit: Tensor = self.outer(self.inner(features, raw, sides()).relu())
        return logit


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
