"""From dense predictions and truths to named loss terms: the only place that weights and normalises.

With N the number of positives of the whole batch, over all ranks, and w a measure of each positive (1 by default):
L = (1/N) [sum over locations of w L_class + sum over positives of L_quality]
    + (1 / sum of w) sum over positives of w (L_code + L_box), each with its weight; w is 1 at negatives.
A detector that refines its boxes adds the same of its first step.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
import torch.distributed as dist
from torch import Tensor

from qrepro.assign import BACKGROUND
from qrepro.boxes import aligned_iou, centerness
from qrepro.detector import Prediction
from qrepro.ground_truth import Truths
from qrepro.losses import Loss
from qrepro.priors import Priors
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
    priors = prediction.priors.at(image, location)
    decoded = prediction.box.decode(prediction.raw[image, location], priors)
    score = decoded.new_zeros(len(decoded))
    if prediction.cls is not None:
        score = replace(prediction, cls=prediction.cls[image, location].detach()).scores().amax(-1)
    return Positives(
        image,
        location,
        truths.labels[image, match],
        truth,
        decoded,
        aligned_iou(decoded, truth),
        centerness(priors.centres(), truth),
        score,
    )


@dataclass(frozen=True)
class Objective:
    """Assignment, targets and losses of a recipe, or of the first step of one.

    assigner: None, of a first step only, for the matches of the step after it.
    terms: by name; class: focal and its kin on every location; code: raw output against the encoded truth;
    box: decoded box against the truth; quality: estimate against the measure it is of.
    count: how positives are counted, `images` gives an image without any the count 1 (MMDetection's anchor heads),
    `batch` only the batch as a whole. images: images are counted with the positives in the class term (FoveaBox's
    code). padding: locations in the padding of an image take no part or are negatives (FCOS's and VFNet's code).
    negatives: of each image so many a positive count in the class term, those of the highest loss (SSD, arXiv
    1512.02325, section 2.2); None for all.
    first: of the first step, where every object is of class 0; rematch: the final boxes are matched as the first ones
    stand, in place of the priors (RepPoints, PASSD).
    """

    assigner: Assigner | None
    class_target: Callable[[Tensor], Tensor]
    terms: Mapping[str, Term]
    count: Literal["images", "batch"] = "images"
    images: bool = False
    padding: Literal["ignored", "negative"] = "ignored"
    negatives: float | None = None
    pad: int = 32
    first: Objective | None = None
    rematch: bool = False

    @torch.no_grad()
    def match(self, prediction: Prediction, truths: Truths, sizes: Tensor) -> Tensor:
        """(B, R) matches of images of size (B, 2) in pixels; nothing is matched wholly in the padding."""
        assert self.assigner is not None
        first = prediction.first
        priors = first.priors if first else prediction.priors
        if self.rematch and first:
            priors = replace(priors, boxes=first.decode())
        inside = priors.inside((sizes / self.pad).ceil() * self.pad)
        matches = self.assigner(priors, truths, inside)
        return matches if self.padding == "ignored" else matches.masked_fill(~inside, BACKGROUND)

    def match_first(self, prediction: Prediction, truths: Truths, sizes: Tensor) -> Tensor | None:
        """(B, R) matches of the first step, None where there is none or it shares those of the final boxes."""
        if not (self.first and self.first.assigner and prediction.first):
            return None
        return self.first.match(prediction.first, truths, sizes)

    def __call__(self, prediction: Prediction, truths: Truths, sizes: Tensor) -> dict[str, Tensor]:
        """Scalar loss terms by name, in float32; the same names whatever the batch holds, so that ranks agree."""
        matches = self.match(prediction, truths, sizes)
        losses = self._losses(prediction, truths, matches)
        if self.first and prediction.first:
            objects = replace(truths, labels=torch.zeros_like(truths.labels))
            own = self.match_first(prediction, truths, sizes)
            first = self.first._losses(prediction.first, objects, matches if own is None else own)
            losses |= {f"first_{name}": value for name, value in first.items()}
        return losses

    def _losses(self, prediction: Prediction, truths: Truths, matches: Tensor) -> dict[str, Tensor]:
        """The terms of one step."""
        losses: dict[str, Tensor] = {}
        terms, counted = self.terms, self._count(matches)
        if "class" in terms and terms["class"].score == "joint" and prediction.quality is not None:
            prediction = replace(prediction, cls=joint_logit(prediction.logits, prediction.quality.float()))
        found = positives(prediction, truths, matches)
        if "class" in terms:
            losses["class"] = self._class_loss(terms["class"], prediction, found, matches, counted)
        if "code" in terms:
            priors = prediction.priors.at(found.image, found.location)
            code = prediction.box.code(prediction.raw[found.image, found.location], priors)
            losses["code"] = self._box_loss(
                terms["code"], code, prediction.box.encode(found.truth, priors), found, counted
            )
        if "box" in terms:
            losses["box"] = self._boxes_loss(terms["box"], prediction, found, counted)
        if "quality" in terms and prediction.quality is not None:
            term = terms["quality"]
            target = MEASURES[term.towards](found)
            estimate = prediction.quality[found.image, found.location].float()
            value = term.loss(estimate, target.detach() if term.detach else target)
            losses["quality"] = term.weight * value.sum() / _shared(counted).clamp(min=1)
        return losses

    def _class_loss(
        self, term: Term, prediction: Prediction, found: Positives, matches: Tensor, counted: Tensor
    ) -> Tensor:
        """Sum over all locations that take part, by N."""
        logit = prediction.logits
        shape = torch.Size((*matches.shape, logit.shape[-1] - prediction.background))
        target = scatter(self.class_target(found.iou.detach()), found.labels, found.image, found.location, shape)
        value = term.loss(logit, target).sum(-1)
        value = value * self._counts(value.detach(), matches)
        if term.by is not None:
            share = torch.ones_like(value)
            share[found.image, found.location] = MEASURES[term.by](found).detach()
            value = value * share
        total = counted + len(matches) if self.images else counted
        return term.weight * value.sum() / _shared(total).clamp(min=1)

    def _counts(self, value: Tensor, matches: Tensor) -> Tensor:
        """(B, R) bool, the locations whose class counts: positives, and negatives by their loss (B, R)."""
        positive, negative = matches >= 0, matches == BACKGROUND
        if self.negatives is not None:
            worst = value.masked_fill(~negative, -torch.inf).argsort(dim=1, descending=True, stable=True)
            rank = worst.argsort(dim=1)
            negative &= rank < self.negatives * positive.sum(1, keepdim=True)
        return positive | negative

    def _boxes_loss(self, term: Term, prediction: Prediction, found: Positives, counted: Tensor) -> Tensor:
        """A loss of decoded boxes, in the term's unit."""
        boxes, truth = found.decoded, found.truth
        if term.unit == "side":
            priors = prediction.priors.at(found.image, found.location).boxes
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
