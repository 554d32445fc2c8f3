"""A recipe held against the axes of a detector: does each part exist, take these options, and fit the others?"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

from qrepro.assign import ASSIGNERS
from qrepro.backbone import BACKBONES
from qrepro.box_coder import BOX_CODERS
from qrepro.data.transforms import TRANSFORMS
from qrepro.detector import HEADS
from qrepro.losses import BOX_LOSSES, CLASS_LOSSES, ENCODING_LOSSES, QUALITY_LOSSES
from qrepro.neck import NECKS
from qrepro.postprocess import POSTPROCESSES
from qrepro.priors import PRIORS
from qrepro.quality import ESTIMATORS
from qrepro.recipe.load import read_recipe, validated
from qrepro.recipe.parts import Part
from qrepro.recipe.schema import PRETRAINING, Recipe, StageLosses, digest
from qrepro.records.kinds import lookup
from qrepro.sampling import SAMPLERS
from qrepro.target import CLASS_TARGETS

Table = Mapping[str, Callable[..., Any]]

AXES: dict[str, Table] = {
    "backbone": BACKBONES,
    "neck": NECKS,
    "prior": PRIORS,
    "head": HEADS,
    "box_coder": BOX_CODERS,
    "quality": ESTIMATORS,
    "assign": ASSIGNERS,
    "target": CLASS_TARGETS,
    "postprocess": POSTPROCESSES,
}
LOSSES: dict[str, Table] = {
    "class": CLASS_LOSSES,
    "encoding": ENCODING_LOSSES,
    "box": BOX_LOSSES,
    "quality": QUALITY_LOSSES,
}
NETWORK = ("neck", "prior", "head", "box_coder", "quality")  # beside the backbone, what a checkpoint must fit


def resolve(name: str, profile: str = "coco", overrides: Iterable[str] = ()) -> Recipe:
    """The recipe of a name, profile and overrides, held against schema and axes.

    Args:
        name: as listed by `qrepro.recipe.load.names`, its last part where that is unique, or the path of a YAML file.
        profile: name or YAML file of a profile.
        overrides: `a.b=c`, laid on top in their order.

    Raises:
        ValueError: anything unknown, missing, of the wrong type, or at odds with the rest; in one line.
    """
    overrides = list(overrides)
    recipe = read_recipe(name, profile, overrides)
    return check(recipe, f"recipe {name} (profile {profile}{''.join(f', {text}' for text in overrides)})")


def checked(values: Mapping[str, Any], source: str) -> Recipe:
    """The recipe of values such as `Recipe.values` gives; `source` begins the message of a `ValueError`."""
    return check(validated(values, source), source)


def check(recipe: Recipe, source: str) -> Recipe:
    """The same recipe, its parts held against their axes and filled in, and against each other."""
    for place, part, table in parts(recipe):
        try:
            part.check(table)
        except ValueError as error:
            raise ValueError(f"{source}: {place}{'' if str(error).startswith('kind') else '.'}{error}") from error
    for problem in _conflicts(recipe):
        raise ValueError(f"{source}: {problem}")
    return recipe


def parts(recipe: Recipe) -> Iterator[tuple[str, Part, Table]]:
    """Every part of a recipe with its key and its axis."""
    for key, table in AXES.items():
        yield key, getattr(recipe, key), table
    for key in ("train", "eval"):
        for number, part in enumerate(getattr(recipe.image, key)):
            yield f"image.{key}.{number}", part, TRANSFORMS
    for key, part in vars(recipe.sampling).items():
        if part:
            yield f"sampling.{key}", part, SAMPLERS
    yield from _losses("loss", recipe.loss)
    if initial := recipe.initial:
        if initial.box_coder:
            yield "initial.box_coder", initial.box_coder, BOX_CODERS
        if initial.assign:
            yield "initial.assign", initial.assign, ASSIGNERS
        yield from _losses("initial.loss", initial.loss)


def _losses(place: str, losses: StageLosses) -> Iterator[tuple[str, Part, Table]]:
    """The loss terms of a stage."""
    for name, table in LOSSES.items():
        part = getattr(losses, "classes" if name == "class" else name, None)
        if part:
            yield f"{place}.{name}", part, table


def has_estimate(recipe: Recipe) -> bool:
    """Whether the detector has a quality estimate of its own."""
    return bool(lookup(ESTIMATORS, recipe.quality.kind).estimates)


def network_hash(recipe: Recipe) -> str:
    """Digest of what a checkpoint must fit: the network and its number of classes.

    Options count where they differ from the default of their constructor, so that neither saying a default nor a new
    option tells a checkpoint from its recipe.
    """
    content: dict[str, Any] = {key: getattr(recipe, key).distinct for key in NETWORK}
    content["sampling"] = {key: part.distinct for key, part in vars(recipe.sampling).items() if part}
    content["backbone"] = {k: v for k, v in recipe.backbone.distinct.items() if k not in PRETRAINING}
    content["shared"] = recipe.head.shared
    if initial := recipe.initial:
        content["initial"] = {
            "refine": initial.refine,
            "box_coder": initial.box_coder.distinct if initial.box_coder else None,
            "objectness": initial.loss.classes is not None,
        }
    return digest({**content, "classes": recipe.data.class_count})


def filled(recipe: Recipe) -> dict[str, Any]:
    """A checked recipe as plain data with every default filled in."""
    values = recipe.model_dump(mode="json", by_alias=True)
    for place, part, _ in parts(recipe):
        *sections, key = place.split(".")
        section: Any = values
        for step in sections:
            section = section[int(step)] if isinstance(section, list) else section[step]
        index = int(key) if isinstance(section, list) else key
        section[index] = {**section[index], **part.options}
    return values


def _conflicts(recipe: Recipe) -> Iterator[str]:
    """What in a recipe does not fit together."""
    estimates, quality = has_estimate(recipe), recipe.quality.kind
    if recipe.rule.fusion.uses_quality and not estimates:
        yield f"score: {recipe.rule.name} needs a quality estimate, but quality.kind is {quality}"
    if estimates != (recipe.loss.quality is not None or recipe.loss.classes.score == "joint"):
        yield (
            "quality: an estimate needs its own loss (loss.quality) or a joint one (loss.class.score: joint), and "
            f"these an estimate; quality.kind is {quality}"
        )
    if (recipe.sampling.quality is not None) != lookup(ESTIMATORS, quality).samples:
        yield "sampling.quality: says where an estimate of kind sampled reads, and only that"
    initial = recipe.initial
    if initial and initial.reassign and recipe.assign.kind != "max_iou":
        yield f"initial.reassign: only max_iou matches boxes that differ by image, not {recipe.assign.kind}"
    if initial and initial.refine == "encoding" and initial.box_coder:
        yield "initial.box_coder: a correction of the encoding is of the same box coder; leave it out"
    softmax = recipe.head.options["scores"] == "softmax"
    for place, loss in {
        "loss.class": recipe.loss.classes,
        "initial.loss.class": initial and initial.loss.classes,
    }.items():
        if loss and (loss.kind == "softmax") != softmax:
            yield f"{place}: kind softmax and head.scores: softmax need each other; kind is {loss.kind}"
