"""Where the time of a detector goes: a training step and the inference of one picture, part by part.

What is timed is the training loop's own step and the parts that a recipe builds, observed at their seams. Weights are
fresh and stay as they are; class scores are made up, because a fresh network finds nothing; so are pictures and
objects, unless training reads those of a data set.
"""

from __future__ import annotations

import math
import os
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from itertools import repeat
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from qrepro.boxes import clip
from qrepro.data.loader import Batch, Steps, aspect_groups, loader
from qrepro.data.transforms import TRANSFORMS, Resize, ResizeExact
from qrepro.detector import Prediction
from qrepro.engine.datasets import training_pictures
from qrepro.engine.distributed import Place
from qrepro.engine.run import Run
from qrepro.engine.schedule import Plan
from qrepro.engine.train import Loop, start
from qrepro.ground_truth import Truths
from qrepro.objective import Objective
from qrepro.quality import Rule, fuse
from qrepro.recipe.build import build_detector, build_postprocess
from qrepro.recipe.load import checked, merge
from qrepro.recipe.schema import Decay, Recipe

SMALLEST = 8.0  # px, side of a made-up object
NOTHING, SUREST = -12.0, 4.0  # made-up class logits: where there is no candidate, and the highest of a candidate

TRAIN2017 = 117_266  # pictures with objects

Row = dict[str, Any]
Size = tuple[int, int]


@dataclass(frozen=True, kw_only=True)
class Setting:
    """What is measured, beside recipe and machine.

    batch: pictures of a training step (inference takes one); objects: on a made-up picture; candidates: pairs of
    location and class whose score is above the threshold of post-processing; steps: measured, after `warm_up` others.
    """

    batch: int = 2
    objects: int = 8
    candidates: int = 2000
    steps: int = 10
    warm_up: int = 2


