"""From a recipe to the parts it names: the one place that shows the whole wiring."""

from __future__ import annotations

from functools import partial
from typing import Any

from qrepro.assign import ASSIGNERS
from qrepro.backbone import BACKBONES
from qrepro.box_coder import REPRESENTATIONS
from qrepro.detector import HEADS, Detector, FirstStep, Head, ReadAt, Separate
from qrepro.neck import NECKS
from qrepro.objective import Objective, Term
from qrepro.postprocess import POSTPROCESSES, PostProcess
from qrepro.priors import PRIORS
from qrepro.quality import ESTIMATORS
from qrepro.recipe.schema import Recipe, StepLosses
from qrepro.sampling import SAMPLERS, Reader
from qrepro.target import CLASS_TARGETS, hard


def build_detector(recipe: Recipe) -> Detector:
    """The network with fresh weights; `detector.backbone.load_pretrained()` fills in the recipe's."""
    backbone = recipe.backbone.build(BACKBONES)
    neck = recipe.neck.build(NECKS, backbone.channels)
    prior = recipe.prior.build(PRIORS)
    box = recipe.box.build(REPRESENTATIONS)
    at, step = recipe.sampling, recipe.first
    read_at = ReadAt(
        towers=at.towers.bind(SAMPLERS) if at.towers else None,
        outputs=at.outputs.bind(SAMPLERS) if at.outputs else None,
        quality=partial(Reader, at.quality.bind(SAMPLERS)) if at.quality else None,
    )
    first = None
    if step:
        before = step.box.build(REPRESENTATIONS) if step.box else box
        first = FirstStep(step.refine, before, objectness=step.loss.classes is not None)
    levels = len(neck.strides)
    widths, cells = each(neck.channels, levels), each(prior.per_cell, levels)
    make = recipe.head.bind(HEADS)
    parts = box, recipe.quality.bind(ESTIMATORS)

    def head(level: int, levels: int) -> Head:
        return make(widths[level], recipe.data.class_count, cells[level], *parts, levels, read_at, first)

    if not recipe.head.shared:
        return Detector(backbone, neck, Separate([head(level, 1) for level in range(levels)]), prior)
    if len({*widths}) > 1 or len({*cells}) > 1:
        raise ValueError(f"head.shared: levels of channels {widths} and {cells} priors a cell need heads of their own")
    return Detector(backbone, neck, head(0, levels), prior)


def each(value: int | tuple[int, ...], levels: int) -> tuple[int, ...]:
    """A number of every level, given as one of all or one of each."""
    given = (value,) * levels if isinstance(value, int) else value
    if len(given) != levels:
        raise ValueError(f"neck and prior: {levels} levels, and values of {len(given)}")
    return given


def build_objective(recipe: Recipe) -> Objective:
    """Assignment, targets and losses."""
    step, pad = recipe.first, recipe.image.pad
    first = None
    if step:
        assigner = step.assign.build(ASSIGNERS) if step.assign else None
        first = _objective(step.loss, assigner=assigner, class_target=hard, pad=pad)
    assigner, target = recipe.assign.build(ASSIGNERS), recipe.target.bind(CLASS_TARGETS)
    rematch = bool(step and step.rematch)
    return _objective(recipe.loss, assigner=assigner, class_target=target, pad=pad, first=first, rematch=rematch)


def _objective(loss: StepLosses, **rest: Any) -> Objective:
    """The objective of a loss section."""
    terms = {name: Term(part.bind(table), **part.term()) for name, (part, table) in loss.parts.items() if part}
    counted = {name: getattr(loss, name) for name in ("count", "images", "padding", "negatives")}
    return Objective(terms=terms, **counted, **rest)


def build_postprocess(recipe: Recipe) -> PostProcess:
    """Candidate rule, NMS and cut."""
    return recipe.postprocess.build(POSTPROCESSES)
