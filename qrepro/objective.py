"""From dense predictions and truths to named loss terms: the only place that weights and normalises.

With N the number of positives of the whole batch, over all ranks, and w a measure of each positive (1 by default):
L = (1/N) [sum over locations of w L_class + sum over positives of L_quality]
    + (1 / sum of w) sum over positives of w (L_code + L_box), each with its weight; w is 1 at negatives.
A detector that refines its boxes adds L_first, of the boxes before that.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
import torch.distributed as dist
from torch import Tensor

from qrepro.assign import BACKGROUND, IGNORED
from qrepro.boxes import Priors, Truths, aligned_iou, centerness
from qrepro.detector import Prediction
from qrepro.losses import Loss
from qrepro.quality import joint_logit
from qrepro.target import MEASURES, Positives, scatter

Assigner = Callable[[Priors, Truths, Tensor], Tensor]


@dataclass(frozen=True)
class Term:
    """A loss and its weight in the sum.

    by: name of the measure that weighs each positive, detached; None for 1. A term of boxes is then divided by the sum
    of these, at least `floor`, in place of N.
    unit: of a term of boxes: what they are measured in, pixels or sides of their prior.
    towards: of quality: the measure that is estimated.   detach: no gradient passes through its target.
    score: of class: the score that is trained, the class's own or its product with the quality (GFLv2's joint score).
    """

    loss: Loss
    weight: float = 1.0
    by: str | None = None
    floor: float = 1.0
    unit: Literal["pixel", "side"] = "pixel"
    towards: str = "iou"
    detach: bool = True
    score: Literal["class", "joint"] = "class"


def positives(prediction: Prediction, truths: Truths, matches: Tensor) -> Positives:
    """The positives that an assigner's matches (B, R) make, with their decoded boxes."""
    image, location = (matches >= 0).nonzero(as_tuple=True)
    match = matches[image, location]
    truth = truths.boxes[image, match]
    priors = prediction.priors.take(location)
    decoded = prediction.box.decode(prediction.raw[image, location], priors)
    return Positives(
        image,
        location,
        truths.labels[image, match],
        truth,
        decoded,
        aligned_iou(decoded, truth),
        centerness(priors.centres(), truth),
        prediction.cls[image, location].detach().float().sigmoid().amax(-1),
    )


