"""From dense predictions and their matches to named loss terms: the only place that weights and normalises.

With N the number of positives of the whole batch, over all ranks, and w a measure of each positive (1 by default):
L = (1/N) [sum over locations of w L_class + sum over positives of L_quality]
    + (1 / sum of w) sum over positives of w (L_encoding + L_box), each with its weight; w is 1 at negatives.
A detector that refines its boxes adds the same of its initial stage.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import reduce
from operator import add
from typing import Literal

import torch
import torch.distributed as dist
from torch import Tensor

from qrepro.assign import BACKGROUND
from qrepro.boxes import aligned_iou, centerness
from qrepro.detector import Prediction
from qrepro.fusion import joint_logit
from qrepro.ground_truth import GroundTruthBatch
from qrepro.losses import Loss
from qrepro.matching import Matches
from qrepro.target import MEASURES, Positives, scatter


@dataclass(frozen=True)
class Term:
    """A loss and its weight in the sum.

    Attributes:
        loss: per element.
        weight: in the sum of terms.
        weight_by: the measure that weighs each positive, detached; None for 1. A term of boxes is then divided by the
            sum of these, at least `min_normalizer`, in place of N.
        min_normalizer: see there.
        normalize_by_prior: of a term of boxes: they are measured in sides of their prior, not in pixels.
        target: of the quality term: the measure that is estimated.
        detach: of the quality term: no gradient passes through its target.
        score: of the class term: the score that is trained, that of the class or its product with the quality (GFLv2's
            joint score).
    """

    loss: Loss
    weight: float = 1.0
    weight_by: str | None = None
    min_normalizer: float = 1.0
    normalize_by_prior: bool = False
    target: str = "iou"
    detach: bool = True
    score: Literal["class", "joint"] = "class"


def positives(prediction: Prediction, ground_truth: GroundTruthBatch, matches: Tensor) -> Positives:
    """The positives that matches (B, R) make, with their decoded boxes."""
    image, location = (matches >= 0).nonzero(as_tuple=True)
    match = matches[image, location]
    box = ground_truth.boxes[image, match]
    priors = prediction.priors.at(image, location)
    decoded = prediction.box.decode(prediction.raw[image, location], priors)
    score = decoded.new_zeros(len(decoded))
    if prediction.cls is not None:
        score = replace(prediction, cls=prediction.cls[image, location].detach()).scores().amax(-1)
    return Positives(
        image,
        location,
        ground_truth.labels[image, match],
        box,
        decoded,
        aligned_iou(decoded, box),
        centerness(priors.centres(), box),
        score,
    )


@dataclass(frozen=True)
class Objective:
    """Targets and losses of a recipe, or of its initial stage.

    Attributes:
        class_target: what the class score is trained towards, by the IoU of each positive.
        terms: by name. class: focal loss and its kin on every location; encoding: raw box output against the encoded
            ground truth; box: decoded box against the ground truth; quality: estimate against its measure.
        count: how positives are counted: `images` gives an image without any the count 1 (MMDetection's anchor heads),
            `batch` only the batch as a whole.
        count_images: images are counted with the positives in the class term (FoveaBox's code).
        negatives: of each image so many a positive count in the class term, those of the highest loss (SSD, arXiv
            1512.02325, section 2.2); None for all.
        initial: of the initial stage, where every object is of class 0.
    """

    class_target: Callable[[Tensor], Tensor]
    terms: Mapping[str, Term]
    count: Literal["images", "batch"] = "images"
    count_images: bool = False
    negatives: float | None = None
    initial: Objective | None = None

    def __call__(self, prediction: Prediction, ground_truth: GroundTruthBatch, matches: Matches) -> dict[str, Tensor]:
        """Scalar loss terms by name, in float32; the same names whatever the batch holds, so that ranks agree."""
        losses = self._stage_losses(prediction, ground_truth, matches.final)
        if self.initial and prediction.initial:
            objects = replace(ground_truth, labels=torch.zeros_like(ground_truth.labels))
            earlier = matches.final if matches.initial is None else matches.initial
            stage = self.initial._stage_losses(prediction.initial, objects, earlier)
            losses |= {f"initial_{name}": value for name, value in stage.items()}
        return losses

    def _stage_losses(
        self, prediction: Prediction, ground_truth: GroundTruthBatch, matches: Tensor
    ) -> dict[str, Tensor]:
        """The terms of one stage."""
        losses: dict[str, Tensor] = {}
        terms, normalizer = self.terms, self._count(matches)
        if "class" in terms and terms["class"].score == "joint" and prediction.quality is not None:
            prediction = replace(prediction, cls=joint_logit(prediction.logits, prediction.quality.float()))
        matched = positives(prediction, ground_truth, matches)
        if "class" in terms:
            losses["class"] = self._class_loss(terms["class"], prediction, matched, matches, normalizer)
        if "encoding" in terms:
            priors = prediction.priors.at(matched.image, matched.location)
            encoded = prediction.box.code(prediction.raw[matched.image, matched.location], priors)
            target = prediction.box.encode(matched.gt_boxes, priors)
            losses["encoding"] = self._weighted(terms["encoding"], encoded, target, matched, normalizer)
        if "box" in terms:
            losses["box"] = self._box_loss(terms["box"], prediction, matched, normalizer)
        if "quality" in terms and prediction.quality is not None:
            term = terms["quality"]
            target = MEASURES[term.target](matched)
            estimate = prediction.quality[matched.image, matched.location].float()
            value = term.loss(estimate, target.detach() if term.detach else target)
            losses["quality"] = term.weight * value.sum() / _shared(normalizer).clamp(min=1)
        return losses

    def _class_loss(
        self, term: Term, prediction: Prediction, matched: Positives, matches: Tensor, normalizer: Tensor
    ) -> Tensor:
        """Sum over all locations that take part, by N."""
        logit = prediction.logits
        shape = torch.Size((*matches.shape, logit.shape[-1] - prediction.background))
        wanted = self.class_target(matched.iou.detach())
        target = scatter(wanted, matched.labels, matched.image, matched.location, shape)
        value = term.loss(logit, target).sum(-1)
        value = value * self._counting(value.detach(), matches)
        if term.weight_by is not None:
            weight = torch.ones_like(value)
            weight[matched.image, matched.location] = MEASURES[term.weight_by](matched).detach()
            value = value * weight
        if self.count_images:
            normalizer = normalizer + len(matches)
        return term.weight * value.sum() / _shared(normalizer).clamp(min=1)

    def _counting(self, value: Tensor, matches: Tensor) -> Tensor:
        """(B, R) bool, the locations whose class counts: positives, and negatives by their loss (B, R)."""
        positive, negative = matches >= 0, matches == BACKGROUND
        if self.negatives is not None:
            worst = value.masked_fill(~negative, -torch.inf).argsort(dim=1, descending=True, stable=True)
            rank = worst.argsort(dim=1)
            negative &= rank < self.negatives * positive.sum(1, keepdim=True)
        return positive | negative

    def _box_loss(self, term: Term, prediction: Prediction, matched: Positives, normalizer: Tensor) -> Tensor:
        """A loss of decoded boxes, in pixels or in sides of their priors."""
        boxes, target = matched.decoded, matched.gt_boxes
        if term.normalize_by_prior:
            priors = prediction.priors.at(matched.image, matched.location).boxes
            side = (priors[:, 2] - priors[:, 0])[:, None]
            boxes, target = boxes / side, target / side
        return self._weighted(term, boxes, target, matched, normalizer)

    def _weighted(self, term: Term, output: Tensor, target: Tensor, matched: Positives, normalizer: Tensor) -> Tensor:
        """Sum over positives, each by its measure, by the sum of these."""
        value = term.loss(output, target)
        if term.weight_by is None:
            return term.weight * value.sum() / _shared(normalizer).clamp(min=1)
        weight = MEASURES[term.weight_by](matched).detach()
        return term.weight * (value * weight).sum() / _shared(weight.sum()).clamp(min=term.min_normalizer)

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


def total(losses: Mapping[str, Tensor]) -> Tensor:
    """What is minimised."""
    return reduce(add, losses.values())
