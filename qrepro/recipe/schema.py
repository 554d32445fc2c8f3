"""What a recipe may say. Every number of a method and of its training is a value here; unknown keys are refused."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from qrepro.assign import ASSIGNERS
from qrepro.backbone import BACKBONES
from qrepro.box_coder import REPRESENTATIONS
from qrepro.data.transforms import TRANSFORMS
from qrepro.detector import HEADS
from qrepro.losses import BOX_LOSSES, CLASS_LOSSES, CODE_LOSSES, QUALITY_LOSSES, Loss
from qrepro.neck import NECKS
from qrepro.postprocess import POSTPROCESSES
from qrepro.priors import PRIORS
from qrepro.quality import ESTIMATORS, Rule
from qrepro.recipe.parts import BoxLossPart, ClassLossPart, HeadPart, LossPart, Part, QualityLossPart, lookup, member
from qrepro.sampling import SAMPLERS
from qrepro.target import CLASS_TARGETS

IDENTITY = ("name", "profile", "overrides", "card", "score", "postprocess")  # decide nothing about training
OPERATIONAL = {"data": ("cache",), "schedule": ("checkpoint_every", "evaluate_every", "log_every")}  # nor do these

HOW_IT_IS_TRAINED = ("weights", "frozen_stages", "frozen_norm")  # of a backbone; no part of what it is


class Section(BaseModel):
    """A mapping of a recipe."""

    model_config = ConfigDict(extra="forbid", frozen=True, populate_by_name=True)


class Paper(Section):
    """A row of a paper's table that this recipe is."""

    arxiv: str
    table: str | int
    row: str
    AP: float | None = None


class Card(Section):
    """What a reader must know about a recipe; no influence on what is computed."""

    summary: str = ""
    paper: list[Paper] = []
    deviations: list[str] = []


class Data(Section):
    """The data set. classes: their names in order, or their number where the annotation file names them.

    train: splits trained on together; eval: split evaluated on; one_based: VOC's pixel coordinates, which begin at 1;
    cache: keep decoded and resized pictures in memory; limit: use only the first so many images of each split.
    """

    name: str
    format: Literal["coco", "voc"]
    classes: int | list[str]
    train: list[str]
    eval: str
    one_based: bool = False
    cache: bool = False
    limit: int | None = Field(None, gt=0)

    @property
    def class_count(self) -> int:
        """Number of classes."""
        return self.classes if isinstance(self.classes, int) else len(self.classes)


class Views(Section):
    """Multi-scale testing: a picture is seen at each of these shorter sides, and mirrored, and suppressed as one.

    long: what the longer side must not exceed.
    """

    short: list[Annotated[int, Field(gt=0)]] = Field(min_length=1)
    long: int = Field(gt=0)
    flip: bool = True


class Picture(Section):
    """From a picture file to the network's input. train, eval: transforms in order; pad: sides padded to a multiple.

    views: of evaluation, in place of the size that `eval` gives.
    """

    train: list[Annotated[Part, member(TRANSFORMS)]]
    eval: list[Annotated[Part, member(TRANSFORMS)]]
    views: Views | None = None
    mean: tuple[float, float, float] = (123.675, 116.28, 103.53)
    std: tuple[float, float, float] = (58.395, 57.12, 57.375)
    pad: int = Field(32, gt=0)
    group_aspect: bool = True


class StepLosses(Section):
    """Loss terms of a step; count, images, padding and negatives: see `qrepro.objective.Objective`."""

    classes: Annotated[ClassLossPart, member(CLASS_LOSSES)] | None = Field(None, alias="class")
    code: Annotated[BoxLossPart, member(CODE_LOSSES)] | None = None
    box: Annotated[BoxLossPart, member(BOX_LOSSES)] | None = None
    count: Literal["images", "batch"] = "images"
    images: bool = False
    padding: Literal["ignored", "negative"] = "ignored"
    negatives: float | None = Field(None, gt=0)

    @property
    def parts(self) -> dict[str, tuple[LossPart | None, Mapping[str, Loss]]]:
        """The terms by name, with the losses that each may be."""
        return {"class": (self.classes, CLASS_LOSSES), "code": (self.code, CODE_LOSSES), "box": (self.box, BOX_LOSSES)}


class Losses(StepLosses):
    """The loss terms of the final step."""

    classes: Annotated[ClassLossPart, member(CLASS_LOSSES)] = Field(alias="class")
    quality: Annotated[QualityLossPart, member(QUALITY_LOSSES)] | None = None

    @property
    def parts(self) -> dict[str, tuple[LossPart | None, Mapping[str, Loss]]]:
        """The terms by name, with the losses that each may be."""
        return {**super().parts, "quality": (self.quality, QUALITY_LOSSES)}