class Laps:
    """A stopwatch of repeated work: a part lasts from the mark before it to its own, so that no time is left over."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.seconds: list[dict[str, float]] = []
        self._last = 0.0

    def start(self) -> None:
        """Begin the next repetition."""
        self.seconds.append({})
        self._last = self._now()

    def mark(self, part: str) -> None:
        """End a part."""
        now = self._now()
        self.seconds[-1][part] = now - self._last
        self._last = now

    def _now(self) -> float:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        return time.perf_counter()


@dataclass(frozen=True)
class Timed:
    """Repeatable work of a recipe. lap: does it once and marks its parts; shapes: height, width of its inputs."""

    recipe: Recipe
    stage: str
    laps: Laps
    batch: int
    lap: Callable[[], None]
    shapes: list[Size]


def take_turns(timed: Sequence[Timed], setting: Setting) -> list[Row]:
    """Rows of several pieces of work, one a part and one of all, measured turn by turn.

    So whatever slows a machine down for a while slows all of them down. `ratio`: of the whole to that of the first
    piece of the same stage, median over the turns.
    """
    for _ in range(setting.warm_up + setting.steps):
        for one in timed:
            one.laps.start()
            one.lap()
    return [row for one in timed for row in _rows(one, next(t for t in timed if t.stage == one.stage), setting)]


def time_training(
    recipe: Recipe, device: torch.device, setting: Setting, size: Size | None = None, data: Path | None = None
) -> Timed:
    """A training step.

    Parts: data (only where a folder is given: read by this process, and moved to the device), forward, assignment,
    losses (with the decoding of positives), backward (with the clipping of gradients) and optimiser (with the average).

    size: height, width of made-up pictures, by default the largest that evaluation sees; data: folder of a data set
    whose training pictures are used instead.
    """
    fresh = checked(merge(recipe.values(), {"backbone": {"weights": None}}), f"recipe {recipe.name}")
    laps, repetitions = Laps(device), setting.warm_up + setting.steps
    loop = _still(fresh, device, repetitions)
    loop.objective = Marked(**vars(loop.objective), laps=laps)
    loop.model.register_forward_hook(lambda *_: laps.mark("forward"))
    loop.state.optimiser.register_step_pre_hook(lambda *_: laps.mark("backward"))
    batches: Iterator[Batch]
    if data:
        batches = _read(fresh, data, setting)
    else:
        batches = repeat(_made_up(fresh, setting.batch, size, setting.objects).to(device, loop.layout))
    shapes: list[Size] = []

    def lap() -> None:
        batch = next(batches)
        if data:
            batch = batch.to(device, loop.layout)
            laps.mark("data")
        loop.step(batch)
        laps.mark("optimiser")
        shapes.append((batch.images.shape[-2], batch.images.shape[-1]))

    return Timed(recipe, "train", laps, setting.batch, lap, shapes)


@torch.no_grad()
def time_inference(recipe: Recipe, device: torch.device, setting: Setting, size: Size | None = None) -> Timed:
    """The inference of one made-up picture: forward, decoding and fusion, post-processing."""
    batch = _made_up(recipe, 1, size, 0).to(device)
    detector = build_detector(recipe).to(device).eval()
    postprocess, rule = build_postprocess(recipe), Rule.parse(recipe.score)
    fresh = detector(batch.images)
    logits = _class_logits(fresh.scores(), setting.candidates, postprocess.threshold)
    logits = F.pad(logits, (0, int(fresh.background)))  # beside a background of logit 0 a softmax is a sigmoid
    sure = None if fresh.quality is None else torch.full_like(fresh.quality, -NOTHING)
    laps = Laps(device)

    @torch.no_grad()
    def lap() -> None:
        prediction = replace(detector(batch.images), cls=logits, quality=sure)
        laps.mark("forward")
        log_class = prediction.scores().log()
        log_quality = None if prediction.quality is None else prediction.quality.float().sigmoid().log()
        score = fuse(log_class, log_quality, rule)
        boxes = clip(prediction.decode(), batch.sizes)
        laps.mark("decoding and fusion")
        postprocess(score, log_class, boxes, prediction.priors.level())
        laps.mark("post-processing")

    return Timed(recipe, "inference", laps, 1, lap, [(batch.images.shape[-2], batch.images.shape[-1])])


def evaluation_size(recipe: Recipe) -> Size:
    """Height and width of the largest wide picture that the recipe's evaluation transforms give."""
    for part in reversed(recipe.image.eval):
        transform = part.build(TRANSFORMS)
        if isinstance(transform, ResizeExact):
            return transform.height, transform.width
        if isinstance(transform, Resize):
            largest = [side if isinstance(side, int) else max(side) for side in (transform.short, transform.long)]
            return largest[0], largest[1]
    raise ValueError(f"recipe {recipe.name}: its evaluation does not resize, so a size must be given")


@dataclass(frozen=True)
class Marked(Objective):
    """An objective that marks the ends of assignment and losses."""

    laps: Laps = field(kw_only=True)

    def match(self, prediction: Prediction, truths: Truths, sizes: Tensor) -> Tensor:
        """As of any objective."""
        matches = super().match(prediction, truths, sizes)
        self.laps.mark("assignment")
        return matches

    def __call__(self, prediction: Prediction, truths: Truths, sizes: Tensor) -> dict[str, Tensor]:
        """As of any objective."""
        losses = super().__call__(prediction, truths, sizes)
        self.laps.mark("losses")
        return losses


def _still(recipe: Recipe, device: torch.device, steps: int) -> Loop:
    """The training loop at a learning rate of zero: its step does all its work, and finds the same weights again."""
    place, run = Place(0, 1, device), Run(Path(os.devnull))  # nothing is written
    state = start(recipe, run, 0, place, resume=False)
    # at its usual first scale fp16 overflows and skips steps of the optimiser
    state.scaler = torch.amp.GradScaler(device.type, init_scale=1.0, enabled=recipe.schedule.precision == "fp16")
    plan = Plan(total=steps, warmup=0, ratio=1.0, lr=0.0, decay=Decay(), length=1)
    loop = Loop(
        recipe=recipe, run=run, seed=0, place=place, plan=plan, state=state, report=lambda record: None, evaluate=None
    )
    loop.model.train()
    return loop


