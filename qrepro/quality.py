"""The estimate of a box's own localisation quality, and the one place where it meets the class score.

An estimator is built with (width, per_cell) and its recipe values. Called with the last features of the box tower
(B, width, H, W) and the raw box output (B, per_cell * channels, H, W), it returns quality logits (B, per_cell, H, W),
or None where the detector has no estimate.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor, nn


class NoQuality(nn.Module):
    """No estimate: boxes are ranked by class score."""

    def __init__(self, width: int, per_cell: int) -> None:
        super().__init__()

    def forward(self, features: Tensor, raw: Tensor) -> None:
        """Nothing to say."""
        return


class ConvQuality(nn.Module):
    """One 3x3 convolution beside the box layer, one class-agnostic logit per prior (IoU-aware RetinaNet, section 3.1).

    Bias 0: every estimate starts at 0.5, as in the authors' code.
    """

    def __init__(self, width: int, per_cell: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(width, per_cell, 3, padding=1)
        nn.init.normal_(self.conv.weight, std=0.01)
        assert self.conv.bias is not None
        nn.init.zeros_(self.conv.bias)

    def forward(self, features: Tensor, raw: Tensor) -> Tensor:
        """Quality logits (B, per_cell, H, W)."""
        return self.conv(features)


ESTIMATORS: dict[str, Callable[..., nn.Module]] = {"none": NoQuality, "conv": ConvQuality}


@dataclass(frozen=True)
class Rule:
    """How boxes are ranked: S = p^a u^b for class score p and quality u, the exponents set by `kind`.

    class: S = p. product: S = p u. power: S = p^alpha u^(1 - alpha) (IoU-aware RetinaNet, eq. 7).
    oracle: u is the true IoU of the decoded box with any object (IoU_truth), in place of the estimate.
    """

    kind: str = "class"
    alpha: float | None = None
    oracle: bool = False

    def __post_init__(self) -> None:
        if self.kind not in ("class", "product", "power"):
            raise ValueError(f"score rule {self.kind!r}: allowed are class, product, power")
        if (self.kind == "power") != (self.alpha is not None):
            raise ValueError(f"score rule {self.kind!r} with alpha {self.alpha}: power needs an alpha, the others none")
        if self.alpha is not None and not 0 <= self.alpha <= 1:
            raise ValueError(f"alpha {self.alpha:g}: must lie in [0, 1]")
        if self.kind == "class" and self.oracle:
            raise ValueError("score rule oracle-class: the class score alone has no quality to replace")

    @classmethod
    def parse(cls, name: str) -> Rule:
        """The rule of a name such as `class`, `product`, `power-0.5`, `oracle-product`, `oracle-power-0.2`."""
        found = re.fullmatch(r"(oracle-)?(class|product|power)(?:-(\d*\.?\d+))?", name)
        if not found:
            raise ValueError(
                f"score rule {name!r}: allowed are class, product, power-ALPHA, and oracle- before the last two"
            )
        oracle, kind, alpha = found.groups()
        return cls(kind, float(alpha) if alpha else None, bool(oracle))

    @property
    def name(self) -> str:
        """The inverse of `parse`; also a file name."""
        return ("oracle-" if self.oracle else "") + self.kind + ("" if self.alpha is None else f"-{self.alpha:g}")

    @property
    def exponents(self) -> tuple[float, float]:
        """Exponents (a, b) of class score and quality."""
        return {"class": (1.0, 0.0), "product": (1.0, 1.0)}.get(self.kind) or (
            self.alpha or 0.0,
            1 - (self.alpha or 0.0),
        )


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


def log_estimate(logit: Tensor | None) -> Tensor | None:
    """Log of sigmoid(logit), stable: the form in which `fuse` takes scores."""
    return None if logit is None else F.logsigmoid(logit.float())
