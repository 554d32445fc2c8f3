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
    """The data set.

    Attributes:
        name: Name of the data set.
        format: Format of its annotations.
        classes: Names in order, or their number where the annotation file names them.
        train: Splits trained on together.
        eval: Split evaluated on.
        one_based: Whether pixel coordinates begin at 1, as VOC's do.
        cache: Whether decoded and resized images are kept in memory.
        limit: Number of first images of each split that are used; null for all.
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

    Attributes:
        short: Shorter sides, pixels.
        long: Length that the longer side must not exceed, pixels.
        flip: Whether the image is seen mirrored too.
    """

    short: list[Annotated[int, Field(gt=0)]] = Field(min_length=1)
    long: int = Field(gt=0)
    flip: bool = True


class ImageConfig(Section):
    """From an image file to the network's input.

    Attributes:
        train: Transforms of training, in order.
        eval: Transforms of evaluation, in order.
        tta: Views of evaluation, in place of the size that `eval` gives; null for none.
        mean: Mean of each channel, RGB on the scale 0..255.
        std: Standard deviation of each channel, on the same scale.
        pad: Number of pixels that sides are padded to a multiple of.
        group_aspect: Whether a training batch holds only images wider than high, or only others.
    """

    train: list[Part]
    eval: list[Part]
    tta: TestTimeAugmentation | None = None
    mean: tuple[float, float, float] = (123.675, 116.28, 103.53)
    std: tuple[float, float, float] = (58.395, 57.12, 57.375)
    pad: int = Field(32, gt=0)
    group_aspect: bool = True


class StageLosses(Section):
    """Loss terms of a stage.

    Attributes:
        classes: Loss of the class scores, `class` in a recipe.
        encoding: Loss of the encoded boxes.
        box: Loss of the decoded boxes.
        count: Way of counting positives, see `qrepro.objective.Objective`.
        count_images: Whether images are counted with the positives, see there.
        padding: What locations in the padding are, see `qrepro.matching.Matcher`.
        negatives: Number of negatives a positive, see `qrepro.objective.Objective`.
    """

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

    Attributes:
        towers: Points that the last convolutions of the towers read at.
        outputs: Points that the prediction layers read at.
        quality: Points that the estimate reads at.
    """

    towers: Part | None = None
    outputs: Part | None = None
    quality: Part | None = None


class InitialStage(Section):
    """A stage whose boxes the final one refines, as `refine` says (see `qrepro.detector.InitialStage`).

    Attributes:
        refine: What the final stage predicts.
        box_coder: How its boxes are encoded; null: as the final ones.
        loss: Loss terms; with a `class` the stage also tells objects from background.
        assign: Assigner of its own; null for the matches of the final boxes.
        reassign: Whether the final boxes are matched as the initial ones stand, in place of the priors.
    """

    refine: Literal["encoding", "box"]
    box_coder: Part | None = None
    loss: StageLosses
    assign: Part | None = None
    reassign: bool = False


class Optimiser(Section):
    """Optimiser.

    Attributes:
        kind: Kind of the optimiser.
        lr: Learning rate, meant for `lr_batch` images a step and scaled linearly with the batch that is used.
        lr_batch: See `lr`.
        momentum: Momentum of `sgd`.
        betas: Decays of the two running means of `adamw`.
        weight_decay: Weight decay.
        bias_lr: Factor on the learning rate of biases, those of norms apart.
        bias_decay: Factor on the weight decay of biases, those of norms apart.
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
    """Linear rise of the learning rate from `ratio` times its value over the first `epochs`, or else `steps`.

    Attributes:
        steps: Length in optimiser steps, where `epochs` is null.
        epochs: Length in epochs.
        ratio: Share of the learning rate at which it begins.
    """

    steps: int = Field(500, ge=0)
    epochs: float | None = Field(None, gt=0)
    ratio: float = Field(1 / 3, ge=0, le=1)


class Decay(Section):
    """Fall of the learning rate.

    Attributes:
        kind: `step`: times `factor` at each of `at`; `cosine`: down to `factor` times lr.
        at: Times of the steps, in the unit of the length.
        factor: See `kind`.
    """

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

    Attributes:
        cycles: Number of cycles.
        lr: First and last learning rate of each cycle, meant for `lr_batch` images a step as the optimiser's is.
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

    Attributes:
        shorten: Number of steps that the whole schedule, warm-up, decay and averaging included, is squeezed into; null
            for no change.
        batch: Images a step over all processes.
        optimiser: Optimiser and its learning rate.
        warmup: Rise of the learning rate.
        decay: Fall of the learning rate.
        clip: Highest L2 norm of the gradient; null for none.
        precision: Number format of the network's pass in training.
        channels_last: Whether channels lie last in memory.
        ema: Decay of an averaged copy that is evaluated; null for none.
        average: Further cycles whose averaged weights are evaluated; null for none.
        checkpoint_every: Steps between checkpoints.
        evaluate_every: Steps between evaluations in training; null for none.
        log_every: Steps between lines of the log.
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

    Attributes:
        name: Name, such as `iou_aware/grad_r50`.
        profile: Name of the profile.
        overrides: Changes `a.b=c` that were laid on top, sorted.
        card: What a reader must know.
        data: Data set.
        image: From an image file to the network's input.
        backbone: Network that gives the features.
        neck: Pyramid of features.
        prior: Boxes that the outputs are relative to.
        head: Towers and prediction layers.
        box_coder: How boxes are encoded.
        quality: Estimate of a box's own localisation quality.
        sampling: Where features are read.
        assign: Which location is trained on each object.
        target: What the class score is trained towards.
        loss: Loss terms of the final stage.
        initial: Stage whose boxes the final one refines; null for none.
        score: Score rule, a mapping; its short name may be given.
        postprocess: Candidate rule, NMS and cut.
        schedule: How long it is trained, and how.
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

        It is the same for two recipes that differ in name, ranking, performance or logging only. What is not said is
        not in it: a new option of a part, whose default keeps today's behaviour, changes no hash. Nor is a null that
        is the default of the schema; the default of a part's option is not known here, so that its null is said.
        """
        said = _without_default_nulls(self.model_dump(mode="json", by_alias=True, exclude_unset=True), self)
        for section, keys in [*PERFORMANCE.items(), *OPERATION.items()]:
            for key in keys:
                said[section].pop(key, None)
        return digest({key: value for key, value in said.items() if key not in RANKING})


def _without_default_nulls(said: dict[str, Any], model: BaseModel) -> dict[str, Any]:
    """What a model says, without the nulls that its schema has as defaults."""
    kept = dict(said)
    for name, field in type(model).model_fields.items():
        key, value = field.alias or name, getattr(model, name)
        if key not in kept:
            continue
        if kept[key] is None and field.default is None:
            del kept[key]
        elif isinstance(value, BaseModel):
            kept[key] = _without_default_nulls(kept[key], value)
    return kept


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