@dataclass(frozen=True)
class Objective:
    """Assignment, targets and losses of a recipe.

    terms: by name; class: focal and its kin on every location; code: raw output against the encoded truth;
    box: decoded box against the truth; quality: estimate against the measure it is of; first: decoded box before
    refinement against the truth.
    count: how positives are counted, `images` gives an image without any the count 1 (MMDetection's anchor heads),
    `batch` only the batch as a whole. images: images are counted with the positives in the class term (FoveaBox's
    code). padding: locations in the padding of an image take no part or are negatives (FCOS's and VFNet's code).
    first_assigner: for the boxes before refinement, if theirs is another; rematch: the final ones are matched on these
    boxes in place of the priors (RepPoints).
    """

    assigner: Assigner
    class_target: Callable[[Tensor], Tensor]
    terms: Mapping[str, Term]
    count: Literal["images", "batch"] = "images"
    images: bool = False
    padding: Literal["ignored", "negative"] = "ignored"
    pad: int = 32
    first_assigner: Assigner | None = None
    rematch: bool = False

    @torch.no_grad()
    def match(self, prediction: Prediction, truths: Truths, sizes: Tensor) -> Tensor:
        """(B, R) matches of images of size (B, 2) in pixels; nothing is matched wholly in the padding."""
        priors = prediction.priors
        if self.rematch and prediction.first is not None:
            priors = replace(priors, boxes=prediction.box.decode(prediction.first, priors))
        inside = self._inside(prediction, sizes)
        matches = self.assigner(priors, truths, inside)
        return matches if self.padding == "ignored" else matches.masked_fill(~inside, BACKGROUND)

    @torch.no_grad()
    def match_first(self, prediction: Prediction, truths: Truths, sizes: Tensor) -> Tensor | None:
        """(B, R) matches of the boxes before refinement, None where they have none of their own."""
        if self.first_assigner is None:
            return None
        return self.first_assigner(prediction.priors, truths, self._inside(prediction, sizes))

    def __call__(self, prediction: Prediction, truths: Truths, sizes: Tensor) -> dict[str, Tensor]:
        """Scalar loss terms by name, in float32; the same names whatever the batch holds, so that ranks agree."""
        if self.terms["class"].score == "joint" and prediction.quality is not None:
            prediction = replace(prediction, cls=joint_logit(prediction.cls.float(), prediction.quality.float()))
        matches = self.match(prediction, truths, sizes)
        found = positives(prediction, truths, matches)
        counted = self._count(matches)
        losses = {"class": self._class_loss(prediction, found, matches, counted)}
        if (term := self.terms.get("code")) is not None:
            code = prediction.box.encode(found.truth, prediction.priors.take(found.location))
            raw = prediction.raw[found.image, found.location].float()
            losses["code"] = self._box_loss(term, raw, code, found, counted)
        if (term := self.terms.get("box")) is not None:
            losses["box"] = self._boxes_loss(term, prediction, found, counted)
        if (term := self.terms.get("first")) is not None and prediction.first is not None:
            before, own = replace(prediction, raw=prediction.first), self.match_first(prediction, truths, sizes)
            matches = matches if own is None else own
            losses["first"] = self._boxes_loss(term, before, positives(before, truths, matches), self._count(matches))
        if (term := self.terms.get("quality")) is not None and prediction.quality is not None:
            target = MEASURES[term.towards](found)
            estimate = prediction.quality[found.image, found.location].float()
            value = term.loss(estimate, target.detach() if term.detach else target)
            losses["quality"] = term.weight * value.sum() / _shared(counted).clamp(min=1)
        return losses

    def _inside(self, prediction: Prediction, sizes: Tensor) -> Tensor:
        """(B, R) bool, false where a location lies wholly in the padding of its image."""
        return prediction.priors.inside((sizes / self.pad).ceil() * self.pad)

    def _class_loss(self, prediction: Prediction, found: Positives, matches: Tensor, counted: Tensor) -> Tensor:
        """Sum over all locations that are not ignored, by N."""
        term = self.terms["class"]
        logit = prediction.cls.float()
        target = scatter(self.class_target(found.iou.detach()), found.labels, found.image, found.location, logit.shape)
        value = term.loss(logit, target).sum(-1) * (matches != IGNORED)
        if term.by is not None:
            share = torch.ones_like(value)
            share[found.image, found.location] = MEASURES[term.by](found).detach()
            value = value * share
        total = counted + len(matches) if self.images else counted
        return term.weight * value.sum() / _shared(total).clamp(min=1)

    def _boxes_loss(self, term: Term, prediction: Prediction, found: Positives, counted: Tensor) -> Tensor:
        """A loss of decoded boxes, in the term's unit."""
        boxes, truth = found.decoded, found.truth
        if term.unit == "side":
            priors = prediction.priors.take(found.location).boxes
            side = (priors[:, 2] - priors[:, 0])[:, None]
            boxes, truth = boxes / side, truth / side
        return self._box_loss(term, boxes, truth, found, counted)

    def _box_loss(self, term: Term, output: Tensor, target: Tensor, found: Positives, counted: Tensor) -> Tensor:
        """Sum over positives, each by its measure, by the sum of these."""
        value = term.loss(output, target)
        if term.by is None:
            return term.weight * value.sum() / _shared(counted).clamp(min=1)
        share = MEASURES[term.by](found).detach()
        return term.weight * (value * share).sum() / _shared(share.sum()).clamp(min=term.floor)

    def _count(self, matches: Tensor) -> Tensor:
        """Number of positives on this rank."""
        per_image = (matches >= 0).sum(1).float()
        return (per_image.clamp(min=1) if self.count == "images" else per_image).sum()


def _shared(value: Tensor) -> Tensor:
    """Mean of a scalar over the ranks, because DistributedDataParallel averages gradients over them."""
    if dist.is_available() and dist.is_initialized():
        value = value.clone()
        dist.all_reduce(value)
        value = value / dist.get_world_size()
    return value


def total(losses: Mapping[str, Any]) -> Any:
    """What is minimised."""
    return sum(losses.values())