class Sampling(Section):
    """Where features are read, if not in their own cell.

    towers, outputs: by the last convolutions of the towers, by the prediction layers; quality: by the estimate.
    """

    towers: Annotated[Part, member(SAMPLERS)] | None = None
    outputs: Annotated[Part, member(SAMPLERS)] | None = None
    quality: Annotated[Part, member(SAMPLERS)] | None = None


class First(Section):
    """A first step, whose boxes the second refines as `refine` says (see `qrepro.detector.FirstStep`).

    box: how they are written, null for as the final ones; loss: with a `class` the step also tells objects from
    background; assign: its own matching, null for that of the final boxes; rematch: the final boxes are matched as the
    first ones stand, in place of the priors.
    """

    refine: Literal["code", "box"]
    box: Annotated[Part, member(REPRESENTATIONS)] | None = None
    loss: StepLosses
    assign: Annotated[Part, member(ASSIGNERS)] | None = None
    rematch: bool = False


class Optimiser(Section):
    """Optimiser. lr is meant for `lr_batch` images a step and is scaled linearly with the batch that is used.

    bias_lr, bias_decay: factors on learning rate and weight decay of biases, those of norms apart.
    """

    kind: Literal["sgd", "adamw"] = "sgd"
    lr: float = Field(gt=0)
    lr_batch: int = Field(16, gt=0)
    momentum: float = 0.9
    betas: tuple[float, float] = (0.9, 0.999)
    weight_decay: float = 1e-4
    bias_lr: float = 1.0
    bias_decay: float = 1.0


class Warmup(Section):
    """Linear rise of the learning rate from `ratio` times its value over the first `epochs`, or else `steps`."""

    steps: int = Field(500, ge=0)
    epochs: float | None = Field(None, gt=0)
    ratio: float = Field(1 / 3, ge=0, le=1)


class Decay(Section):
    """`step`: times `factor` at each of `at` (in the unit of the length); `cosine`: down to `factor` times lr."""

    kind: Literal["step", "cosine"] = "step"
    at: list[float] = []
    factor: float = 0.1


class Length(Section):
    """A length: exactly one of epochs and optimiser steps."""

    epochs: float | None = Field(None, gt=0)
    steps: int | None = Field(None, gt=0)

    @model_validator(mode="after")
    def _one_length(self) -> Self:
        if (self.epochs is None) == (self.steps is None):
            raise ValueError(f"needs exactly one of epochs and steps, got epochs {self.epochs} and steps {self.steps}")
        return self


class Averaging(Length):
    """Stochastic weight averaging (arXiv 1803.05407; of detectors 2012.12645): so many cycles of this length.

    They follow the schedule, and the mean of the weights at their ends is evaluated. The authors start them from the
    best checkpoint with a new optimiser; here the run goes on, with its momentum.
    lr: from the first to the second value in each cycle, meant for `lr_batch` images a step as the optimiser's is.
    """

    cycles: int = Field(gt=0)
    lr: tuple[float, float]

    @field_validator("lr")
    @classmethod
    def _falls(cls, lr: tuple[float, float]) -> tuple[float, float]:
        if not lr[0] >= lr[1] > 0:
            raise ValueError(f"needs two learning rates above 0, the second no higher than the first, got {list(lr)}")
        return lr


class Schedule(Length):
    """How long and how.

    shorten: the whole schedule, warm-up, decay and averaging included, squeezed into so many steps; batch: images a
    step over all processes; clip: L2 norm of the gradient, null for none; ema: decay of an averaged copy that is
    evaluated; average: further cycles whose averaged weights are evaluated.
    """

    shorten: int | None = Field(None, gt=0)
    batch: int = Field(16, gt=0)
    optimiser: Optimiser
    warmup: Warmup = Warmup()
    decay: Decay = Decay()
    clip: float | None = Field(None, gt=0)
    precision: Literal["fp32", "bf16", "fp16"] = "fp32"
    channels_last: bool = False
    ema: float | None = Field(None, gt=0, lt=1)
    average: Averaging | None = None
    checkpoint_every: int = Field(1000, gt=0)
    evaluate_every: int | None = Field(None, gt=0)
    log_every: int = Field(20, gt=0)

    @model_validator(mode="after")
    def _one_average(self) -> Self:
        if self.average and self.ema:
            raise ValueError("ema and average: only one averaged copy can be evaluated, set the other to null")
        if self.average and self.shorten and self.shorten <= self.average.cycles:
            raise ValueError(
                f"shorten {self.shorten}: the schedule and {self.average.cycles} cycles of averaging need a step each"
            )
        return self