def _read(recipe: Recipe, data: Path, setting: Setting) -> Iterator[Batch]:
    """Training batches of a data set, read by this process."""
    pictures = training_pictures(recipe, data)
    groups = aspect_groups(pictures.annotations) * int(recipe.image.group_aspect)
    steps = Steps(groups, setting.batch, 0, setting.warm_up + setting.steps, seed=0)
    return iter(loader(pictures, steps, recipe.image.pad, workers=0, pin=False))


def _made_up(recipe: Recipe, batch: int, size: Size | None, objects: int) -> Batch:
    """Noise in the padded size of the pictures, with objects anywhere: the log of each side uniform, and the label."""
    height, width = size or evaluation_size(recipe)
    pad, random = recipe.image.pad, torch.Generator().manual_seed(0)
    images = torch.randn(batch, 3, *(-(-side // pad) * pad for side in (height, width)), generator=random)
    limit = torch.tensor([width, height], dtype=torch.float32)
    least = limit.clamp(max=SMALLEST)
    sides = least * (limit / least) ** torch.rand(batch, objects, 2, generator=random)
    corner = (limit - sides) * torch.rand(batch, objects, 2, generator=random)
    labels = torch.randint(recipe.data.class_count, (batch, objects), generator=random)
    truths = Truths(torch.cat([corner, corner + sides], -1), labels, torch.ones(batch, objects, dtype=torch.bool))
    sizes = torch.tensor([[height, width]] * batch)
    return Batch(images, truths, sizes, torch.ones(batch, 2), torch.arange(batch))


def _class_logits(like: Tensor, candidates: int, threshold: float) -> Tensor:
    """Logits in the shape of (1, R, C): `candidates` anywhere above the threshold, the others far below."""
    random = torch.Generator().manual_seed(0)
    logits = torch.full((like.numel(),), NOTHING)
    lowest = torch.tensor(threshold).logit(eps=1e-3).item()
    chosen = torch.randperm(len(logits), generator=random)[:candidates]
    logits[chosen] = SUREST - (SUREST - lowest) * torch.rand(len(chosen), generator=random)
    return logits.view(like.shape).to(like)


def _rows(timed: Timed, first: Timed, setting: Setting) -> list[Row]:
    """Median and spread of every part and of all together.

    share: of the sum of the parts' medians; hours: of the recipe's epochs on train2017 at this pace; height, width: of
    the network's largest input, with its padding.
    """
    recipe, laps = timed.recipe, timed.laps
    measured = laps.seconds[setting.warm_up :]
    times = {part: [1000 * lap[part] for lap in measured] for part in measured[0]}
    medians = {part: statistics.median(values) for part, values in times.items()}
    whole = sum(medians.values())
    shares = {part: median / whole for part, median in medians.items()}
    times["total"] = [1000 * sum(lap.values()) for lap in measured]
    others = [1000 * sum(lap.values()) for lap in first.laps.seconds[setting.warm_up :]]
    # a clock that is too coarse for the work may show no time at all
    turns = [mine / other for mine, other in zip(times["total"], others, strict=True) if other]
    pace = 1000 * timed.batch / statistics.median(times["total"]) if statistics.median(times["total"]) else math.nan
    pictures = (recipe.schedule.epochs or math.nan) * TRAIN2017
    shape = max(timed.shapes, key=math.prod)
    return [
        {
            "recipe": recipe.name,
            "profile": recipe.profile,
            "stage": timed.stage,
            "part": part,
            "median_ms": statistics.median(values),
            "least_ms": min(values),
            "most_ms": max(values),
            "share": shares.get(part, 1.0),
            "ratio": statistics.median(turns) if part == "total" and turns else math.nan,
            "images_per_s": pace if part == "total" else math.nan,
            "hours": pictures / pace / 3600 if part == "total" and timed.stage == "train" else math.nan,
            **asdict(replace(setting, batch=timed.batch)),
            "height": shape[0],
            "width": shape[1],
            "precision": recipe.schedule.precision if timed.stage == "train" else "fp32",
            "device": torch.cuda.get_device_name(laps.device) if laps.device.type == "cuda" else "cpu",
            "threads": torch.get_num_threads(),
            "torch": torch.__version__,
        }
        for part, values in times.items()
    ]
