"""From a recipe to the parts it names: the one place that shows the whole wiring."""

from __future__ import annotations

from qrepro.assign import ASSIGNERS
from qrepro.backbone import BACKBONES, NECKS
from qrepro.boxes import PRIORS
from qrepro.detector import HEADS, Detector
from qrepro.losses import BOX_LOSSES, CLASS_LOSSES, CODE_LOSSES, QUALITY_LOSSES
from qrepro.objective import Objective, Term
from qrepro.postprocess import POSTPROCESSES, PostProcess
from qrepro.quality import ESTIMATORS
from qrepro.recipe.schema import Recipe
from qrepro.represent import REPRESENTATIONS
from qrepro.target import CLASS_TARGETS


def build_detector(recipe: Recipe) -> Detector:
    """The network with fresh weights; `detector.backbone.load_pretrained()` fills in the recipe's."""
    backbone = recipe.backbone.build(BACKBONES)
    neck = recipe.neck.build(NECKS, backbone.channels)
    prior = recipe.prior.build(PRIORS)
    box = recipe.box.build(REPRESENTATIONS)
    quality = recipe.quality.bind(ESTIMATORS)
    head = recipe.head.build(
        HEADS, neck.channels, recipe.data.class_count, prior.per_cell, box, quality, len(neck.strides)
    )
    return Detector(backbone, neck, head, prior, box)


def build_objective(recipe: Recipe) -> Objective:
    """Assignment, targets and losses."""
    loss = recipe.loss
    tables = {"class": CLASS_LOSSES, "code": CODE_LOSSES, "box": BOX_LOSSES, "quality": QUALITY_LOSSES}
    parts = {"class": loss.classes, "code": loss.code, "box": loss.box, "quality": loss.quality}
    terms = {name: Term(part.bind(tables[name]), **part.term()) for name, part in parts.items() if part}
    return Objective(
        assigner=recipe.assign.build(ASSIGNERS),
        class_target=CLASS_TARGETS[recipe.target.kind],
        box=recipe.box.build(REPRESENTATIONS),
        terms=terms,
        count=loss.count,
        pad=recipe.image.pad,
    )


def build_postprocess(recipe: Recipe) -> PostProcess:
    """Candidate rule, NMS and cut."""
    return recipe.postprocess.build(POSTPROCESSES)
