"""From dense predictions and truths to named loss terms: the only place that weights and normalises.

With N the number of positives of the whole batch, over all ranks:
L = (1/N) [sum over locations of L_class + sum over positives of (L_code + L_box + L_quality)], each with its weight.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import torch
import torch.distributed as dist
from torch import Tensor

from qrepro.assign import IGNORED
from qrepro.boxes import Truths, aligned_iou
from qrepro.detector import Prediction
from qrepro.losses import Loss
from qrepro.represent import BoxRepresentation
from qrepro.target import scatter


@dataclass(frozen=True)
class Term:
    """A loss and its weight in the sum; `detach`: no gradient passes through its target."""

    loss: Loss
    weight: float = 1.0
    detach: bool = True


@dataclass(frozen=True)
class Positives:
    """The matched locations of a batch, P in all.

    image, location: (P,) their indices in the prediction; labels: (P,); truth: (P, 4) their boxes;
    decoded: (P, 4) the predicted boxes; iou: (P,) of the two, all differentiable where the prediction is.
    """

    image: Tensor
    location: Tensor
    labels: Tensor
    truth: Tensor
    decoded: Tensor
    iou: Tensor


def positives(prediction: Prediction, truths: Truths, matches: Tensor, box: BoxRepresentation) -> Positives:
    """The positives that an assigner's matches (B, R) make, with their decoded boxes."""
    image, location = (matches >= 0).nonzero(as_tuple=True)
    match = matches[image, location]
    truth = truths.boxes[image, match]
    decoded = box.decode(prediction.raw[image, location], prediction.priors.take(location))
    return Positives(image, location, truths.labels[image, match], truth, decoded, aligned_iou(decoded, truth))


@dataclass(frozen=True)
class Objective:
    """Assignment, targets and losses of a recipe.

    terms: by name; class: focal and its kin on every location; code: raw output against the encoded truth;
    box: decoded box against the truth; quality: estimate against true IoU.
    count: how positives are counted, `images` gives an image without any the count 1 (MMDetection's anchor heads),
    `batch` only the batch as a whole.
    """

    assigner: Callable[..., Tensor]
    class_target: Callable[[Tensor], Tensor]
    box: BoxRepresentation
    terms: Mapping[str, Term]
    count: Literal["images", "batch"] = "images"
    pad: int = 32

    def match(self, prediction: Prediction, truths: Truths, sizes: Tensor) -> Tensor:
        """(B, R) matches; locations wholly in the padding of their image (size (B, 2) in pixels) take no part."""
        padded = (sizes / self.pad).ceil() * self.pad
        with torch.no_grad():
            return self.assigner(prediction.priors, truths, prediction.priors.inside(padded))

    def __call__(self, prediction: Prediction, truths: Truths, sizes: Tensor) -> dict[str, Tensor]:
        """Scalar loss terms by name, in float32; the same names whatever the batch holds, so that ranks agree."""
        matches = self.match(prediction, truths, sizes)
        found = positives(prediction, truths, matches, self.box)
        total = self._normaliser(matches)
        inputs: dict[str, tuple[Tensor, Tensor]] = {
            "code": (
                prediction.raw[found.image, found.location].float(),
                self.box.encode(found.truth, prediction.priors.take(found.location)),
            ),
            "box": (found.decoded, found.truth),
        }
        if prediction.quality is not None:
            inputs["quality"] = (prediction.quality[found.image, found.location].float(), found.iou)
        losses = {"class": self._class_loss(prediction, found, matches) / total}
        for name, (output, target) in inputs.items():
            if name in self.terms:
                term = self.terms[name]
                value = term.loss(output, target.detach() if term.detach else target)
                losses[name] = term.weight * value.sum() / total
        return losses

    def _class_loss(self, prediction: Prediction, found: Positives, matches: Tensor) -> Tensor:
        """Sum over all locations that are not ignored."""
        logit = prediction.cls.float()
        wanted = self.class_target(found.iou.detach())
        target = scatter(wanted, found.labels, found.image, found.location, logit.shape)
        term = self.terms["class"]
        return term.weight * (term.loss(logit, target).sum(-1) * (matches != IGNORED)).sum()

    def _normaliser(self, matches: Tensor) -> Tensor:
        """N per rank: the mean over ranks, because DistributedDataParallel averages gradients over them."""
        per_image = (matches >= 0).sum(1).float()
        count = (per_image.clamp(min=1) if self.count == "images" else per_image).sum()
        if dist.is_available() and dist.is_initialized():
            dist.all_reduce(count)
            count = count / dist.get_world_size()
        return count.clamp(min=1)


def total(losses: Mapping[str, Any]) -> Any:
    """What is minimised."""
    return sum(losses.values())
