"""What a pass over a batch puts out. B images, R locations (levels concatenated, finest first), C classes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from qrepro.box_coder import BoxRepresentation
from qrepro.priors import Priors


@dataclass(frozen=True)
class Prediction:
    """The raw output of one pass.

    cls: (B, R, C) class logits, None of a first step without; raw: (B, R, channels) box output; quality: (B, R) quality
    logits or None; priors, box: what the box output is relative to, and how it is read; first: of boxes that were
    refined, the step before. background: a last channel of `cls` is the background, and scores are a softmax.
    """

    cls: Tensor | None
    raw: Tensor
    quality: Tensor | None
    priors: Priors
    box: BoxRepresentation
    first: Prediction | None = None
    background: bool = False

    def decode(self) -> Tensor:
        """Boxes (B, R, 4) xyxy in pixels of the network input, not clipped."""
        return self.box.decode(self.raw, self.priors)

    @property
    def logits(self) -> Tensor:
        """Class logits in float32, of a step that has them."""
        assert self.cls is not None
        return self.cls.float()

    def scores(self) -> Tensor:
        """Class scores (B, R, C) in [0, 1], that of the background left out."""
        return self.logits.softmax(-1)[..., :-1] if self.background else self.logits.sigmoid()


def joined(levels: Sequence[Prediction], priors: Priors) -> Prediction:
    """The predictions of the levels of a pyramid as one, at their priors."""
    one = levels[0]
    cls, raw, quality = (_joined([getattr(level, name) for level in levels]) for name in ("cls", "raw", "quality"))
    assert raw is not None
    first = joined([level.first for level in levels if level.first], priors) if one.first else None
    if one.priors.boxes.dim() == 3:
        priors = replace(priors, boxes=torch.cat([level.priors.boxes for level in levels], 1))
    return Prediction(cls, raw, quality, priors, one.box, first, one.background)


def _joined(outputs: Sequence[Tensor | None]) -> Tensor | None:
    """Outputs (B, r, ...) of levels along r; None where they have none."""
    given = [output for output in outputs if output is not None]
    return torch.cat(given, 1) if given else None
