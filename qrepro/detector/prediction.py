"""What a pass over a batch puts out. B images, R locations (levels concatenated, finest first), C classes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor

from qrepro.box_coder import BoxCoder
from qrepro.priors import Priors


@dataclass(frozen=True)
class Prediction:
    """The raw output of one pass, or of one of its stages.

    Attributes:
        cls: (B, R, C) class logits; None of an initial stage without.
        raw: (B, R, channels) box output.
        quality: (B, R) quality logits; None of a detector without an estimate.
        priors: what the box output is relative to.
        box: how it is decoded.
        initial: the stage whose boxes this one refines.
        background: whether a last channel of `cls` is the background, and scores are a softmax.
    """

    cls: Tensor | None
    raw: Tensor
    quality: Tensor | None
    priors: Priors
    box: BoxCoder
    initial: Prediction | None = None
    background: bool = False

    def decode(self) -> Tensor:
        """Boxes (B, R, 4) xyxy in pixels of the network input, not clipped."""
        return self.box.decode(self.raw, self.priors)

    @property
    def logits(self) -> Tensor:
        """Class logits in float32, of a stage that has them."""
        assert self.cls is not None
        return self.cls.float()

    def log_class(self) -> Tensor:
        """Log of the class scores (B, R, C), that of the background left out; -inf for none, finite for every logit."""
        return self.logits.log_softmax(-1)[..., :-1] if self.background else F.logsigmoid(self.logits)

    def log_quality(self) -> Tensor | None:
        """Log of the quality estimate (B, R, 1); None of a detector without one."""
        return None if self.quality is None else F.logsigmoid(self.quality.float())[..., None]

    def scores(self) -> Tensor:
        """Class scores (B, R, C) in [0, 1], that of the background left out."""
        return self.logits.softmax(-1)[..., :-1] if self.background else self.logits.sigmoid()


def joined(levels: Sequence[Prediction], priors: Priors) -> Prediction:
    """The predictions of the levels of a pyramid as one, at their priors."""
    one = levels[0]
    cls, raw, quality = (_joined([getattr(level, name) for level in levels]) for name in ("cls", "raw", "quality"))
    assert raw is not None
    initial = joined([level.initial for level in levels if level.initial], priors) if one.initial else None
    if one.priors.boxes.dim() == 3:
        priors = replace(priors, boxes=torch.cat([level.priors.boxes for level in levels], 1))
    return Prediction(cls, raw, quality, priors, one.box, initial, one.background)


def _joined(outputs: Sequence[Tensor | None]) -> Tensor | None:
    """Outputs (B, r, ...) of levels along r; None where they have none."""
    given = [output for output in outputs if output is not None]
    return torch.cat(given, 1) if given else None
