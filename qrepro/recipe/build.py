"""From a recipe to the parts it names: the one place that shows the whole wiring."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial

from qrepro.assign import ASSIGNERS
from qrepro.backbone import BACKBONES, NECKS
from qrepro.boxes import PRIORS
from qrepro.detector import HEADS, Detector
from qrepro.losses import BOX_LOSSES, CLASS_LOSSES, CODE_LOSSES, QUALITY_LOSSES, Loss
from qrepro.objective import Objective, Term
from qrepro.postprocess import POSTPROCESSES, PostProcess
from qrepro.quality import ESTIMATORS
from qrepro.recipe.parts import LossPart
from qrepro.recipe.schema import Recipe
from qrepro.represent import REPRESENTATIONS
from qrepro.sampling import SAMPLERS, Reader
from qrepro.target import CLASS_TARGETS


def build_detector(recipe: Recipe) -> Detector:
    """The network with fresh weights; `detector.backbone.load_pretrained()` fills in the recipe's."""
    backbone = recipe.backbone.build(BACKBONES)
    neck = recipe.neck.build(NECKS, backbone.channels)
    prior = recipe.prior.build(PRIORS)
    box = recipe.box.build(REPRESENTATIONS)
    quality = recipe.quality.bind(ESTIMATORS)
    towers, estimate = recipe.sampling.towers, recipe.sampling.quality
    sampler = towers.bind(SAMPLERS) if towers else None
    reader = partial(Reader, estimate.bind(SAMPLERS)) if estimate else None
    classes, levels = recipe.data.class_count, len(neck.strides)
    head = recipe.head.build(HEADS, neck.channels, classes, prior.per_cell, box, quality, levels, sampler, reader)
    return Detector(backbone, neck, head, prior)


def build_objective(recipe: Recipe) -> Objective:
    """Assignment, targets and losses."""
    loss = recipe.loss
    parts: dict[str, tuple[LossPart | None, Mapping[str, Loss]]] = {
        "class": (loss.classes, CLASS_LOSSES),
        "code": (loss.code, CODE_LOSSES),
        "box": (loss.box, BOX_LOSSES),
        "quality": (loss.quality, QUALITY_LOSSES),
        "first": (recipe.first.loss if recipe.first else None, BOX_LOSSES),
    }
    terms = {name: Term(part.bind(table), **part.term()) for name, (part, table) in parts.items() if part}
    first = recipe.first.assign if recipe.first else None
    return Objective(
        assigner=recipe.assign.build(ASSIGNERS),
        class_target=recipe.target.bind(CLASS_TARGETS),
        terms=terms,
        count=loss.count,
        images=loss.images,
        padding=loss.padding,
        pad=recipe.image.pad,
        first_assigner=first.build(ASSIGNERS) if first else None,
        rematch=bool(recipe.first and recipe.first.rematch),
    )


def build_postprocess(recipe: Recipe) -> PostProcess:
    """Candidate rule, NMS and cut."""
    return recipe.postprocess.build(POSTPROCESSES)
