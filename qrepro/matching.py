"""Which locations of a prediction are positives, and of which object."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from qrepro.assign import BACKGROUND, Assigner
from qrepro.detector import Prediction
from qrepro.ground_truth import GroundTruthBatch


class Matches(NamedTuple):
    """What a matcher finds.

    Attributes:
        final: (B, R) index of the ground truth of each location of the final boxes, negative for none.
        initial: (B, R) the same of the initial stage; None where it has no assigner of its own.
    """

    final: Tensor
    initial: Tensor | None


@dataclass(frozen=True)
class Matcher:
    """Assignment of ground truth to the locations of a prediction, in training and in evaluation.

    Attributes:
        assigner: which locations an object takes.
        padding: locations in the padding of an image take no part, or are negatives (FCOS's and VFNet's code).
        pad: sides of a batch are multiples of it, pixels.
        reassign: the final boxes are matched as those of the initial stage stand, in place of the priors (RepPoints,
            PASSD).
        initial: of the initial stage; None where there is none, or it shares the matches of the final boxes.
    """

    assigner: Assigner
    padding: Literal["ignored", "negative"] = "ignored"
    pad: int = 32
    reassign: bool = False
    initial: Matcher | None = None

    @torch.no_grad()
    def __call__(self, prediction: Prediction, ground_truth: GroundTruthBatch, sizes: Tensor) -> Matches:
        """Matches of images of size (B, 2) in pixels; nothing is matched wholly in the padding."""
        stage = prediction.initial
        priors = stage.priors if stage else prediction.priors
        if self.reassign and stage:
            priors = replace(priors, boxes=stage.decode())
        inside = priors.inside((sizes / self.pad).ceil() * self.pad)
        matches = self.assigner(priors, ground_truth, inside)
        if self.padding == "negative":
            matches = matches.masked_fill(~inside, BACKGROUND)
        earlier = self.initial(stage, ground_truth, sizes).final if self.initial and stage else None
        return Matches(matches, earlier)