class Recipe(Section):
    """One trained model on one profile's data: the merged and filled recipe."""

    name: str
    profile: str
    overrides: list[str] = []
    card: Card = Card()
    data: Data
    image: Picture
    backbone: Annotated[Part, member(BACKBONES)]
    neck: Annotated[Part, member(NECKS)]
    prior: Annotated[Part, member(PRIORS)]
    head: Annotated[HeadPart, member(HEADS)]
    box: Annotated[Part, member(REPRESENTATIONS)]
    quality: Annotated[Part, member(ESTIMATORS)]
    sampling: Sampling = Sampling()
    assign: Annotated[Part, member(ASSIGNERS)]
    target: Annotated[Part, member(CLASS_TARGETS)]
    loss: Losses
    first: First | None = None
    score: str
    postprocess: Annotated[Part, member(POSTPROCESSES)]
    schedule: Schedule

    @field_validator("score")
    @classmethod
    def _known_rule(cls, name: str) -> str:
        return Rule.parse(name).name

    @property
    def estimates(self) -> bool:
        """Whether the detector has a quality estimate."""
        return bool(lookup(ESTIMATORS, self.quality.kind).estimates)

    @model_validator(mode="after")
    def _quality_is_trained(self) -> Recipe:
        needs = Rule.parse(self.score).exponents[1] > 0
        if needs and not self.estimates:
            raise ValueError(f"score: {self.score} needs a quality estimate, but quality.kind is {self.quality.kind}")
        if self.estimates != (self.loss.quality is not None or self.loss.classes.score == "joint"):
            raise ValueError(
                "quality: an estimate needs its own loss (loss.quality) or a joint one (loss.class.score: joint), and "
                f"these an estimate; quality.kind is {self.quality.kind}"
            )
        if (self.sampling.quality is not None) != lookup(ESTIMATORS, self.quality.kind).samples:
            raise ValueError("sampling.quality: says where an estimate of kind sampled reads, and only that")
        return self

    @model_validator(mode="after")
    def _first_is_trained(self) -> Recipe:
        if self.first and self.first.rematch and self.assign.kind != "max_iou":
            raise ValueError(f"first.rematch: only max_iou matches boxes that differ by image, not {self.assign.kind}")
        if self.first and self.first.refine == "code" and self.first.box:
            raise ValueError("first.box: a correction of the code is of the same kind of box; leave it out")
        return self

    @model_validator(mode="after")
    def _scores_fit_the_loss(self) -> Recipe:
        softmax = self.head.options["scores"] == "softmax"
        losses = {"loss.class": self.loss.classes, "first.loss.class": self.first and self.first.loss.classes}
        for where, loss in losses.items():
            if loss and (loss.kind == "softmax") != softmax:
                raise ValueError(f"{where}: kind softmax and head.scores: softmax need each other; kind is {loss.kind}")
        return self

    def values(self) -> dict[str, Any]:
        """Everything as plain data, as `resolve` would read it again."""
        return self.model_dump(mode="json", by_alias=True, exclude_none=False)

    @property
    def hash(self) -> str:
        """Of all that decides what is trained: equal for two recipes that differ in name, ranking or logging only.

        Keys whose value is null are left out, so that a new one in this schema changes no recipe that leaves it null.
        """
        values = self.model_dump(mode="json", by_alias=True, exclude_none=True)
        for section, keys in OPERATIONAL.items():
            for key in keys:
                values[section].pop(key, None)
        return _digest({k: v for k, v in values.items() if k not in IDENTITY})

    @property
    def model_hash(self) -> str:
        """Of what a checkpoint must fit: the network and its number of classes."""
        values = self.values()
        parts = {k: values[k] for k in ("neck", "prior", "head", "box", "quality", "sampling")}
        if self.first:
            first = values["first"]
            parts["first"] = {"refine": first["refine"], "box": first["box"], "objects": bool(first["loss"]["class"])}
        backbone = {k: v for k, v in values["backbone"].items() if k not in HOW_IT_IS_TRAINED}
        return _digest({**parts, "backbone": backbone, "classes": self.data.class_count})


def _digest(values: dict[str, Any]) -> str:
    """Twelve hexadecimal digits of a mapping's content."""
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()[:12]
