"""What a recipe may say. Every number of a method and of its training is a value here; unknown keys are refused."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from qrepro.recipe.parts import BoxLossPart, ClassLossPart, HeadPart, Part, QualityLossPart
from qrepro.records.score_rule import Rule

RANKING = ("name", "profile", "overrides", "card", "score", "postprocess")  # decide nothing about training
PERFORMANCE = {"schedule": ("precision", "channels_last")}  # make a training faster, and are recorded on the run
OPERATION = {"data": ("cache",), "schedule": ("checkpoint_every", "evaluate_every", "log_every")}  # when it reports

PRETRAINING = ("weights", "frozen_stages", "frozen_norm")  # how a backbone is trained; no part of what it is


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
    departures: list[str] = []


class Data(Section):
    """The data set. classes: their names in order, or their number where the annotation file names them.

    train: splits trained on together; eval: split evaluated on; one_based: VOC's pixel coordinates, which begin at 1;
    cache: keep decoded and resized images in memory; limit: use only the first so many images of each split.
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


class TestTimeAugmentation(Section):
    """Multi-scale testing: an image is seen at each of these shorter sides, and mirrored, and suppressed as one.

    long: what the longer side must not exceed.
    """

    short: list[Annotated[int, Field(gt=0)]] = Field(min_length=1)
    long: int = Field(gt=0)
    flip: bool = True


class ImageConfig(Section):
    """From an image file to the network's input. train, eval: transforms in order; pad: sides padded to a multiple.

    views: of evaluation, in place of the size that `eval` gives.
    """

    train: list[Part]
    eval: list[Part]
    tta: TestTimeAugmentation | None = None
    mean: tuple[float, float, float] = (123.675, 116.28, 103.53)
    std: tuple[float, float, float] = (58.395, 57.12, 57.375)
    pad: int = Field(32, gt=0)
    group_aspect: bool = True


class StageLosses(Section):
    """Loss terms of a stage; count, count_images, padding and negatives: see `qrepro.objective.Objective`."""

    classes: ClassLossPart | None = Field(None, alias="class")
    encoding: BoxLossPart | None = None
    box: BoxLossPart | None = None
    count: Literal["images", "batch"] = "images"
    count_images: bool = False
    padding: Literal["ignored", "negative"] = "ignored"
    negatives: float | None = Field(None, gt=0)


class Losses(StageLosses):
    """The loss terms of the final stage."""

    classes: ClassLossPart = Field(alias="class")
    quality: QualityLossPart | None = None


class Sampling(Section):
    """Where features are read, if not in their own cell.

    towers, outputs: by the last convolutions of the towers, by the prediction layers; quality: by the estimate.
    """

    towers: Part | None = None
    outputs: Part | None = None
    quality: Part | None = None


class InitialStage(Section):
    """A stage whose boxes the final one refines, as `refine` says (see `qrepro.detector.InitialStage`).

    box_coder: how its boxes are encoded, null for as the final ones; loss: with a `class` the stage also tells objects
    from background; assign: its own assigner, null for the matches of the final boxes; reassign: the final boxes are
    matched as the initial ones stand, in place of the priors.
    """

    refine: Literal["encoding", "box"]
    box_coder: Part | None = None
    loss: StageLosses
    assign: Part | None = None
    reassign: bool = False


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

    def scaled(self, lr: float) -> float:
        """A learning rate that is meant for `optimiser.lr_batch` images a step, at `batch` images (linear rule)."""
        return lr * self.batch / self.optimiser.lr_batch

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
    """One trained detector on one profile's data: what the merged files say.

    Parts are held as they are said; `qrepro.recipe.axes.check` holds them against the axes, which needs torch.
    """

    name: str
    profile: str
    overrides: list[str] = []
    card: Card = Card()
    data: Data
    image: ImageConfig
    backbone: Part
    neck: Part
    prior: Part
    head: HeadPart
    box_coder: Part
    quality: Part
    sampling: Sampling = Sampling()
    assign: Part
    target: Part
    loss: Losses
    initial: InitialStage | None = None
    score: Mapping[str, Any]
    postprocess: Part
    schedule: Schedule

    @field_validator("score", mode="before")
    @classmethod
    def _known_rule(cls, score: Any) -> dict[str, Any]:
        """A mapping, or the short name that people type."""
        rule = Rule.parse(score) if isinstance(score, str) else Rule.of(score)
        return rule.values

    @property
    def rule(self) -> Rule:
        """The score rule."""
        return Rule.of(self.score)

    @property
    def variant(self) -> list[str]:
        """Overrides that make another detector, or another ranking, than the recipe: those of performance do not."""
        performance = tuple(f"{section}.{key}" for section, keys in PERFORMANCE.items() for key in keys)
        return [text for text in self.overrides if text.partition("=")[0].strip() not in performance]

    @property
    def performance(self) -> dict[str, Any]:
        """Values that decide how fast a training is, and are recorded on its run."""
        return {key: getattr(getattr(self, section), key) for section, keys in PERFORMANCE.items() for key in keys}

    def values(self) -> dict[str, Any]:
        """What the recipe says as plain data, as `qrepro.recipe.load` would read it again."""
        return self.model_dump(mode="json", by_alias=True, exclude_unset=True)

    @property
    def hash(self) -> str:
        """Digest of what the recipe says of its training.

        It is the same for two recipes that differ in name, ranking, performance or logging only. What is not said, or
        said to be null, is not in it: a new option of a part, whose default keeps today's behaviour, changes no hash.
        """
        said = self.model_dump(mode="json", by_alias=True, exclude_unset=True, exclude_none=True)
        for section, keys in [*PERFORMANCE.items(), *OPERATION.items()]:
            for key in keys:
                said[section].pop(key, None)
        return digest({key: value for key, value in said.items() if key not in RANKING})


def digest(values: Mapping[str, Any]) -> str:
    """Twelve hexadecimal digits of a mapping's content; 1 and 1.0 are one number."""
    return hashlib.sha256(json.dumps(_plain(values), sort_keys=True).encode()).hexdigest()[:12]


def _plain(value: Any) -> Any:
    """Values with whole numbers as integers."""
    if isinstance(value, Mapping):
        return {key: _plain(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(inner) for inner in value]
    return int(value) if isinstance(value, float) and value.is_integer() else value
