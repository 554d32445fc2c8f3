"""From a recipe to the parts it names: the one place that shows the whole wiring."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from torch import Tensor

from qrepro.assign import ASSIGNERS
from qrepro.backbone import BACKBONES
from qrepro.box_coder import BOX_CODERS
from qrepro.detector import HEADS, Detector, Head, InitialStage, PerLevelHead, ReadAt
from qrepro.matching import Matcher
from qrepro.neck import NECKS
from qrepro.objective import Objective, Term
from qrepro.postprocess import POSTPROCESSES, PostProcess
from qrepro.priors import PRIORS
from qrepro.quality import ESTIMATORS
from qrepro.recipe.axes import LOSSES
from qrepro.recipe.parts import LossPart
from qrepro.recipe.schema import Recipe, StageLosses
from qrepro.sampling import SAMPLERS, Reader
from qrepro.target import CLASS_TARGETS, hard


def build_detector(recipe: Recipe) -> Detector:
    """The network with fresh weights; `detector.backbone.load_pretrained()` fills in the recipe's."""
    backbone = recipe.backbone.build(BACKBONES)
    neck = recipe.neck.build(NECKS, backbone.channels)
    prior = recipe.prior.build(PRIORS)
    coder = recipe.box_coder.build(BOX_CODERS)
    at, stage = recipe.sampling, recipe.initial
    read_at = ReadAt(
        towers=at.towers.bind(SAMPLERS) if at.towers else None,
        outputs=at.outputs.bind(SAMPLERS) if at.outputs else None,
        quality=partial(Reader, at.quality.bind(SAMPLERS)) if at.quality else None,
    )
    initial = None
    if stage:
        before = stage.box_coder.build(BOX_CODERS) if stage.box_coder else coder
        initial = InitialStage(stage.refine, before, objectness=stage.loss.classes is not None)
    levels = len(neck.strides)
    widths, cells = each(neck.channels, levels), each(prior.per_cell, levels)
    make = recipe.head.bind(HEADS)
    parts = coder, recipe.quality.bind(ESTIMATORS)

    def head(level: int, levels: int) -> Head:
        return make(widths[level], recipe.data.class_count, cells[level], *parts, levels, read_at, initial)

    if not recipe.head.shared:
        return Detector(backbone, neck, PerLevelHead([head(level, 1) for level in range(levels)]), prior)
    if len({*widths}) > 1 or len({*cells}) > 1:
        raise ValueError(f"head.shared: levels of channels {widths} and {cells} priors a cell need heads of their own")
    return Detector(backbone, neck, head(0, levels), prior)


def each(value: int | tuple[int, ...], levels: int) -> tuple[int, ...]:
    """A number of every level, given as one of all or one of each."""
    given = (value,) * levels if isinstance(value, int) else value
    if len(given) != levels:
        raise ValueError(f"neck and prior: {levels} levels, and values of {len(given)}")
    return given


def build_matcher(recipe: Recipe) -> Matcher:
    """Which locations are positives, and of which object."""
    stage, pad = recipe.initial, recipe.image.pad
    initial = None
    if stage and stage.assign:
        initial = Matcher(stage.assign.build(ASSIGNERS), stage.loss.padding, pad)
    reassign = bool(stage and stage.reassign)
    return Matcher(recipe.assign.build(ASSIGNERS), recipe.loss.padding, pad, reassign, initial)


def build_objective(recipe: Recipe) -> Objective:
    """Targets and losses."""
    initial = _objective(recipe.initial.loss, hard, None) if recipe.initial else None
    return _objective(recipe.loss, recipe.target.bind(CLASS_TARGETS), initial)


def _objective(losses: StageLosses, target: Callable[[Tensor], Tensor], initial: Objective | None) -> Objective:
    """The objective of a loss section."""
    parts: dict[str, LossPart | None] = {
        "class": losses.classes,
        "encoding": losses.encoding,
        "box": losses.box,
        "quality": getattr(losses, "quality", None),
    }
    terms = {name: Term(part.bind(LOSSES[name]), **part.term()) for name, part in parts.items() if part}
    return Objective(target, terms, losses.count, losses.count_images, losses.negatives, initial)


def build_postprocess(recipe: Recipe) -> PostProcess:
    """Candidate rule, NMS and cut."""
    return recipe.postprocess.build(POSTPROCESSES)
