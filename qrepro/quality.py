"""The estimate of a box's own localisation quality, and the one place where it meets the class score.

An estimator is built with (width, per_cell) and its recipe values. Called with the last features of the box tower
(B, width, H, W) and the raw box output (B, per_cell * channels, H, W), it returns quality logits (B, per_cell, H, W),
or None where the detector has no estimate.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass

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
